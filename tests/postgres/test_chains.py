"""Chains of incremental backups: what comes out is what pg_combinebackup makes, and it starts."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from restore.combine import Chain, Link, read_increment
from restore.manifest import parse_manifest
from restore.streamwriter import StreamWriter
from restore.unpack import Unpacker
from tests.kit.postgres import QUICK, as_server_user, open_folder
from tests.postgres.taken import MemorySink, owner
from walarchiver.embedded.postgres import MIB, EmbeddedCluster
from walarchiver.errors import MalformedObject, RestoreFailed
from walarchiver.postgres.backupindex import BackupIndex
from walarchiver.postgres.basebackup import BackupResult, stream_base_backup
from walarchiver.postgres.process import run_program

PART_BYTES = 1 << 18
BLOCK = 8192
SUM = "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, ',' ORDER BY n)), '') FROM {} t"
TABLES = ("kept", "changed", "shrunk", "late", "spaced", "rewritten", "zeroed")

BEFORE = (
    "CREATE TABLE kept AS SELECT n, repeat('k', 400) AS pad FROM generate_series(1, 1500) n;"
    "CREATE TABLE changed AS SELECT n, repeat('c', 400) AS pad FROM generate_series(1, 3000) n;"
    "CREATE TABLE shrunk AS SELECT n, repeat('s', 400) AS pad FROM generate_series(1, 3000) n;"
    "CREATE TABLE dropped AS SELECT n, repeat('d', 400) AS pad FROM generate_series(1, 1000) n;"
    "CREATE TABLE rewritten AS SELECT n, repeat('r', 400) AS pad FROM generate_series(1, 1000) n;"
    "CREATE TABLE zeroed AS SELECT n, repeat('z', 400) AS pad FROM generate_series(1, 1000) n;"
    "CREATE TABLE spaced TABLESPACE extra AS SELECT n, repeat('t', 400) AS pad "
    "FROM generate_series(1, 2000) n"
)
STEPS = (
    (
        "UPDATE changed SET pad = 'first' WHERE n IN (5, 1700)",
        "UPDATE spaced SET pad = 'first' WHERE n = 100",
        "DELETE FROM shrunk WHERE n > 1800",
        "VACUUM shrunk",
        "DROP TABLE dropped",
        "CREATE TABLE late AS SELECT n, repeat('l', 400) AS pad FROM generate_series(1, 500) n",
    ),
    (
        "UPDATE changed SET pad = 'second' WHERE n IN (6, 2900)",
        "INSERT INTO changed SELECT n, repeat('more', 100) FROM generate_series(3001, 3300) n",
        "INSERT INTO shrunk SELECT n, repeat('grown', 80) FROM generate_series(5001, 5200) n",
        "UPDATE late SET pad = 'second' WHERE n = 3",
        "UPDATE spaced SET pad = 'second' WHERE n = 1900",
        "VACUUM FULL rewritten",
        "TRUNCATE zeroed",
    ),
)


@dataclass(frozen=True, slots=True)
class Member:
    """One backup of a chain, in memory."""

    result: BackupResult
    streams: dict[int, bytes]
    manifest: bytes

    @property
    def index(self) -> BackupIndex:
        return BackupIndex(self.result.streams)

    @property
    def link(self) -> Link:
        result = self.result
        manifest = parse_manifest(self.manifest)
        return Link(f"b{result.start_lsn:x}", result.timeline, result.start_lsn, self.index, manifest)


@dataclass(frozen=True, slots=True)
class Taken:
    """A full backup and two incremental ones, and what the tables held in the end."""

    major: int
    bin_dir: Path
    members: tuple[Member, ...]
    tablespace: int
    archive: Path
    contents: dict[str, str]


@pytest.fixture(scope="module", params=[18, pytest.param(17, marks=pytest.mark.nightly)])
def taken(request: pytest.FixtureRequest) -> Iterator[Taken]:
    folder = open_folder("wa-chain-")
    settings = {**QUICK, "summarize_wal": "on", "archive_mode": "on"}
    settings["archive_command"] = f"cp %p {folder}/archive/%f"
    cluster = EmbeddedCluster(request.param, folder / "pg", settings=settings, durable=False)
    try:
        cluster.create(segment_bytes=MIB)
        for place in (folder / "archive", folder / "space"):
            place.mkdir(mode=0o700)
            as_server_user(cluster, place)
        cluster.start()
        cluster.psql(f"CREATE TABLESPACE extra LOCATION '{folder / 'space'}'")
        cluster.psql(BEFORE)
        members = [back_up(cluster, None)]
        for statements in STEPS:
            for statement in statements:
                cluster.psql(statement)
            members.append(back_up(cluster, members[-1].manifest))
        cluster.psql("UPDATE changed SET pad = 'after the last' WHERE n = 7")
        contents = {name: cluster.psql(SUM.format(name)) for name in TABLES}
        tablespace = int(cluster.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'extra'"))
        cluster.psql("SELECT pg_switch_wal()")
        cluster.stop()
        found = tuple(members)
        yield Taken(cluster.major, cluster.bin_dir, found, tablespace, folder / "archive", contents)
    finally:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)


def back_up(cluster: EmbeddedCluster, prior: bytes | None) -> Member:
    sink = MemorySink()
    result = stream_base_backup(
        cluster.dsn(), label="a chain", checkpoint_fast=True, sink=sink, prior_manifest=prior
    )
    streams = {number: bytes(content) for number, content in sink.streams.items()}
    return Member(result, streams, bytes(sink.backup_manifest))


def apply_all(writer: StreamWriter, member: Member) -> None:
    """Every part of it that is needed, in random order."""
    parts = [
        (number, offset)
        for number, content in member.streams.items()
        for offset in range(0, len(content), PART_BYTES)
    ]
    random.Random(1).shuffle(parts)
    for number, offset in parts:
        piece = member.streams[number][offset : offset + PART_BYTES]
        if writer.needs(number, offset, len(piece)):
            writer.apply(number, offset, piece)


def combined(taken: Taken, target: Path, *, members: tuple[Member, ...] | None = None) -> Unpacker:
    """Everything but publish."""
    members = taken.members if members is None else members
    places = {taken.tablespace: target.with_name(f"{target.name}-space")}
    spool = target.with_name(f"{target.name}-spool")
    links = [member.link for member in members]
    chain = Chain(links, target, places, spool, block_bytes=BLOCK)
    tip = members[-1]
    made = Unpacker(
        tip.index,
        target,
        places,
        manifest=links[-1].manifest,
        chain=chain,
        owner=owner(),
        durable=False,
    )
    made.prepare()
    chain.prepare()
    for writer, member in zip((*chain.writers, made.writer), members, strict=True):
        apply_all(writer, member)
    made.finish(tip.manifest)
    return made


def tree(root: Path) -> dict[str, bytes]:
    """Every file below, but for what differs by design."""
    own = {"backup_manifest", "tablespace_map"}
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in own
    }


def test_what_comes_out_is_what_pg_combinebackup_makes(taken: Taken, pg_folder: Path) -> None:
    ours = pg_folder / "ours"
    combined(taken, ours).publish()
    assert not (pg_folder / "ours-spool").exists()
    plain = []
    for number, member in enumerate(taken.members):
        target = pg_folder / f"m{number}"
        places = {taken.tablespace: pg_folder / f"m{number}-space"}
        made = Unpacker(member.index, target, places, owner=owner(), durable=False)
        made.prepare()
        apply_all(made.writer, member)
        made.finish(member.manifest)
        made.publish()
        plain.append(str(target))
    theirs = pg_folder / "theirs"
    space = f"{pg_folder / 'm2-space'}={pg_folder / 'theirs-space'}"
    if (who := owner()) is not None:
        os.chown(pg_folder, who.uid, who.gid)
    arguments = ("--no-sync", "-T", space, "-o", str(theirs), *plain)
    done = run_program(
        taken.bin_dir, "pg_combinebackup", *arguments, run_as=owner(), cwd=pg_folder, timeout_s=60
    )
    assert done.returncode == 0, done.stderr
    assert tree(ours) == tree(theirs)
    assert tree(pg_folder / "ours-space") == tree(pg_folder / "theirs-space")
    increments = [name for name in taken.members[-1].link.manifest.files if "INCREMENTAL." in name]
    assert len(increments) > 10, "else this proves little"


def test_a_combined_directory_recovers_to_the_right_rows(taken: Taken, pg_folder: Path) -> None:
    cluster = EmbeddedCluster(taken.major, pg_folder / "pg", settings=QUICK, durable=False)
    cluster.create(segment_bytes=MIB)
    shutil.rmtree(cluster.data_dir)
    combined(taken, cluster.data_dir).publish()
    assert b"INCREMENTAL" not in (cluster.data_dir / "backup_label").read_bytes()
    with (cluster.data_dir / "postgresql.auto.conf").open("a") as conf:
        conf.write(f"restore_command = 'cp {taken.archive}/%f %p'\narchive_mode = 'off'\n")
        conf.write(f"unix_socket_directories = '{cluster.socket_dir}'\n")
    (cluster.data_dir / "recovery.signal").touch()
    as_server_user(cluster, cluster.data_dir / "recovery.signal")
    try:
        cluster.start()
        assert {name: cluster.psql(SUM.format(name)) for name in TABLES} == taken.contents
        assert cluster.psql("SELECT pg_is_in_recovery()") == "f"
    finally:
        cluster.kill()


def test_a_member_that_is_left_out_is_found(taken: Taken, pg_folder: Path) -> None:
    full, first, second = taken.members
    for members in ((full, second), (first, second)):
        with pytest.raises(RestoreFailed, match=r"does not build on|no whole copy"):
            combined(taken, pg_folder / f"r{len(list(pg_folder.iterdir()))}", members=members)
    assert not any((path / "global" / "pg_control").exists() for path in pg_folder.iterdir())


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.nightly), 2])
def test_a_flipped_byte_in_any_member_is_found(taken: Taken, pg_folder: Path, which: int) -> None:
    members = list(taken.members)
    victim = members[which]
    # A file of which the newest has an increment, and the one before it as well: so every member counts.
    later = [{one.path for one in member.result.streams[-1].members} for member in members[1:]]
    wanted = max(
        (
            one
            for one in victim.result.streams[-1].members
            if (increment_of(one.path) if which == 0 else one.path) in later[0] & later[1]
            if which == 0 or "INCREMENTAL." in one.path
        ),
        key=lambda one: one.size,
    )
    stream = next(one for one in victim.result.streams if wanted in one.members)
    content = bytearray(victim.streams[stream.stream.number])
    content[wanted.data_offset + wanted.size - 100] ^= 1
    members[which] = replace(victim, streams={**victim.streams, stream.stream.number: bytes(content)})
    with pytest.raises(RestoreFailed, match="has another checksum"):
        combined(taken, pg_folder / "r", members=tuple(members))


def increment_of(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}INCREMENTAL.{name}"


def test_an_increment_that_is_cut_off_or_no_increment_is_refused(taken: Taken, tmp_path: Path) -> None:
    tip = taken.members[-1]
    stream = tip.result.streams[-1]
    one = max(
        (member for member in stream.members if "INCREMENTAL." in member.path), key=lambda member: member.size
    )
    content = tip.streams[stream.stream.number][one.data_offset : one.data_offset + one.size]
    path = tmp_path / "increment"
    path.write_bytes(content)
    assert read_increment(path, BLOCK).size == len(content)
    for wrong in (
        b"",
        content[:11],
        content[:-1],
        b"\0" + content[1:],
        content[:4] + b"\xff" * 4 + content[8:],
    ):
        path.write_bytes(wrong)
        with pytest.raises(MalformedObject):
            read_increment(path, BLOCK)
