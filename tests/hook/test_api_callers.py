"""The socket under hard callers: slow, too many, gone, strangers; and how a server ends."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from tests.hook.conftest import InstalledHook
from tests.hook.test_api import FETCH, NAME, PUSH, FakeHandlers, exchange, get, run_hook, running
from walarchiver.api import ApiLimits
from walarchiver.errors import (
    ConfigError,
    Locked,
    TooManyCallers,
)
from walarchiver.listening import ConnectionLimits, PeerRule, listen_on


def test_a_stranger_is_turned_away_unread(tmp_path: Path, hook: InstalledHook) -> None:
    async def story() -> None:
        async with running(tmp_path, FakeHandlers(), peers=PeerRule(frozenset(), ())) as server:
            answer = await exchange(server.path, PUSH)
            assert (answer.status, answer.error["code"]) == (403, "WA-PEER")
            assert (await run_hook(hook, "push", "x"))[0] == 1
            assert (await run_hook(hook, "fetch", NAME, "x"))[0] == 200
            assert server.handlers.calls == []

    asyncio.run(story())


def test_the_owner_of_a_data_directory_may_call(tmp_path: Path) -> None:
    rule = PeerRule(frozenset(), (tmp_path / "later",))
    assert not rule.permits(os.geteuid())
    (tmp_path / "later").mkdir()
    assert rule.permits(os.geteuid())
    with pytest.raises(ConfigError, match="no user 'nobody-at-all'"):
        PeerRule.of(["nobody-at-all"], [])
    assert PeerRule.of(["12345"], []).permits(12345)


def test_work_past_its_deadline_is_a_failure(tmp_path: Path) -> None:
    async def story() -> None:
        handlers = FakeHandlers(hang=asyncio.Event())
        limits = ApiLimits(push_s=0.05, fetch_s=0.05, question_s=0.05)
        async with running(tmp_path, handlers, limits=limits) as server:
            for raw, said in ((PUSH, "1"), (FETCH, "200"), (get("/v1/status"), None)):
                answer = await exchange(server.path, raw)
                assert (answer.status, answer.error["code"]) == (503, "WA-DEADLINE")
                assert answer.headers.get("walarchiver-exit") == said
            assert handlers.cancelled.is_set()

    asyncio.run(story())


def test_slow_callers_are_cut_and_stall_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        bounds = ConnectionLimits(connections_max=4, request_s=0.2, idle_s=0.2)
        async with running(tmp_path, FakeHandlers(), limits=ApiLimits(connections=bounds)) as server:
            slow = [await asyncio.open_unix_connection(server.path) for _ in range(3)]
            for (_, writer), raw in zip(
                slow, (b"", b"POST /v1/push HTTP/1.1\r\nX: ", PUSH[:-3]), strict=True
            ):
                writer.write(raw)
            assert (await exchange(server.path, PUSH)).status == 200
            async with asyncio.timeout(30):
                for reader, writer in slow:
                    assert await reader.read() == b""  # cut, without an answer
                    writer.close()
            assert len(server.handlers.calls) == 1

    asyncio.run(story())


def test_a_dripping_caller_is_cut_too(tmp_path: Path) -> None:
    async def story() -> None:
        bounds = ConnectionLimits(request_s=0.2)
        async with running(tmp_path, FakeHandlers(), limits=ApiLimits(connections=bounds)) as server:
            reader, writer = await asyncio.open_unix_connection(server.path)
            cut = asyncio.create_task(reader.read())
            writer.write(b"POST /v1/push HTTP/1.1\r\nX: ")
            async with asyncio.timeout(30):
                while not cut.done():
                    writer.write(b"x")
                    await asyncio.wait([cut], timeout=0.01)
            assert isinstance(cut.exception(), ConnectionError) or cut.result() == b""
            writer.close()

    asyncio.run(story())


def test_too_many_callers_get_an_honest_failure(tmp_path: Path, hook: InstalledHook) -> None:
    async def story() -> None:
        handlers = FakeHandlers(hang=asyncio.Event())
        limits = ApiLimits(connections=ConnectionLimits(connections_max=1))
        async with running(tmp_path, handlers, limits=limits) as server:
            first = asyncio.create_task(exchange(server.path, PUSH))
            await handlers.started.wait()
            status, said = await run_hook(hook, "push", "x")
            assert status == 1
            assert TooManyCallers.code in said
            assert TooManyCallers.hint in said
            assert (await run_hook(hook, "fetch", NAME, "x"))[0] == 200
            assert handlers.hang is not None
            handlers.hang.set()
            assert (await first).status == 200

    asyncio.run(story())


def test_a_fetch_ends_with_its_caller_but_a_push_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        handlers = FakeHandlers(hang=asyncio.Event())
        async with running(tmp_path, handlers) as server:
            _, writer = await asyncio.open_unix_connection(server.path)
            writer.write(FETCH)
            await handlers.started.wait()
            writer.close()
            await asyncio.wait_for(handlers.cancelled.wait(), 30)

            handlers.started.clear()
            handlers.cancelled.clear()
            _, writer = await asyncio.open_unix_connection(server.path)
            writer.write(PUSH)
            await handlers.started.wait()
            writer.close()
            await exchange(server.path, get("/livez"))
            assert handlers.hang is not None
            handlers.hang.set()
            assert await server.api.finish(30)
            assert not handlers.cancelled.is_set()

    asyncio.run(story())


def test_draining_ends_work_in_progress_and_takes_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        handlers = FakeHandlers(hang=asyncio.Event())
        async with running(tmp_path, handlers) as server:
            first = asyncio.create_task(exchange(server.path, PUSH))
            await handlers.started.wait()
            server.api.drain()
            for raw, said in ((PUSH, "1"), (FETCH, "200")):
                answer = await exchange(server.path, raw)
                assert (answer.status, answer.error["code"]) == (503, "WA-DRAINING")
                assert answer.headers["walarchiver-exit"] == said
            assert (await exchange(server.path, get("/readyz"))).status == 503
            assert handlers.hang is not None
            handlers.hang.set()
            assert (await first).headers["walarchiver-exit"] == "0"

    asyncio.run(story())


def test_the_end_of_the_drain_cuts_without_acknowledging(tmp_path: Path) -> None:
    async def story() -> None:
        handlers = FakeHandlers(hang=asyncio.Event())
        async with running(tmp_path, handlers, drain_s=0.05) as server:
            first = asyncio.create_task(exchange(server.path, PUSH))
            await handlers.started.wait()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await first
        assert handlers.cancelled.is_set()

    asyncio.run(story())


def test_a_dead_servers_socket_is_replaced_and_a_living_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    first = listen_on(path, mode=0o660, backlog=1)
    assert path.stat().st_mode & 0o777 == 0o660
    with pytest.raises(Locked):
        listen_on(path, mode=0o660, backlog=1)
    first.close()
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(path))
        stranger.listen()
        with pytest.raises(Locked, match="answers on"):
            listen_on(path, mode=0o660, backlog=1)
    path.unlink()
    path.write_text("a file")
    with pytest.raises(ConfigError, match="not a socket"):
        listen_on(path, mode=0o660, backlog=1)
    assert path.read_text() == "a file"


def test_an_impossible_socket_path_is_a_configuration_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer"):
        listen_on(tmp_path / ("x" * 120), mode=0o660, backlog=1)
