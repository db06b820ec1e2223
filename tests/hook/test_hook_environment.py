"""The hook on a broken host: interpreters, signals, environments, sockets that cannot be used."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hook.conftest import COMPILED, REPOSITORY, InstalledHook, ServerMaker, only_compiled, only_python
from tests.hook.test_hook import ABSENT, DONE, NAME, ODD_ANSWERS
from walarchiver import hook as hook_module
from walarchiver.errors import all_errors
from walarchiver.operate.findings import Level
from walarchiver.operate.hooktrial import hook_variant


@only_python
def test_a_broken_interpreter_never_says_absent(hook: InstalledHook) -> None:
    python = hook.folder / "bin" / "python3"
    for status in (1, 2, 126, 127):
        python.unlink()
        python.write_text(f"#!/bin/sh\nexit {status}\n")
        python.chmod(0o755)
        assert hook.run("fetch", NAME, "x")[0] == 200
        assert hook.run("push", "x")[0] == 1


@only_python
def test_a_damaged_hook_file_never_says_absent(hook: InstalledHook) -> None:
    file = next(hook.folder.glob("lib/*/*/walarchiver/hook.py"))
    file.write_text(file.read_text()[:2000])
    assert hook.run("fetch", NAME, "x")[0] == 200
    assert hook.run("push", "x")[0] == 1


@only_python
def test_without_any_installation_fetch_doubts(hook: InstalledHook) -> None:
    next(hook.folder.glob("lib/*/*/walarchiver/hook.py")).unlink()
    assert hook.run("fetch", NAME, "x")[0] == 200
    (hook.folder / "bin" / "python3").unlink()
    hook.environment["PATH"] = "/nonexistent"
    assert hook.run("fetch", NAME, "x")[0] == 200
    assert hook.run("push", "x")[0] == 1


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_to_both_does_not_make_push_die_by_signal(
    hook: InstalledHook, fake_server: ServerMaker, number: signal.Signals
) -> None:
    asked, done = threading.Event(), threading.Event()

    def hang(connection: socket.socket) -> None:
        asked.set()
        done.wait(60)

    fake_server(hang)
    process = hook.start("push", "x")
    assert asked.wait(30)
    if hook.variant != COMPILED:
        os.kill(_child_of(process.pid), number)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 1
    done.set()


@only_python
@pytest.mark.parametrize(("words", "status"), [(("push", "x"), 1), (("fetch", NAME, "x"), 200)])
def test_a_killed_interpreter_is_no_success_and_no_absence(
    hook: InstalledHook, fake_server: ServerMaker, words: tuple[str, ...], status: int
) -> None:
    asked, done = threading.Event(), threading.Event()

    def hang(connection: socket.socket) -> None:
        asked.set()
        done.wait(60)

    fake_server(hang)
    process = hook.start(*words)
    assert asked.wait(30)
    os.kill(_child_of(process.pid), signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == status
    done.set()


def test_the_hook_ends_when_postgresql_is_gone(hook: InstalledHook, fake_server: ServerMaker) -> None:
    asked, ended = threading.Event(), threading.Event()

    def hang(connection: socket.socket) -> None:
        asked.set()
        if connection.recv(1) == b"":  # the hook closed its end
            ended.set()

    fake_server(hang)
    environment = {"PATH": "/usr/bin:/bin", **hook.environment}
    asker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys; subprocess.run(sys.argv[1:])",
            hook.launcher,
            "push",
            "x",
        ],
        cwd=hook.cwd,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    assert asked.wait(30)
    asker.kill()
    asker.wait(30)
    assert ended.wait(30)


def test_the_launcher_works_through_symbolic_links_and_by_name(
    hook: InstalledHook, fake_server: ServerMaker, tmp_path: Path
) -> None:
    fake_server(DONE)
    first, second = tmp_path / "l1", tmp_path / "elsewhere"
    second.mkdir()
    first.symlink_to("elsewhere/l2")
    (second / "l2").symlink_to("../installed/bin/walarchiver-hook")
    assert hook.run("push", "x", launcher=first) == (0, "")
    hook.environment["PATH"] = f"{hook.folder}/bin:/usr/bin:/bin"
    shell = subprocess.run(
        ["sh", "-c", "walarchiver-hook push x"], cwd=hook.cwd, env=hook.environment, check=False
    )
    assert shell.returncode == 0


def test_the_hook_imports_next_to_nothing() -> None:
    program = (
        "import sys; before = set(sys.modules); sys.path.append(sys.argv[1]); import hook;"
        "print(*sorted(set(sys.modules) - before))"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(REPOSITORY / "walarchiver")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) <= {"_socket", "_signal", "hook"}


def test_the_environment_cannot_inject_code(hook: InstalledHook, fake_server: ServerMaker) -> None:
    fake_server(DONE)
    (hook.cwd / "_socket.py").write_text("raise SystemExit(0)")
    (hook.cwd / "hook.py").write_text("raise SystemExit(0)")
    hook.environment |= {"PYTHONPATH": str(hook.cwd), "PYTHONSTARTUP": "/nonexistent"}
    assert hook.run("push", "x") == (0, "")
    assert hook.run("fetch", NAME, "x")[0] == 200


def test_doctor_tells_which_hook_archive_command_runs(hook: InstalledHook) -> None:
    (told,) = hook_variant(f"'{hook.launcher}' --cluster shop push %p")
    if hook.variant == COMPILED:
        assert (told.level, told.text) == (Level.OK, f"compiled: {hook.launcher}")
    else:
        assert told.level is Level.WARN
        assert told.text.startswith(f"Python: {hook.launcher} ") and "compiler" in told.next_step
    assert list(hook_variant("/nowhere/walarchiver-hook push %p")) == []


def _dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda _path: None, "WA-SERVER", "No such file"),
        (lambda path: path.write_text("x"), "WA-SOCKET", "not a socket"),
        (lambda path: path.mkdir(), "WA-SOCKET", "not a socket"),
        (os.mkfifo, "WA-SOCKET", "not a socket"),
        (lambda path: path.symlink_to(path), "WA-SOCKET", "symbolic links"),
        (_dead_socket, "WA-SERVER", "refused"),
    ],
    ids=["missing", "a file", "a folder", "a pipe", "a loop of links", "nobody listens"],
)
def test_a_socket_that_cannot_be_used_has_its_code_and_the_next_step(
    hook: InstalledHook, make: Callable[[Path], object], code: str, says: str
) -> None:
    path = Path(hook.environment["WALARCHIVER_SOCKET"])
    make(path)
    before = sorted(hook.cwd.rglob("*"))
    status, err = hook.run("push", f"pg_wal/{NAME}")
    assert status == 1
    assert err.startswith(f"walarchiver-hook push: {code}: no server on {path}: ")
    assert says in err
    assert ";" in err.rpartition(says)[2]
    assert sorted(hook.cwd.rglob("*")) == before


def test_a_socket_without_permission_names_the_user() -> None:
    code = hook_module._no_server("/x", PermissionError(13, "Permission denied"))
    assert code == f"WA-SOCKET: no server on /x: Permission denied; let user {os.geteuid()} reach it"


def test_a_socket_path_that_is_too_long_is_named(hook: InstalledHook) -> None:
    hook.environment["WALARCHIVER_SOCKET"] = "/tmp/" + "s" * 200
    status, err = hook.run("push", "x")
    assert status == 1
    assert "WA-SOCKET" in err


def test_every_code_that_the_hook_prints_is_one_of_the_documented_ones() -> None:
    printed = set(re.findall(r"WA-[A-Z-]+", (REPOSITORY / "walarchiver" / "hook.py").read_text()))
    assert printed >= {"WA-SERVER", "WA-SOCKET", "WA-USAGE", "WA-NAME", "WA-DEADLINE"}
    assert printed <= {error.code for error in all_errors()}


HOSTILE_WORDS = {
    "an option": ["--force"],
    "an option with a value": ["--cluster"],
    "a help option": ["--help"],
    "a dash": ["-"],
    "two words": ["a", "b"],
    "nothing": [""],
}


@pytest.mark.parametrize("words", HOSTILE_WORDS.values(), ids=HOSTILE_WORDS.keys())
def test_a_path_that_looks_like_an_option_asks_nobody_for_anything(
    hook: InstalledHook, fake_server: ServerMaker, words: list[str]
) -> None:
    server = fake_server(DONE)
    status, err = hook.run("push", *words)
    assert status == 1
    assert "WA-USAGE" in err
    assert hook.run("fetch", NAME, *words)[0] == 200
    assert server.requests == []


@only_compiled
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call the hook as another user")
def test_a_socket_in_a_closed_folder_names_the_user(hook: InstalledHook) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(hook.launcher, folder / "hook")
        (folder / "closed").mkdir(mode=0o700)
        command = [folder / "hook", "--socket", folder / "closed" / "s", "push", "/x"]
        done = subprocess.run(
            command, cwd="/", env={}, user=65534, group=65534, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    path = folder / "closed" / "s"
    assert done.stderr == (
        f"walarchiver-hook push: WA-SOCKET: no server on {path}: Permission denied; let user 65534 reach it\n"
    )


@pytest.mark.parametrize(("words", "status"), [(("push", "x"), 1), (("fetch", NAME, "x"), 200)])
def test_closed_standard_files_change_no_status_and_disturb_no_request(
    hook: InstalledHook, fake_server: ServerMaker, words: tuple[str, ...], status: int
) -> None:
    server = fake_server(ODD_ANSWERS["503"])
    command = ["sh", "-c", '"$0" "$@" <&- >&- 2>&-', hook.launcher, *words]
    environment = {"PATH": "/usr/bin:/bin", **hook.environment}
    assert subprocess.run(command, cwd=hook.cwd, env=environment, check=False).returncode == status
    server.answer = DONE if words[0] == "push" else ABSENT
    assert subprocess.run(command, cwd=hook.cwd, env=environment, check=False).returncode == (
        words[0] != "push"
    )
    assert len(server.requests) == 2
    assert all(request.endswith(b"}") for request in server.requests)


@pytest.mark.parametrize(("words", "status"), [(("push", "x"), 1), (("fetch", NAME, "x"), 200)])
def test_a_log_that_nobody_reads_any_more_changes_no_status(
    hook: InstalledHook, words: tuple[str, ...], status: int
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {"PATH": "/usr/bin:/bin", **hook.environment, "WALARCHIVER_TIMEOUT": "1"}
    done = subprocess.run(
        [hook.launcher, *words], cwd=hook.cwd, env=environment, stderr=writing, check=False, timeout=30
    )
    os.close(writing)
    assert done.returncode == status


@only_compiled
def test_a_log_that_is_full_holds_the_compiled_hook_up_for_a_moment_only(hook: InstalledHook) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, bytes(65536)):
            pass
    os.set_blocking(writing, True)
    process = subprocess.Popen(
        [hook.launcher, "push", "x"], cwd=hook.cwd, env=hook.environment, stderr=writing
    )
    assert process.wait(30) == 1
    os.close(reading)
    os.close(writing)
