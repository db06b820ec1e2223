"""What is shipped: the wheel, the source distribution, and the program that they install."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.hook.conftest import REPOSITORY

NOT_SOURCE = shutil.ignore_patterns(
    *(".git", ".venv", ".hypothesis", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", "tests")
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree: building leaves files in it."""
    copy = tmp_path_factory.mktemp("source") / "walarchiver"
    shutil.copytree(REPOSITORY, copy, ignore=NOT_SOURCE)
    return copy


def build(source: Path, out: Path, kind: str) -> Path:
    """Through the build backend, as pip and `python -m build` do."""
    backend = f"import sys, setuptools.build_meta as b; print(b.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", backend, str(out)], cwd=source, capture_output=True, text=True, check=True
    )
    return out / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, tmp_path_factory.mktemp("sdist"), "sdist")


def names_in(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def can_compile() -> bool:
    """Whether this machine has what the compiled part is built with."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which("cc") is not None and header.exists()


def test_the_wheel_ships_every_module_of_the_two_packages_and_no_other_file(wheel: Path) -> None:
    modules = {
        str(path.relative_to(REPOSITORY))
        for package in ("walarchiver", "restore")
        for path in (REPOSITORY / package).rglob("*.py")
    }
    shipped = {name for name in names_in(wheel) if ".dist-info/" not in name and ".data/" not in name}
    assert {name for name in shipped if name.endswith(".py")} == modules
    carried = {
        str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "walarchiver/keys/reader").iterdir()
    }
    assert carried, "what `keys init` writes into v1/reader"
    core = {f"walarchiver/core/_walskim{suffix}" for suffix in (".c", ".pyi")}
    compiled = {"walarchiver/core/_walskim.abi3.so"} if can_compile() else set()
    assert (
        shipped - modules
        == {"walarchiver/py.typed", "restore/py.typed", "walarchiver/hook.c"} | carried | core | compiled
    )


def test_the_wheel_installs_the_program_and_both_hooks(wheel: Path) -> None:
    (entry_points,) = (name for name in names_in(wheel) if name.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(entry_points).decode()
    assert "walarchiver = walarchiver.cli.main:main" in text
    scripts = [name for name in names_in(wheel) if ".data/scripts/" in name]
    assert {name.rpartition("/")[2] for name in scripts} == {"walarchiver-hook", "walarchiver-hook-python"}


def test_the_source_distribution_holds_no_key_no_cache_and_no_test(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    tops = {name.partition("/")[0] for name in names if name}
    wanted = {"pyproject.toml", "setup.py", "README.md", "bin", "walarchiver", "restore", "PKG-INFO"}
    assert wanted <= tops
    assert tops <= wanted | {"MANIFEST.in", "setup.cfg", "walarchiver.egg-info"}
    assert not [name for name in names if name.endswith((".key", ".pyc", ".sqlite"))]


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "out").mkdir()
    again = build(unpacked, tmp_path / "out", "wheel")
    assert names_in(again) == names_in(wheel)


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(environment: Path, *words: str, cwd: Path) -> str:
    done = subprocess.run(
        [environment / "bin" / "walarchiver", *words],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_program_is_the_one_of_the_wheel(environment: Path, tmp_path: Path) -> None:
    """Else the next tests would prove something about the source tree."""
    ask = "import walarchiver, restore; print(walarchiver.__file__, restore.__file__)"
    done = subprocess.run(
        [environment / "bin" / "python", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(environment)) for path in done.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--help",), "usage: walarchiver"),
        (("--version",), "walarchiver 0"),
        (("explain", "WA-GAP"), "WA-GAP"),
        (("serve", "--help"), "--plan"),
        (("demo", "--help"), "usage: walarchiver demo"),
    ],
)
def test_the_installed_program_answers(
    environment: Path, tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    assert expected in run(environment, *words, cwd=tmp_path)


def test_the_installed_program_writes_the_reference_configuration(environment: Path, tmp_path: Path) -> None:
    written = run(environment, "config", "init", "--stdout", cwd=tmp_path)
    assert written == (REPOSITORY / "config" / "walarchiver.toml").read_text()
