"""An administrator's word puts other bytes in the place of an archived file, and nobody else's."""

from __future__ import annotations

import asyncio
from dataclasses import replace as with_fields
from pathlib import Path

import pytest

from restore.core.model import WalNeed
from restore.core.plan import Plan
from restore.fetcher import Fetcher
from restore.planning import view_of
from tests.kit.walmaker import MIB
from tests.simulation.changes import Killed, chain_records, killing_at
from tests.simulation.test_fetcher import plan
from tests.simulation.world import SYSTEM, Process, World, name_of, wal_file
from walarchiver.catalog import Catalog
from walarchiver.core.history import TimelineHistory
from walarchiver.core.segment import Segment
from walarchiver.errors import CorruptSegment, FetchInDoubt, SegmentConflict, UsageError, WriterRevoked
from walarchiver.format.records import SupersedeRecord
from walarchiver.format.signed import Signer
from walarchiver.ledger import Writer
from walarchiver.operate.inventory import FileItem, inventory
from walarchiver.superseding import examine, supersede

REASON = "the first host's disk was failing"
OLD, NEW = 0, 7
"""Seeds of two contents of one segment."""


def replace(
    process: Process, path: Path, *, name: str | None = None, signer: Signer | None = None
) -> SupersedeRecord:
    """One run of the command, by a host with a writer's key and an admin's."""

    async def run() -> SupersedeRecord:
        async with process.archiving() as archiver:
            replacement = await asyncio.to_thread(examine, archiver, name or path.name, path)
            key = signer or process.world.key("admin").signer()
            writer = Writer(key, process.world.random.token(8).hex(), process.world.clock)
            admin = process.repository.ledger(SYSTEM, process.catalog, writer, process.observe)
            return await supersede(
                archiver,
                process.depositor,
                ledger=process.ledger,
                admin=admin,
                replacement=replacement,
                reason=REASON,
            )

    return asyncio.run(run())


def archived(world: World, folder: Path) -> tuple[Path, Path]:
    """A segment that is archived, and another content of the same name."""
    old = wal_file(folder / "old", name_of(1), seed=OLD)
    world.began().archive(old)
    return old, wal_file(folder / "new", name_of(1), seed=NEW)


def read(world: World, name: str) -> bytes:
    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()
    return reader.plain(name)


def test_the_other_bytes_are_the_file_from_then_on_and_the_old_ones_are_refused(tmp_path: Path) -> None:
    world = World()
    old, new = archived(world, tmp_path)
    process = world.process()
    process.ledger.refresh()
    change = replace(process, new)
    assert read(world, old.name) == new.read_bytes()
    with pytest.raises(SegmentConflict, match=r"replaced by an administrator.*disk was failing"):
        world.process().archive(old)
    with pytest.raises(SegmentConflict, match="but the file offered"):
        world.process().archive(wal_file(tmp_path / "third", name_of(1), seed=9))
    assert [done.fresh for done in world.process().archive(new)] == [False]
    fresh = Catalog(None)
    world.repository().ledger(SYSTEM, fresh).refresh()
    assert fresh.superseded() == [change]
    assert fresh.runs() == [(1, 1, 1)]


def test_and_back_again(tmp_path: Path) -> None:
    world = World()
    old, new = archived(world, tmp_path)
    process = world.process()
    process.ledger.refresh()
    replace(process, new)
    bodies = world.keys("/wal/")
    replace(process, old)
    assert read(world, old.name) == old.read_bytes()
    assert world.keys("/wal/") == bodies, "what is recorded already is not stored again"
    with pytest.raises(SegmentConflict, match="replaced by an administrator"):
        world.process().archive(new)


def test_stopped_at_any_step_the_old_bytes_stand_until_the_new_ones_do(tmp_path: Path) -> None:
    world = World()
    _, new = archived(world, tmp_path)
    steps: list[str] = []
    watched = world.process(observe=steps.append)
    watched.ledger.refresh()
    replace(watched, new)
    assert steps.count("ledger: before put") == 2
    for number in range(len(steps)):
        world = World()
        old, new = archived(world, tmp_path / str(number))
        process = world.process()
        process.ledger.refresh()
        stopped = world.process(observe=killing_at(number))
        stopped.ledger.refresh()
        with pytest.raises(Killed):
            replace(stopped, new)
        changes = [one for one in chain_records(world) if isinstance(one, SupersedeRecord)]
        assert read(world, old.name) == (new if changes else old).read_bytes(), steps[number]
        if not changes:
            process.ledger.refresh()
            replace(process, new)
        assert read(world, old.name) == new.read_bytes()


