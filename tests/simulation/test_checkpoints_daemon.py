"""Checkpoints in the daemon: written in the background, alarmed, tried again."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.test_checkpoints import HOUR_S, Scene
from tests.simulation.test_checkpoints import scene as scene
from tests.simulation.test_rollups import BLOCK, grown
from tests.simulation.test_rollups import process as short_blocks
from tests.simulation.world import SYSTEM
from walarchiver.checkpoints import Kept
from walarchiver.errors import StoreUnavailable, WalarchiverError
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.upkeep import Upkeep


def test_the_daemon_writes_roll_ups_and_checkpoints_in_the_background_and_alarms_what_fails() -> None:
    scene = Scene()
    scene.process = grown(scene.world, BLOCK + 1)
    scene.world.clock.advance(HOUR_S)
    alarms: list[WalarchiverError] = []

    async def run(*failing: str) -> list[bool]:
        with ThreadPoolExecutor(2) as pool:
            queue = LedgerQueue(scene.process.ledger, pool)
            serving = asyncio.create_task(queue.run())
            upkeep = Upkeep(queue, scene.keeper(), pool, alarm=alarms.append)
            for name in failing:
                scene.world.store.fail(Fault("put_new", f"v1/c/{SYSTEM}/{name}"))
            if failing:
                scene.store.fail(Fault("put_new", "v1/"))
            done = [await upkeep.roll_up(), await upkeep.checkpoint(), await upkeep.keep()]
            queue.close()
            await serving
            return done

    assert asyncio.run(run("roll/", "ledger/")) == [False] * 3
    assert [type(alarm) for alarm in alarms] == [StoreUnavailable] * 3
    assert asyncio.run(run()) == [True] * 3
    assert len(alarms) == 3
    assert len(scene.world.keys(f"{SYSTEM}/roll/")) == 1
    assert len(scene.checkpoints()) == 1
    assert scene.kept() == [BLOCK + 1]
    reader = short_blocks(scene.world, write=False)
    reader.ledger.refresh()
    assert reader.catalog.dump() == scene.process.catalog.dump()


def test_where_nothing_is_due_nothing_is_recorded_and_that_is_no_failure() -> None:
    scene = Scene()

    async def run() -> tuple[bool, Kept | None]:
        with ThreadPoolExecutor(2) as pool:
            upkeep = Upkeep(LedgerQueue(scene.process.ledger, pool), scene.keeper(), pool)
            return await upkeep.checkpoint(), upkeep.kept

    assert asyncio.run(run()) == (True, scene.keeper().kept)
    assert scene.checkpoints() == []


def test_failures_make_the_pauses_grow_to_an_hour_and_a_success_ends_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    pauses: list[float] = []
    answers = [True, *[False] * 8, True]

    async def run() -> None:
        with ThreadPoolExecutor(1) as pool:
            upkeep = Upkeep(LedgerQueue(scene.process.ledger, pool), scene.keeper(), pool)

            async def part() -> bool:
                if len(answers) == 1:
                    upkeep.stop()
                return answers.pop(0)

            async def sleep(pause_s: float) -> None:
                pauses.append(pause_s)

            monkeypatch.setattr(asyncio, "sleep", sleep)
            await upkeep._repeat(part)

    asyncio.run(run())
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 60]


def test_a_daemon_that_stops_leaves_its_parts_and_alarms_nobody() -> None:
    scene = Scene()
    scene.process = grown(scene.world, BLOCK)
    alarms: list[WalarchiverError] = []

    async def run() -> None:
        with ThreadPoolExecutor(2) as pool:
            queue = LedgerQueue(scene.process.ledger, pool)
            upkeep = Upkeep(queue, scene.keeper(), pool, alarm=alarms.append)
            upkeep.stop()
            assert not await upkeep.roll_up()
            await upkeep.run()

    asyncio.run(run())
    assert alarms == []
    assert scene.world.keys(f"{SYSTEM}/roll/") == []
