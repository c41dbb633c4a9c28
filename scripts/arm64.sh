# shellcheck shell=bash
# Sourced by what runs arm64 programs on a machine of another processor; needs lib.sh. What it changes in this system it
# changes back when the script ends; `at_end COMMAND…` adds to that.

export PATH="$PATH:/usr/sbin:/sbin"
binfmt=/proc/sys/fs/binfmt_misc ends=()
at_end() { ends=("$(printf '%q ' "$@")" "${ends[@]}"); }
undo() {
    local each
    for each in "${ends[@]}"; do eval "$each"; done
}
trap undo EXIT

emulate_arm64() {
    [ "$(uname -m)" != aarch64 ] || return 0
    [ "$(id -u)" -eq 0 ] || die "programs of another processor are made to run here by root only" "run: sudo $0"
    has qemu-aarch64-static || install_packages "another processor's programs need an emulator" qemu-user-static
    if [ ! -e "$binfmt/register" ]; then
        mount -t binfmt_misc binfmt_misc "$binfmt" ||
            die "this kernel cannot be told how to run another processor's programs (binfmt_misc)"
        at_end umount "$binfmt"
    fi
    [ ! -e "$binfmt/qemu-aarch64" ] || return 0
    # F: the emulator is opened now, so that it is there within a chroot too.
    local magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":qemu-aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >"$binfmt/register"
    at_end sh -c "echo -1 >$binfmt/qemu-aarch64"
}
