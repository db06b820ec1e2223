"""The server edge on a passed socket, one turn of the event loop after the other."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from tests.hook.test_api import PUSH, FakeHandlers
from walarchiver.api import Api, ApiLimits, serve_api
from walarchiver.clock import SystemClock
from walarchiver.listening import ConnectionLimits, PeerRule
from walarchiver.metrics import Metrics

TURNS = 20
"""Of the event loop, for what needs no more than a few."""


class Server:
    """One server after the other on the same socket."""

    def __init__(self, handlers: FakeHandlers, path: Path, passed: socket.socket) -> None:
        self.api = Api(
            handlers,
            metrics=Metrics("test"),
            clock=SystemClock(),
            limits=ApiLimits(connections=ConnectionLimits(request_s=1.0)),
            peers=PeerRule(frozenset({os.geteuid()}), ()),
        )
        self.leave = asyncio.Event()
        self._path = path
        self._passed = passed

    async def run(self) -> None:
        async with serve_api(self.api, socket_path=self._path, listen=None, drain_s=5, passed=self._passed):
            await self.leave.wait()


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def push(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The first line of the answer, or nothing."""
    writer.write(PUSH)
    line = await reader.readline()
    writer.close()
    return line


def listening_at(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen(8)
    listening.setblocking(False)
    return listening


def test_who_was_accepted_is_served_and_who_comes_later_waits_for_the_next_server(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    handlers = FakeHandlers(hang=asyncio.Event())

    async def story() -> None:
        assert handlers.hang is not None
        first, second = (Server(handlers, path, listening.dup()) for _ in range(2))
        serving = asyncio.create_task(first.run())
        at_work = asyncio.create_task(push(*await asyncio.open_unix_connection(path)))
        await handlers.started.wait()
        accepted = await asyncio.open_unix_connection(path)
        await turns()
        assert len(first.api.connections.open) == 2
        first.leave.set()
        await turns()
        late = asyncio.create_task(push(*await asyncio.open_unix_connection(path)))
        asked = asyncio.create_task(push(*accepted))
        await turns()
        handlers.hang.set()
        assert await at_work == await asked == b"HTTP/1.1 200 OK\r\n"
        await serving
        assert not late.done()
        assert len(handlers.calls) == 2
        serving = asyncio.create_task(second.run())
        assert await late == b"HTTP/1.1 200 OK\r\n"
        second.leave.set()
        await serving
        assert path.is_socket()

    with listening_at(path) as listening:
        asyncio.run(story())


def test_a_connection_that_never_asks_holds_the_end_up_only_until_its_timer(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def story() -> None:
        server = Server(FakeHandlers(), path, listening.dup())
        serving = asyncio.create_task(server.run())
        reader, writer = await asyncio.open_unix_connection(path)
        await turns()
        server.leave.set()
        async with asyncio.timeout(20):
            assert await reader.read() == b""
            await serving
        writer.close()

    with listening_at(path) as listening:
        asyncio.run(story())
