"""Rotation: the same epoch keys, wrapped to the custodians of today, whatever stops it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.changes import (
    Killed,
    chain_records,
    change,
    check_epochs_follow_keyrings,
    key_object,
    killing_at,
    member,
    new_key,
    rotate_all,
    second_cluster,
)
from tests.simulation.world import MASTER, SYSTEM, World, name_of, wal_file
from walarchiver import depositor
from walarchiver.catalog import Catalog
from walarchiver.core.objectname import epoch_key_name
from walarchiver.errors import KeyCannotOpen, KeyringChanged, StoreUnavailable, UsageError
from walarchiver.format.records import EpochRecord
from walarchiver.keys.keyfile import KeyRole
from walarchiver.keys.xwing import XWingIdentity
from walarchiver.keytest import try_keys
from walarchiver.ports import Identity


def archived(world: World, folder: Path, count: int, *, first: int = 1) -> list[Path]:
    """Files sealed with an epoch key each, by a process each."""
    paths = [wal_file(folder, name_of(first + n), seed=first + n) for n in range(count)]
    for path in paths:
        world.process().archive(path)
    return paths


def opens(world: World, path: Path, identity: Identity) -> bool:
    reader = world.process(write=False, identities=[identity])
    reader.ledger.refresh()
    try:
        return reader.plain(path.name) == path.read_bytes()
    except KeyCannotOpen:
        return False


def revisions(world: World) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for record in chain_records(world):
        if isinstance(record, EpochRecord):
            found.setdefault(record.epoch, []).append(record.rev or 0)
    return found


def test_after_a_removal_and_a_rotation_only_the_remaining_custodians_open(
    tmp_path: Path,
) -> None:
    world = World(custodians=("alice", "bob", "carol"))
    world.began()
    paths = archived(world, tmp_path, 3)
    bodies = {key: world.memory.get(key, bytes_max=1 << 24) for key in world.keys("/wal/")}
    change(world, remove=member(world, "bob"))
    assert all(opens(world, path, world.identity("bob")) for path in paths), "until the rotation"
    (done,) = rotate_all(world, world.identity("alice"))
    assert (done.epochs, done.written, done.opened, done.current, done.failed) == (3, 3, 3, 0, [])
    for path in paths:
        assert not opens(world, path, world.identity("bob"))
        assert opens(world, path, world.identity("alice"))
        assert opens(world, path, world.identity("carol"))
    assert {key: world.memory.get(key, bytes_max=1 << 24) for key in world.keys("/wal/")} == bodies
    assert all(found == [0, 1] for found in revisions(world).values())
    check_epochs_follow_keyrings(world)


def test_an_added_custodian_opens_everything_after_a_rotation_and_a_second_one_has_nothing_to_do(
    tmp_path: Path,
) -> None:
    world = World()
    world.began()
    paths = archived(world, tmp_path, 2)
    carol = new_key(world, KeyRole.CUSTODIAN, "carol")
    change(world, add=carol)
    identity = XWingIdentity.from_seed(carol.secret)
    rotate_all(world, world.identity())
    assert all(opens(world, path, identity) for path in paths)
    before = world.keys("/keys/")
    (again,) = rotate_all(world, identity)
    assert (again.current, again.written) == (2, 0)
    assert world.keys("/keys/") == before


def test_rotation_wraps_to_a_master_key_too(tmp_path: Path) -> None:
    world = World(master=True)
    world.began()
    (path,) = archived(world, tmp_path, 1)
    change(world, remove=member(world, "bob"))
    rotate_all(world, MASTER)
    assert opens(world, path, MASTER)
    assert not opens(world, path, world.identity("bob"))


def test_a_rotation_stopped_at_any_step_is_finished_by_the_next_and_nothing_unrecorded_counts(
    tmp_path: Path,
) -> None:
    def prepared(name: str) -> tuple[World, list[Path]]:
        world = World(custodians=("alice", "bob", "carol"))
        world.began()
        paths = archived(world, tmp_path / name, 2)
        change(world, remove=member(world, "bob"))
        return world, paths

    steps: list[str] = []
    world, _ = prepared("steps")
    rotate_all(world, world.identity("alice"), observe=steps.append)
    assert "rotate: after put" in steps
    assert "ledger: before put" in steps
    for number in range(len(steps)):
        world, paths = prepared(f"at{number}")
        with pytest.raises(Killed):
            rotate_all(world, world.identity("alice"), observe=killing_at(number))
        assert all(opens(world, path, world.identity("carol")) for path in paths)
        (done,) = rotate_all(world, world.identity("alice"))
        assert done.current + done.written == 2, f"stopped at {steps[number]}"
        assert not any(opens(world, path, world.identity("bob")) for path in paths)
        assert all(opens(world, path, world.identity("carol")) for path in paths)


def test_an_open_put_is_never_adopted(tmp_path: Path) -> None:
    world = World(custodians=("alice", "bob", "carol"))
    world.began()
    (path,) = archived(world, tmp_path, 1)
    change(world, remove=member(world, "bob"))
    (epoch,) = revisions(world)
    world.store.fail(Fault("put_new", f"v1/c/{SYSTEM}/keys/", after=True))
    with pytest.raises(StoreUnavailable):
        rotate_all(world, world.identity("alice"))
    rotate_all(world, world.identity("alice"))
    assert revisions(world) == {epoch: [0, 2]}
    assert not opens(world, path, world.identity("bob"))


def test_a_keyring_change_during_a_rotation_stops_it_before_anything_is_recorded(tmp_path: Path) -> None:
    world = World(custodians=("alice", "bob", "carol", "dave"))
    world.began()
    archived(world, tmp_path, 1)
    change(world, remove=member(world, "bob"))
    fired: list[str] = []

    def meanwhile(step: str) -> None:
        if step == "rotate: before record" and not fired:
            fired.append(step)
            change(world, remove=member(world, "dave"))

    with pytest.raises(KeyringChanged, match="keyring 3"):
        rotate_all(world, world.identity("alice"), observe=meanwhile)
    assert all(found == [0] for found in revisions(world).values())
    rotate_all(world, world.identity("alice"))
    check_epochs_follow_keyrings(world)


def test_two_rotations_at_once_both_end_and_the_keys_open(tmp_path: Path) -> None:
    world = World(custodians=("alice", "bob", "carol"))
    world.began()
    (path,) = archived(world, tmp_path, 1)
    change(world, remove=member(world, "bob"))
    fired: list[str] = []

    def meanwhile(step: str) -> None:
        if step == "rotate: before record" and not fired:
            fired.append(step)
            rotate_all(world, world.identity("carol"))

    rotate_all(world, world.identity("alice"), observe=meanwhile)
    assert fired
    assert opens(world, path, world.identity("carol"))
    assert not opens(world, path, world.identity("bob"))
    check_epochs_follow_keyrings(world)


@pytest.mark.parametrize("at", ["archive: sealed", "archive: deposited", "ledger: before put"])
def test_a_rotation_while_an_archiver_draws_a_new_key_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Epoch rollover in flight: every file has a key of its own here."""
    monkeypatch.setattr(depositor, "EPOCH_OBJECTS_MAX", 1)
    world = World(custodians=("alice", "bob", "carol"))
    fired: list[str] = []

    def meanwhile(step: str) -> None:
        if armed and step == at and not fired:
            fired.append(step)
            change(world, remove=member(world, "bob"))
            rotate_all(world, world.identity("alice"))

    armed = False
    process = world.process(observe=meanwhile)
    process.begin()
    paths = [wal_file(tmp_path, name_of(n), seed=n) for n in range(1, 4)]
    process.archive(paths[0])
    armed = True
    process.archive(*paths[1:])
    assert fired
    assert not any(opens(world, path, world.identity("bob")) for path in paths)
    assert all(opens(world, path, world.identity("carol")) for path in paths)
    assert check_epochs_follow_keyrings(world) == 4


