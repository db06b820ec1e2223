"""The benchmarks' accounting: what a tree of processes costs, also where it hides."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.bench.driver import CallFailed, Job, drive
from benchmarks.bench.usage import MemorySampler, live_cpu_s

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


def test_a_helper_that_leaves_its_session_is_counted_and_waited_for(tmp_path: Path) -> None:
    mark = tmp_path / "helper-ended"
    text = DAEMONISE.format(seconds=BURN_S, mark=str(mark))
    one = drive(Job("run", python(tmp_path, text), str(tmp_path)))
    assert mark.exists()
    assert one.cpu_s >= BURN_S


def test_a_server_counts_with_what_it_used_meanwhile_and_not_with_what_it_used_before(tmp_path: Path) -> None:
    """The server burns, waits for its client, and burns again."""
    go, over = tmp_path / "go", tmp_path / "over"
    text = (
        f"import os, sys, time\nwhile time.process_time() < {2 * BURN_S}: pass\nprint('ready', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.005)\n"
        f"ends = time.process_time() + {BURN_S}\nwhile time.process_time() < ends: pass\n"
        f"open({str(over)!r}, 'w').close()\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        before = live_cpu_s(server.pid)
        wait = f'touch "{go}"; while [ ! -e "{over}" ]; do sleep 0.01; done'
        one = drive(Job("run", wait, str(tmp_path), watched=[server.pid]))
        served = one.cpu_s - one.children_cpu_s
        after = live_cpu_s(server.pid)
        server.communicate()
    assert before >= 2 * BURN_S
    assert BURN_S <= served <= after - before + 0.001


def test_memory_of_watched_processes_and_of_our_own_children_is_sampled() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "x = b'x' * 50_000_000; input()"], stdin=subprocess.PIPE
    ) as child:
        with MemorySampler([os.getpid()]) as memory:
            for _ in range(6000):
                if memory.peak.pss > 50_000_000 and memory.peak.rss > 50_000_000:
                    break
                time.sleep(0.01)
        child.communicate(b"\n")
    assert memory.peak.rss > 50_000_000
    assert memory.peak.pss > 50_000_000


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
    with pytest.raises(CallFailed, match="driver ended"):
        drive(Job("run", hidden, str(tmp_path), deadline_s=1.0))
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
