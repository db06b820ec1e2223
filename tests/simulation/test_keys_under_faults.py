"""Keyring changes and rotations on a store that fails at random, while two hosts archive.

A seed that failed becomes a named test.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.faultystore import FaultyStore
from tests.simulation.changes import change, check_epochs_follow_keyrings, member, new_key, rotate_all
from tests.simulation.world import Process, World, name_of, wal_file
from walarchiver.errors import KeyCannotOpen, KeyringChanged, LedgerContended, Transient
from walarchiver.keys.keyfile import KeyRole
from walarchiver.keys.xwing import XWingIdentity

FILES = 6
TRIES = 400


def until_done(work: Callable[[], object]) -> None:
    """As an operator would: the same command again until it succeeds."""
    for _ in range(TRIES):
        try:
            work()
        except (Transient, KeyringChanged):
            continue
        else:
            return
    raise AssertionError(f"not done in {TRIES} tries")


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_every_file_is_whole_and_the_removed_custodian_opens_no_key_in_force(
    tmp_path: Path, seed: int
) -> None:
    world = World(custodians=("alice", "bob", "carol"))
    second = new_key(world, KeyRole.WRITER, "second")
    dave = new_key(world, KeyRole.CUSTODIAN, "dave")
    change(world, add=second)
    world.began()
    plain = world.plain_store
    assert plain is not None
    world.store = FaultyStore(plain, seed=seed, rate=0.05)
    paths = [[wal_file(tmp_path, name_of(host * 100 + n), seed=n) for n in range(FILES)] for host in (1, 2)]
    acknowledged: list[Path] = []

    async def archive(signer: object, mine: list[Path]) -> None:
        async with await asyncio.to_thread(process_of, signer) as archiver:
            for path in mine:
                for _ in range(TRIES):
                    try:
                        await archiver.archive(path.name, path)
                    except (Transient, LedgerContended):
                        continue
                    acknowledged.append(path)
                    break

    def process_of(signer: object) -> object:
        made: list[Process] = []
        until_done(lambda: made.append(world.process(signer=signer)))
        until_done(made[0].ledger.refresh)
        return made[0].archiving()

    def operate() -> None:
        chance = random.Random(seed)
        bob = member_of(world, "bob")
        until_done(lambda: change(world, add=dave))
        if chance.random() < 0.5:
            until_done(lambda: rotate_all(world, world.identity("alice")))
        until_done(lambda: change(world, remove=bob))
        until_done(lambda: rotate_all(world, XWingIdentity.from_seed(dave.secret)) and None)

    def member_of(world: World, name: str) -> object:
        found: list[object] = []
        until_done(lambda: found.append(member(world, name)))
        return found[0]

    async def run() -> None:
        await asyncio.gather(
            archive(world.key("writer").signer(), paths[0]),
            archive(second.signer(), paths[1]),
            asyncio.to_thread(operate),
        )

    asyncio.run(run())
    world.store = FaultyStore(plain)
    rotate_all(world, world.identity("alice"))
    assert sorted(acknowledged) == sorted([*paths[0], *paths[1]])
    readers = {
        name: world.process(write=False, identities=[world.identity(name)]) for name in ("alice", "bob")
    }
    for reader in readers.values():
        reader.ledger.refresh()
    for path in acknowledged:
        assert readers["alice"].plain(path.name) == path.read_bytes()
        with pytest.raises(KeyCannotOpen):
            readers["bob"].plain(path.name)
    assert readers["alice"].catalog.voids() == []
    check_epochs_follow_keyrings(world)
