"""What is archived ahead enters the ledger in PostgreSQL's order: no reader ever sees a hole that is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.test_lookahead import BODIES, FIRST, Server, marked, recorded, serving
from tests.simulation.world import SYSTEM, Process, World, name_of
from walarchiver.errors import CorruptSegment, StoreUnavailable

NAMES = [name_of(number) for number in range(1, 10)]


def body_of(name: str) -> str:
    return f"{BODIES}00000001/00000000/{name}"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def stored(world: World, name: str) -> bool:
    return any(key.startswith(body_of(name)) for key in world.store.puts())


def backlog(folder: Path, names: list[str] = NAMES) -> tuple[World, Process]:
    world = World()
    for name in names:
        marked(folder, name)
    return world, world.began()


async def insistent(server: Server, name: str) -> None:
    """As PostgreSQL asks: again and again."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StoreUnavailable):
                await server.ask(name)
                return


def test_what_was_stored_sooner_waits_for_what_goes_before_it(tmp_path: Path) -> None:
    world, process = backlog(tmp_path)
    second = world.store.hold("put_new", body_of(NAMES[1]))

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)
            await until(lambda: all(stored(world, name) for name in NAMES[2:]))
            assert recorded(process) == [FIRST]
            second.open()
            await server.quiet()
            entries = len(world.keys(f"{SYSTEM}/ledger/"))
            assert [(await server.ask(name)).fresh for name in NAMES[1:]] == [True] * len(NAMES[1:])
            assert len(world.keys(f"{SYSTEM}/ledger/")) == entries

    asyncio.run(run())
    assert recorded(process) == NAMES
    assert all(len(world.keys(body_of(name))) == 1 for name in NAMES)


def test_nothing_is_recorded_behind_what_could_not_be_stored(tmp_path: Path) -> None:
    world, process = backlog(tmp_path)
    world.store.fail(Fault("put_new", body_of(NAMES[3])))

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)
            await server.quiet()
            assert recorded(process) == NAMES[:3]
            for name in NAMES[1:]:
                await server.ask(name)

    asyncio.run(run())
    assert recorded(process) == NAMES


def test_nothing_is_recorded_behind_what_the_ledger_did_not_take(tmp_path: Path) -> None:
    """While one entry fails the next files wait for their turn already."""
    world, process = backlog(tmp_path)
    ledger = world.store.hold("put_new", f"v1/c/{SYSTEM}/ledger/")
    world.store.fail(Fault("put_new", f"v1/c/{SYSTEM}/ledger/"))

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            call = asyncio.create_task(server.ask(FIRST))
            await asyncio.to_thread(ledger.wait_reached)
            await until(lambda: all(stored(world, name) for name in NAMES))
            ledger.open()
            with pytest.raises(StoreUnavailable):
                await call
            await server.quiet()
            assert recorded(process) == []
            for name in NAMES:
                await insistent(server, name)

    asyncio.run(run())
    assert recorded(process) == NAMES


def test_what_postgresql_asks_for_waits_for_nothing(tmp_path: Path) -> None:
    world, process = backlog(tmp_path)
    second = world.store.hold("put_new", body_of(NAMES[1]))

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)
            await until(lambda: stored(world, NAMES[3]))
            assert (await server.ask(NAMES[3])).fresh
            assert NAMES[1] not in recorded(process)
            second.open()

    asyncio.run(run())
    assert recorded(process)[:2] == [FIRST, NAMES[3]]
    assert set(recorded(process)) == set(NAMES)


def test_what_was_passed_over_just_as_it_is_asked_for_is_archived_by_that_call(tmp_path: Path) -> None:
    world, process = backlog(tmp_path, NAMES[:3])
    second = world.store.hold("put_new", body_of(NAMES[1]))
    world.store.fail(Fault("put_new", body_of(NAMES[1])))

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)
            await until(lambda: stored(world, NAMES[2]))
            second.open()
            third = server.pg_wal / NAMES[2]
            await server.archiver.archive(NAMES[2], third)  # joins what was begun, whatever becomes of it

    asyncio.run(run())
    assert recorded(process) == [FIRST, NAMES[2]]


def test_nothing_is_begun_behind_a_file_that_is_refused(tmp_path: Path) -> None:
    world, process = backlog(tmp_path)
    bad = tmp_path / NAMES[4]
    good = bad.read_bytes()
    bad.write_bytes(b"\0" * len(good))

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            for name in NAMES[:4]:
                await server.ask(name)
                await server.quiet()
            begun = server.ahead.begun
            for _ in range(3):
                with pytest.raises(CorruptSegment):
                    await server.ask(NAMES[4])
                await server.quiet()
            assert server.ahead.begun == begun, "each ask would store all that is behind anew"
            assert recorded(process) == NAMES[:4]
            bad.write_bytes(good)
            world.clock.advance(1)
            for name in NAMES[4:]:
                await server.ask(name)
                await server.quiet()
            assert server.ahead.begun > begun

    asyncio.run(run())
    assert recorded(process) == NAMES
    assert len(world.keys(BODIES)) <= 2 * len(NAMES)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_the_order_is_postgresqls(tmp_path: Path, seed: int) -> None:
    names = [name_of(number) for number in range(1, 25)]
    world, process = backlog(tmp_path, names)
    world.store._chance.seed(seed)
    world.store.rate = 0.15

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            for name in names:
                await insistent(server, name)

    asyncio.run(run())
    world.store.rate = 0.0
    assert recorded(process) == names
