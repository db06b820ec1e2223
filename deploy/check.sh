#!/bin/sh
# Checks everything in deploy/, the Dockerfiles included: first statically, then by running it.
#
#     deploy/check.sh                 all steps
#     deploy/check.sh STEP...         dockerfiles scripts units compose run
#
# A step without its tool is skipped, with the reason; one that found a fault makes the exit status 1.
# `run` builds the images and starts them (./dev test --containers); it needs a container engine.
set -eu

cd "$(dirname "$0")/.."
PATH=${WALARCHIVER_VENV:-$PWD/.venv}/bin:$PATH
EXPOSURE_MAX=15 # tenths, of `systemd-analyze security`
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=

pass() { printf 'ok       %s\n' "$*"; }
skip() { printf 'skipped  %s\n' "$*"; }
fault() {
    printf 'FAULT    %s\n' "$*"
    failed=yes
}
has() { command -v "$1" >/dev/null 2>&1; }

# The step passes only when the program succeeds and says nothing: some exit 0 on a misspelt key.
quietly() {
    name=$1
    shift
    if "$@" >"$work/said" 2>&1 && [ ! -s "$work/said" ]; then
        pass "$name"
    else
        cat "$work/said"
        fault "$name"
    fi
}

dockerfiles() {
    if has hadolint; then
        quietly "dockerfiles: hadolint" hadolint \
            Dockerfile deploy/compose/postgres.Dockerfile tests/containers/systemd.Dockerfile
    else
        skip "dockerfiles: hadolint is not installed"
    fi
}

scripts() {
    if has shellcheck; then
        quietly "scripts: shellcheck" shellcheck bin/walarchiver-hook bin/build-hook deploy/check.sh deploy/compose/init.sh \
            deploy/trial/run.sh deploy/trial/postgres-entrypoint.sh
    else
        skip "scripts: shellcheck is not installed"
    fi
}

units() {
    if ! has systemd-analyze; then
        skip "units: systemd-analyze is not installed"
        return
    fi
    for unit in walarchiver.service walarchiver.socket walarchiver-backup.service walarchiver-backup.timer; do
        # The program's path exists only where it is installed.
        sed 's#^ExecStart=[^ ]*#ExecStart=/bin/true#' "${UNITS:-deploy/systemd}/$unit" >"$work/$unit"
    done
    quietly "units: systemd-analyze verify" systemd-analyze --no-pager verify \
        "$work/walarchiver.service" "$work/walarchiver.socket" \
        "$work/walarchiver-backup.service" "$work/walarchiver-backup.timer"
    if systemd-analyze --no-pager security --offline=true --threshold="$EXPOSURE_MAX" \
        "$work/walarchiver.service" >"$work/said" 2>&1; then
        pass "units: systemd-analyze security:$(tail -n 1 "$work/said" | sed 's/.*service://')"
    else
        cat "$work/said"
        fault "units: systemd-analyze security: more exposed than $EXPOSURE_MAX tenths"
    fi
}

compose_program() {
    if has docker && docker compose version >/dev/null 2>&1; then
        echo docker compose
    elif has docker-compose; then
        echo docker-compose
    fi
}

compose() {
    program=$(compose_program)
    if [ -z "$program" ]; then
        skip "compose: neither \`docker compose\` nor docker-compose is installed"
        return
    fi
    # shellcheck disable=SC2086  # two words
    POSTGRES_PASSWORD=x S3_SECRET_KEY=x quietly "compose: config" \
        $program --file deploy/compose/compose.yaml --profile reader config --quiet
}

run() {
    if ! has docker || ! docker info >/dev/null 2>&1; then
        skip "run: no container engine answers (DOCKER_HOST is ${DOCKER_HOST:-not set}); see deploy/trial"
    elif ./dev test --containers; then
        pass "run: images built and run"
    else
        fault "run: ./dev test --containers"
    fi
}

[ $# -gt 0 ] || set -- dockerfiles scripts units compose run
for step in "$@"; do
    case $step in
        dockerfiles | scripts | units | compose | run) "$step" ;;
        *) fault "$step: no such step" ;;
    esac
done
[ -z "$failed" ]
