"""The benchmarks' accounting: what a tree of processes costs, also where it hides."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.bench.driver import CallFailed, Job, drive
from benchmarks.bench.usage import live_cpu_s

BURN_S = 0.3
BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
DAEMONISE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
        while time.process_time() < {seconds}: pass
        open({mark!r}, "w").close()
        os._exit(0)
    os._exit(0)
os.wait()
"""


def python(tmp_path: Path, text: str) -> str:
    script = tmp_path / "script.py"
    script.write_text(text)
    return f'"{sys.executable}" -I -S "{script}"'


def test_what_a_child_burns_is_counted(tmp_path: Path) -> None:
    one = drive(Job("run", python(tmp_path, BURN.format(seconds=BURN_S)), str(tmp_path)))
    assert one.cpu_s >= BURN_S
    assert one.children_cpu_s == one.cpu_s
    assert len(one.calls_s) == 1
    assert one.rss > 1 << 20


def test_a_helper_that_leaves_its_session_is_counted_and_waited_for(tmp_path: Path) -> None:
    mark = tmp_path / "helper-ended"
    text = DAEMONISE.format(seconds=BURN_S, mark=str(mark))
    one = drive(Job("run", python(tmp_path, text), str(tmp_path)))
    assert mark.exists()
    assert one.cpu_s >= BURN_S


def test_a_server_counts_with_what_it_used_meanwhile_and_not_with_what_it_used_before(tmp_path: Path) -> None:
    """The server burns, waits for a file, and burns again."""
    go = tmp_path / "go"
    text = (
        f"import os, sys, time\nwhile time.process_time() < {2 * BURN_S}: pass\nprint('ready', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.005)\n"
        f"while time.process_time() < {3 * BURN_S}: pass\nprint('done', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        before = live_cpu_s(server.pid)
        assert before >= 2 * BURN_S
        # The client's command lets the server work and waits for its sign.
        wait = f'touch "{go}"; while [ ! -e "{tmp_path}/over" ]; do sleep 0.01; done'
        over = Path(tmp_path / "over")
        if os.fork() == 0:
            server.stdout.readline()
            over.touch()
            os._exit(0)
        one = drive(Job("run", wait, str(tmp_path), watched=[server.pid]))
        os.wait()
        assert one.cpu_s - one.children_cpu_s >= 0.9 * BURN_S
        assert one.cpu_s - one.children_cpu_s <= live_cpu_s(server.pid) - before + 0.05
        server.communicate()


def test_the_driver_archives_as_the_archiver_does(tmp_path: Path) -> None:
    status = tmp_path / "pg_wal" / "archive_status"
    status.mkdir(parents=True)
    names = ["000000010000000000000002", "000000010000000000000001", "00000002.history"]
    for name in names:
        (status / f"{name}.ready").touch()
    one = drive(Job("archive", f'echo %f %p >>"{tmp_path}/calls"', str(tmp_path)))
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"{name} pg_wal/{name}"
        for name in ("00000002.history", "000000010000000000000001", "000000010000000000000002")
    ]
    assert sorted(path.name for path in status.iterdir()) == sorted(f"{name}.done" for name in names)
    assert len(one.calls_s) == 3


def test_a_client_that_fails_is_told_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(CallFailed, match="exited 7: no such luck"):
        drive(Job("run", "echo no such luck >&2; exit 7", str(tmp_path)))


def test_at_the_deadline_helpers_are_ended_too(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    hidden = f"setsid sh -c 'echo $$ >\"{mark}\"; exec sleep 600' & sleep 600"
    began = time.monotonic()
    with pytest.raises(CallFailed, match="driver ended"):
        drive(Job("run", hidden, str(tmp_path), deadline_s=1.0))
    assert time.monotonic() - began < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
