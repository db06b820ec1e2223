"""Archiving: a backlog drained, one segment at a time, the pipeline without a store, the real archiver."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench.clients import Barman, Client, Session, Walarchiver
from benchmarks.bench.driver import CallFailed
from benchmarks.bench.figures import Measure, Pair, Section
from benchmarks.bench.ideal import TUNED, ideal
from benchmarks.bench.run import Run, wait_until

OURS = "walarchiver"
LIMIT = "ideal: read, tuned zstd, AES-GCM; 2 threads"
LIMIT_3 = "ideal with zstd 3"
IN_MEMORY = "walarchiver, repository in shared memory"
REAL_S = 120.0
Turn = tuple[str, Callable[[int], Measure]]


def turn(run: Run, client: Client, names: list[str], *, one_by_one: bool = False) -> Turn:
    """A contestant's turn at archiving."""

    def measure(number: int) -> Measure:
        return run.archive(client, names, number, one_by_one=one_by_one)

    return client.label, measure


def _turn_of_limit(run: Run, names: list[str], label: str, level: int) -> Turn:
    """The machine's limit on the same segments."""
    files = [run.corpus.wal / name for name in names]

    def measure(number: int) -> Measure:
        return ideal(label, number, files, level=level)

    return label, measure


def drain(run: Run) -> list[Section]:
    """A backlog: everything is ready at the start."""
    section = Section("drain", "A backlog drained")
    names = run.segments(len(run.corpus.names), quick=8)
    section.notes.append(
        f"{len(names)} segments of {run.corpus.segment_bytes >> 20} MiB, all marked ready; a driver calls as "
        "PostgreSQL's archiver does, one call at a time. One more was archived before the clock."
    )
    clients: list[Client] = [Walarchiver()]
    clients += run.pgbackrest() + run.pgbackrest(asynchronous=False) + run.pgbackrest(level=1)
    if run.peers.barman is not None:
        clients.append(Barman(run.peers.barman, segments_max=3 if run.options.quick else 5))
        section.notes.append("barman-cloud gets a few segments only, and does not encrypt.")
    turns = [turn(run, client, names) for client in clients]
    turns += [_turn_of_limit(run, names, LIMIT, TUNED), _turn_of_limit(run, names, LIMIT_3, 3)]
    run.rounds(section, turns)
    section.pairs = [
        Pair("pgBackRest async zst 3", OURS, ">= 3", ">= 3"),
        Pair("pgBackRest async zst 1", OURS, ">= 2", ">= 2.2"),
        Pair("pgBackRest sync zst 3", OURS),
        Pair("barman-cloud zstd 3", OURS, ">= 15", ">= 12"),
        Pair(OURS, LIMIT),
    ]
    return [section, real_archiver(run)]


def single(run: Run) -> list[Section]:
    """Without a backlog: a segment is marked ready when the one before is done."""
    section = Section("single", "One segment at a time, no backlog")
    names = run.segments(12, quick=4)
    clients: list[Client] = [
        Walarchiver(),
        *run.pgbackrest(asynchronous=False),
        *run.pgbackrest(),
    ]
    run.rounds(section, [turn(run, client, names, one_by_one=True) for client in clients])
    section.pairs = [
        Pair("pgBackRest sync zst 3", OURS, ">= 2.5"),
        Pair("pgBackRest async zst 3", OURS),
    ]
    return [section]


def pipeline(run: Run) -> list[Section]:
    """With PUT left out: the repository is a folder in shared memory."""
    section = Section("pipeline", "The pipeline with PUT left out, beside the limit")
    names = run.segments(len(run.corpus.names), quick=8)
    section.notes.append(
        "The same daemon, hook and driver; the repository is a folder in /dev/shm. Ledger, scan and checks "
        "are on."
    )
    ours = Walarchiver(IN_MEMORY, in_memory=True)
    run.rounds(section, [turn(run, ours, names), _turn_of_limit(run, names, LIMIT, TUNED)])
    section.pairs = [Pair(IN_MEMORY, LIMIT, "<= 1.2", "<= 1.2")]
    return [section]


