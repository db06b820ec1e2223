"""What a tree of processes costs: CPU seconds to the nanosecond, and its memory by sampling.

Rules:
- A child counts once it was waited for, with everything it waited for itself. A daemonised one is
  handed to the nearest sub-reaper above it, so `become_reaper` makes sure that this is us, and
  `reap_all` waits for those too: nobody escapes the count by leaving its session.
- A process that lives on (a server) is read through its CPU clock, before and after.
- Memory is sampled; a peak between two samples is missed. Pages shared between processes count once
  in PSS and several times in RSS.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CPUCLOCK_SCHED = 2
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PSS_EVERY = 4
"""PSS makes the kernel walk page tables: taken at every fourth sample only."""


def become_reaper() -> None:
    """Orphans among our descendants become our children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """For a child, before exec: SIGTERM when the thread that started it is gone."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def children_cpu_s() -> float:
    """User and system seconds of all children that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def live_cpu_s(pid: int) -> float:
    """User and system seconds of a living process, all threads, and of children it has waited for."""
    own = time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    fields = _stat(pid)
    return own + (0.0 if fields is None else (int(fields[13]) + int(fields[14])) / _TICKS)


def family_cpu_s(pid: int) -> float:
    """As `live_cpu_s`, with the living descendants: for a server of several processes."""
    total = 0.0
    for one in (pid, *descendants([pid])):
        with contextlib.suppress(OSError):
            total += live_cpu_s(one)
    return total


def reap_all(timeout_s: float) -> bool:
    """Wait for every child, adopted ones included; False when some were left at the end."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            time.sleep(0.005)
    return False


def kill_descendants() -> None:
    """End everything below this process; bounded tries, as a dying process may still fork."""
    for _ in range(50):
        below = descendants([os.getpid()])
        if not below:
            reap_all(5.0)  # the dead ones that nobody has waited for
            return
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap_all(0.1)


def descendants(roots: Iterable[int]) -> list[int]:
    """Living processes below `roots`, these excluded."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields is not None and fields[0] != "Z":
                parents[int(entry)] = int(fields[1])
    found: set[int] = set()
    wanted = set(roots)
    while True:
        more = (
            {pid for pid, parent in parents.items() if parent in wanted or parent in found} - found - wanted
        )
        if not more:
            return sorted(found)
        found |= more


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state (field 3) on; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("latin-1")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


@dataclass(slots=True)
class Memory:
    """Peaks in bytes, summed over processes at one moment."""

    rss: int = 0
    pss: int = 0


class MemorySampler:
    """Samples this process's descendants and `watched` ones in a thread, until it is left."""

    def __init__(self, watched: Iterable[int], *, interval_s: float = 0.05) -> None:
        self.peak = Memory()
        self._watched = tuple(watched)
        self._interval_s = interval_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        count = 0
        while not self._over.wait(self._interval_s):
            pids = (*self._watched, *descendants([os.getpid(), *self._watched]))
            self.peak.rss = max(self.peak.rss, sum(map(_rss, pids)))
            if count % _PSS_EVERY == 0:
                self.peak.pss = max(self.peak.pss, sum(map(_pss, pids)))
            count += 1


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
