"""Checkpoints by a key that was removed since: what it said in its time counts, and nothing after."""

from __future__ import annotations

import pytest

from tests.simulation.test_checkpoints import HOUR_S, Scene
from tests.simulation.world import SYSTEM
from walarchiver.checkpoints import look_into
from walarchiver.core.objectname import checkpoint_key, keyring_key, ledger_key
from walarchiver.format.checkpoint import Checkpoint, sign_checkpoint
from walarchiver.format.keyring import Keyring, KeyringMember, parse_keyring, sign_keyring
from walarchiver.format.records import KeyringRecord
from walarchiver.format.signed import Signer
from walarchiver.keys.init import member_of
from walarchiver.keys.keyfile import KeyFile, KeyRole
from walarchiver.ledger import fact


@pytest.fixture
def scene() -> Scene:
    return Scene()


class Removed:
    """A chain on which a second writer archived, vouched for it, and was removed at entry 3."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.signer = scene, Signer.from_seed(bytes([1]) * 32)
        self.change(more=(member_of(self.key(scene)),))  # entry 1
        other = scene.world.process(signer=self.signer)
        other.ledger.refresh()
        scene.goes_on(2, other)
        assert scene.keeper(other).keep()
        self.change()  # entry 3

    def key(self, scene: Scene) -> KeyFile:
        return KeyFile(KeyRole.WRITER, "other", scene.world.new.repo, scene.world.root, bytes([1]) * 32)

    def change(self, more: tuple[KeyringMember, ...] = ()) -> None:
        """The next keyring: the first members, and `more`."""
        world, process = self.scene.world, self.scene.process
        rings = world.repository().keyrings
        newest = rings[max(rings)]
        members = (*rings[1].members, *more)
        following = Keyring(newest.n + 1, newest.repo, world.clock.now_us(), members, newest.sha256)
        raw = sign_keyring(following, world.key("root").signer())
        ring = parse_keyring(raw)
        self.scene.world.memory.put_new(keyring_key(ring.n), raw)
        process.repository.refresh()
        process.ledger.refresh()
        assert process.ledger.commit([fact("keyring", KeyringRecord(ring.n, ring.sha256))]) == [None]

    def vouches(self, seq: int, *, keyring: int = 2) -> None:
        """With the key that it still has, naming a keyring that it was in."""
        said = Checkpoint(self.scene.world.new.repo, SYSTEM, seq, "f" * 64, 0, keyring, self.signer.id)
        self.scene.memory.put_new(checkpoint_key(said.repo, SYSTEM, seq), sign_checkpoint(said, self.signer))


def test_a_removed_writer_vouches_only_for_what_came_before_its_removal(scene: Scene) -> None:
    removed = Removed(scene)
    found = scene.place().newest()
    assert found is not None
    assert (found.seq, found.writer) == (2, removed.signer.id), "what it said in its time counts"
    for seq in (4, 5, 1000):
        removed.vouches(seq)
    newest = scene.place().newest()
    assert newest == found
    assert look_into(scene.place(), scene.process.catalog).failure is None
    scene.world.clock.advance(HOUR_S)
    assert scene.keeper().keep(), "it keeps the others from vouching"


def test_on_a_chain_that_was_cut_off_before_its_time_a_writer_vouches(scene: Scene) -> None:
    """The chain that lacks the entry lacks the keyring record, too."""
    removed = Removed(scene)
    for seq in (1, 2, 3):
        scene.world.replace(ledger_key(SYSTEM, seq), None)
    reader = scene.world.process(write=False)
    reader.ledger.refresh()
    assert reader.catalog.keyring_n() == 1
    failure = look_into(scene.place(reader), reader.catalog).failure
    assert failure is not None
    assert "entry 2 of system" in failure.message
    newest = scene.place(reader).newest()
    assert newest is not None
    assert newest.writer == removed.signer.id
