"""Base backup of a running server, and restores of it: full, unchanged, and with a few changed files.

Rules:
- Both deliver a backup that is proven restorable: they wait until its WAL is archived (pgBackRest's
  archive-check), and the server archives to whoever takes the backup.
- Plain bytes are those of the data directory without its WAL.
- The command is timed as a person starts it, the interpreter's start included.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bench.archiving import OURS, give_to_server
from benchmarks.bench.clients import Client, Session, Walarchiver
from benchmarks.bench.driver import CallFailed, drive
from benchmarks.bench.figures import Measure, Pair, Section
from benchmarks.bench.run import Run, measured
from walarchiver.embedded.postgres import EmbeddedCluster

THEIRS = "pgBackRest sync zst 3"
THEIRS_1 = "pgBackRest sync zst 1"
CHANGED_EVERY = 20
"""One file in so many is changed for the delta restore: 5 %."""
SCALE, SCALE_FULL, SCALE_QUICK = 15, 60, 2


@dataclass(frozen=True, slots=True)
class Ready:
    """A client whose session can back up and restore."""

    client: Client
    session: Session
    command: Path
    """Its archive_command as a file."""


def backup(run: Run) -> list[Section]:
    """Sections `backup` and three of restores."""
    section = Section("backup", "Base backup, full, of a running idle server", has_calls=False)
    server = run.server
    _fill(run, server)
    server.stop()
    server.configure({"archive_mode": "on", "archive_command": "false"})
    server.start()
    try:
        with ExitStack() as stack:
            ready = _sessions(run, section, stack)
            plain = _plain_bytes(server.data_dir)
            section.notes.append(f"{plain / 1e6:.0f} MB without WAL; page checksums on.")
            run.rounds(section, [(one.client.label, _backup_turn(run, one, plain)) for one in ready])
            section.pairs = [
                Pair(THEIRS, OURS, ">= 1.8", ">= 2.5"),
                Pair(THEIRS_1, OURS, ">= 1.5", ">= 1.67"),
            ]
            kept = [one for one in ready if section.of(one.client.label)]
            return [section, *_restores(run, kept, plain)]
    finally:
        server.stop()
        server.configure({"archive_mode": "off", "archive_command": ""})
        server.start()


def _fill(run: Run, server: EmbeddedCluster) -> None:
    """Rows of several kinds: pgbench's, random bytes, and a log with hashed keys."""
    options = run.options
    scale = SCALE_QUICK if options.quick else SCALE_FULL if options.full else SCALE
    words = ("-i", "-q", "-s", str(scale), "-d", server.dsn())
    server.program("pgbench", *words, timeout_s=600)
    server.psql(
        "CREATE EXTENSION IF NOT EXISTS pgcrypto; DROP TABLE IF EXISTS noise, log;"
        "CREATE TABLE noise AS SELECT g AS id, gen_random_bytes(960) AS bytes "
        f"FROM generate_series(1, {scale * 4000}) g;"
        "CREATE TABLE log AS SELECT g AS id, now() + g * interval '1 second' AS at, md5(g::text) AS who, "
        f"repeat(chr(65 + g % 26), 60) AS what FROM generate_series(1, {scale * 30000}) g;"
        "CREATE INDEX ON log (who); CHECKPOINT",
        timeout_s=600,
    )


def _plain_bytes(data: Path) -> int:
    return sum(
        path.stat().st_size
        for path in data.rglob("*")
        if path.is_file() and not path.is_symlink() and path.relative_to(data).parts[0] != "pg_wal"
    )


def _sessions(run: Run, section: Section, stack: ExitStack) -> list[Ready]:
    clients: list[Client] = [
        Walarchiver(),
        *run.pgbackrest(asynchronous=False),
        *run.pgbackrest(level=1, asynchronous=False),
    ]
    ready = []
    for client in clients:
        try:
            target = run.target(run.server.data_dir, back_up=True)
            session = stack.enter_context(client.session(target))
        except CallFailed as error:
            run.fail(section, f"{client.label} could not be set up: {error}")
            continue
        ready.append(Ready(client, session, give_to_server(run, session)))
    return ready


def _backup_turn(run: Run, one: Ready, plain: int) -> Callable[[int], Measure]:
    def measure(number: int) -> Measure:
        server = run.server
        server.configure({"archive_command": f'"{one.command}" %p %f'})
        server.reload()
        assert server.pid is not None
        try:
            before, _ = run.place.stored(one.session.prefix)
            job = run.job(one.session, "run", one.session.backup, run.place.folder, bystanders=[server.pid])
            outcome = drive(job)
            after, _ = run.place.stored(one.session.prefix)
        finally:
            server.configure({"archive_command": "false"})
            server.reload()
        return measured(one.client.label, number, plain, outcome, stored=after - before)

    return measure


# --- restores ------------------------------------------------------------------------------------------


def _restores(run: Run, ready: list[Ready], plain: int) -> list[Section]:
    """All three in a row for each client in each round: they build on each other.

    Each full one goes to a new folder, and none is removed before the end: ext4 takes long to make files for
    a while after others were deleted.
    """
    full = Section("restore", "Restored into an empty directory", has_calls=False)
    same = Section("delta", "Restored over itself, nothing changed", has_calls=False)
    few = Section("delta5", "Restored over itself, 5 % of the files changed", has_calls=False)
    places: dict[str, Path] = {}

    def turn(one: Ready, kind: str) -> tuple[str, Callable[[int], Measure]]:
        def measure(number: int) -> Measure:
            if kind == "full":
                places[one.client.label] = run.place.work("into") / "data"
            into = places[one.client.label]
            if kind == "full":
                into.mkdir(mode=0o700)
            elif kind == "few":
                _change(into)
            text = one.session.restore if kind == "full" else one.session.delta
            if not text:
                raise CallFailed("it has no delta restore")
            job = run.job(one.session, "run", text.format(into=into), run.place.folder)
            return replace(measured(one.client.label, number, plain, drive(job)), round=number)

        return one.client.label, measure

    for section, kind in ((full, "full"), (same, "same"), (few, "few")):
        run.rounds(section, [turn(one, kind) for one in ready])
        for one in list(ready):
            if not section.of(one.client.label):
                ready.remove(one)
    full.pairs = [Pair(THEIRS, OURS, ">= 1"), Pair(THEIRS_1, OURS)]
    same.pairs = [Pair(THEIRS, OURS, ">= 2", ">= 2"), Pair(THEIRS_1, OURS)]
    few.pairs = [Pair(THEIRS, OURS, ">= 2"), Pair(THEIRS_1, OURS)]
    return [full, same, few]


def _change(into: Path) -> None:
    """Flip 8 KiB in one of twenty files of the tables."""
    files = sorted(
        path for path in (into / "base").rglob("*") if path.is_file() and path.stat().st_size >= 8192
    )
    for path in files[::CHANGED_EVERY]:
        with path.open("r+b") as file:
            page = file.read(8192)
            file.seek(0)
            file.write(bytes(255 - byte for byte in page))
