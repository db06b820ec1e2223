# A host in a container: systemd as the first process, walarchiver and its units installed as README.md tells.
ARG IMAGE=walarchiver-test
# hadolint ignore=DL3006
FROM ${IMAGE}
# hadolint ignore=DL3002
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends dbus systemd systemd-sysv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system postgres
COPY walarchiver.service walarchiver.socket /etc/systemd/system/
RUN systemctl enable walarchiver.service walarchiver.socket
HEALTHCHECK NONE
ENTRYPOINT []
CMD ["/sbin/init"]
