"""sd_notify and sd_listen_fds, piece by piece."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from walarchiver.clock import SystemClock
from walarchiver.log import configure_logging
from walarchiver.systemd import Notifier, passed_socket


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(10)
        yield channel


@pytest.fixture
def logged() -> io.StringIO:
    stream = io.StringIO()
    configure_logging(SystemClock(), stream=stream)
    return stream


def test_the_environment_is_emptied_so_that_children_do_not_speak_for_us(tmp_path: Path) -> None:
    ours = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": "1",
        "A": "b",
    }
    ours |= {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    Notifier.of(ours)
    assert passed_socket(ours, tmp_path / "s") is None
    assert ours == {"A": "b"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_counts_only_when_it_is_meant_for_us(
    given: dict[str, str], expected: float | None
) -> None:
    assert Notifier.of(dict(given)).watchdog_s == expected


def test_a_status_is_one_line_whatever_is_in_it(manager: socket.socket, tmp_path: Path) -> None:
    Notifier(str(tmp_path / "notify")).ready("two\nREADY=0\nlines " + "x" * 5000)
    ready, status = manager.recv(65536).decode().split("\n")
    assert ready == "READY=1"
    assert status.startswith("STATUS=two READY=0 lines xxx")
    assert len(status) < 600


def test_an_abstract_address_is_understood() -> None:
    name = f"walarchiver-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name}")
        channel.settimeout(10)
        Notifier(f"@{name}").stopping("bye")
        assert channel.recv(100) == b"STOPPING=1\nSTATUS=bye"


def test_without_a_manager_nothing_is_sent_and_nothing_waits() -> None:
    notifier = Notifier.of({})
    notifier.ready("x")
    asyncio.run(notifier.keep_alive(lambda: pytest.fail("nobody asked for the status")))


def test_a_manager_that_is_gone_fails_nothing_and_is_told_of_once(
    tmp_path: Path, logged: io.StringIO
) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    notifier.ready("x")
    notifier.stopping("x")
    assert logged.getvalue().count("the service manager cannot be told") == 1


def test_a_manager_that_does_not_read_cannot_hold_the_loop(manager: socket.socket, tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    for _ in range(2000):  # more than any queue of datagrams holds
        notifier.ready("x")
    assert manager.recv(100) == b"READY=1\nSTATUS=x"


def test_an_address_of_another_kind_is_ignored_and_logged(logged: io.StringIO) -> None:
    Notifier("vsock:2:1234").ready("x")
    assert "vsock:2:1234" in logged.getvalue()


def test_without_a_watchdog_only_the_status_is_told(manager: socket.socket, tmp_path: Path) -> None:
    async def once() -> None:
        telling = asyncio.create_task(Notifier(str(tmp_path / "notify")).keep_alive(lambda: "fine"))
        await asyncio.sleep(0)
        telling.cancel()

    asyncio.run(once())
    assert manager.recv(100) == b"STATUS=fine"
