"""Into which directories a delta restore does not go; each is left exactly as it is."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from restore.delta import check_delta_target, close_folders, survey
from restore.dirlock import locked
from restore.layout import CONTROL, MARKER, Layout, Place
from restore.manifest import BackupManifest
from restore.placing import opened_to_append
from restore.unpack import Unpacker
from restore.workplace import Workplace
from tests.simulation.test_fetcher import TO_2
from walarchiver.errors import (
    DeltaDoubtful,
    DeltaForeign,
    DeltaWalUnarchived,
    ServerInTarget,
    TargetLocked,
    WalarchiverError,
)
from walarchiver.postgres.backupindex import BackupIndex, StreamIndex, TablespaceStream
from walarchiver.postgres.filedigests import FileDigests, piece_digest
from walarchiver.postgres.process import RunAs
from walarchiver.postgres.tarstream import MemberKind, TarMember

SYSTEM, MAJOR, SPACE = 7_300_000_000_000_000_001, 18, 16400


def asked(target: Path, *, system: int = SYSTEM, archived: bool = False) -> bool:
    layout = Layout(target, {SPACE: target.with_name("space")}, {})
    return check_delta_target(
        layout,
        system=system,
        major=MAJOR,
        socket_path=target.with_name("s"),
        archived=lambda _name: archived,
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """What is looked at of a stopped cluster with a tablespace."""
    target, space = tmp_path / "data", tmp_path / "space"
    for folder in ("global", "pg_wal/archive_status", "pg_tblspc", "base/1"):
        (target / folder).mkdir(parents=True)
    space.mkdir()
    (space / "file").write_text("x")
    (target / "pg_tblspc" / str(SPACE)).symlink_to(space)
    (target / CONTROL).write_bytes(struct.pack("<QI36xI", SYSTEM, 1800, 1))
    (target / "PG_VERSION").write_text(f"{MAJOR}\n")
    return target


def put(name: str, content: str = "") -> Callable[[Path], object]:
    return lambda target: (target / name).write_text(content)


def relink(target: Path) -> None:
    link = next(path for path in (target / "pg_tblspc").iterdir() if path.is_symlink())
    link.unlink()
    link.symlink_to("/srv/production")


def unlink(target: Path) -> None:
    next(path for path in (target / "pg_tblspc").iterdir() if path.is_symlink()).unlink()


def link_hard(target: Path) -> None:
    os.link(target / "PG_VERSION", target.with_name("of-another-copy"))


def link_hard_in_space(target: Path) -> None:
    os.link(target.with_name("space") / "file", target.with_name("of-another-copy"))


def interrupt(target: Path, place: str = "space") -> None:
    """As a restore leaves it that was killed before it made the tablespace's link."""
    unlink(target)
    folder = json.dumps(str(target.with_name(place)))
    put(MARKER, f"system={SYSTEM}\ntablespace={SPACE} {folder}\n")(target)


def move_wal(target: Path) -> None:
    (target / "pg_wal").rename(target.with_name("wal"))
    (target / "pg_wal").symlink_to(target.with_name("wal"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (put("postmaster.pid"), ServerInTarget),
        (put(MARKER, "an interrupted restore"), DeltaForeign),
        (put(MARKER, "system=1\n"), DeltaForeign),
        (put("PG_VERSION", "9.6\n"), DeltaForeign),
        (lambda target: (target / CONTROL).unlink(), DeltaForeign),
        (move_wal, DeltaDoubtful),
        (lambda target: os.mkfifo(target / "pipe"), DeltaDoubtful),
        (relink, DeltaDoubtful),
        (unlink, DeltaDoubtful),
        (link_hard, DeltaDoubtful),
        (link_hard_in_space, DeltaDoubtful),
        (lambda target: interrupt(target, "elsewhere"), DeltaDoubtful),
        (put("pg_wal/archive_status/000000010000000000000009.ready"), DeltaWalUnarchived),
    ],
)
def test_what_could_be_somebody_elses_is_refused_and_left_as_it_is(
    small: Path, change: Callable[[Path], object], error: type[WalarchiverError]
) -> None:
    change(small)
    before = {path: path.lstat().st_mtime_ns for path in small.rglob("*")}
    with pytest.raises(error):
        asked(small)
    assert {path: path.lstat().st_mtime_ns for path in small.rglob("*")} == before


