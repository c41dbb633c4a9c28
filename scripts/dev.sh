# shellcheck shell=bash
# What tests and checks need beyond `lib.sh`; sourced, never run.

# The environment with the development lock in it.
ensure_dev() {
    local ready=$ROOT/.venv/dev packages
    venv_ready && cmp -s "$ROOT/requirements/dev.txt" "$ready" && return
    (
        one_at_a_time
        mapfile -t packages < <(missing_packages python)
        install_packages "the tests need packages: ${packages[*]}" "${packages[@]}"
        ensure_venv
        install_locked dev
    )
}

# The model server that the agent's tests run against: an npm package, so it needs Node 20 or newer.
ensure_aimock() {
    local place=$ROOT/tests/fakes/aimock
    cmp -s "$place/package-lock.json" "$place/node_modules/installed-lock.json" && return
    { has npm && has node; } || { say "npm is not installed"; return 1; }
    [ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || { say "node is older than 20"; return 1; }
    say "installing aimock"
    npm ci --prefix "$place" --no-audit --no-fund --no-update-notifier --ignore-scripts --loglevel=error >&2 || return 1
    cp "$place/package-lock.json" "$place/node_modules/installed-lock.json"
}

# The WhatsApp server that the channel's tests run against (npm), and the library that talks to it, in an environment
# of its own: nothing else is to be tested with neonize installed.
ensure_whatsapp() {
    local place=$ROOT/tests/fakes/whatsapp
    if ! cmp -s "$place/package-lock.json" "$place/node_modules/installed-lock.json"; then
        { has npm && has node; } || { say "npm is not installed"; return 1; }
        [ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || { say "node is older than 20"; return 1; }
        say "installing the WhatsApp server of the tests"
        npm ci --prefix "$place" --no-audit --no-fund --no-update-notifier --ignore-scripts --omit=optional --omit=peer \
            --legacy-peer-deps --loglevel=error >&2 || return 1
        cp "$place/package-lock.json" "$place/node_modules/installed-lock.json"
    fi
    if ! cmp -s "$ROOT/requirements/whatsapp.txt" "$place/.venv/installed.txt"; then
        say "installing neonize"
        "$ROOT/.venv/bin/python" -m venv --clear "$place/.venv" || return 1
        "$place/.venv/bin/python" -m pip install --quiet --no-deps --require-hashes --only-binary :all: \
            --requirement "$ROOT/requirements/whatsapp.txt" >&2 || return 1
        cp "$ROOT/requirements/whatsapp.txt" "$place/.venv/installed.txt"
    fi
}
