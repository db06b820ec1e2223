"""Work ahead of PostgreSQL's asking: what is begun, what is not, and that no answer rests on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.kit.walmaker import MIB
from tests.simulation.test_archiver import HISTORY, reader
from tests.simulation.world import SYSTEM, Process, World, name_of, segment_bytes, wal_file
from walarchiver.archiver import Archived, Archiver
from walarchiver.errors import SegmentConflict, StoreUnavailable
from walarchiver.lookahead import AT_ONCE, NAMES_MAX, Lookahead

BODIES = f"v1/c/{SYSTEM}/wal/"
FIRST = name_of(1)


def marked(pg_wal: Path, name: str, mark: str = ".ready", content: bytes | None = None) -> Path:
    """A file of pg_wal with PostgreSQL's mark."""
    (pg_wal / "archive_status").mkdir(parents=True, exist_ok=True)
    path = wal_file(pg_wal, name, content)
    (pg_wal / "archive_status" / f"{name}{mark}").touch()
    return path


@dataclass
class Server:
    """An archiver and what works ahead of it; `ask` is PostgreSQL's archive_command."""

    pg_wal: Path
    archiver: Archiver
    ahead: Lookahead

    async def ask(self, name: str) -> Archived:
        with self.ahead.asked(name, MIB) as ask:
            (archived,) = ask.told([await self.archiver.archive(name, self.pg_wal / name)])
        mark = self.pg_wal / "archive_status" / name
        mark.with_name(f"{name}.ready").rename(mark.with_name(f"{name}.done"))
        return archived

    async def quiet(self) -> None:
        """Once nothing is under way."""
        await self.ahead.drain()  # the look itself
        await self.ahead.drain()  # what it began


@contextlib.asynccontextmanager
async def serving(process: Process, pg_wal: Path, *, workers: int = 2) -> AsyncIterator[Server]:
    with ThreadPoolExecutor(2) as executor:
        async with process.archiving() as archiver:

            def begin(name: str, behind: frozenset[str]) -> Awaitable[list[Archived]]:
                place = archiver.expect(name, behind)
                return asyncio.gather(archiver.archive(name, pg_wal / name, place=place))

            ahead = Lookahead(
                begin,
                marks=pg_wal / "archive_status",
                executor=executor,
                clock=process.world.clock,
                workers=workers,
            )
            yield Server(pg_wal, archiver, ahead)
            await ahead.drain()
            await archiver.drain()


def recorded(process: Process) -> list[str]:
    return process.catalog.names("history") + process.catalog.names("wal")


def test_what_is_marked_ready_is_archived_while_the_first_is_asked_for(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    names = [name_of(number) for number in range(1, 6)]
    for name in names:
        marked(tmp_path, name)

    async def run() -> list[Archived]:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)
            await server.quiet()
            assert set(recorded(process)) == set(names)
            world.store.events.clear()
            answers = [await server.ask(name) for name in names[1:]]
            assert [event.operation for event in world.store.events].count("put_new") == 0
            return answers

    assert asyncio.run(run()) == [Archived(name, MIB, fresh=True) for name in names[1:]], "told as new, once"
    assert [reader(world).plain(name) for name in names] == [segment_bytes(name) for name in names]


def test_only_what_is_marked_is_begun(tmp_path: Path) -> None:
    process = World().began()
    marked(tmp_path, FIRST)
    marked(tmp_path, name_of(2), ".done")
    wal_file(tmp_path, name_of(3))
    marked(tmp_path, "README", content=b"x")

    async def run() -> int:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)
            await server.quiet()
            return server.ahead.begun

    assert asyncio.run(run()) == 0
    assert recorded(process) == [FIRST]


def test_a_mark_that_went_since_the_listing_is_respected(tmp_path: Path) -> None:
    process = World().began()
    paths = {number: marked(tmp_path, name_of(number)) for number in range(1, 40)}

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)
            await server.quiet()
            window = server.ahead.window
            late = name_of(window + 2)
            assert late not in recorded(process)
            (tmp_path / "archive_status" / f"{late}.ready").unlink()
            paths[window + 2].unlink()
            for number in range(2, 5):
                await server.ask(name_of(number))
                await server.quiet()
            assert late not in recorded(process)
            assert name_of(window + 3) in recorded(process)

    asyncio.run(run())


def test_histories_are_begun_before_segments(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    marked(tmp_path, FIRST)
    for number in range(2, 30):
        marked(tmp_path, name_of(number))
    marked(tmp_path, "00000002.history", content=HISTORY)

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)
            await server.quiet()

    asyncio.run(run())
    begun = recorded(process)
    assert begun[0] == "00000002.history"
    assert name_of(29) not in begun, "the window is smaller than what is left"


def test_no_more_than_a_window_is_begun_ahead_and_a_few_calls_make_room_for_as_many(tmp_path: Path) -> None:
    process = World().began()
    names = [name_of(number) for number in range(1, 41)]
    for name in names:
        marked(tmp_path, name)

    async def run() -> list[int]:
        async with serving(process, tmp_path) as server:
            seen = []
            for name in names[:8]:
                await server.ask(name)
                await server.quiet()
                seen.append(server.ahead.begun)
            assert seen == [server.ahead.window + asked - asked % AT_ONCE for asked in range(8)]
            return seen

    asyncio.run(run())
    assert len(recorded(process)) < len(names)


def test_a_backlog_of_any_length_is_worked_off_in_order(tmp_path: Path) -> None:
    assert NAMES_MAX > 30
    world = World()
    process = world.began()
    names = [name_of(number) for number in range(1, 31)]
    for name in names:
        marked(tmp_path, name)

    async def run() -> list[Archived]:
        async with serving(process, tmp_path) as server:
            return [await server.ask(name) for name in names]

    assert [one.name for one in asyncio.run(run()) if one.fresh] == names
    assert len(world.keys(BODIES)) == len(names), "nothing was stored twice"


