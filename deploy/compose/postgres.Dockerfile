# The official PostgreSQL image with walarchiver's hook in it.
#
# The compiled hook is one static file: it needs nothing of the image that it is copied into.
# Built from the root of the source: docker build --file deploy/compose/postgres.Dockerfile .
ARG POSTGRES_IMAGE=postgres:18-bookworm

# Any image with a C compiler; this one is the builder of walarchiver's own.
FROM python:3.13-bookworm AS builder
COPY bin/build-hook /build/bin/
COPY walarchiver/hook.c /build/walarchiver/
RUN /build/bin/build-hook /build/walarchiver-hook

# hadolint ignore=DL3006
FROM ${POSTGRES_IMAGE}
COPY --from=builder /build/walarchiver-hook /usr/local/bin/
# The folder as the daemon's image has it: whoever mounts the empty volume first gives it its owner.
RUN install --directory --owner 999 --group 999 --mode 0755 /run/walarchiver \
    && if walarchiver-hook push /nowhere; then exit 1; else test $? -eq 1; fi
