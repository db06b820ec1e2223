# The program and the hook in one image: `walarchiver serve` by default, every other command as arguments.
#
#     docker build --tag walarchiver .
#     docker run --rm walarchiver --help
#
# It runs with a read-only root: what changes lies in two volumes, the state (a cache) and the socket's folder.
# deploy/compose shows it beside PostgreSQL and an S3 store.

# The large image has a C compiler, for the scan and the hook; nothing but /opt/walarchiver goes on from here.
FROM python:3.13-bookworm AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# The packages first: they change less often than the source. Each is pinned by hash in constraints.txt; pip
# itself and setuptools come from there too, since older releases of pip want no hashes in constraints.
COPY constraints.txt pyproject.toml ./
RUN sed -n '/^\(pip\|setuptools\)==/,/[^\\]$/p' constraints.txt >build-tools.txt \
    && pip install --require-hashes --only-binary :all: --requirement build-tools.txt \
    && python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        >requirements.txt \
    && python -m venv --without-pip /opt/walarchiver \
    && pip --python /opt/walarchiver/bin/python install \
        --require-hashes --only-binary :all: --constraint constraints.txt --requirement requirements.txt

COPY README.md setup.py MANIFEST.in ./
COPY bin/ bin/
COPY walarchiver/ walarchiver/
COPY restore/ restore/
COPY deploy/health.py /opt/walarchiver/
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/walarchiver/bin/python install --no-deps --no-index dist/walarchiver-*.whl \
    && pip --python /opt/walarchiver/bin/python check \
    && /opt/walarchiver/bin/python -I -c 'import walarchiver.core._walskim' \
    && test "$(head -c 2 /opt/walarchiver/bin/walarchiver-hook)" != '#!'


FROM python:3.13-slim-bookworm

# 999 is also `postgres` in the official PostgreSQL images: only the owner may read a data directory.
RUN groupadd --gid 999 walarchiver \
    && useradd --uid 999 --gid 999 --no-create-home --home-dir /var/lib/walarchiver walarchiver \
    && install --directory --owner 999 --group 999 --mode 0700 /var/lib/walarchiver \
    && install --directory --owner 999 --group 999 --mode 0755 /run/walarchiver \
    && install --directory /etc/walarchiver

COPY --from=builder /opt/walarchiver /opt/walarchiver

ENV PATH=/opt/walarchiver/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 999:999
WORKDIR /var/lib/walarchiver
VOLUME ["/var/lib/walarchiver", "/run/walarchiver"]

# Alive means: the event loop answers. Whether it can archive is /readyz, which deploy/compose asks.
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s --retries=3 \
    CMD ["/opt/walarchiver/bin/python", "-I", "-S", "/opt/walarchiver/health.py", "/livez"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["walarchiver"]
CMD ["serve"]
