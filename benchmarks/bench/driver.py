"""A process that plays PostgreSQL's part for one client and counts what the client costs.

Run as `python -m benchmarks.bench.driver`, a job as JSON on standard input, the outcome as JSON on
standard output.

Rules:
- The archiver's part as in PostgreSQL: one call at a time through `sh -c`, history files first, then by
  name; `.ready` becomes `.done` when the call exits 0; after three failures in a row it gives up here.
- The client's CPU is that of all children, daemonised helpers included (they are waited for after the
  last call), and what a server of the client's used meanwhile. Our own work is not in it.
- The wall clock stops at the last answer: what helpers do afterwards costs CPU only.
- At the deadline, or when our parent is gone, everything below us is killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.bench.usage import (
    MemorySampler,
    become_reaper,
    children_cpu_s,
    die_with_parent,
    family_cpu_s,
    kill_descendants,
    reap_all,
)

ROOT = Path(__file__).resolve().parents[2]
TRIES = 3
HELPERS_END_S = 60.0
SETTLE_S = 0.3
"""A client's server may still be tidying up when the last answer is out; that is its cost too."""


@dataclass(frozen=True, slots=True)
class Job:
    """`verb`: archive (drain `folder`'s archive_status), fetch (`names` in order) or run (`command`)."""

    verb: str
    command: str
    folder: str
    environment: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    watched: list[int] = field(default_factory=list)
    """Servers that belong to the client."""
    bystanders: list[int] = field(default_factory=list)
    """Servers whose CPU is told apart: the store, PostgreSQL."""
    replay_s: float = 0.0
    """fetch: how long "replaying" a segment takes before the next is asked for."""
    offer_one_by_one: bool = False
    """archive: a file is marked ready only when the one before is done, so there is no backlog."""
    times: int = 1
    """run: how often."""
    deadline_s: float = 600.0
    ok: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it cost; bytes and seconds."""

    wall_s: float
    cpu_s: float
    children_cpu_s: float
    bystander_cpu_s: list[float]
    rss: int
    pss: int
    calls_s: list[float]
    output: str = ""
    failure: str = ""


class CallFailed(Exception):
    """The client refused; the text says what it said."""


def main() -> int:
    die_with_parent()
    become_reaper()
    given = json.loads(sys.stdin.read())
    job = Job(**{**given, "ok": tuple(given["ok"])})

    def over(number: int, _frame: object) -> None:
        kill_descendants()
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, over)
    signal.setitimer(signal.ITIMER_REAL, job.deadline_s)
    try:
        outcome = perform(job)
    finally:
        kill_descendants()
    print(json.dumps(asdict(outcome)))
    return 0


def perform(job: Job) -> Outcome:
    """Do the job and count."""
    player = _Player(job)
    watched = [family_cpu_s(pid) for pid in job.watched]
    beside = [family_cpu_s(pid) for pid in job.bystanders]
    children = children_cpu_s()
    failure = ""
    with MemorySampler(job.watched) as memory:
        began = time.perf_counter()
        try:
            getattr(player, job.verb)()
        except CallFailed as error:
            failure = str(error)
        wall_s = time.perf_counter() - began
        if not reap_all(HELPERS_END_S):
            failure = failure or "helpers of the client did not end"
        if job.watched:
            time.sleep(SETTLE_S)
    own = children_cpu_s() - children
    served = sum(family_cpu_s(pid) - before for pid, before in zip(job.watched, watched, strict=True))
    return Outcome(
        wall_s=wall_s,
        cpu_s=own + served,
        children_cpu_s=own,
        bystander_cpu_s=[family_cpu_s(p) - b for p, b in zip(job.bystanders, beside, strict=True)],
        rss=memory.peak.rss,
        pss=memory.peak.pss,
        calls_s=player.calls_s,
        output=player.output,
        failure=failure,
    )


class _Player:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._environment = {**os.environ, **job.environment}
        self.calls_s: list[float] = []
        self.output = ""

    # --- the verbs -----------------------------------------------------------------------------

    def archive(self) -> None:
        status = Path(self._job.folder) / "pg_wal" / "archive_status"
        if self._job.offer_one_by_one:
            for name in self._job.names:
                (status / f"{name}.ready").touch()
                self._archive_one(status, name)
            return
        while names := _ready(status):
            for name in names:
                self._archive_one(status, name)

    def fetch(self) -> None:
        place = Path(self._job.folder) / "pg_wal" / "RECOVERYXLOG"
        for name in self._job.names:
            self._call(self._job.command.replace("%f", name).replace("%p", "pg_wal/RECOVERYXLOG"))
            if not place.is_file():
                raise CallFailed(f"{name}: exit 0, and no file")
            place.unlink()
            if self._job.replay_s:
                time.sleep(self._job.replay_s)

    def run(self) -> None:
        for _ in range(self._job.times):
            self._call(self._job.command)

    # --- calls ---------------------------------------------------------------------------------

    def _archive_one(self, status: Path, name: str) -> None:
        command = self._job.command.replace("%p", f"pg_wal/{name}").replace("%f", name)
        for left in range(TRIES - 1, -1, -1):
            try:
                self._call(command)
                break
            except CallFailed:
                if not left:
                    raise
                time.sleep(1.0)
        (status / f"{name}.ready").rename(status / f"{name}.done")

    def _call(self, command: str) -> None:
        began = time.perf_counter()
        # Through a file, and read after the clock: a pipe would have us woken for every line.
        with tempfile.TemporaryFile() as told:
            child = subprocess.Popen(
                ["/bin/sh", "-c", command],
                cwd=self._job.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
            )
            status = _wait_for(child)
            self.calls_s.append(time.perf_counter() - began)
            if status not in self._job.ok or self._job.verb == "run":
                told.seek(0)
                self.output = told.read().decode(errors="replace")
        if status not in self._job.ok:
            raise CallFailed(f"{command!r} exited {status}: {self.output.strip()[-2000:]}")


def _wait_for(child: subprocess.Popen[bytes]) -> int:
    """Its exit status; helpers that we have adopted may end meanwhile."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode


def _ready(status: Path) -> list[str]:
    """At most 64 names, as PostgreSQL keeps them: history files first, then in order."""
    names = [name.removesuffix(".ready") for name in os.listdir(status) if name.endswith(".ready")]
    return sorted(names, key=lambda name: (not name.endswith(".history"), name))[:64]


# --- the caller's side -----------------------------------------------------------------------------


def drive(job: Job) -> Outcome:
    """Run the job in a driver of its own. Raises CallFailed when the client failed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench.driver"],
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=job.deadline_s + 120,
    )
    if done.returncode != 0:
        raise CallFailed(f"{job.command!r}: the driver ended with {done.returncode}: {done.stderr[-2000:]}")
    outcome = Outcome(**json.loads(done.stdout))
    if outcome.failure:
        raise CallFailed(outcome.failure)
    return outcome


def commands(outcomes: list[Outcome]) -> Iterator[float]:
    """Every call's seconds."""
    for outcome in outcomes:
        yield from outcome.calls_s


if __name__ == "__main__":
    sys.exit(main())