def test_a_copy_of_this_cluster_is_taken(small: Path) -> None:
    put("pg_wal/archive_status/000000010000000000000009.ready")(small)
    assert asked(small, archived=True)


def test_an_interrupted_restore_goes_on_in_the_tablespaces_that_it_had(small: Path) -> None:
    interrupt(small)
    assert asked(small)


def test_the_marker_names_the_tablespaces_places(tmp_path: Path) -> None:
    stream = TablespaceStream(0, SPACE, "/srv/old")
    base = TablespaceStream(1, 0, None)
    index = BackupIndex((StreamIndex(stream, 0, ()), StreamIndex(base, 0, ())))
    target = tmp_path / "data"
    made = Unpacker(index, target, {SPACE: tmp_path / 'a "new"\nplace'}, durable=False, system=str(SYSTEM))
    made.prepare()
    (tmp_path / 'a "new"\nplace' / "file").write_text("written before it was killed")
    assert check_delta_target(
        made.layout, system=SYSTEM, major=MAJOR, socket_path=tmp_path / "s", archived=lambda _name: True
    )


def test_what_is_put_there_while_it_is_compared_is_noticed(small: Path) -> None:
    assert asked(small)
    layout = Layout(small, {SPACE: small.with_name("space")}, {})
    close_folders(layout)
    assert os.geteuid() != 0 or (small / "base" / "1").stat().st_uid == 0
    (small / "base" / "1" / "5").symlink_to("/etc/passwd")
    with pytest.raises(DeltaDoubtful, match="neither a file nor a directory"):
        close_folders(layout)


def test_increments_that_somebody_laid_there_are_removed(small: Path) -> None:
    """As in a copy that pg_basebackup made and nobody combined."""
    for name in ("INCREMENTAL.5", "5", "INCREMENTAL.note"):
        put(f"base/1/{name}", "12345")(small)
    layout = Layout(small, {}, {0: 8192})
    digests = {}
    for name in ("base/1/INCREMENTAL.5", "base/1/INCREMENTAL.note"):
        member = TarMember(name, MemberKind.FILE, 5, 0o600, 0)
        layout.files[name] = Place(0, member, name, small / name)
        digests[0, name] = piece_digest(b"12345")
    found = survey(layout, BackupManifest(1, {}), FileDigests(digests), workers=1)
    assert small / "base/1/INCREMENTAL.5" in found.extra
    assert found.cut == {small / "base/1/5": 0}
    assert found.kept_files == 1, "a file that only has such a name"


def test_nothing_is_written_through_a_link_that_the_owner_made(tmp_path: Path) -> None:
    """Root writes settings and plan where the cluster's owner may write already."""
    place = Workplace(tmp_path / "data")
    place.make(None)
    important = tmp_path / "important"
    important.write_text("it")
    place.plan_path.symlink_to(important)
    with pytest.raises(OSError, match="symbolic links"):
        place.write_plan(TO_2)
    with pytest.raises(OSError, match="symbolic links"):
        opened_to_append(place.plan_path)
    assert important.read_text() == "it"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_root_gives_away_no_folder_that_a_link_leads_to(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "data")
    place.folder.mkdir()
    (tmp_path / "important").mkdir()
    place.spool.symlink_to(tmp_path / "important")
    place.make_again(RunAs.named("nobody"))
    assert (tmp_path / "important").stat().st_uid == 0


def test_another_clusters_directory_is_refused(small: Path) -> None:
    with pytest.raises(DeltaForeign, match="is of the cluster"):
        asked(small, system=77)


def test_a_directory_whose_plan_is_still_served_is_refused(small: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(small.with_name("s")))
        server.listen()
        with pytest.raises(DeltaDoubtful, match="still serves"):
            asked(small)
    assert asked(small)


def test_an_empty_or_missing_directory_is_no_copy(tmp_path: Path) -> None:
    assert not asked(tmp_path / "new")
    (tmp_path / "new").mkdir()
    assert not asked(tmp_path / "new")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(DeltaForeign):
        asked(tmp_path / "link")


def test_two_restores_never_work_in_one_directory(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(TargetLocked), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
