"""Epoch keys: when a new one is drawn, that it can be opened, and that the ledger knows it in time."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.world import MASTER, SYSTEM, Process, World, name_of, segment_bytes, wal_file
from walarchiver import depositor
from walarchiver.archiver import Archived
from walarchiver.core.objectname import keyring_key, ledger_key, parse_epoch_key_name
from walarchiver.core.segment import MIN_SEGMENT_BYTES, parse_wal_file
from walarchiver.depositor import Deposit
from walarchiver.errors import KeyCannotOpen, StoreUnavailable, Untrusted
from walarchiver.format.entry import ENTRY_BYTES_MAX, parse_entry
from walarchiver.format.epoch import parse_epoch_object
from walarchiver.format.header import PREFIX_BYTES, parse_header
from walarchiver.format.keyring import Keyring, Role, parse_keyring, sign_keyring
from walarchiver.format.records import EpochRecord, WalRecord
from walarchiver.ledger import fact

KEYS = f"v1/c/{SYSTEM}/keys/"


def deposit(process: Process, number: int = 1) -> Deposit:
    name = name_of(number)
    plain = segment_bytes(name)
    return process.depositor.seal_wal(
        name=name,
        file=parse_wal_file(name, MIN_SEGMENT_BYTES),
        part=0,
        parts=1,
        raw=len(plain),
        plain=[plain],
    )


def epoch_of_body(body: bytes) -> str:
    length = int.from_bytes(body[8:PREFIX_BYTES], "big")
    return parse_header(body[PREFIX_BYTES : PREFIX_BYTES + length]).epoch


def second_keyring(world: World) -> None:
    """Publish keyring 2, with the same members."""
    first = parse_keyring(world.new.keyring)
    second = Keyring(2, first.repo, world.clock.now_us(), first.members, prev=first.sha256)
    world.memory.put_new(keyring_key(2), sign_keyring(second, world.key("root").signer()))


def test_one_epoch_serves_many_objects() -> None:
    world = World()
    process = world.began()
    assert len({deposit(process).epoch for _ in range(5)}) == 1
    assert len(world.keys(KEYS)) == 1


def test_every_process_draws_its_own_epoch() -> None:
    world = World()
    assert deposit(world.began()).epoch != deposit(world.began()).epoch


def test_a_day_ends_an_epoch() -> None:
    world = World()
    process = world.began()
    first = deposit(process).epoch
    world.clock.advance(86_400)
    assert deposit(process).epoch == first
    world.clock.advance(1)
    assert deposit(process).epoch != first


def test_so_many_objects_end_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depositor, "EPOCH_OBJECTS_MAX", 3)
    process = World().began()
    epochs = [deposit(process).epoch for _ in range(7)]
    assert [epochs.count(epoch) for epoch in dict.fromkeys(epochs)] == [3, 3, 1]


def test_a_store_that_hangs_while_a_key_is_drawn_keeps_no_other_repository_waiting(tmp_path: Path) -> None:
    """All repositories and clusters of a server share the threads that compress and seal."""
    hanging, other = World(), World()
    first, second = hanging.began(), other.began()
    paths = [wal_file(tmp_path, name_of(number)) for number in range(1, 5)]
    gate = hanging.store.hold("put_new", KEYS)

    async def run() -> list[Archived]:
        with ThreadPoolExecutor(1) as cpu:
            async with first.archiving(shared_cpu=cpu) as stuck, second.archiving(shared_cpu=cpu) as free:
                waiting = [asyncio.create_task(stuck.archive(path.name, path)) for path in paths]
                await asyncio.to_thread(gate.wait_reached)
                try:
                    async with asyncio.timeout(10):
                        done = [await free.archive(path.name, path) for path in paths]
                finally:
                    gate.open()
                assert not any(task.done() for task in waiting)
                await asyncio.gather(*waiting)
                return done

    assert all(archived.fresh for archived in asyncio.run(run()))
    assert len(hanging.keys(KEYS)) == 1


def test_a_new_keyring_ends_an_epoch() -> None:
    world = World()
    process = world.began()
    first = deposit(process).epoch
    second_keyring(world)
    process.repository.refresh()
    assert deposit(process).epoch != first


def test_the_key_object_is_durable_before_the_key_is_used() -> None:
    world = World()
    process = world.began()
    world.store.fail(Fault("put_new", KEYS))
    with pytest.raises(StoreUnavailable):
        deposit(process)
    made = deposit(process)
    assert any(made.epoch in key for key in world.store.puts())
    assert not any("/wal/" in key for key in world.store.puts())


def test_a_key_whose_object_met_an_open_outcome_is_never_used() -> None:
    world = World()
    process = world.began()
    world.store.fail(Fault("put_new", KEYS, after=True))
    with pytest.raises(StoreUnavailable):
        deposit(process)
    (name,) = [parse_epoch_key_name(key) for key in world.keys(KEYS)]
    assert name is not None
    assert deposit(process).epoch != name.epoch


def test_a_taken_epoch_name_costs_the_key_and_nothing_else() -> None:
    """The random bytes of the first draw come twice; the name they give is taken."""
    world = World()
    process = world.began()
    first = deposit(process).epoch
    draws = iter([bytes.fromhex(first)])
    token = process.depositor._random.token

    class Again:
        def token(self, length: int) -> bytes:
            return next(draws, token(8)) if length == 8 else token(length)

        def uniform(self, low: float, high: float) -> float:
            return low

    process.depositor._random = Again()
    process.depositor._epoch = None
    second = process.depositor._current_epoch()
    assert next(draws, None) is None, "the taken name was never tried"
    assert second.id != first
    assert len(world.keys(KEYS)) == 2


@pytest.mark.parametrize("master", [False, True])
def test_every_single_custodian_opens_everything(master: bool, tmp_path: Path) -> None:
    world = World(master=master, custodians=("alice", "bob", "carol"))
    process = world.began()
    path = wal_file(tmp_path, name_of(1))
    process.archive(path)
    identities = [world.identity(who) for who in world.custodians] + ([MASTER] if master else [])
    for identity in identities:
        reader = world.process(write=False, identities=[identity])
        reader.ledger.refresh()
        assert reader.plain(path.name) == path.read_bytes()
    (raw,) = [world.memory.get(key, bytes_max=1 << 20) for key in world.keys(KEYS)]
    assert raw is not None
    assert [s.recipient for s in parse_epoch_object(raw).stanzas] == sorted(i.recipient for i in identities)


def test_the_writer_itself_cannot_open_what_it_wrote(tmp_path: Path) -> None:
    process = World().began()
    path = wal_file(tmp_path, name_of(1))
    process.archive(path)
    with pytest.raises(KeyCannotOpen):
        process.plain(path.name)


def test_a_custodian_of_another_repository_cannot_open(tmp_path: Path) -> None:
    world = World()
    path = wal_file(tmp_path, name_of(1))
    world.began().archive(path)
    reader = world.process(write=False, identities=[World().identity()])
    reader.ledger.refresh()
    with pytest.raises(KeyCannotOpen, match="is wrapped to"):
        reader.plain(path.name)


def test_no_record_precedes_the_record_of_its_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, many files at once, epochs of three objects, a store that fails now and then."""
    monkeypatch.setattr(depositor, "EPOCH_OBJECTS_MAX", 3)
    for seed in range(6):
        world = World()
        world.began()
        world.store = type(world.store)(world.memory, seed=seed, rate=0.0)
        processes = [world.began() for _ in range(2)]
        paths = [wal_file(tmp_path, name_of(number), b"", seed=0) for number in range(10)]
        for path in paths:
            path.write_bytes(segment_bytes(path.name))
        world.store.rate = 0.1

        async def run(process: Process, wanted: list[Path]) -> None:
            async with process.archiving() as archiver:
                for _ in range(40):
                    results = await asyncio.gather(
                        *(archiver.archive(path.name, path) for path in wanted), return_exceptions=True
                    )
                    wanted = [
                        path
                        for path, result in zip(wanted, results, strict=True)
                        if isinstance(result, StoreUnavailable)
                    ]
                    assert not [r for r in results if isinstance(r, BaseException)] or wanted
                    if not wanted:
                        return
            raise AssertionError("never done")

        async def both(run_on: list[Process], files: list[Path]) -> None:
            await asyncio.gather(*(run(process, files) for process in run_on))

        asyncio.run(both(processes, paths))
        world.store.rate = 0.0
        assert_epochs_first(world)
        reader = world.process(write=False, identities=[world.identity("bob")])
        reader.ledger.refresh()
        assert [reader.plain(path.name) for path in paths] == [path.read_bytes() for path in paths]


