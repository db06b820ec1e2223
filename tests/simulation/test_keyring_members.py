"""Changing a keyring: who may not go, who signs, and what a dry run and doctor tell."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.simulation.changes import (
    OTHER_SYSTEM,
    Killed,
    change,
    keyring_bytes,
    killing_at,
    member,
    new_key,
    second_cluster,
)
from tests.simulation.test_keyring_change import keyrings_in_force
from tests.simulation.world import SYSTEM, World, name_of, wal_file
from walarchiver.assembly import Archive
from walarchiver.errors import (
    LastKeyHolder,
    Untrusted,
    UsageError,
)
from walarchiver.format.keyring import Role
from walarchiver.format.signed import Signer
from walarchiver.keys.change import with_scope
from walarchiver.keys.init import member_of
from walarchiver.keys.keyfile import KeyRole
from walarchiver.keys.rootkey import root_text
from walarchiver.operate.doctorkeys import key_findings
from walarchiver.operate.findings import Level
from walarchiver.settings import RepositorySettings


def test_the_last_custodian_or_writer_is_never_removed_and_the_last_but_one_aloud() -> None:
    world = World()
    world.began()
    for name in ("writer",):
        with pytest.raises(LastKeyHolder, match="no writer"):
            change(world, remove=member(world, name))
    outcome = change(world, remove=member(world, "alice"))
    assert any("only 1 custodian" in line for line in outcome.concerns)
    with pytest.raises(LastKeyHolder, match="no custodian"):
        change(world, remove=member(world, "bob"))
    assert keyring_bytes(world, 3) is None


def test_no_cluster_is_left_without_a_custodian_of_its_own() -> None:
    world = World()
    world.began()
    second_cluster(world)
    carol = with_scope(member_of(new_key(world, KeyRole.CUSTODIAN, "carol")), [SYSTEM])
    change(world, add=carol)
    change(world, remove=member(world, "alice"))
    with pytest.raises(LastKeyHolder, match=OTHER_SYSTEM):
        change(world, remove=member(world, "bob"))


def test_the_admin_who_removes_himself_needs_another_to_sign() -> None:
    world = World()
    world.began()
    with pytest.raises(UsageError, match="neither writer nor admin"):
        change(world, remove=member(world, "admin"))
    assert keyring_bytes(world, 2) is None
    assert change(world, remove=member(world, "admin"), signer=world.key("writer").signer()).keyring.n == 2


def test_only_the_root_in_force_makes_keyrings_and_it_may_hand_over() -> None:
    world = World()
    world.began()
    next_root = Signer.from_seed(b"n" * 32)
    carol, dave = (new_key(world, KeyRole.CUSTODIAN, name) for name in ("carol", "dave"))
    with pytest.raises(Untrusted, match="not the root in force"):
        change(world, add=carol, root=next_root)
    change(world, next_root=next_root.public)
    with pytest.raises(Untrusted, match="not the root in force"):
        change(world, add=carol)
    assert change(world, add=carol, root=next_root).keyring.n == 3
    world.root = next_root.public  # whoever pins the new one goes on, too
    assert change(world, add=dave, root=next_root).keyring.n == 4


def test_a_dry_run_changes_nothing_and_refuses_what_the_run_would() -> None:
    world = World()
    world.began()
    before = world.keys("")
    outcome = change(world, remove=member(world, "alice"), dry_run=True)
    assert (outcome.made, outcome.keyring.n) == (True, 2)
    assert not any(one.name == "alice" for one in outcome.keyring.members)
    with pytest.raises(LastKeyHolder):
        change(world, remove=member(world, "writer"), dry_run=True)
    assert world.keys("") == before


def test_a_name_stands_for_one_key_of_a_role() -> None:
    world = World()
    world.began()
    with pytest.raises(UsageError, match="called 'alice'"):
        change(world, add=new_key(world, KeyRole.CUSTODIAN, "alice"))
    scoped = with_scope(member(world, "alice"), [SYSTEM])
    with pytest.raises(UsageError, match="is in keyring 1 already"):
        change(world, add=scoped)


def test_a_chain_that_cannot_be_extended_is_reported_and_the_others_are_done(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    process.archive(wal_file(tmp_path, name_of(1)))
    second_cluster(world)
    first = world.keys(f"{SYSTEM}/ledger/")[0]
    kept = world.memory.get(first, bytes_max=1 << 20)
    world.replace(first, None)
    carol = new_key(world, KeyRole.CUSTODIAN, "carol")
    outcome = change(world, add=carol)
    assert [chain.system for chain in outcome.failures] == [SYSTEM]
    assert keyrings_in_force(world, OTHER_SYSTEM) == [1, 2]
    world.replace(first, kept)
    again = change(world, add=carol)
    assert (again.made, again.failures) == (False, [])
    assert keyrings_in_force(world) == [1, 2]


def test_roles_are_what_a_member_was_added_for() -> None:
    world = World()
    world.began()
    pruner = new_key(world, KeyRole.PRUNER, "gc")
    change(world, add=pruner)
    assert world.repository().newest_keyring.has_role(Role.PRUNER, pruner.signer().id, SYSTEM)
    assert not world.repository().newest_keyring.has_role(Role.WRITER, pruner.signer().id, SYSTEM)
    ring = world.repository().newest_keyring
    assert (ring.n, ring.mark) == (2, hashlib.sha256(world.new.mark).hexdigest())


def test_doctor_tells_of_a_change_that_is_not_in_force_and_of_too_few_custodians() -> None:
    world = World()
    process = world.began()
    section = RepositorySettings(url="file:///nowhere", root=root_text(world.root))

    def levels() -> list[tuple[Level, str]]:
        reader = world.process(write=False)
        reader.ledger.refresh()
        archive = Archive(process.catalog.clusters()[0], reader.repository, reader.ledger)
        found = key_findings("", section, archive, archiving=False)
        return [(one.level, one.text) for one in found if one.name == "keyring"]

    assert [level for level, _ in levels()] == [Level.OK]
    with pytest.raises(Killed):
        change(world, remove=member(world, "alice"), observe=killing_at(1))
    told = levels()
    assert [level for level, _ in told] == [Level.WARN, Level.WARN]
    assert "keyring 1 is in force" in told[0][1]
    assert "only 1 custodian (bob)" in told[1][1]