# --- the real archiver -------------------------------------------------------------------------------


def real_archiver(run: Run) -> Section:
    """One check that the driver is no flattery: PostgreSQL's own archiver, the same backlog for each."""
    section = Section("archiver", "The same with PostgreSQL's own archiver", has_calls=False)
    clients: list[Client] = [Walarchiver(), *run.pgbackrest()]
    section.notes.append(
        "A backlog behind `archive_command = false`, then the command is set. "
        "Wall clock only: the calls are PostgreSQL's children, not the driver's."
    )
    server = run.server
    server.stop()
    server.configure({"archive_mode": "on", "archive_command": "false"})
    server.start()
    try:
        names = _pile_up(run, 4 if run.options.quick else 12)
        turns = [(client.label, _real_turn(run, client, names)) for client in clients]
        run.rounds(section, turns, most=2)
    finally:
        server.stop()
        server.configure({"archive_mode": "off", "archive_command": ""})
        server.start()
    section.pairs = [Pair("pgBackRest async zst 3", OURS)]
    return section


def _pile_up(run: Run, count: int) -> list[str]:
    server = run.server
    status = server.data_dir / "pg_wal" / "archive_status"
    for number in range(40 * count):
        names = sorted(path.stem for path in status.glob("*.ready"))
        if len(names) >= count:
            return names
        server.psql("CALL tpcb(12000)" if number % 2 else "CREATE INDEX ON pgbench_accounts (abalance, bid)")
    raise CallFailed("no backlog came about")


def _real_turn(run: Run, client: Client, names: list[str]) -> Callable[[int], Measure]:
    def measure(number: int) -> Measure:
        server, status = run.server, run.server.data_dir / "pg_wal" / "archive_status"
        for name in names:
            if (status / f"{name}.done").exists():
                (status / f"{name}.done").rename(status / f"{name}.ready")
        with client.session(run.target(server.data_dir)) as session:
            _give_to_server(run, session)
            server.configure({"archive_command": _script(run, session, session.archive)})
            began = time.perf_counter()
            server.reload()
            server.psql("SELECT pg_switch_wal()")  # wakes the archiver
            done = wait_until(lambda: all((status / f"{name}.done").exists() for name in names), REAL_S)
            wall_s = time.perf_counter() - began
            server.configure({"archive_command": "false"})
            server.reload()
            stored, _ = run.place.stored(session.prefix)
        if not done:
            raise CallFailed(f"not archived within {REAL_S:g} s; the log ends: {server.log_text()[-1000:]}")
        return Measure(
            client.label, number, len(names) * run.corpus.segment_bytes, wall_s, 0.0, stored=stored
        )

    return measure


def _script(run: Run, session: Session, command: str) -> str:
    """A file with the command, for its environment cannot be PostgreSQL's."""
    path = _script_path(run, session)
    lines = [f"export {name}='{value}'" for name, value in session.environment.items()]
    text = command.replace("%p", '"$1"').replace("%f", '"$2"')
    path.write_text("\n".join(["#!/bin/sh", *lines, f"exec {text}"]) + "\n")
    path.chmod(0o755)
    return f'"{path}" %p %f'


def _give_to_server(run: Run, session: Session) -> None:
    """pgBackRest works as the server's user there, so its files must be that user's."""
    owner = run.server.run_as
    if owner is None or not session.prefix.startswith("br"):
        return
    base = run.place.folder / session.prefix
    for path in (base, *base.rglob("*")):
        os.chown(path, owner.uid, owner.gid)


def give_to_server(run: Run, session: Session) -> Path:
    """For base backups: the session's files to the server's user, and its archive command as a file."""
    _give_to_server(run, session)
    _script(run, session, session.archive)
    return _script_path(run, session)


def _script_path(run: Run, session: Session) -> Path:
    # pgBackRest refuses an archive_command without its name in it.
    theirs = session.prefix.startswith("br")
    return run.place.folder / session.prefix / ("pgbackrest.sh" if theirs else "archive.sh")