def test_it_is_an_admins_to_do(tmp_path: Path) -> None:
    world = World()
    old, new = archived(world, tmp_path)
    process = world.process()
    process.ledger.refresh()
    with pytest.raises(WriterRevoked):
        replace(process, new, signer=Signer.from_seed(b"s" * 32))
    assert read(world, old.name) == old.read_bytes()


def test_of_two_administrators_the_second_is_told_what_is_in_force(tmp_path: Path) -> None:
    world = World()
    old, new = archived(world, tmp_path)
    third = wal_file(tmp_path / "third", name_of(1), seed=9)
    fired: list[str] = []

    def meanwhile(step: str) -> None:
        if step == "archive: sealed" and not fired:
            fired.append(step)
            other = world.process()
            other.ledger.refresh()
            replaced.append(replace(other, third))

    replaced: list[SupersedeRecord] = []
    process = world.process()
    process.ledger.refresh()

    async def run() -> None:
        async with process.archiving() as archiver:
            replacement = await asyncio.to_thread(examine, archiver, new.name, new)
            await asyncio.to_thread(meanwhile, "archive: sealed")
            key = world.key("admin").signer()
            admin = process.repository.ledger(
                SYSTEM, process.catalog, Writer(key, "0" * 16, world.clock), process.observe
            )
            await supersede(
                archiver,
                process.depositor,
                ledger=process.ledger,
                admin=admin,
                replacement=replacement,
                reason=REASON,
            )

    with pytest.raises(SegmentConflict, match="no longer"):
        asyncio.run(run())
    assert replaced
    assert read(world, old.name) == third.read_bytes()


def test_what_is_no_such_file_or_not_archived_or_the_same_is_refused(tmp_path: Path) -> None:
    world = World()
    old, _ = archived(world, tmp_path)
    process = world.process()
    process.ledger.refresh()
    with pytest.raises(UsageError, match="not archived"):
        replace(process, wal_file(tmp_path, name_of(2), seed=1))
    with pytest.raises(UsageError, match="already"):
        replace(process, old)
    with pytest.raises(CorruptSegment):
        replace(process, wal_file(tmp_path, name_of(2), seed=1), name=name_of(1))
    assert not any(isinstance(one, SupersedeRecord) for one in chain_records(world))


def test_a_plan_names_both_contents_and_production_stays_where_it_was(tmp_path: Path) -> None:
    world = World()
    old, new = archived(world, tmp_path)
    process = world.process()
    process.archive(wal_file(tmp_path, name_of(2), seed=2))
    change = replace(process, new)
    view = view_of(process.catalog, process.catalog.clusters()[0], process.catalog.next_seq())
    need = WalNeed(Segment(1, 1), Segment(1, 2), 2, 2 * MIB)
    (shown,) = view.superseded_on(TimelineHistory(1), need)
    assert (shown.name, shown.old, shown.new) == (old.name, change.old, change.new)
    beyond = WalNeed(Segment(1, 2), Segment(1, 2), 1, MIB)
    assert view.superseded_on(TimelineHistory(1), beyond) == ()
    assert process.catalog.newest_segment(MIB) == Segment(1, 2)
    items = [one for one in inventory(process.catalog, SYSTEM) if isinstance(one, FileItem)]
    assert [one.record.digest for one in items if one.name == old.name] == [change.new]


def test_a_plan_made_before_a_replacement_is_not_carried_out_with_the_new_bytes(tmp_path: Path) -> None:
    world = World()
    old, new = archived(world, tmp_path)
    process = world.process()
    process.ledger.refresh()
    before = with_fields(plan(TimelineHistory(1), 1, 1), ledger=process.catalog.next_seq())
    replace(process, new)
    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()

    def fetched(obeyed: Plan) -> bytes:
        fetcher = Fetcher(
            repository=reader.repository, ledger=reader.ledger, segment_size=MIB, plan=obeyed, spool=tmp_path
        )
        fetcher.fetch(old.name, tmp_path / "RECOVERYXLOG")
        return (tmp_path / "RECOVERYXLOG").read_bytes()

    with pytest.raises(FetchInDoubt, match="replaced it after plan p-1 was made: make a new plan"):
        fetched(before)
    after = with_fields(before, ledger=reader.catalog.next_seq())
    assert fetched(after) == new.read_bytes()
