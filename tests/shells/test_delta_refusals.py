"""Into which directories a delta restore does not go; each is left exactly as it is."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from restore.delta import check_delta_target
from restore.dirlock import locked
from restore.layout import CONTROL, MARKER, Layout
from walarchiver.errors import (
    DeltaDoubtful,
    DeltaForeign,
    DeltaWalUnarchived,
    ServerInTarget,
    TargetLocked,
    WalarchiverError,
)

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
