"""A delta restore: an earlier copy becomes what the backup says, or is left exactly as it is."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from restore.delta import Survey, check_delta_target, check_unchanged, make_ready, survey
from restore.layout import CONTROL, MARKER, lay_out
from restore.manifest import BackupManifest, ManifestFile, parse_manifest
from restore.unpack import Unpacker, check_unused
from tests.postgres.taken import Taken, owner, unpack
from walarchiver.errors import DeltaDoubtful, ServerInTarget, TargetDirectoryInUse
from walarchiver.postgres.filedigests import DIGEST_CHUNK_BYTES, FileDigests, piece_digest
from walarchiver.postgres.tarstream import MemberKind

pytestmark = pytest.mark.parametrize("taken", [pytest.param(18, id="pg18")], indirect=True, scope="session")


def places_of(taken: Taken, target: Path) -> dict[int, Path]:
    return {taken.tablespace: target.with_name(target.name + "-space")}


def digests_of(taken: Taken) -> FileDigests:
    """The digests that a backup has, made from its bytes."""
    streams: dict[int, bytes] = {}
    for part in taken.parts:
        streams[part.stream] = streams.get(part.stream, b"") + part.content
    found = {}
    for stream in taken.index.streams:
        content = streams[stream.stream.number]
        for one in stream.members:
            if one.kind is MemberKind.FILE:
                file = content[one.data_offset : one.data_offset + one.size]
                pieces = (
                    file[at : at + DIGEST_CHUNK_BYTES] for at in range(0, len(file), DIGEST_CHUNK_BYTES)
                )
                found[stream.stream.number, one.path] = b"".join(map(piece_digest, pieces))
    return FileDigests(found)


@pytest.fixture(scope="module")
def digests(taken: Taken) -> FileDigests:
    return digests_of(taken)


def compared(taken: Taken, target: Path, digests: FileDigests | None) -> Survey:
    layout = lay_out(taken.index, target, places_of(taken, target))
    return survey(layout, parse_manifest(taken.manifest), digests, workers=2)


def delta(
    taken: Taken, target: Path, digests: FileDigests, *, stop_after: int | None = None
) -> tuple[Survey, int]:
    """All of a delta restore; what was found, and how many parts it took. `stop_after`: of the parts."""
    found = compared(taken, target, digests)
    made = Unpacker(
        taken.index,
        target,
        places_of(taken, target),
        manifest=parse_manifest(taken.manifest),
        differing=found.differing,
        owner=owner(),
        durable=False,
        system="77",
    )
    made.mark()
    make_ready(made.layout, found)
    made.make_folders()
    parts = [one for one in taken.parts if made.writer.needs(one.stream, one.offset, len(one.content))]
    for part in parts[:stop_after]:
        made.apply(part.stream, part.offset, part.content)
    if stop_after is None:
        made.finish(taken.manifest)
        made.publish()
    return found, len(parts)


def tree(*roots: Path) -> dict[str, bytes | str]:
    """All that is there: contents of files, where links lead, and folders."""
    found: dict[str, bytes | str] = {}
    for number, root in enumerate(roots):
        for path in root.rglob("*"):
            name = f"{number}/{path.relative_to(root)}"
            if path.is_symlink():
                found[name] = "link"
            else:
                found[name] = path.read_bytes() if path.is_file() else "folder"
    return {name: content for name, content in found.items() if not name.endswith("tablespace_map")}


@pytest.fixture
def copy(taken: Taken, pg_folder: Path) -> Path:
    """A restored directory."""
    target = pg_folder / "copy"
    unpack(taken, target).publish()
    return target


def trees(taken: Taken, target: Path) -> dict[str, bytes | str]:
    return tree(target, *places_of(taken, target).values())


def test_an_unchanged_copy_is_kept_and_nothing_is_fetched(
    taken: Taken, copy: Path, digests: FileDigests
) -> None:
    before = trees(taken, copy)
    (copy / "tablespace_map").write_bytes(b"")  # as it was made for the new place
    found, parts = delta(taken, copy, digests)
    assert trees(taken, copy) == before
    assert (found.written_files, parts) == (1, 1), "tablespace_map"
    assert found.kept_files == len(parse_manifest(taken.manifest).files) - 1
    assert (found.extra, found.extra_bytes) == ([], 0)


def spoil(taken: Taken, target: Path) -> None:
    """Everything that can be otherwise in a copy."""
    files = sorted(
        (path for path in (target / "base").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    big, second, third, fourth = files[-4:]
    with big.open("r+b") as out:
        out.seek(100_000)
        out.write(b"other bytes")
    os.truncate(second, second.stat().st_size // 2)
    with third.open("ab") as out:
        out.write(b"more")
    fourth.unlink()
    fourth.mkdir()
    (fourth / "inside").write_text("x")
    shutil.rmtree(target / "pg_subtrans")
    (target / "pg_subtrans").write_text("a file in place of a folder")
    (target / "base" / "99999").mkdir()
    (target / "base" / "99999" / "1").write_text("a database that came later")
    (target / "recovery.signal").touch()
    (target / "pg_tblspc" / "424242").symlink_to("/nonexistent")
    control = bytearray((target / CONTROL).read_bytes())
    control[200] ^= 1
    (target / CONTROL).write_bytes(control)
    space = next(iter(places_of(taken, target).values()))
    next(path for path in space.rglob("*") if path.is_file()).write_bytes(b"")


def test_whatever_differs_is_written_and_whatever_does_not_belong_is_removed(
    taken: Taken, copy: Path, digests: FileDigests
) -> None:
    before = trees(taken, copy)
    spoil(taken, copy)
    found, parts = delta(taken, copy, digests)
    assert trees(taken, copy) == before
    assert not (copy / MARKER).exists()
    assert parts < len(taken.parts) / 2, "else it fetched all"
    assert 0 < found.written_bytes < found.kept_bytes
    assert (copy / "recovery.signal") in found.extra


@pytest.mark.parametrize("stop_after", [0, 2])
def test_a_delta_that_is_killed_does_not_start_and_can_be_given_again(
    taken: Taken, copy: Path, digests: FileDigests, stop_after: int
) -> None:
    before = trees(taken, copy)
    spoil(taken, copy)
    delta(taken, copy, digests, stop_after=stop_after)
    assert (copy / MARKER).exists()
    assert not (copy / CONTROL).exists()
    with pytest.raises(TargetDirectoryInUse, match="interrupted"):
        check_unused(copy)
    layout, nowhere = lay_out(taken.index, copy, places_of(taken, copy)), copy.with_name("s")
    assert check_delta_target(
        layout, system=77, major=taken.major, socket_path=nowhere, archived=lambda _name: False
    )
    delta(taken, copy, digests)
    assert trees(taken, copy) == before


def test_a_server_that_ran_since_the_comparison_is_noticed(
    taken: Taken, copy: Path, digests: FileDigests
) -> None:
    found = compared(taken, copy, digests)
    layout = lay_out(taken.index, copy, places_of(taken, copy))
    check_unchanged(layout, found)
    (copy / "postmaster.pid").touch()
    with pytest.raises(ServerInTarget):
        check_unchanged(layout, found)
    (copy / "postmaster.pid").unlink()
    os.utime(copy / CONTROL, ns=(1, 1))
    with pytest.raises(DeltaDoubtful, match="while it was compared"):
        check_unchanged(layout, found)


def test_without_strong_digests_everything_is_written(taken: Taken, copy: Path) -> None:
    found = compared(taken, copy, None)
    assert (found.kept_files, found.kept_bytes) == (0, 0)
    assert found.written_bytes == sum(one.size for one in parse_manifest(taken.manifest).files.values())


def test_the_checksums_of_older_manifests_prove_files_too(taken: Taken, copy: Path) -> None:
    layout = lay_out(taken.index, copy, places_of(taken, copy))
    files = {}
    for name, place in layout.files.items():
        path = copy / CONTROL if name == CONTROL else place.path
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files[name] = ManifestFile(name, place.member.size, "sha256", digest)
    victim = max(files, key=lambda name: files[name].size)
    files[victim] = replace(files[victim], checksum="0" * 64)
    files.pop("tablespace_map", None)
    layout.files.pop("tablespace_map", None)
    found = survey(layout, BackupManifest(1, files), None, workers=2)
    assert (found.written_files, found.written_bytes) == (1, files[victim].size)
