"""Real recoveries to many targets, one after the other, in one data directory.

A server that has stopped at a recovery target can go on to a later one (not to an earlier one), so a base
backup is laid out once, and each next target costs a restart and the WAL between. Every state is read
while recovery is paused: nothing is promoted.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

from restore.core.model import Decision
from restore.plainfile import write_plain
from tests.integration.moments import History
from tests.integration.oracle import State, read_state
from tests.integration.scene import Scene, until
from walarchiver.assembly import Archive
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import CommitTime, format_postgres
from walarchiver.embedded.postgres import EmbeddedCluster, quoted
from walarchiver.postgres.process import StopMode

PAUSED = "SELECT pg_is_in_recovery() AND pg_get_wal_replay_pause_state() = 'paused'"
REPLAYED = "SELECT pg_last_wal_replay_lsn()"
STOPPING = re.compile(r"LOG: +recovery stopping (.*)")


@dataclass
class Recovered:
    """What is there at a stop."""

    state: State
    replayed: str
    """End of the last replayed record."""
    said: str
    """Why the server stopped, in its own words."""


@dataclass
class Stepwise:
    """A base backup of a history, and all its WAL in a folder."""

    cluster: EmbeddedCluster
    wal: Path

    def go_on_to(self, decision: Decision, *, native: CommitTime | None = None) -> Recovered:
        """Recover on, from where it stands, to the stop of a decision; what is there.

        `native`: have PostgreSQL look for this moment by itself, as it does with recovery_target_time.
        """
        stop = decision.stop
        assert stop is not None
        assert decision.limits is not None
        target = {
            "recovery_target_lsn": format_lsn(stop.lsn),
            "recovery_target_inclusive": "on" if stop.inclusive else "off",
        }
        if native is not None:
            target = {"recovery_target_time": format_postgres(native), "recovery_target_inclusive": "on"}
        settings = {
            "restore_command": f'cp "{self.wal}/%f" "%p"',
            **target,
            "recovery_target_timeline": str(decision.path.timeline),
            "recovery_target_action": "pause",
            "hot_standby": "on",
            "archive_mode": "off",
            **{name: str(value) for name, value in asdict(decision.limits).items()},
        }
        lines = "".join(f"{name} = {quoted(value)}\n" for name, value in settings.items())
        (self.cluster.data_dir / "postgresql.auto.conf").write_text(lines)
        before = len(self.cluster.log_text())
        self.cluster.start()
        try:
            with psycopg.connect(self.cluster.dsn(), autocommit=True) as sql:
                until(lambda: sql.execute(PAUSED).fetchone() == (True,), "recovery paused at its target")
                (replayed,) = sql.execute(REPLAYED).fetchone() or ("",)
                sql.execute("CHECKPOINT")  # where the next start begins
            (said,) = STOPPING.findall(self.cluster.log_text()[before:])
            return Recovered(read_state(self.cluster.dsn()), str(replayed), said)
        finally:
            self.cluster.stop(StopMode.IMMEDIATE)  # a paused recovery takes a second to hear of any other


def lay_out_wal(archive: Archive, folder: Path) -> Path:
    """Every archived WAL and history file, plain, in a folder."""
    folder.mkdir()
    for kind in ("wal", "history"):
        for name in archive.catalog.names(kind):
            record = archive.catalog.file(name)
            assert record is not None
            with (folder / name).open("wb") as out:
                write_plain(archive.repository, archive.system, record, out)
            (folder / name).chmod(0o644)
    return folder


@contextmanager
def stepwise(history: History, archive: Archive) -> Iterator[Stepwise]:
    """Lay out the newest base backup and the WAL that history left in its archive."""
    wal = lay_out_wal(archive, history.scene.stage.folder / "wal-of-all")
    try:
        with laid_out(history.scene, wal, "latest", config=history.config) as steps:
            yield steps
    finally:
        shutil.rmtree(wal)


@contextmanager
def laid_out(scene: Scene, wal: Path, at: str, *more: str, config: Path) -> Iterator[Stepwise]:
    """Lay out the base backup that a restore to `at` takes, ready to go through this WAL."""
    folder = scene.stage.folder / "steps"
    folder.mkdir()
    laid = folder / "laid"
    told = scene.call(*scene.restore_words(at, laid, *more), config=config)
    assert told.exit_status == 0, told.stderr
    cluster = EmbeddedCluster(
        scene.cluster.major, folder / "pg", durable=False, bin_dir=scene.cluster.bin_dir
    )
    cluster.directory.mkdir()
    shutil.move(laid, cluster.data_dir)
    if cluster.run_as is not None:
        cluster.run_as.take(cluster.data_dir)
    cluster.create()
    try:
        yield Stepwise(cluster, wal)
    finally:
        cluster.kill()
        shutil.rmtree(folder)
