"""The shipped units under a real systemd: notify, sandbox, credentials, socket activation, watchdog."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers.conftest import SOURCE, Engine
from tests.integration.scene import until

CONFIG = """
[repository.main]
url = "s3://nowhere/x"
endpoint = "http://127.0.0.1:9"
region = "us-east-1"
credentials_file = "credential:s3.toml"
root = "{root}"
signing_key = "credential:writer.key"
[cluster.main]
dsn = "host=/nowhere"
data_directory = "/var/lib/postgresql/none"
"""

PREPARE = """
set -e
umask 077
mkdir -p /etc/walarchiver /srv/repo /etc/systemd/system/walarchiver.service.d
printf '[repository.main]\nurl = "file:///srv/repo"\n[cluster.main]\n' >/tmp/first.toml
walarchiver --config /tmp/first.toml keys init --out /tmp/keys >/dev/null
cp /tmp/keys/writer.key /etc/walarchiver/
printf 'access_key_id = "x"\nsecret_access_key = "y"\n' >/etc/walarchiver/s3.toml
printf '[Service]\nWatchdogSec=3\n' >/etc/systemd/system/walarchiver.service.d/quick.conf
sed -n 's/^root: //p' /tmp/keys/writer.key
"""

CGROUP_V1 = Path("/sys/fs/cgroup/systemd")


@dataclass(frozen=True)
class Machine:
    """A container whose first process is systemd."""

    engine: Engine
    name: str

    def sh(self, script: str) -> str:
        return self.engine.run("exec", self.name, "sh", "-c", script)

    def show(self, unit: str, name: str) -> str:
        return self.sh(f"systemctl show {unit} --property {name} --value")

    def live(self) -> bool:
        """Ask through the socket, as the hook would; it waits while the daemon starts."""
        ask = ["python", "-I", "-S", "/opt/walarchiver/health.py", "/livez"]
        return self.engine.call("exec", self.name, *ask).returncode == 0


@pytest.fixture
def machine(engine: Engine, image: str) -> Iterator[Machine]:
    tag, name = "walarchiver-systemd-test", f"wa-test-systemd-{uuid.uuid4().hex[:8]}"
    file = SOURCE / "tests" / "containers" / "systemd.Dockerfile"
    words = ["--build-arg", f"IMAGE={image}", "--file", str(file)]
    engine.build(tag, *words, context=SOURCE / "deploy" / "systemd")
    flags = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--cgroupns=private"]
    flags += [word for place in ("/run", "/run/lock", "/tmp") for word in ("--tmpfs", place)]
    if CGROUP_V1.is_dir():
        flags += ["--volume", "/sys/fs/cgroup:/sys/fs/cgroup:ro"]
        flags += ["--mount", f"type=bind,src={CGROUP_V1},dst={CGROUP_V1}"]
    engine.run("run", "--detach", "--name", name, *flags, tag)
    made = Machine(engine, name)

    def up() -> bool:
        told = engine.call("exec", name, "systemctl", "is-system-running")
        return told.stdout.strip() in ("running", "degraded")

    try:
        try:
            until(up, "systemd as the first process", patience_s=30)
        except AssertionError:
            pytest.skip("systemd does not come up in a container of this engine")
        yield made
    finally:
        engine.call("rm", "--force", "--volumes", name)


def test_the_units_run_sandboxed_restart_unheard_and_are_watched(machine: Machine, tmp_path: Path) -> None:
    root = machine.sh(PREPARE)
    config = tmp_path / "walarchiver.toml"
    config.write_text(CONFIG.format(root=root))
    config.chmod(0o644)
    machine.engine.run("cp", str(config), f"{machine.name}:/etc/walarchiver/walarchiver.toml")
    machine.sh("systemctl daemon-reload; systemctl restart walarchiver.socket walarchiver.service")

    # Type=notify: the restart returned only after READY=1, with the daemon's own words as the status.
    assert machine.show("walarchiver.service", "ActiveState") == "active"
    assert machine.show("walarchiver.service", "StatusText") == "not ready: main"
    pid = machine.show("walarchiver.service", "MainPID")
    status = machine.sh(f"cat /proc/{pid}/status")
    for line in ("CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in status
    assert f"Uid:\t{machine.sh('id -u postgres')}\t" in status

    # Socket activation: a call starts a stopped daemon, and one in a restart waits.
    machine.sh("systemctl stop walarchiver.service")
    assert machine.live()
    machine.sh("systemctl restart --no-block walarchiver.service")
    assert machine.live()

    # Watchdog: an event loop that stands still is replaced.
    until(lambda: machine.show("walarchiver.service", "ActiveState") == "active", "active again")
    pid = machine.show("walarchiver.service", "MainPID")
    machine.sh(f"kill -STOP {pid}")
    until(lambda: machine.show("walarchiver.service", "NRestarts") == "1", "the restart", patience_s=60)
    assert machine.live()
    assert "Failed with result 'watchdog'" in machine.sh("journalctl --unit walarchiver --no-pager")
