# shellcheck shell=bash
# Shared by the scripts beside it; sourced, never run. Each function makes one thing true, and is quick when it
# is true already. Progress and errors go to stderr: stdout belongs to the program that is started.

export LC_ALL="${LC_ALL:-C.UTF-8}"

say() { printf 'nanoclaw: %s\n' "$*" >&2; }

# die ERROR [HINT…]
die() {
    printf 'nanoclaw: error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf 'nanoclaw: hint: %s\n' "$@" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# One set-up at a time in this tree; the second waits and then finds the work done.
one_at_a_time() {
    exec 9<"$ROOT"
    flock --nonblock 9 || {
        say "waiting for another set-up in $ROOT"
        flock 9
    }
}

# install_packages REASON [PACKAGE…] : through apt, as root or with a word of consent.
install_packages() {
    local reason=$1 sudo=() answer
    shift
    [ $# -gt 0 ] || return 0
    local -a command=(apt-get install --yes --no-install-recommends "$@")
    has apt-get || die "$reason" "install these with your system's package manager: $*"
    if [ "$(id -u)" -ne 0 ]; then
        # Without a terminal nobody can consent; without sudo consent is of no use.
        { [ -t 0 ] && [ -t 2 ] && has sudo; } || die "$reason" "run: sudo ${command[*]}"
        printf 'nanoclaw: %s\nRun "sudo %s" now? [y/N] ' "$reason" "${command[*]}" >&2
        read -r answer || answer=no
        case $answer in [yY]*) sudo=(sudo) ;; *) die "$reason" "run: sudo ${command[*]}" ;; esac
    fi
    say "installing $* (a minute or two)"
    "${sudo[@]}" apt-get update -qq >&2 || true # a source that is down may not matter for these packages
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive "${command[@]}" -qq >/dev/null 9<&- ||
        die "apt-get could not install $*" "see its messages above; then run: ${command[*]}"
}

require_python() {
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "NanoClaw needs Python 3.11 or newer, and this is $(python3 --version)" \
            "Debian 12 and Raspberry Pi OS of late 2023, and all later ones, have it"
}

# The packages that are missing, one per line: NEEDS is a list of python, image, engine.
missing_packages() {
    local need
    for need in "$@"; do
        case $need in
        python)
            has python3 || echo python3
            python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
            ;;
        image)
            has mmdebstrap || echo mmdebstrap
            [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
            [ "$(id -u)" -eq 0 ] || has newuidmap || echo uidmap
            ;;
        engine)
            has_engine || echo bubblewrap
            ;;
        esac
    done
}

# bubblewrap needs nothing running; docker counts when its daemon answers.
has_engine() { has bwrap || { has docker && timeout 10 docker version >/dev/null 2>&1; }; }

# `ready` names the interpreter that the environment was made with: a system upgrade may have taken it away.
interpreter_ready() {
    [ -x "$ROOT/.venv/bin/python" ] &&
        [ "$(readlink -f "$ROOT/.venv/bin/python")" = "$(cat "$ROOT/.venv/ready" 2>/dev/null)" ]
}

# `host` is the lock of the host's packages that were installed: another one may have come with an update.
venv_ready() { interpreter_ready && cmp -s "$ROOT/requirements/host.txt" "$ROOT/.venv/host"; }

ensure_venv() {
    venv_ready && return
    if ! interpreter_ready; then
        require_python
        say "making a Python environment in $ROOT/.venv"
        python3 -m venv --clear "$ROOT/.venv" >&2
        readlink -f "$ROOT/.venv/bin/python" >"$ROOT/.venv/ready"
    fi
    install_locked host || die "the packages of requirements/host.txt could not be installed" \
        "see pip's messages above: is there a network, or a package index that it knows?"
}

# install_locked NAME : what requirements/NAME.txt holds, wheel by wheel as its hashes say.
install_locked() {
    say "installing the locked packages of requirements/$1.txt"
    "$ROOT/.venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --require-hashes \
        --no-deps --requirement "$ROOT/requirements/$1.txt" >&2 || return
    cp "$ROOT/requirements/$1.txt" "$ROOT/.venv/$1"
}

# Where the image is: the rule of the product itself.
cache_folder() {
    local home=${1:-${NANOCLAW_HOME:-}}
    if [ -n "$home" ]; then echo "$home/cache"; else echo "${XDG_CACHE_HOME:-$HOME/.cache}/nanoclaw"; fi
}

# The digest that build/image/build.py writes to `inputs`, in a tenth of the time it takes to start Python.
image_inputs() (
    cd "$ROOT" || exit
    {
        find build/image requirements/image.txt runner -type f ! -path '*/__pycache__/*' -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
        uname -m
    } | sha256sum | cut -d' ' -f1
)

image_ready() {
    local images=$1/image current
    read -r current 2>/dev/null <"$images/current" || return 1
    images=$images/${current#sha256:}
    [ -e "$images/image.tar" ] && [ "$(cat "$images/inputs" 2>/dev/null)" = "$(image_inputs)" ]
}

ensure_image() {
    image_ready "$1" || "$ROOT/.venv/bin/python" "$ROOT/build/image/build.py" --cache "$1"
}
