"""One cluster with an archive made by cp, one base backup of it, and what came after: kept in memory."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from restore.unpack import Unpacker
from walarchiver.core.lsn import Lsn, parse_lsn
from walarchiver.embedded.postgres import EmbeddedCluster
from walarchiver.postgres.backupindex import BackupIndex, TablespaceStream
from walarchiver.postgres.basebackup import BackupResult, stream_base_backup
from walarchiver.postgres.process import RunAs
from walarchiver.postgres.tarstream import TarMember

PART_BYTES = 1 << 20

DIGEST = "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY n)) FROM {} t"


class MemorySink:
    """Keeps everything in memory."""

    def __init__(self) -> None:
        self.streams: dict[int, bytearray] = {}
        self.started: list[TablespaceStream] = []
        self.backup_manifest = bytearray()

    def start_stream(self, stream: TablespaceStream, members: Sequence[TarMember]) -> None:
        self.started.append(stream)
        self.streams[stream.number] = bytearray()

    def data(self, chunk: bytes | memoryview) -> None:
        self.streams[self.started[-1].number] += chunk

    def manifest(self, chunk: bytes | memoryview) -> None:
        self.backup_manifest += chunk


@dataclass(frozen=True, slots=True)
class Part:
    stream: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """A backup, the archive folder, and what the tables held at the end of the archive."""

    major: int
    bin_dir: Path
    result: BackupResult
    parts: tuple[Part, ...]
    manifest: bytes
    archive: Path
    tablespace: int
    space: Path
    contents: dict[str, str]
    """Count and digest of each table, by name."""
    delete_at: Lsn
    """Position before a DELETE of everything in `big`."""

    @property
    def index(self) -> BackupIndex:
        return BackupIndex(self.result.streams)


def take(cluster: EmbeddedCluster, folder: Path) -> Taken:
    """Fill, back up, write on, archive all, and end the cluster."""
    archive, space = folder / "archive", folder / "space"
    for place in (archive, space):
        place.mkdir(mode=0o700)
        if cluster.run_as is not None:
            os.chown(place, cluster.run_as.uid, cluster.run_as.gid)
    cluster.configure({"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"})
    cluster.start()
    cluster.psql(f"CREATE TABLESPACE extra LOCATION '{space}'")
    cluster.psql(
        "CREATE TABLE big AS SELECT n, repeat(n::text, 100) AS pad FROM generate_series(1, 6000) n; "
        "CREATE TABLE spaced TABLESPACE extra AS SELECT n, repeat('y', n % 50) AS pad "
        "FROM generate_series(1, 20000) n; CREATE TABLE empty (n int)"
    )
    sink = MemorySink()
    result = stream_base_backup(cluster.dsn(), label="a test", checkpoint_fast=True, sink=sink)
    cluster.psql("INSERT INTO big SELECT n, 'after' FROM generate_series(6001, 6500) n")
    cluster.psql("UPDATE spaced SET pad = 'changed' WHERE n % 7 = 0")
    contents = {name: cluster.psql(DIGEST.format(name)) for name in ("big", "spaced")}
    cluster.psql("CHECKPOINT")  # so that the DELETE's first record is its own
    delete_at = parse_lsn(cluster.psql("SELECT pg_current_wal_insert_lsn()"))
    cluster.psql("DELETE FROM big")
    cluster.psql("SELECT pg_switch_wal()")
    tablespace = int(cluster.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'extra'"))
    cluster.stop()  # a fast stop waits until everything is archived
    parts = tuple(
        Part(number, offset, bytes(content[offset : offset + PART_BYTES]))
        for number, content in sink.streams.items()
        for offset in range(0, len(content), PART_BYTES)
    )
    return Taken(
        major=cluster.major,
        bin_dir=cluster.bin_dir,
        result=result,
        parts=parts,
        manifest=bytes(sink.backup_manifest),
        archive=archive,
        tablespace=tablespace,
        space=space,
        contents=contents,
        delete_at=delete_at,
    )


def owner() -> RunAs | None:
    return RunAs.named("nobody") if os.geteuid() == 0 else None


def unpacker(taken: Taken, target: Path) -> Unpacker:
    places = {taken.tablespace: target.with_name(target.name + "-space")}
    return Unpacker(taken.index, target, places, owner=owner(), durable=False)


def apply_all(unpacker: Unpacker, parts: Iterable[Part], *, seed: int = 0) -> None:
    """All parts in random order, on four threads."""
    shuffled = list(parts)
    random.Random(seed).shuffle(shuffled)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: unpacker.apply(part.stream, part.offset, part.content), shuffled))


def unpack(taken: Taken, target: Path, *, seed: int = 0) -> Unpacker:
    """Everything but publish."""
    made = unpacker(taken, target)
    made.prepare()
    apply_all(made, taken.parts, seed=seed)
    made.finish(taken.manifest)
    return made


def recover_from(taken: Taken, target: Path, settings: dict[str, str]) -> None:
    """Write the recovery settings of a restore from the cp archive."""
    lines = {"restore_command": f"cp {taken.archive}/%f %p", "recovery_target_timeline": "1", **settings}
    with (target / "postgresql.auto.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
    signal_file = target / "recovery.signal"
    signal_file.touch()
    if (who := owner()) is not None:
        os.chown(signal_file, who.uid, who.gid)
