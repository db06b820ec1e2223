"""Opening a repository: its mark, its keyrings, its clusters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.simulation.test_repository import content as content
from tests.simulation.test_repository import flipped, reader
from tests.simulation.test_repository import world as world
from tests.simulation.world import SYSTEM, World
from walarchiver.core.objectname import keyring_key, ledger_key, repo_key
from walarchiver.errors import (
    KeyringBroken,
    LedgerBroken,
    MalformedObject,
    NoRepository,
    ObjectDamaged,
    UnknownCluster,
    Untrusted,
    WalarchiverError,
)
from walarchiver.format.keyring import Keyring, parse_keyring, sign_keyring
from walarchiver.format.signed import Signer
from walarchiver.keyringstore import read_keyrings
from walarchiver.keys.init import member_of, prepare_repository, write_repository
from walarchiver.keys.keyfile import KeyFile, KeyRole
from walarchiver.repository import Repository
from walarchiver.storage.memory import MemoryStore


def ring(world: World, n: int) -> bytes:
    raw = world.memory.get(keyring_key(n), bytes_max=1 << 20)
    assert raw is not None
    return raw


def next_keyring(
    world: World,
    *,
    root: Signer | None = None,
    next_root: bytes | None = None,
    extra: bool = False,
    mark: str | None = None,
) -> bytes:
    """The keyring behind the newest one in the store."""
    n = len(world.keys("v1/keyring/"))
    before = parse_keyring(ring(world, n))
    members = before.members
    if extra:
        more = KeyFile(KeyRole.WRITER, "more", before.repo, world.root, bytes([n]) * 32)
        members = (*members, member_of(more))
    following = Keyring(
        n + 1, before.repo, world.clock.now_us(), members, before.sha256, next_root, mark=mark
    )
    return sign_keyring(following, root or world.key("root").signer())


def test_a_store_without_a_repository_says_so(world: World) -> None:
    with pytest.raises(NoRepository):
        Repository.open(MemoryStore(world.clock), root=world.root)


def test_another_root_key_is_refused(world: World) -> None:
    with pytest.raises(KeyringBroken, match="pinned root"):
        Repository.open(world.store, root=World().root)


def test_a_repository_without_keyrings_is_refused(world: World) -> None:
    world.replace(keyring_key(1), None)
    with pytest.raises(KeyringBroken, match="no keyring"):
        world.repository()


@pytest.mark.parametrize("at", [0, 30, -5])
def test_a_changed_keyring_is_refused(world: World, at: int) -> None:
    raw = ring(world, 1)
    world.replace(keyring_key(1), flipped(raw, at % len(raw)))
    with pytest.raises(KeyringBroken):
        world.repository()


def unnamed(world: World) -> None:
    """Make it an older repository, whose keyring does not name the mark."""
    first = replace(parse_keyring(ring(world, 1)), mark=None)
    world.replace(keyring_key(1), sign_keyring(first, world.key("root").signer()))


@pytest.mark.parametrize("named", [True, False])
def test_a_mark_of_another_repository_is_refused(world: World, *, named: bool) -> None:
    if not named:
        unnamed(world)
    world.replace(repo_key(), World().new.mark)
    with pytest.raises(Untrusted, match="not the mark that" if named else "another repository"):
        world.repository()


def test_a_mark_that_cannot_be_read_is_refused(world: World) -> None:
    world.replace(repo_key(), b"{}\n")
    with pytest.raises(ObjectDamaged):
        world.repository()
    unnamed(world)
    with pytest.raises(MalformedObject):
        world.repository()


def test_another_format_says_so_whatever_its_keyrings_are(world: World) -> None:
    world.replace(repo_key(), world.new.mark.replace(b'"format":1', b'"format":2'))
    world.replace(keyring_key(1), b"another format's")
    with pytest.raises(MalformedObject, match="format 2, this release reads format 1"):
        world.repository()


def test_every_flipped_bit_of_the_mark_is_found(world: World) -> None:
    mark = world.new.mark
    for bit in range(len(mark) * 8):
        changed = bytearray(mark)
        changed[bit // 8] ^= 1 << bit % 8
        world.replace(repo_key(), bytes(changed))
        with pytest.raises(ObjectDamaged):
            world.repository()
    world.replace(repo_key(), mark)
    world.repository()


def test_the_mark_that_the_keyrings_name_is_found_below_another_version(world: World) -> None:
    world.plant(repo_key(), World().new.mark)
    assert world.repository().repo == world.new.repo


def test_a_later_keyring_names_the_mark_of_an_older_repository(world: World) -> None:
    unnamed(world)
    world.memory.put_new(keyring_key(2), next_keyring(world, mark=world.repository().mark))
    assert world.repository().repo == world.new.repo
    world.replace(repo_key(), world.new.mark.replace(b'"name":"repo"', b'"name":"rapo"'))
    with pytest.raises(ObjectDamaged):
        world.repository()


def test_keyrings_that_name_different_marks_are_refused(world: World) -> None:
    opened = world.repository()
    world.memory.put_new(keyring_key(2), next_keyring(world, mark="0" * 64))
    with pytest.raises(KeyringBroken):
        opened.refresh()
    with pytest.raises(ObjectDamaged):
        world.repository()


@pytest.mark.parametrize("junk", [b"junk", b"", b"x" * (9 << 20)])
def test_junk_above_a_genuine_keyring_hides_nothing(world: World, junk: bytes) -> None:
    world.plant(keyring_key(1), junk)
    assert list(world.repository().keyrings) == [1]


@pytest.mark.parametrize("junk", [b"junk", b"x" * (9 << 20)])
def test_junk_in_the_next_keyrings_place_is_refused(world: World, junk: bytes) -> None:
    world.memory.put_new(keyring_key(2), junk)
    with pytest.raises(KeyringBroken):
        world.repository()


def test_a_keyring_signed_by_a_stranger_is_refused(world: World) -> None:
    world.memory.put_new(keyring_key(2), next_keyring(world, root=Signer.from_seed(b"x" * 32)))
    with pytest.raises(KeyringBroken, match="root in force"):
        world.repository()


def test_of_two_next_keyrings_the_genuine_one_counts(world: World) -> None:
    genuine = next_keyring(world, extra=True)
    world.memory.put_new(keyring_key(2), next_keyring(world, root=Signer.from_seed(b"x" * 32)))
    world.plant(keyring_key(2), genuine)
    assert ring(world, 2) == genuine
    assert world.repository().newest_keyring.sha256 == parse_keyring(genuine).sha256


def test_two_different_keyrings_that_both_verify_are_refused(world: World) -> None:
    one, two = next_keyring(world), next_keyring(world, extra=True)
    world.memory.put_new(keyring_key(2), one)
    world.plant(keyring_key(2), two)
    with pytest.raises(KeyringBroken, match="2 different"):
        world.repository()


def test_keyrings_are_followed_through_a_change_of_root_from_either_pinned_key(world: World) -> None:
    new_root = Signer.from_seed(b"n" * 32)
    world.memory.put_new(keyring_key(2), next_keyring(world, next_root=new_root.public))
    world.memory.put_new(keyring_key(3), next_keyring(world, root=new_root))
    for pinned in (world.root, new_root.public):
        rings = read_keyrings(world.store, root=pinned)
        assert list(rings) == [1, 2, 3]


def test_the_old_root_cannot_sign_after_it_was_replaced(world: World) -> None:
    new_root = Signer.from_seed(b"n" * 32)
    world.memory.put_new(keyring_key(2), next_keyring(world, next_root=new_root.public))
    world.memory.put_new(keyring_key(3), next_keyring(world))
    with pytest.raises(KeyringBroken):
        world.repository()


def test_a_writer_added_by_a_later_keyring_is_accepted_once_the_keyrings_are_read_anew(world: World) -> None:
    """The reader opened the repository before keyring 2 existed."""
    early = reader(world)
    process = world.began()
    world.memory.put_new(keyring_key(2), next_keyring(world, extra=True))
    more = world.process(signer=Signer.from_seed(b"\x01" * 32))
    ring_2 = more.repository.newest_keyring
    from walarchiver.format.records import KeyringRecord
    from walarchiver.ledger import fact

    assert process.repository.refresh()
    assert process.ledger.commit([fact("keyring", KeyringRecord(2, ring_2.sha256))]) == [None]
    from tests.simulation.test_ledger import archive, wal

    assert more.ledger.commit([archive(wal(4))]) == [None]
    early.ledger.refresh()
    assert early.catalog.voids() == []
    assert early.catalog.file(wal(4).name) == wal(4)


def test_an_init_in_a_place_that_has_a_repository_changes_nothing(world: World) -> None:
    again = prepare_repository("b", ("alice", "bob"), now_us=0, random=world.random)
    before = {key: world.memory.get(key, bytes_max=1 << 20) for key in world.keys("v1/")}
    with pytest.raises(WalarchiverError, match="already"):
        write_repository(world.store, again)
    assert {key: world.memory.get(key, bytes_max=1 << 20) for key in world.keys("v1/")} == before


def test_a_cluster_is_found_by_its_name(world: World, content: bytes) -> None:
    repository = world.repository()
    assert repository.systems() == [SYSTEM]
    assert repository.find_system("main") == repository.find_system(None) == SYSTEM
    with pytest.raises(UnknownCluster, match="it holds: main"):
        repository.find_system("other")


def test_an_empty_repository_has_no_cluster(world: World) -> None:
    with pytest.raises(UnknownCluster, match="it holds: none"):
        world.repository().find_system(None)


def test_strangers_folders_hide_no_cluster(world: World, content: bytes) -> None:
    for key in (
        "v1/c/junk",
        "v1/c/0007/x",
        "v1/c/99999999999999999999999/x",
        f"v1/c/{SYSTEM}0/x",
        f"v1/c/7/{'ledger'}/x",
    ):
        world.memory.put_new(key, b"junk")
    assert world.repository().find_system("main") == SYSTEM


def test_a_broken_ledger_of_another_cluster_hides_no_cluster(world: World, content: bytes) -> None:
    """Somebody copied an entry that a writer signed for place 5 of another chain, without the rest."""
    from tests.simulation.test_ledger import wal
    from walarchiver.format.chain import ChainState, build_entry

    state = ChainState(world.new.repo, "42", next_seq=5, keyring_n=1)
    raw = build_entry(
        state, [wal(1)], time_us=world.clock.now_us(), boot="00" * 8, signer=world.key("writer").signer()
    )
    world.memory.put_new(ledger_key("42", 5), raw)
    repository = world.repository()
    assert repository.find_system("main") == SYSTEM
    from walarchiver.catalog import Catalog

    with pytest.raises(LedgerBroken):
        repository.ledger("42", Catalog(None)).refresh()
