#!/bin/bash
# Runs within the emulated machine of scripts/try-aarch64, as root. A person does what docs/raspberry-pi.md tells them. At
# `trial: cut the power` the machine is killed; started again, it says `trial: well` if every step succeeded, before and after.
export LC_ALL=C.UTF-8

# try COMMAND : as a person at a shell, whose output nobody looks at as it comes.
try() {
    local begun=$SECONDS
    echo "trial: $ $1"
    runuser -l person -c "set -o pipefail; export XDG_RUNTIME_DIR=/run/user/1000; { $1; } 2>&1 | cat" </dev/null ||
        { echo "trial: exit status $?"; touch /opt/failed; }
    echo "trial: $((SECONDS - begun)) s"
}
# shellcheck disable=SC2016 # the person's shell expands it
running='for _ in $(seq 120); do nanoclaw status | grep "^running" && exit 0; sleep 1; done; exit 1'

before_the_cut() {
    useradd --create-home --shell /bin/bash --uid 1000 person
    loginctl enable-linger person
    systemctl start user@1000.service
    # A network that leads nowhere, so that there is something which a sandbox must not have.
    ip link add dummy0 type dummy && ip address add 192.168.77.2/24 dev dummy0 && ip link set dummy0 up
    uname -a

    try '/opt/nanoclaw-linux-* install'
    try 'nanoclaw doctor'
    try 'nanoclaw ask "run uname -m; id -u"'
    try 'nanoclaw whatsapp status'
    try 'nanoclaw drill | tee drill.txt'
    # It ends well also where much could not be tried. These need root, and more memory than there is here.
    try '! grep "^P.* not tested " drill.txt | grep -vE " (make-device|file-handle|mount-within|memory-bomb) "'

    try 'mkdir -p ~/.config/systemd/user && cp /opt/nanoclaw.service ~/.config/systemd/user/'
    try 'systemctl --user daemon-reload && systemctl --user enable --now nanoclaw'
    try "$running"
    try 'nanoclaw ask "repeat the host that runs answers"'
    try 'systemctl --user show nanoclaw --property MemoryCurrent'
    # WhatsApp's program and library start, and find no network.
    try '! nanoclaw whatsapp link >link.txt 2>&1 && grep "cannot reach WhatsApp" link.txt'
    try "systemctl --user kill --signal KILL nanoclaw; sleep 5; $running"
    try 'nanoclaw ask "repeat it came back"'
    try 'systemctl --user stop nanoclaw && systemctl --user show nanoclaw --property Result'
    try 'nanoclaw status'
    try 'systemctl --user start nanoclaw'
    try "$running"
    touch /opt/cut
    # From here on nothing reaches the disk by itself, unless its writer waits for it or memory runs short.
    sync
    echo 0 >/proc/sys/vm/dirty_writeback_centisecs
    mount -o remount,commit=300 /
    try 'nanoclaw ask "repeat what was said before the power cut"'
    echo 'nobody waits for this' >/opt/unsynced
    echo 'trial: cut the power'
    sleep infinity
}

after_the_cut() {
    [ ! -s /opt/unsynced ] || { echo 'trial: the cut lost nothing, and shows nothing'; touch /opt/failed; }
    try "$running" # nobody started it
    # A terminal shows what was said lately; Ctrl-D leaves it.
    try '{ sleep 30; printf "\004"; } | script -qec "nanoclaw chat" /dev/null | grep "said before the power cut"'
    try 'nanoclaw doctor'
    try 'nanoclaw ask "repeat it goes on"'
    [ -e /opt/failed ] || echo 'trial: well'
    systemctl poweroff --force
}

if [ -e /opt/cut ]; then after_the_cut; else before_the_cut; fi
