"""The queue before the ledger: full, or left by those who waited."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.simulation.test_ledger import archive, names, wal
from tests.simulation.world import SYSTEM, World
from walarchiver.errors import LedgerContended, ShuttingDown
from walarchiver.ledgerqueue import LedgerQueue

LEDGER = f"v1/c/{SYSTEM}/ledger/"


def test_a_queue_that_is_full_refuses_and_keeps_what_waits() -> None:
    world = World()
    process = world.began()
    gate = world.store.hold("put_new", LEDGER)

    async def run() -> None:
        with ThreadPoolExecutor(1) as io:
            queue = LedgerQueue(process.ledger, io, waiting_max=2)
            serving = asyncio.create_task(queue.run())
            calls = [asyncio.create_task(queue.submit(archive(wal(1))))]
            await asyncio.to_thread(gate.wait_reached)
            calls += [asyncio.create_task(queue.submit(archive(wal(number)))) for number in (2, 3)]
            await asyncio.sleep(0)
            with pytest.raises(LedgerContended, match="2 facts wait"):
                await queue.submit(archive(wal(4)))
            gate.open()
            await asyncio.gather(*calls)
            await queue.submit(archive(wal(5)))
            queue.close()
            await serving

    asyncio.run(run())
    assert names(process) == [wal(number).name for number in (1, 2, 3, 5)]


@pytest.mark.parametrize("stops", [False, True])
def test_who_gives_up_waiting_disturbs_nobody(stops: bool) -> None:
    world = World()
    process = world.began()
    gate = world.store.hold("put_new", LEDGER)

    async def run() -> list[BaseException | None]:
        with ThreadPoolExecutor(1) as io:
            queue = LedgerQueue(process.ledger, io)
            serving = asyncio.create_task(queue.run())
            calls = [asyncio.create_task(queue.submit(archive(wal(number)))) for number in (1, 2)]
            await asyncio.to_thread(gate.wait_reached)
            calls += [asyncio.create_task(queue.submit(archive(wal(number)))) for number in (3, 4)]
            await asyncio.sleep(0)
            calls[0].cancel()
            calls[2].cancel()
            await asyncio.wait([calls[0], calls[2]])
            if stops:
                serving.cancel()
            else:
                queue.close()
            await asyncio.sleep(0)
            gate.open()
            found = await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.gather(serving, return_exceptions=True)
            return found

    first, second, third, fourth = asyncio.run(run())
    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(third, asyncio.CancelledError)
    if stops:
        assert isinstance(second, ShuttingDown)
        assert isinstance(fourth, ShuttingDown)
    else:
        assert (second, fourth) == (None, None)
        assert names(process) == [wal(number).name for number in (1, 2, 3, 4)]
