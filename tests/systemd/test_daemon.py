"""The daemon under a service manager: real processes, a passed socket, notifications."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from functools import partial

import pytest

from tests.integration.scene import Scenes, until
from tests.systemd.conftest import PATIENCE_S, Manager
from walarchiver.demo.stage import ask

LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def call(manager: Manager) -> socket.socket:
    """A caller who has connected and asked, whoever listens."""
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.settimeout(PATIENCE_S)
    caller.connect(str(manager.path))
    caller.sendall(LIVE)
    return caller


def answer_of(caller: socket.socket) -> bytes:
    with caller:
        answer = b""
        while more := caller.recv(4096):
            answer += more
    return answer


def test_it_reports_ready_only_when_the_socket_answers_and_stopping_when_it_drains(
    manager: Manager, serve: list[str]
) -> None:
    program = manager.start(serve)
    said = manager.hear("READY=1")
    assert ask(manager.path, "/livez")
    assert "STATUS=archiving nothing" in said.splitlines()
    program.send_signal(signal.SIGTERM)
    assert "STATUS=draining" in manager.hear("STOPPING=1").splitlines()
    assert program.wait(PATIENCE_S) == 0


def test_the_watchdog_hears_from_it_again_and_again(manager: Manager, serve: list[str]) -> None:
    manager.start(serve, WATCHDOG_USEC="200000")
    manager.hear("READY=1")
    for _ in range(3):
        manager.hear("WATCHDOG=1")


def test_the_watchdog_hears_nothing_from_a_daemon_that_stands_still(
    manager: Manager, serve: list[str]
) -> None:
    program = manager.start(serve, WATCHDOG_USEC="100000")
    manager.hear("WATCHDOG=1")
    program.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
    manager.notified.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while manager.notified.recv(4096):
            pass  # sent before it stopped
    manager.notified.settimeout(1.0)
    with pytest.raises(TimeoutError):
        manager.notified.recv(4096)


def test_the_socket_outlives_it_and_callers_in_between_wait_for_the_next_one(
    manager: Manager, serve: list[str]
) -> None:
    early = call(manager)
    first = manager.start(serve)
    assert answer_of(early).startswith(b"HTTP/1.1 200 ")
    first.send_signal(signal.SIGTERM)
    assert first.wait(PATIENCE_S) == 0
    assert manager.path.is_socket()
    waiting = [call(manager) for _ in range(5)]
    manager.start(serve)
    for caller in waiting:
        assert answer_of(caller).startswith(b"HTTP/1.1 200 ")


def test_a_socket_meant_for_another_process_is_left_alone(manager: Manager, serve: list[str]) -> None:
    """A wrapper that does not pass LISTEN_PID on: the daemon then makes its own socket."""
    manager.path.unlink()
    manager.listening.close()
    wrapper = ["/bin/sh", "-c", 'LISTEN_PID=1 exec "$@"', "sh", *serve]
    other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with other:
        program = manager.start(wrapper, passed=other)
        manager.hear("READY=1")
        assert ask(manager.path, "/livez")
        program.terminate()
        assert program.wait(PATIENCE_S) == 0
    assert not manager.path.exists()


def refusal(program: subprocess.Popen[str]) -> str:
    _out, err = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 2
    assert "error[WA-CONFIG]" in err
    return err


def test_a_socket_on_another_path_is_refused_with_both_paths(manager: Manager, serve: list[str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(manager.folder / "other.sock"))
        other.listen()
        said = refusal(manager.start(serve, passed=other))
    assert f"systemd listens on '{manager.folder}/other.sock', but server.socket is {manager.path}" in said


def test_two_sockets_are_refused(manager: Manager, serve: list[str]) -> None:
    assert "systemd passed 2 sockets" in refusal(manager.start(serve, count=2))


def test_a_socket_that_was_promised_and_is_not_there_is_refused(manager: Manager, serve: list[str]) -> None:
    lying = ["/bin/sh", "-c", 'exec 3<&-; exec "$@"', "sh", *serve]
    assert "descriptor 3 is not open" in refusal(manager.start(lying))


@pytest.mark.parametrize("kind", ["datagram", "connection"])
def test_what_is_no_listening_stream_socket_is_refused(manager: Manager, serve: list[str], kind: str) -> None:
    """As ListenDatagram= and Accept=yes would pass it."""
    ours, theirs = socket.socketpair(
        socket.AF_UNIX, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    )
    with ours, theirs:
        assert "not a listening Unix stream socket" in refusal(manager.start(serve, passed=theirs))


def test_wal_is_archived_without_one_failure_while_the_daemon_restarts(
    manager: Manager, scenes: Scenes
) -> None:
    scene = scenes.make(serve=False)
    scene.stage.config.write_text(
        scene.stage.config.read_text().replace(str(scene.stage.socket), str(manager.path))
    )
    serve = scene.stage.command("serve")
    scene.reload({"archive_command": f'"{scene.stage.hook}" --socket "{manager.path}" push %p'})
    enough = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not enough.wait(0.02):
            if len(scene.status_files(".ready")) < 3:
                written.append(scene.switch())

    def at_least(files: int) -> bool:
        return scene.counted("archived_count") >= files

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for enough_files in (3, 6, 9):
            program = manager.start(serve)
            manager.hear("READY=1")
            until(partial(at_least, enough_files), "files archived")
            program.terminate()
            assert program.wait(PATIENCE_S) == 0
    finally:
        enough.set()
        writer.join(PATIENCE_S)
    manager.start(serve)
    until(lambda: scene.archived(written[-1]), "all archived")
    assert scene.counted("failed_count") == 0
    assert scene.prove_archived() >= len(written)
