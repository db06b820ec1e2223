"""Configuration files from outside the data directory come back as plain files, and nothing else does."""

from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import pytest

from restore.placing import lay_out_configuration
from walarchiver.errors import RestoreFailed


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def test_files_come_back_below_the_folder_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_argument(*_words: object, **_named: object) -> None:
        raise TypeError("extractall() got an unexpected keyword argument 'filter'")

    # As Python 3.11.2 of Debian 12 answers.
    monkeypatch.setattr(tarfile.TarFile, "extractall", no_such_argument)
    name = "etc/postgresql/15/main/postgresql.conf"
    lay_out_configuration(tar_of((tarfile.TarInfo(name), b"port = 5432\n")), tmp_path)
    path = tmp_path / name
    assert path.read_bytes() == b"port = 5432\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "entry",
    [
        tarfile.TarInfo("../outside"),
        tarfile.TarInfo("a/../../outside"),
        tarfile.TarInfo("/outside"),
        link("a", "/etc"),
    ],
    ids=["above", "around", "absolute", "link"],
)
def test_what_is_no_plain_file_below_the_folder_is_refused(tmp_path: Path, entry: tarfile.TarInfo) -> None:
    folder = tmp_path / "configuration"
    folder.mkdir()
    with pytest.raises(RestoreFailed):
        lay_out_configuration(tar_of((entry, b"")), folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.iterdir())
