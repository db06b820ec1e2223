"""The private S3 server: it is ours, keeps its data over a restart, and never stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.chance import RealClock
from walarchiver.clock import SystemRandom
from walarchiver.embedded.binaries import weed_binary
from walarchiver.embedded.seaweed import SeaweedServer
from walarchiver.errors import StoreDenied, StoreUnavailable
from walarchiver.storage import open_store

STARTER = """
import signal, sys, time
from pathlib import Path
from walarchiver.clock import SystemClock, SystemRandom
from walarchiver.embedded.binaries import weed_binary
from walarchiver.embedded.seaweed import SeaweedServer
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
server = SeaweedServer(weed_binary(), Path(sys.argv[1]), SystemClock(), SystemRandom()).start()
print(server.pid, server.endpoint.rpartition(":")[2], flush=True)
time.sleep(600)
"""


def members(group: int) -> list[int]:
    """The processes of a group that still run (a killed one may stay listed until it is reaped)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # ended meanwhile
        if int(process_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def group_ends(group: int) -> bool:
    """Whether the group is empty, or becomes so within a minute."""
    moment = threading.Event()
    for _ in range(1200):
        if not members(group):
            return True
        moment.wait(0.05)
    return False


def test_data_outlive_a_restart_and_nothing_is_left_running(tmp_path: Path) -> None:
    server = SeaweedServer(weed_binary(), tmp_path, RealClock(), SystemRandom())
    with server:
        endpoint, first = server.endpoint, server.pid
        server.make_bucket("kept", versioned=True)
        store = open_store("s3://kept/x", s3=server.options(), clock=RealClock(), random=SystemRandom())
        store.put_new("v1/a", b"x")
    assert first is not None
    assert group_ends(first)
    assert server.pid is None
    with server:
        assert server.endpoint == endpoint
        assert store.get("v1/a", bytes_max=1) == b"x"
    store.close()
    assert (server.credentials_file.stat().st_mode & 0o777) == 0o600


def test_over_tls_it_is_reached_by_those_who_trust_it(tmp_path: Path) -> None:
    large = bytes(range(256)) * 12_000
    with SeaweedServer(weed_binary(), tmp_path, RealClock(), SystemRandom(), tls=True) as server:
        server.make_bucket("kept", versioned=True)
        store = open_store("s3://kept/x", s3=server.options(), clock=RealClock(), random=SystemRandom())
        store.put_new("v1/a", large)
        assert store.get("v1/a", bytes_max=len(large)) == large
        assert [found.size for found in store.list_keys("v1/")] == [len(large)]
        store.close()
        stranger = replace(server.options(), ca_file=None)
        store = open_store("s3://kept/x", s3=stranger, clock=RealClock(), random=SystemRandom())
        with pytest.raises(StoreDenied, match="not trusted"):
            store.get("v1/a", bytes_max=len(large))
        store.close()


@pytest.mark.parametrize(
    "end", [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)]
)
def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path, end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as starter:
        assert starter.stdout is not None
        group, port = (int(word) for word in starter.stdout.readline().split())
        assert members(group)
        starter.send_signal(end)
        try:
            starter.wait(60)
        finally:
            starter.kill()
    assert group_ends(group)
    assert not Path(f"/tmp/seaweedfs-s3-grpc-{port + 10000}.sock").exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho no space for volumes >&2\nexit 3\n")
    broken.chmod(0o755)
    server = SeaweedServer(broken, tmp_path / "s3", RealClock(), SystemRandom())
    with pytest.raises(StoreUnavailable, match=r"status 3: .*no space for volumes"):
        server.start()
    assert server.pid is None