def assert_epochs_first(world: World) -> None:
    """Walk the raw entries as a reader of the format would."""
    known: set[str] = set()
    for seq in range(len(world.keys("/ledger/"))):
        raw = world.memory.get(ledger_key(SYSTEM, seq), bytes_max=ENTRY_BYTES_MAX)
        assert raw is not None
        for record in parse_entry(raw).records:
            if record.kind == "epoch":
                known.add(record.epoch)  # type: ignore[union-attr]
            if isinstance(record, WalRecord):
                for stored in record.objects:
                    body = world.memory.get(stored.key, bytes_max=1 << 30)
                    assert body is not None
                    assert epoch_of_body(body) in known, f"entry {seq}"
    assert known


def test_a_key_object_other_than_the_recorded_one_is_refused(tmp_path: Path) -> None:
    """A stolen writer key makes another revision 0 and puts it on top."""
    world = World()
    process = world.began()
    path = wal_file(tmp_path, name_of(1))
    process.archive(path)
    (key,) = world.keys(KEYS)
    genuine = world.memory.get(key, bytes_max=1 << 20)
    assert genuine is not None
    forged = forged_epoch(world, genuine)
    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()
    world.plant(key, forged)
    assert reader.plain(path.name) == path.read_bytes(), "the genuine version is still there"
    world.replace(key, forged)
    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()
    with pytest.raises(Untrusted, match="not the one that the ledger records"):
        reader.plain(path.name)


