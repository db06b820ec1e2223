"""`verify` over key objects: every revision is read, and one that nobody here opens stops nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.changes import change, new_key, rotate_all
from tests.simulation.world import SYSTEM, World, name_of, wal_file
from walarchiver import archiver
from walarchiver.assembly import Archive
from walarchiver.core.objectname import epoch_key_name
from walarchiver.keys.keyfile import KeyRole
from walarchiver.keys.xwing import XWingIdentity
from walarchiver.operate.verify import Verification, VerifyRequest, verify
from walarchiver.operate.verifyjournal import Journal
from walarchiver.ports import Identity
from walarchiver.repository import first_cluster


def verified(world: World, folder: Path, identity: Identity, *, deep: bool = True) -> Verification:
    process = world.process(write=False, identities=[identity])
    process.ledger.refresh()
    archive = Archive(first_cluster(process.catalog.clusters(), SYSTEM), process.repository, process.ledger)
    return verify(
        archive,
        VerifyRequest(
            deep=deep,
            workers=1,
            memory=64 << 20,
            journal=Journal(folder / "journal", deep=deep, clock=world.clock, restart=True),
            clock=world.clock,
            progress=lambda _progress: None,
        ),
    )


def two_epochs(world: World, folder: Path) -> XWingIdentity:
    """A file before and one after carol came; her key."""
    world.began().archive(wal_file(folder, name_of(1), seed=1))
    carol = new_key(world, KeyRole.CUSTODIAN, "carol")
    change(world, add=carol)
    world.process().archive(wal_file(folder, name_of(2), seed=2))
    return XWingIdentity.from_seed(carol.secret)


def test_what_no_key_here_opens_is_compared_by_hash_and_counted(tmp_path: Path) -> None:
    world = World()
    carol = two_epochs(world, tmp_path)
    found = verified(world, tmp_path, carol)
    assert (found.items, found.damaged) == (4, [])
    (unopened,) = found.unopened
    assert unopened.items == 2
    assert carol.recipient in unopened.message
    assert verified(world, tmp_path, world.identity()).unopened == []


def test_damage_in_what_does_not_open_is_found_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a part behind the one whose key is missing."""
    monkeypatch.setattr(archiver, "PART_BYTES", 512 << 10)
    world = World()
    carol = two_epochs(world, tmp_path)
    (body,) = [key for key in world.keys(name_of(1)) if key.endswith(".0001")]
    content = world.memory.get(body, bytes_max=1 << 24)
    assert content is not None
    world.replace(body, content[:-1] + bytes([content[-1] ^ 1]))
    assert [one.name for one in verified(world, tmp_path, carol).damaged] == [name_of(1)]


def test_every_revision_is_read_and_after_a_rotation_everything_opens(tmp_path: Path) -> None:
    world = World()
    carol = two_epochs(world, tmp_path)
    rotate_all(world, world.identity())
    found = verified(world, tmp_path, carol)
    assert (found.items, found.damaged, found.unopened) == (5, [], [])
    (revision,) = world.keys(".0001.json")
    world.replace(revision, None)
    (damage,) = verified(world, tmp_path, world.identity(), deep=False).damaged
    assert damage.keys == (revision,)
    assert damage.code == "WA-OBJECT-MISSING"
    assert epoch_key_name(SYSTEM, revision.split("/")[-1][:16], 1) == revision
