"""Fetching: all segments in order, as a recovery asks for them, with and without time for replay."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bench.archiving import OURS
from benchmarks.bench.clients import Barman, Client, Session, Walarchiver
from benchmarks.bench.driver import CallFailed, Job, drive
from benchmarks.bench.figures import Measure, Pair, Section
from benchmarks.bench.run import Run, measured, some

REPLAY_S = 0.15
"""About what PostgreSQL takes to replay a busy segment."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A client whose repository has the segments."""

    client: Client
    session: Session
    data: Path
    names: list[str]


def fetch(run: Run) -> list[Section]:
    """Two sections: as fast as it goes, and with replay between the calls."""
    quickly = Section("fetch", "Fetched in order, no replay between")
    replayed = Section("replay", f"Fetched in order, {REPLAY_S * 1e3:.0f} ms of replay between")
    replayed.notes.append("The wall clock here is the sum of the calls, which is what recovery waits for.")
    names = run.segments(len(run.corpus.names), quick=8)
    with ExitStack() as stack:
        filled = _fill_all(run, quickly, stack, names)
        run.rounds(quickly, [(one.client.label, _turn(run, one, 0.0)) for one in filled])
        fewer = [
            replace(one, names=some(one.names, 16)) for one in filled if not isinstance(one.client, Barman)
        ]
        run.rounds(replayed, [(one.client.label, _turn(run, one, REPLAY_S)) for one in fewer], most=2)
        for one in filled:
            _compare(run, quickly, one)
    quickly.pairs = [
        Pair("pgBackRest async zst 3", OURS, ">= 3"),
        Pair("pgBackRest sync zst 3", OURS),
        Pair("barman-cloud zstd 3", OURS),
    ]
    replayed.pairs = [Pair("pgBackRest async zst 3", OURS), Pair("pgBackRest sync zst 3", OURS)]
    return [quickly, replayed]


def _fill_all(run: Run, section: Section, stack: ExitStack, names: list[str]) -> list[Filled]:
    clients: list[Client] = [Walarchiver(), *run.pgbackrest(), *run.pgbackrest(asynchronous=False)]
    if run.peers.barman is not None:
        clients.append(Barman(run.peers.barman, segments_max=2 if run.options.quick else 4))
    filled = []
    for client in clients:
        try:
            filled.append(fill(run, client, stack, some(names, client.segments_max)))
        except CallFailed as error:
            run.fail(section, f"{client.label} could not archive: {error}")
    return filled


def fill(run: Run, client: Client, stack: ExitStack, names: list[str]) -> Filled:
    """Archive the segments, and take them out of the data directory. Raises CallFailed."""
    data = run.corpus.data_directory(run.place.work("data") / "d", names)
    session = stack.enter_context(client.session(run.target(data)))
    drive(run.job(session, "archive", session.fill or session.archive, data))
    for name in names:
        (data / "pg_wal" / name).unlink()
    return Filled(client, session, data, names)


def _turn(run: Run, one: Filled, replay_s: float) -> Callable[[int], Measure]:
    def measure(number: int) -> Measure:
        spool = run.place.folder / one.session.prefix / "spool"
        if spool.exists():  # what pgBackRest's last round left
            shutil.rmtree(spool)
            spool.mkdir()
        job = run.job(one.session, "fetch", one.session.fetch, one.data, names=one.names, replay_s=replay_s)
        outcome = drive(job)
        plain = len(one.names) * run.corpus.segment_bytes
        found = measured(one.client.label, number, plain, outcome)
        return replace(found, wall_s=sum(found.calls_s)) if replay_s else found

    return measure


def _compare(run: Run, section: Section, one: Filled) -> None:
    """Whether the bytes are the corpus's: two of them, not timed."""
    for name in (one.names[0], one.names[-1]):
        command = one.session.fetch.replace("%f", name).replace("%p", "pg_wal/RECOVERYXLOG")
        place = one.data / "pg_wal" / "RECOVERYXLOG"
        drive(Job("run", command, str(one.data), one.session.environment))
        if place.read_bytes() != (run.corpus.wal / name).read_bytes():
            run.fail(section, f"{one.client.label} gave other bytes for {name}")
        place.unlink()
