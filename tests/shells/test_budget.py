"""The byte budget of the archive path."""

from __future__ import annotations

import asyncio
import random

from walarchiver.budget import ByteBudget


def test_holders_never_exceed_the_budget_together() -> None:
    async def play() -> int:
        budget, held, most = ByteBudget(100), 0, 0
        chance = random.Random(7)

        async def holder() -> None:
            nonlocal held, most
            count = chance.randint(1, 60)
            async with budget.hold(count):
                held += count
                most = max(most, held)
                for _ in range(chance.randint(0, 5)):
                    await asyncio.sleep(0)
                held -= count

        await asyncio.gather(*(holder() for _ in range(200)))
        assert held == 0
        return most

    assert 60 < asyncio.run(play()) <= 100


def test_one_that_wants_more_than_everything_gets_it_alone() -> None:
    async def play() -> list[str]:
        budget, order = ByteBudget(10), []

        async def holder(name: str, count: int) -> None:
            async with budget.hold(count):
                order.append(f"{name} in")
                await asyncio.sleep(0)
                order.append(f"{name} out")

        await asyncio.gather(holder("small", 5), holder("huge", 50), holder("late", 5))
        return order

    assert asyncio.run(play()) == ["small in", "small out", "huge in", "huge out", "late in", "late out"]


def test_a_cancelled_waiter_takes_nothing_with_it() -> None:
    async def play() -> None:
        budget = ByteBudget(10)
        async with budget.hold(10):
            waiter = asyncio.create_task(budget.hold(5).__aenter__())
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)
        async with asyncio.timeout(5), budget.hold(10):
            pass

    asyncio.run(play())
