"""What a user gets: the wheel, installed into an environment of its own, and the editable install."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import venv
import zipfile
from pathlib import Path

import pytest

from tests.hook.conftest import REPOSITORY, InstalledHook, ServerMaker, only_compiled, only_python
from tests.hook.test_hook import ABSENT, DONE, NAME


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: building leaves files in the source tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("walarchiver", "restore", "bin"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md"):
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
    scripts = {name.rpartition("/")[2] for name in names if ".data/scripts/" in name}
    assert scripts == {"walarchiver-hook", "walarchiver-hook-python"}


def test_pip_leaves_the_hooks_as_they_are(environment: Path, compiled_hook: Path | None) -> None:
    launcher = (REPOSITORY / "bin" / "walarchiver-hook").read_bytes()
    assert (environment / "bin" / "walarchiver-hook-python").read_bytes() == launcher
    installed = environment / "bin" / "walarchiver-hook"
    assert installed.stat().st_mode & 0o111 == 0o111
    assert (installed.read_bytes() == launcher) == (compiled_hook is None)
    assert (environment / "bin" / "walarchiver").exists()


@only_python
@pytest.mark.parametrize("name", ["walarchiver-hook", "walarchiver-hook-python"])
def test_the_installed_hooks_speak_to_a_server(
    environment: Path, hook: InstalledHook, fake_server: ServerMaker, name: str
) -> None:
    server = fake_server(DONE)
    launcher = environment / "bin" / name
    assert hook.run("push", "x", launcher=launcher) == (0, "")
    server.answer = ABSENT
    assert hook.run("fetch", NAME, "x", launcher=launcher) == (1, "")


def test_without_a_compiler_the_launcher_is_installed_under_the_hooks_name(tmp_path: Path) -> None:
    launcher = (REPOSITORY / "bin" / "walarchiver-hook").read_bytes()
    command = [sys.executable, "setup.py", "--quiet", "build_scripts", "--build-dir", tmp_path]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "CC": "false"}, capture_output=True, text=True, check=True
    )
    assert "is not compiled" in done.stderr
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "walarchiver-hook": launcher,
        "walarchiver-hook-python": launcher,
    }


@only_compiled
def test_a_hook_that_is_running_can_be_replaced(
    hook: InstalledHook, fake_server: ServerMaker, tmp_path: Path
) -> None:
    """The new one comes in one rename: the old one ends its call, the next call is the new one's."""
    asked, answered = threading.Event(), threading.Event()

    def hold(connection: socket.socket) -> None:
        asked.set()
        answered.wait(60)
        connection.sendall(DONE)

    fake_server(hold)
    before = hook.launcher.stat().st_ino
    process = hook.start("push", "x")
    assert asked.wait(30)
    subprocess.run([REPOSITORY / "bin" / "build-hook", hook.launcher], check=True)
    assert hook.launcher.stat().st_ino != before
    assert [file.name for file in hook.launcher.parent.iterdir()] == ["walarchiver-hook"]
    answered.set()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert hook.run("push", "x") == (0, "")


@only_python
def test_the_editable_install_finds_the_source(hook: InstalledHook, fake_server: ServerMaker) -> None:
    launcher = Path(sys.executable).parent / "walarchiver-hook"
    if not launcher.exists():
        pytest.skip("walarchiver is not installed in this environment; ./dev test has it")
    fake_server(ABSENT)
    assert hook.run("push", "x", launcher=launcher)[0] == 1
    assert hook.run("fetch", NAME, "x", launcher=launcher) == (1, "")
