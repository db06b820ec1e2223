"""What a user gets: the wheel, installed into an environment of its own, and the editable install."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.hook.conftest import REPOSITORY, InstalledHook, ServerMaker
from tests.hook.test_hook import ABSENT, DONE, NAME


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: building leaves files in the source tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("walarchiver", "restore", "bin"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, "--wheel-dir", out], cwd=source, check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    return folder


def test_the_wheel_holds_the_two_packages_the_program_and_the_launcher(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name and ".data/" not in name} == {
        "walarchiver",
        "restore",
    }
    assert "walarchiver/py.typed" in names
    assert {"walarchiver/keys/reader/reader.py.txt", "walarchiver/keys/reader/vectors.zip"} <= set(names)
    assert "restore/py.typed" in names
    assert [name for name in names if ".data/scripts/" in name] == [
        name for name in names if name.endswith("/scripts/walarchiver-hook")
    ]


def test_pip_leaves_the_launcher_as_it_is(environment: Path) -> None:
    installed = environment / "bin" / "walarchiver-hook"
    assert installed.read_bytes() == (REPOSITORY / "bin" / "walarchiver-hook").read_bytes()
    assert installed.stat().st_mode & 0o111 == 0o111
    assert (environment / "bin" / "walarchiver").exists()


def test_the_installed_hook_speaks_to_a_server(
    environment: Path, hook: InstalledHook, fake_server: ServerMaker
) -> None:
    server = fake_server(DONE)
    launcher = environment / "bin" / "walarchiver-hook"
    assert hook.run("push", "x", launcher=launcher) == (0, "")
    server.answer = ABSENT
    assert hook.run("fetch", NAME, "x", launcher=launcher) == (1, "")


def test_the_editable_install_finds_the_source(hook: InstalledHook, fake_server: ServerMaker) -> None:
    launcher = Path(sys.executable).parent / "walarchiver-hook"
    if not launcher.exists():
        pytest.skip("walarchiver is not installed in this environment; ./dev test has it")
    fake_server(ABSENT)
    assert hook.run("push", "x", launcher=launcher)[0] == 1
    assert hook.run("fetch", NAME, "x", launcher=launcher) == (1, "")