def forged_epoch(world: World, genuine: bytes) -> bytes:
    from dataclasses import replace

    from walarchiver.format.epoch import sign_epoch_object

    parsed = parse_epoch_object(genuine)
    return sign_epoch_object(replace(parsed, from_us=parsed.from_us + 1), world.key("writer").signer())


@pytest.mark.parametrize("junk", [b"junk", b"x" * (2 << 20)])
def test_junk_in_the_place_of_a_later_revision_hides_nothing(junk: bytes, tmp_path: Path) -> None:
    world = World()
    path = wal_file(tmp_path, name_of(1))
    world.began().archive(path)
    (key,) = world.keys(KEYS)
    world.memory.put_new(key.replace(".0000.", ".0001."), junk)
    world.memory.put_new(key.replace(".0000.", ".strange."), junk)
    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()
    assert reader.plain(path.name) == path.read_bytes()


@pytest.mark.parametrize("recorded", [True, False])
def test_the_revision_in_force_is_the_newest_that_an_admin_recorded(tmp_path: Path, recorded: bool) -> None:
    """Rotation: an admin wraps the key to other custodians; the newest recorded wrap counts."""
    from dataclasses import replace

    from walarchiver.format.epoch import Stanza, sign_epoch_object

    world = World()
    path = wal_file(tmp_path, name_of(1))
    world.began().archive(path)
    (key,) = world.keys(KEYS)
    raw = world.memory.get(key, bytes_max=1 << 20)
    assert raw is not None
    first = parse_epoch_object(raw)
    admin = world.key("admin").signer()
    (bob,) = [s for s in first.stanzas if s.recipient == world.identity("bob").recipient]
    rotated = replace(first, revision=1, by=admin.id, stanzas=(Stanza(bob.recipient, bob.type, bob.body),))
    second = sign_epoch_object(rotated, admin)
    world.memory.put_new(key.replace(".0000.", ".0001."), second)
    if recorded:
        record = EpochRecord(first.epoch, hashlib.sha256(second).hexdigest(), 1)
        assert world.process(signer=admin).ledger.commit([fact("rotate", record)]) == [None]
    for who, opens in (("bob", True), ("alice", not recorded)):
        reader = world.process(write=False, identities=[world.identity(who)])
        reader.ledger.refresh()
        if opens:
            assert reader.plain(path.name) == path.read_bytes()
        else:
            with pytest.raises(KeyCannotOpen):
                reader.plain(path.name)


def test_a_custodian_outside_the_clusters_scope_gets_no_wrap(tmp_path: Path) -> None:
    from dataclasses import replace

    world = World(custodians=("alice", "bob", "carol"))
    first = parse_keyring(world.new.keyring)
    carol = world.identity("carol").recipient
    members = tuple(
        replace(member, systems=("1234",)) if member.id == carol else member for member in first.members
    )
    second = Keyring(2, first.repo, world.clock.now_us(), members, prev=first.sha256)
    world.memory.put_new(keyring_key(2), sign_keyring(second, world.key("root").signer()))
    process = world.began()
    process.archive(wal_file(tmp_path, name_of(1)))
    (raw,) = [world.memory.get(key, bytes_max=1 << 20) for key in world.keys(KEYS)]
    assert raw is not None
    assert carol not in [stanza.recipient for stanza in parse_epoch_object(raw).stanzas]
    assert len(second.having(Role.CUSTODIAN, SYSTEM)) == 2
