"""The programs to compare with, fetched from public packages into a folder of their own.

Rules:
- Nothing is installed into the system: pgBackRest is unpacked from Debian's package (with what libraries
  this host lacks), barman lives in a virtual environment, py-spy likewise.
- What cannot be had is left out, and the report says why. A program that is installed already is used when
  no package can be fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench.progress import say
from walarchiver.embedded.binaries import cache_folder

BARMAN = ("barman[cloud]==3.19.1", "zstandard==0.25.0")
PY_SPY = ("py-spy==0.4.3",)
_FETCH_S = 300


@dataclass(frozen=True, slots=True)
class Program:
    """A peer's program: where, which version, and what must be in its environment."""

    path: Path
    version: str
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Peers:
    """What was found; None, and a line in `missing`, for what was not."""

    pgbackrest: Program | None
    barman: Program | None
    missing: tuple[str, ...]


class NotToBeHad(Exception):
    """The reason."""


def find_peers(*, fetch: bool) -> Peers:
    """Whatever is here, or can be fetched."""
    missing: list[str] = []

    def attempt(name: str, found: object) -> Program | None:
        try:
            program = found(fetch)  # type: ignore[operator]  # one of the two functions below
        except NotToBeHad as error:
            missing.append(f"{name}: {error}")
            say(missing[-1])
            return None
        assert isinstance(program, Program)
        say(f"{name} {program.version} is {program.path}")
        return program

    pgbackrest = attempt("pgBackRest", _pgbackrest)
    return Peers(pgbackrest, attempt("barman-cloud", _barman), tuple(missing))


def folder() -> Path:
    """Where they are kept."""
    return cache_folder() / "peers"


# --- pgBackRest --------------------------------------------------------------------------------


def _pgbackrest(fetch: bool) -> Program:
    tree = folder() / "pgbackrest"
    program = tree / "usr/bin/pgbackrest"
    if not program.exists() and fetch and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        _unpack_debian(tree, ["pgbackrest"])
        if lacking := _lacking(program):
            _unpack_debian(tree, [each for each in _depends() if each.startswith("lib")])
            lacking = _lacking(program, _library_path(tree))
            if lacking:
                raise NotToBeHad(f"its libraries {', '.join(lacking)} are not here")
    if not program.exists():
        installed = shutil.which("pgbackrest")
        if installed is None:
            raise NotToBeHad("not installed, and no Debian package could be fetched")
        program = Path(installed)
    environment = _library_path(tree) if tree.exists() and _lacking(program) else {}
    return Program(program, _version([str(program), "version"], environment), environment)


def _unpack_debian(tree: Path, packages: list[str]) -> None:
    load = tree.parent / "deb"
    shutil.rmtree(load, ignore_errors=True)
    load.mkdir(parents=True)
    try:
        _output(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages], cwd=load)
        for archive in sorted(load.glob("*.deb")):
            _output(["dpkg-deb", "-x", str(archive), str(tree)])
    finally:
        shutil.rmtree(load, ignore_errors=True)


def _depends() -> list[str]:
    told = _output(["apt-cache", "depends", "--no-recommends", "--no-suggests", "pgbackrest"])
    found = [line.split(":")[1].strip() for line in told.splitlines() if line.strip().startswith("Depends:")]
    return [name for name in found if name != "libc6" and not name.startswith("<")]


def _library_path(tree: Path) -> dict[str, str]:
    places = [place for place in (tree / "usr/lib", tree / "lib") if place.exists()]
    folders = [str(p) for base in places for p in (base, *base.glob("*-linux-gnu"))]
    return {"LD_LIBRARY_PATH": os.pathsep.join(folders)}


def _lacking(program: Path, environment: dict[str, str] | None = None) -> list[str]:
    told = _output(["ldd", str(program)], environment=environment)
    return [line.split()[0] for line in told.splitlines() if "not found" in line]


# --- Python packages -----------------------------------------------------------------------------


def _barman(fetch: bool) -> Program:
    program = _in_venv("barman", BARMAN, "barman-cloud-wal-archive", fetch=fetch)
    return Program(program, _version([str(program), "--version"], {}), {})


def find_py_spy(*, fetch: bool) -> Path | None:
    """A sampling profiler for Python; None when it is not to be had."""
    try:
        return _in_venv("py-spy", PY_SPY, "py-spy", fetch=fetch)
    except NotToBeHad as error:
        say(f"py-spy: {error}")
        return None


def _in_venv(name: str, packages: tuple[str, ...], program: str, *, fetch: bool) -> Path:
    venv = folder() / name
    path = venv / "bin" / program
    if path.exists():
        return path
    installed = shutil.which(program)
    if installed is not None:
        return Path(installed)
    if not fetch:
        raise NotToBeHad("not installed, and nothing is fetched")
    folder().mkdir(parents=True, exist_ok=True)
    say(f"installing {' '.join(packages)} into {venv}")
    try:
        _output([sys.executable, "-m", "venv", str(venv)])
        _output([str(venv / "bin/python"), "-m", "pip", "-q", "--no-input", "install", *packages])
    except NotToBeHad:
        shutil.rmtree(venv, ignore_errors=True)
        raise
    return path


# --- programs ------------------------------------------------------------------------------------


def _version(words: list[str], environment: dict[str, str]) -> str:
    told = _output(words, environment=environment).split()
    return told[-1] if told else "unknown"


def _output(words: list[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=_FETCH_S,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotToBeHad(f"{words[0]}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise NotToBeHad(f"{Path(words[0]).name} failed: {last}")
    return done.stdout
