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
