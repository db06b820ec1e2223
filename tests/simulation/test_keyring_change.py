"""Who is trusted changes while others work: races, interruptions, and what never may happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.changes import (
    OTHER_SYSTEM,
    Killed,
    chain_records,
    change,
    check_epochs_follow_keyrings,
    keyring_bytes,
    killing_at,
    member,
    new_key,
    second_cluster,
)
from tests.simulation.world import SYSTEM, Process, World, name_of, wal_file
from walarchiver.errors import (
    KeyCannotOpen,
    KeyringChanged,
    StoreUnavailable,
    WriterRevoked,
)
from walarchiver.format.records import KeyringRecord
from walarchiver.keyringwatch import KeyringWatch
from walarchiver.keys.keyfile import KeyFile, KeyRole
from walarchiver.keys.xwing import XWingIdentity


def identity_of(key: KeyFile) -> XWingIdentity:
    return XWingIdentity.from_seed(key.secret)


def keyrings_in_force(world: World, system: str = SYSTEM) -> list[int]:
    return [record.n for record in chain_records(world, system) if isinstance(record, KeyringRecord)]


def test_an_added_custodian_opens_what_is_sealed_from_then_on_and_nothing_older(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    old, new = wal_file(tmp_path, name_of(1)), wal_file(tmp_path, name_of(2), seed=1)
    process.archive(old)
    carol = new_key(world, KeyRole.CUSTODIAN, "carol")
    outcome = change(world, add=carol)
    assert (outcome.made, outcome.keyring.n, outcome.failures) == (True, 2, [])
    process.archive(new)  # the same process: it learns by the lost race
    reader = world.process(write=False, identities=[identity_of(carol)])
    reader.ledger.refresh()
    assert reader.plain(new.name) == new.read_bytes()
    with pytest.raises(KeyCannotOpen):
        reader.plain(old.name)
    assert check_epochs_follow_keyrings(world) == 2


def test_a_removed_custodian_opens_nothing_that_is_sealed_from_then_on(tmp_path: Path) -> None:
    world = World(custodians=("alice", "bob", "carol"))
    process = world.began()
    process.archive(wal_file(tmp_path, name_of(1)))
    assert change(world, remove=member(world, "bob")).concerns == ()
    new = wal_file(tmp_path, name_of(2), seed=1)
    process.archive(new)
    reader = world.process(write=False, identities=[world.identity("bob")])
    reader.ledger.refresh()
    with pytest.raises(KeyCannotOpen):
        reader.plain(new.name)


def test_a_removed_writer_is_told_so_seals_nothing_and_cannot_wedge_the_chain(tmp_path: Path) -> None:
    world = World()
    second = new_key(world, KeyRole.WRITER, "second")
    first, path = world.began(), wal_file(tmp_path, name_of(1))
    first.archive(path)
    change(world, add=second)
    change(world, remove=member(world, "writer"))
    for _ in range(2):  # the first try learns it by the lost race, the second knows
        with pytest.raises(WriterRevoked):
            first.archive(wal_file(tmp_path, name_of(2), seed=1))
        bodies = world.keys("/wal/")
    assert len(bodies) == 2, "one sealed in vain, and no more"
    other = world.process(signer=second.signer())
    assert [done.fresh for done in other.archive(wal_file(tmp_path, name_of(3), seed=2))] == [True]
    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()
    assert reader.plain(path.name) == path.read_bytes(), "what it signed before stays valid"
    assert reader.catalog.voids() == []


def test_a_writer_that_is_added_again_goes_on_without_a_restart(tmp_path: Path) -> None:
    world = World()
    second = new_key(world, KeyRole.WRITER, "second")
    change(world, add=second)
    process = world.began()
    removed = member(world, "writer")
    change(world, remove=removed, signer=second.signer())

    async def run() -> None:
        async with process.archiving() as archiver:
            queue = archiver._queue
            watch = KeyringWatch(archiver._io, pause_s=0.001)
            lane = (process.repository, queue, process.signer.id)
            watching = asyncio.create_task(watch.run([lane]))
            path = wal_file(tmp_path, name_of(1))
            with pytest.raises(WriterRevoked):
                await archiver.archive(path.name, path)
            await asyncio.to_thread(change, world, add=removed, signer=second.signer())
            async with asyncio.timeout(20):
                while True:
                    try:
                        assert (await archiver.archive(path.name, path)).fresh
                    except WriterRevoked:
                        watch.doubted()
                        await asyncio.sleep(0.001)
                    else:
                        break
            watching.cancel()
            await asyncio.wait([watching])

    asyncio.run(run())


def test_a_running_archiver_finishes_a_change_that_was_interrupted(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    with pytest.raises(Killed):
        change(world, add=new_key(world, KeyRole.CUSTODIAN, "carol"), observe=killing_at(1))
    assert keyrings_in_force(world) == [1]

    async def run() -> None:
        async with process.archiving() as archiver:
            watch = KeyringWatch(archiver._io)
            await watch.look(process.repository, archiver._queue, process.signer.id)

    asyncio.run(run())
    assert keyrings_in_force(world) == [1, 2]


def steps_of(wanted: Callable[[World, Callable[[str], None]], object]) -> list[str]:
    """The steps that something takes, to be stopped at each of them."""
    steps: list[str] = []
    world = World()
    world.began()
    second_cluster(world)
    wanted(world, steps.append)
    return steps


def test_a_change_stopped_at_any_step_is_finished_by_the_same_command() -> None:
    def add(world: World, observe: Callable[[str], None], key: KeyFile | None = None) -> object:
        return change(world, add=key or new_key(world, KeyRole.CUSTODIAN, "carol"), observe=observe)

    steps = steps_of(add)
    assert {"keyring: before put", "keyring: after put", "ledger: before put", "keyring: chain done"} <= {
        *steps
    }
    assert steps.count("keyring: chain done") == 2
    for number in range(len(steps)):
        world = World()
        world.began()
        second_cluster(world)
        carol = new_key(world, KeyRole.CUSTODIAN, "carol")
        with pytest.raises(Killed):
            add(world, killing_at(number), carol)
        outcome = change(world, add=carol)
        assert outcome.keyring.n == 2, f"stopped at {number}, {steps[number]}"
        assert not outcome.failures
        assert keyring_bytes(world, 3) is None
        for system in (SYSTEM, OTHER_SYSTEM):
            assert keyrings_in_force(world, system) == [1, 2]


@pytest.mark.parametrize("after", [False, True])
def test_a_put_whose_outcome_is_open_is_said_and_finished_by_the_same_command(after: bool) -> None:
    world = World()
    world.began()
    carol = new_key(world, KeyRole.CUSTODIAN, "carol")
    world.store.fail(Fault("put_new", "v1/keyring/", after=after))
    with pytest.raises(StoreUnavailable, match="keyring 2"):
        change(world, add=carol)
    outcome = change(world, add=carol)
    assert (outcome.keyring.n, outcome.made) == (2, not after)
    assert keyrings_in_force(world) == [1, 2]


def test_of_two_admins_at_once_one_is_told_and_nothing_is_merged() -> None:
    world = World()
    world.began()
    carol, dave = (new_key(world, KeyRole.CUSTODIAN, name) for name in ("carol", "dave"))
    done = []

    def meanwhile(step: str) -> None:
        if step == "keyring: before put":
            done.append(change(world, add=dave))

    with pytest.raises(KeyringChanged, match="keyring 2"):
        change(world, add=carol, observe=meanwhile)
    assert [outcome.keyring.n for outcome in done] == [2]
    names = {one.name for one in world.repository().newest_keyring.members}
    assert "dave" in names
    assert "carol" not in names
    assert change(world, add=carol).keyring.n == 3
    assert keyrings_in_force(world) == [1, 2, 3]


ARCHIVE_STEPS = (
    *("archive: start", "archive: sealed", "archive: put", "archive: deposited"),
    *("ledger: before put", "ledger: after put", "ledger: after apply", "archive: recorded"),
)


@pytest.mark.parametrize("at", ARCHIVE_STEPS)
@pytest.mark.parametrize("fresh", [True, False], ids=["first epoch", "epoch in use"])
def test_a_change_at_any_step_of_two_archivers_loses_no_file_and_seals_to_nobody_removed(
    tmp_path: Path, at: str, fresh: bool
) -> None:
    world = World(custodians=("alice", "bob", "carol"))
    second = new_key(world, KeyRole.WRITER, "second")
    change(world, add=second)
    fired: list[str] = []

    def meanwhile(step: str) -> None:
        if armed and step == at and not fired:
            fired.append(step)
            change(world, remove=member(world, "bob"))

    armed = False
    processes = [world.process(observe=meanwhile), world.process(observe=meanwhile, signer=second.signer())]
    processes[0].begin()
    if not fresh:
        for number, process in enumerate(processes):
            process.archive(wal_file(tmp_path, name_of(number + 1), seed=number))
    armed = True
    paths = [wal_file(tmp_path, name_of(number), seed=number) for number in range(10, 14)]

    async def run(process: Process, mine: list[Path]) -> None:
        async with process.archiving() as archiver:
            await asyncio.gather(*(archiver.archive(path.name, path) for path in mine))

    async def both() -> None:
        await asyncio.gather(run(processes[0], paths[:2]), run(processes[1], paths[2:]))

    asyncio.run(both())
    assert fired
    reader = world.process(write=False, identities=[world.identity("alice")])
    reader.ledger.refresh()
    assert reader.catalog.voids() == []
    for path in paths:
        assert reader.plain(path.name) == path.read_bytes()
    check_epochs_follow_keyrings(world)
    assert reader.catalog.keyring_n() == 3


@pytest.mark.parametrize("at", ARCHIVE_STEPS[:5])
def test_a_writer_removed_at_any_step_before_its_entry_is_never_acknowledged(tmp_path: Path, at: str) -> None:
    world = World()
    second = new_key(world, KeyRole.WRITER, "second")
    change(world, add=second)
    fired: list[str] = []

    def meanwhile(step: str) -> None:
        if step == at and path.exists() and not fired:
            fired.append(step)
            change(world, remove=member(world, "writer"))

    path = tmp_path / name_of(1)
    process = world.process(observe=meanwhile)
    process.begin()
    wal_file(tmp_path, name_of(1))
    with pytest.raises(WriterRevoked):
        process.archive(path)
    reader = world.process(write=False)
    reader.ledger.refresh()
    assert reader.catalog.file(path.name) is None
    assert reader.catalog.voids() == []
