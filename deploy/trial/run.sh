#!/bin/sh
# Runs the container tests where no image can be pulled: on a private Docker engine, with stand-ins for the
# upstream images, and leaves nothing behind.
#
#     deploy/trial/run.sh [FOLDER [COMMAND...]]       as root; default: /var/tmp/..., deploy/check.sh
#
# FOLDER keeps the base file system for the next time. COMMAND finds the engine through DOCKER_HOST.
#
# Needs dockerd, iptables, mmdebstrap (Debian: docker.io iptables mmdebstrap), a Python 3.13 prefix
# (TRIAL_PYTHON, default: that of python3.13 on PATH) and docker-compose. What it proves is the logic of our
# files. It says nothing about the true upstream images.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
folder=${1:-/var/tmp/walarchiver-trial}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- "$source/deploy/check.sh"
subnet=${TRIAL_BRIDGE:-172.31.78.1/24}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

say() { printf 'trial: %s\n' "$*" >&2; }
skip() {
    say "skipped: $*"
    exit 0
}

[ "$(id -u)" = 0 ] || skip "only root can start an engine"
for program in dockerd docker iptables mmdebstrap; do
    command -v "$program" >/dev/null 2>&1 || skip "$program is not installed"
done
python=${TRIAL_PYTHON:-$(python3.13 -c 'import sys; print(sys.base_prefix)' 2>/dev/null)} || python=
[ -x "$python/bin/python3.13" ] || skip "no Python 3.13 (name its prefix with TRIAL_PYTHON)"

had_bridge=$(ip -o link show docker0 2>/dev/null) || had_bridge=
[ -z "$had_bridge" ] || skip "this host has an engine of its own (docker0 exists)"
policy=$(iptables -S FORWARD | sed -n 's/^-P FORWARD //p')
forwarding=$(cat /proc/sys/net/ipv4/ip_forward)

# shellcheck disable=SC2329  # called by the trap
stop() {
    trap - EXIT INT TERM
    if [ -s "$folder/pid" ]; then
        docker ps --quiet | while read -r id; do docker kill "$id" >/dev/null || true; done
        engine=$(cat "$folder/pid")
        kill "$engine" 2>/dev/null || true
        while kill -0 "$engine" 2>/dev/null; do sleep 0.2; done
    fi
    ip link delete docker0 2>/dev/null || true
    iptables-save | grep -v -i -e docker -e ' br-[0-9a-f]\{12\} ' | iptables-restore || true
    iptables -P FORWARD "$policy" || true
    echo "$forwarding" >/proc/sys/net/ipv4/ip_forward
    mount | awk -v top="$folder/" 'index($3, top) == 1 {print $3}' | sort -r | while read -r place; do
        umount "$place" || true
    done
    rm -rf "$folder/data" "$folder/exec" "$folder/context"
    say "the engine is stopped and its traces are removed"
}
trap stop EXIT
trap 'exit 130' INT TERM

if [ ! -s "$folder/base.tar" ]; then
    say "making a base file system (a minute)"
    mmdebstrap --quiet --format=tar --variant=minbase --include=busybox,ca-certificates,tzdata \
        --include=libbz2-1.0,libffi8,libgssapi-krb5-2,libicu72,libldap-2.5-0,liblz4-1,liblzma5 \
        --include=libreadline8,libsqlite3-0,libssl3,libuuid1,libxml2,libxslt1.1,libzstd1,zlib1g \
        bookworm "$folder/base.tar.new"
    mv "$folder/base.tar.new" "$folder/base.tar"
fi

say "starting a private engine"
rm -f "$folder/pid"
dockerd --host "unix://$folder/d.sock" --data-root "$folder/data" --exec-root "$folder/exec" \
    --pidfile "$folder/pid" --exec-opt native.cgroupdriver=cgroupfs --bip "$subnet" >"$folder/engine.log" 2>&1 &
export DOCKER_HOST="unix://$folder/d.sock" DOCKER_BUILDKIT=0
tries=0
until docker info >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || skip "the engine does not start; see $folder/engine.log"
    sleep 1
done

say "making the stand-ins"
docker import "$folder/base.tar" walarchiver-trial/base >/dev/null
context=$folder/context
rm -rf "$context"
mkdir -p "$context/python" "$context/postgres" "$context/s3"

cp -a "$python/." "$context/python/prefix"
find "$context/python/prefix" \( -name test -o -name __pycache__ -o -name '*.a' \) -prune -exec rm -rf {} +
cp /etc/ssl/certs/ca-certificates.crt "$context/python/"
cat >"$context/python/Dockerfile" <<'TEXT'
FROM walarchiver-trial/base
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY prefix/ /usr/local/
RUN ldconfig && cd /usr/local/bin && rm -f pip* && ln -sf python3.13 python3 && ln -sf python3 python \
    && printf '#!/bin/sh\nexec /usr/local/bin/python3 -m pip "$@"\n' >pip && chmod 0755 pip
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
CMD ["python3"]
TEXT

# The image without -slim has a compiler.
mkdir "$context/compiling"
cat >"$context/compiling/Dockerfile" <<'TEXT'
FROM python:3.13-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
TEXT

# The program's own test servers, found or fetched as `walarchiver demo` does.
binaries=$("$source/dev" shell python -c 'from walarchiver.embedded.binaries import postgres_bin, weed_binary
print(postgres_bin(18).parent)
print(weed_binary())')
cp -a "$(printf '%s\n' "$binaries" | sed -n 1p)/." "$context/postgres/pgsql"
cp "$(printf '%s\n' "$binaries" | sed -n 2p)" "$context/s3/weed"
cp "$here/postgres-entrypoint.sh" "$context/postgres/"
cat >"$context/postgres/Dockerfile" <<'TEXT'
FROM walarchiver-trial/base
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 --home-dir /var/lib/postgresql postgres \
    && install --directory --owner 999 --group 999 --mode 3777 /var/run/postgresql \
    && install --directory --owner 999 --group 999 --mode 1777 /var/lib/postgresql
COPY pgsql/ /usr/lib/postgresql/18/
COPY postgres-entrypoint.sh /entrypoint.sh
ENV PATH=/usr/lib/postgresql/18/bin:$PATH PGDATA=/var/lib/postgresql/18/docker PGHOST=/var/run/postgresql
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/sh", "/entrypoint.sh"]
CMD ["postgres"]
TEXT
cat >"$context/s3/Dockerfile" <<'TEXT'
FROM walarchiver-trial/base
COPY weed /usr/bin/weed
RUN chmod 0755 /usr/bin/weed && ln -s /bin/busybox /usr/bin/wget && mkdir /data
ENTRYPOINT ["weed"]
TEXT
docker build --quiet --tag python:3.13-slim-bookworm "$context/python" >/dev/null
docker build --quiet --network host --tag python:3.13-bookworm "$context/compiling" >/dev/null
docker build --quiet --tag postgres:18-bookworm "$context/postgres" >/dev/null
docker build --quiet --tag chrislusf/seaweedfs:latest "$context/s3" >/dev/null
rm -rf "$context"

say "running"
export TESTCONTAINERS_RYUK_DISABLED=true TESTCONTAINERS_CONNECTION_MODE=docker_host
export WALARCHIVER_BUILD_NETWORK=host
status=0
"$@" || status=$?
exit "$status"