def test_a_failure_ahead_is_forgotten_and_the_call_gets_the_answer(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    names = [name_of(number) for number in range(1, 4)]
    for name in names:
        marked(tmp_path, name)
    world.store.fail(Fault("put_new", f"{BODIES}00000001/00000000/{names[2]}"))

    async def run() -> list[Archived]:
        async with serving(process, tmp_path) as server:
            await server.ask(names[0])
            await server.quiet()
            assert names[2] not in recorded(process)
            return [await server.ask(name) for name in names[1:]]

    assert all(one.fresh for one in asyncio.run(run()))
    assert reader(world).plain(names[2]) == segment_bytes(names[2])


def test_during_an_outage_only_what_is_asked_for_is_tried(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    names = [name_of(number) for number in range(1, 31)]
    for name in names:
        marked(tmp_path, name)
    outage = Fault("put_new", BODIES, times=10**6)
    world.store.fail(outage)

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            with pytest.raises(StoreUnavailable):
                await server.ask(FIRST)
            await server.quiet()
            begun = server.ahead.begun
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await server.ask(FIRST)
                await server.quiet()
            assert server.ahead.begun == begun, "nothing more is begun while it fails"
            outage.prefix = "over"
            world.clock.advance(1)
            assert [(await server.ask(name)).fresh for name in names] == [True] * len(names)
            assert server.ahead.begun > begun

    asyncio.run(run())


def test_a_file_that_changed_after_it_was_archived_ahead_is_refused(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    marked(tmp_path, FIRST)
    second = marked(tmp_path, name_of(2))

    async def run() -> None:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)
            await server.quiet()
            times = second.stat()
            second.write_bytes(segment_bytes(name_of(2), seed=1))
            os.utime(second, ns=(times.st_atime_ns, times.st_mtime_ns))
            with pytest.raises(SegmentConflict):
                await server.ask(name_of(2))

    asyncio.run(run())
    assert reader(world).plain(name_of(2)) == segment_bytes(name_of(2))


def test_a_file_replaced_while_it_is_archived_ahead_is_judged_by_its_own_bytes(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    marked(tmp_path, FIRST)
    second = marked(tmp_path, name_of(2))
    process.archive(tmp_path / FIRST)
    gate = world.store.hold("put_new", BODIES)

    async def run() -> object:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)
            await asyncio.to_thread(gate.wait_reached)
            wal_file(tmp_path / "other", name_of(2), seed=1).rename(second)
            call = asyncio.create_task(server.ask(name_of(2)))
            gate.open()
            return (await asyncio.gather(call, return_exceptions=True))[0]

    answer = asyncio.run(run())
    kept = reader(world).plain(name_of(2))
    assert isinstance(answer, SegmentConflict) == (kept == segment_bytes(name_of(2)))


def test_after_a_crash_what_was_archived_ahead_is_found_in_the_ledger(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    for number in (1, 2):
        marked(tmp_path, name_of(number))

    async def ahead() -> None:
        async with serving(process, tmp_path) as server:
            await server.ask(FIRST)

    asyncio.run(ahead())
    again = world.began()

    async def after() -> Archived:
        async with serving(again, tmp_path) as server:
            return await server.ask(name_of(2))

    assert asyncio.run(after()) == Archived(name_of(2), MIB, fresh=False)
    assert len(world.keys(BODIES)) == 2


def test_once_stopped_nothing_is_begun_and_what_was_begun_ends(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    names = [name_of(number) for number in range(1, 31)]
    for name in names:
        marked(tmp_path, name)
    gate = world.store.hold("put_new", BODIES)

    async def run() -> int:
        async with serving(process, tmp_path) as server:
            call = asyncio.create_task(server.ask(FIRST))
            await asyncio.to_thread(gate.wait_reached)
            server.ahead.stop()
            begun = server.ahead.begun
            gate.open()
            await call
            await server.quiet()
            assert server.ahead.begun == begun
            server.ahead.look(MIB)
            await server.quiet()
            return begun

    begun = asyncio.run(run())
    assert len(recorded(process)) == begun + 1, "the one asked for, and all that was begun"


def test_with_two_repositories_a_file_is_new_where_it_was_newly_archived_ahead(tmp_path: Path) -> None:
    worlds = [World(), World()]
    processes = [world.began() for world in worlds]
    names = [name_of(number) for number in (1, 2, 3)]
    for name in names:
        marked(tmp_path, name)
    processes[1].archive(tmp_path / names[2])  # that one knows the third already

    async def run() -> list[list[bool]]:
        async with contextlib.AsyncExitStack() as stack:
            executor = stack.enter_context(ThreadPoolExecutor(2))
            archivers = [await stack.enter_async_context(one.archiving()) for one in processes]

            def begin(name: str, behind: frozenset[str]) -> Awaitable[list[Archived]]:
                placed = [(one, one.expect(name, behind)) for one in archivers]
                return asyncio.gather(*(one.archive(name, tmp_path / name, place=at) for one, at in placed))

            ahead = Lookahead(
                begin,
                marks=tmp_path / "archive_status",
                executor=executor,
                clock=worlds[0].clock,
                workers=2,
            )
            answers = []
            for name in names:
                with ahead.asked(name, MIB) as ask:
                    calls = (one.archive(name, tmp_path / name) for one in archivers)
                    answers.append([one.fresh for one in ask.told(await asyncio.gather(*calls))])
                await ahead.drain()
                await ahead.drain()
            return answers

    assert asyncio.run(run()) == [[True, True], [True, True], [True, False]]
    for process in processes:
        assert set(recorded(process)) == set(names)