def test_an_epoch_that_does_not_open_is_reported_and_the_others_are_rotated(tmp_path: Path) -> None:
    world = World(custodians=("alice", "bob"))
    world.began()
    archived(world, tmp_path, 1)
    carol = new_key(world, KeyRole.CUSTODIAN, "carol")
    change(world, add=carol)
    archived(world, tmp_path, 1, first=2)
    dave = new_key(world, KeyRole.CUSTODIAN, "dave")
    change(world, add=dave)
    (done,) = rotate_all(world, XWingIdentity.from_seed(carol.secret))
    assert (done.written, [left.code for left in done.failed]) == (1, ["WA-KEY"])


def test_only_an_admin_rotates_and_only_who_can_open(tmp_path: Path) -> None:
    world = World()
    world.began()
    archived(world, tmp_path, 1)
    with pytest.raises(UsageError, match="no admin"):
        rotate_all(world, world.identity(), admin=world.key("writer").signer())
    before = world.keys("")
    (would,) = rotate_all(world, world.identity(), dry_run=True)
    assert (would.epochs, would.current) == (1, 1)
    change(world, add=new_key(world, KeyRole.CUSTODIAN, "carol"))
    before = world.keys("")
    (would,) = rotate_all(world, world.identity(), dry_run=True)
    assert would.written == 1
    assert world.keys("") == before


def test_a_revision_taken_away_again_leaves_the_one_below_in_force(tmp_path: Path) -> None:
    world = World(custodians=("alice", "bob", "carol"))
    world.began()
    (path,) = archived(world, tmp_path, 1)
    change(world, remove=member(world, "bob"))
    rotate_all(world, world.identity("alice"))
    (epoch,) = revisions(world)
    assert key_object(world, epoch, 1).by == world.key("admin").signer().id
    world.replace(epoch_key_name(SYSTEM, epoch, 1), None)
    assert opens(world, path, world.identity("alice"))


def test_testing_keys_proves_what_each_opens_and_no_more(tmp_path: Path) -> None:
    world = World()
    world.began()
    archived(world, tmp_path, 2)
    second_cluster(world)
    carol = new_key(world, KeyRole.CUSTODIAN, "carol")
    change(world, add=carol)
    archived(world, tmp_path, 1, first=3)
    identity = XWingIdentity.from_seed(carol.secret)

    def tried(*identities: Identity, every: bool) -> dict[str, tuple[bool, int, int]]:
        found = try_keys(world.repository(*identities), lambda _system: Catalog(None), every=every)
        assert [one.cluster for one in found] == ["main", "other"]
        assert not found[1].epochs
        assert found[0].failed == any(
            c.at_hand and c.opened < len(found[0].epochs) for c in found[0].custodians
        )
        return {one.name: (one.at_hand, one.wrapped, one.opened) for one in found[0].custodians}

    assert tried(identity, every=False) == {
        "alice": (False, 1, 0),
        "bob": (False, 1, 0),
        "carol": (True, 1, 1),
    }
    assert tried(identity, world.identity("bob"), every=True) == {
        "alice": (False, 3, 0),
        "bob": (True, 3, 3),
        "carol": (True, 1, 1),
    }
    change(world, remove=member(world, "bob"))
    assert tried(world.identity("bob"), every=False)[""] == (True, 1, 1)
    with pytest.raises(KeyCannotOpen):
        tried(every=False)
