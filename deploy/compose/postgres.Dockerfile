# The official PostgreSQL image with walarchiver's hook in it.
#
# The hook is a launcher in sh and one file of Python that asks for the interpreter and its `_socket` only. The
# official image has no Python, and a shared volume could not bring one: an interpreter needs its libraries where
# it was linked to find them. So it is copied from the official Python image of the same Debian release.
# Built from the root of the source: docker build --file deploy/compose/postgres.Dockerfile .
ARG POSTGRES_IMAGE=postgres:18-bookworm

FROM python:3.13-slim-bookworm AS python

# hadolint ignore=DL3006
FROM ${POSTGRES_IMAGE}
COPY --from=python /usr/local/bin/ /usr/local/bin/
COPY --from=python /usr/local/lib/ /usr/local/lib/
COPY bin/walarchiver-hook /opt/walarchiver/bin/
COPY walarchiver/hook.py /opt/walarchiver/lib/python3/site-packages/walarchiver/
# The folder as the daemon's image has it: whoever mounts the empty volume first gives it its owner.
RUN install --directory --owner 999 --group 999 --mode 0755 /run/walarchiver \
    && ldconfig \
    && ln -s /usr/local/bin/python3 /opt/walarchiver/bin/python3 \
    && ln -s /opt/walarchiver/bin/walarchiver-hook /usr/local/bin/ \
    && python3 -I -S -m compileall -q /opt/walarchiver/lib \
    && if walarchiver-hook push /nowhere; then exit 1; else test $? -eq 1; fi
