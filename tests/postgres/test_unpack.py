"""A backup goes back to disk from parts in any order; damage and hostile paths are refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from restore.manifest import parse_manifest
from restore.unpack import MARKER, Unpacker
from tests.postgres.taken import Taken, apply_all, owner, unpack, unpacker
from walarchiver.errors import MalformedObject, RestoreFailed, TargetDirectoryInUse, UsageError
from walarchiver.postgres.backupindex import BackupIndex, StreamIndex, TablespaceStream
from walarchiver.postgres.process import run_program
from walarchiver.postgres.tarstream import MemberKind, TarMember


def index_of(*members: TarMember, path: str | None = None) -> BackupIndex:
    size = max((member.data_offset + member.size for member in members), default=0)
    return BackupIndex((StreamIndex(TablespaceStream(0, 0 if path is None else 16400, path), size, members),))


def file(path: str, *, size: int = 0, header: int = 0) -> TarMember:
    return TarMember(path, MemberKind.FILE, size, 0o600, header)


def test_what_is_unpacked_satisfies_pg_verifybackup(taken: Taken, pg_folder: Path) -> None:
    target = pg_folder / "restored"
    unpack(taken, target).publish()
    manifest = parse_manifest(taken.manifest)
    assert len(manifest.files) > 900
    # Of everything, only tablespace_map differs: it names the new place.
    arguments = ("--no-parse-wal", "--ignore", "tablespace_map", str(target))
    done = run_program(taken.bin_dir, "pg_verifybackup", *arguments, run_as=owner(), cwd=target, timeout_s=60)
    assert "successfully verified" in done.stdout, done.stderr
    space = pg_folder / "restored-space"
    assert (target / "pg_tblspc" / str(taken.tablespace)).readlink() == space
    assert (target / "tablespace_map").read_text() == f"{taken.tablespace} {space}\n"
    if (who := owner()) is not None:
        places = [target, space, *target.rglob("*"), *space.rglob("*")]
        assert {(place.lstat().st_uid, place.lstat().st_gid) for place in places} == {(who.uid, who.gid)}
    assert target.stat().st_mode & 0o777 == 0o700


def test_the_order_and_size_of_the_parts_do_not_matter(taken: Taken, pg_folder: Path) -> None:
    trees = []
    for seed in (1, 2):
        target = pg_folder / f"restored{seed}"
        unpack(taken, target, seed=seed).publish()
        trees.append(
            {
                str(path.relative_to(target)): path.read_bytes()
                for path in target.rglob("*")
                if path.is_file() and path.name != "tablespace_map"
            }
        )
    assert trees[0] == trees[1]


def test_postgresql_cannot_start_before_publishing(taken: Taken, pg_folder: Path) -> None:
    target = pg_folder / "restored"
    made = unpack(taken, target)
    assert (target / MARKER).exists()
    done = run_program(taken.bin_dir, "postgres", "-D", str(target), run_as=owner(), cwd=target, timeout_s=20)
    assert done.returncode != 0
    assert "could not find the database system" in done.stderr
    made.publish()
    assert not (target / MARKER).exists()
    assert (target / "global" / "pg_control").exists()
    made.publish()  # twice is once


def test_a_flipped_byte_anywhere_is_found(taken: Taken, pg_folder: Path) -> None:
    base = taken.result.streams[-1]
    victim = max((member for member in base.members), key=lambda member: member.size)
    place = victim.data_offset + victim.size // 2
    parts = list(taken.parts)
    for at, part in enumerate(parts):
        if part.stream == base.stream.number and part.offset <= place < part.offset + len(part.content):
            content = bytearray(part.content)
            content[place - part.offset] ^= 1
            parts[at] = replace(part, content=bytes(content))
    assert parts != list(taken.parts)
    target = pg_folder / "restored"
    made = unpacker(taken, target)
    made.prepare()
    apply_all(made, parts)
    with pytest.raises(RestoreFailed, match=f"{victim.path} has another checksum"):
        made.finish(taken.manifest)
    assert (target / MARKER).exists()
    assert not (target / "global" / "pg_control").exists()


def test_a_missing_part_is_found(taken: Taken, pg_folder: Path) -> None:
    made = unpacker(taken, pg_folder / "restored")
    made.prepare()
    apply_all(made, [part for part in taken.parts if (part.stream, part.offset) != (1, 2 << 20)])
    with pytest.raises(RestoreFailed, match="stream 1 is not complete"):
        made.finish(taken.manifest)


def test_a_file_that_somebody_adds_meanwhile_is_found(taken: Taken, pg_folder: Path) -> None:
    target = pg_folder / "restored"
    made = unpacker(taken, target)
    made.prepare()
    apply_all(made, taken.parts)
    (target / "base" / "extra").write_text("x")
    with pytest.raises(RestoreFailed, match="base/extra is there, but is not of the backup"):
        made.finish(taken.manifest)


def test_a_changed_manifest_is_found(taken: Taken) -> None:
    document = json.loads(taken.manifest)
    path = document["Files"][3]["Path"].encode()
    changed = taken.manifest.replace(b'"' + path + b'"', b'"elsewhere"')
    assert changed != taken.manifest
    with pytest.raises(RestoreFailed, match=r"says .* of itself"):
        parse_manifest(changed)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{\n"Manifest-Checksum": "00"}\n', b'\n"Manifest-Checksum"']
)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedObject):
        parse_manifest(content)


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/passwd",
        "base/../../outside",
        "base//1",
        ".//base",
        "././base",
        "./../base",
        "base/.",
        "..",
        "",
        "base/a\0b",
        "pg_tblspc/16400/PG_15/1",
        "global/pg_control.walarchiver-unfinished",
        MARKER,
        "postmaster.pid",
        "backup_manifest",
    ],
)
def test_a_path_that_must_not_be_is_refused_before_anything_is_written(path: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedObject):
        Unpacker(index_of(file(path)), tmp_path / "target", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["pg_wal", "base/1/link", "pg_tblspc/x", "pg_tblspc/1/2", "pg_tblspc/../1"])
def test_a_symbolic_link_other_than_a_tablespaces_is_refused(path: str, tmp_path: Path) -> None:
    link = TarMember(path, MemberKind.SYMLINK, 0, 0o777, 0, "/etc")
    with pytest.raises(MalformedObject):
        Unpacker(index_of(link), tmp_path / "target", {})


def test_a_hostile_path_in_a_tablespace_is_refused_too(tmp_path: Path) -> None:
    index = index_of(file("../../x"), path="/old/space")
    with pytest.raises(MalformedObject):
        Unpacker(index, tmp_path / "target", {16400: tmp_path / "space"})


def test_members_that_overlap_or_come_twice_are_refused(tmp_path: Path) -> None:
    for second in (file("b", size=10, header=600), file("a", size=10, header=1024)):
        with pytest.raises(MalformedObject):
            Unpacker(index_of(file("a", size=100), second), tmp_path / "target", {})


def test_signal_files_of_the_source_are_left_out(tmp_path: Path) -> None:
    made = Unpacker(index_of(file("standby.signal"), file("a", size=1, header=512)), tmp_path / "target", {})
    made.prepare()
    made.apply(0, 0, bytes(1025))
    assert not (tmp_path / "target" / "standby.signal").exists()
    assert (tmp_path / "target" / "a").read_bytes() == b"\0"


def test_bytes_outside_the_stream_are_refused(tmp_path: Path) -> None:
    made = Unpacker(index_of(file("a", size=1)), tmp_path / "target", {})
    made.prepare()
    for stream, offset, length in ((0, 0, 1024), (0, -1, 1), (1, 0, 1)):
        with pytest.raises(MalformedObject):
            made.apply(stream, offset, bytes(length))


def test_a_tablespace_without_a_new_place_is_refused(tmp_path: Path) -> None:
    index = index_of(file("PG_15/1"), path="/old/space")
    with pytest.raises(UsageError, match=r"16400 \(was /old/space\)"):
        Unpacker(index, tmp_path / "target", {})
    with pytest.raises(UsageError, match="lie in each other"):
        Unpacker(index, tmp_path / "target", {16400: tmp_path / "target" / "space"})


def test_an_in_place_tablespace_stays_inside(tmp_path: Path) -> None:
    made = Unpacker(index_of(file("PG_15/1", size=1), path="pg_tblspc/16400"), tmp_path / "target", {})
    made.prepare()
    made.apply(0, 0, bytes(513))
    assert (tmp_path / "target" / "pg_tblspc" / "16400" / "PG_15" / "1").read_bytes() == b"\0"


@pytest.mark.parametrize("name", ["postmaster.pid", MARKER, "anything"])
def test_a_directory_in_use_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o755)
    (tmp_path / "target" / name).touch()
    with pytest.raises(TargetDirectoryInUse):
        Unpacker(index_of(file("a")), tmp_path / "target", {}).prepare()
    assert os.listdir(tmp_path / "target") == [name]


def test_a_tablespace_directory_in_use_leaves_the_target_unmade(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "x").touch()
    made = Unpacker(index_of(file("PG_15/1"), path="/old"), tmp_path / "target", {16400: tmp_path / "space"})
    with pytest.raises(TargetDirectoryInUse):
        made.prepare()
    assert not (tmp_path / "target").exists()


def test_an_existing_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o755)
    Unpacker(index_of(file("a")), tmp_path / "target", {}).prepare()
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o700


def test_a_symbolic_link_as_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "target").symlink_to(tmp_path / "real")
    with pytest.raises(TargetDirectoryInUse):
        Unpacker(index_of(file("a")), tmp_path / "target", {}).prepare()
