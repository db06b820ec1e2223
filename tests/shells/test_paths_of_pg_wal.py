"""A path that comes from outside is believed only if it lies directly in the configured pg_wal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from walarchiver.clusterservice import _inside
from walarchiver.errors import NotAWalFile

NAME = "000000010000000000000001"


@pytest.fixture
def pg_wal(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "pg_wal"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(b"wal")
    return folder


def test_a_file_directly_in_it_is_taken_however_the_folder_is_spelt(pg_wal: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(pg_wal)
    for folder in (pg_wal, pg_wal / ".." / "pg_wal", tmp_path / "linked"):
        assert _inside(pg_wal, folder / NAME) == folder / NAME
        assert _inside(folder, pg_wal / NAME) == pg_wal / NAME
    assert _inside(pg_wal, pg_wal / "not there yet") == pg_wal / "not there yet"


@pytest.mark.parametrize(
    "path",
    [NAME, "data/elsewhere/" + NAME, "data/pg_wal/archive_status/" + NAME, "data/pg_wal/..", "data/none/x"],
)
def test_anything_elsewhere_is_refused(pg_wal: Path, tmp_path: Path, path: str) -> None:
    for folder in (pg_wal.parent / "elsewhere", pg_wal / "archive_status"):
        folder.mkdir()
        os.link(pg_wal / NAME, folder / NAME)
    with pytest.raises(NotAWalFile):
        _inside(pg_wal, tmp_path / path)


def test_neither_a_relative_path_nor_a_link_in_it_is_taken(
    pg_wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pg_wal)
    (pg_wal / "link").symlink_to(NAME)
    (pg_wal / "loop").symlink_to("loop")
    for path in (Path(NAME), pg_wal / "link", pg_wal / "loop", pg_wal / "loop" / NAME):
        with pytest.raises(NotAWalFile):
            _inside(pg_wal, path)
