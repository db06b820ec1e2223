"""`keys init`: a repository is made once, and restores with any one custodian's file."""

from __future__ import annotations

import pytest

from tests.format.world import NOW_US, SYSTEM, seed
from tests.keys.chance import FixedChance
from tests.kit.chance import SteppingClock
from walarchiver.core.objectname import keyring_key, repo_key
from walarchiver.errors import MalformedObject, NoRepository, RepositoryExists, UsageError
from walarchiver.format.epoch import parse_epoch_object
from walarchiver.format.keyring import Role, verify_keyring_chain
from walarchiver.format.mark import parse_mark
from walarchiver.keys.epochs import new_epoch, open_epoch, recipients_of
from walarchiver.keys.init import NewRepository, member_of, prepare_repository, read_mark, write_repository
from walarchiver.keys.keyfile import KeyRole, parse_key_file
from walarchiver.keys.masterkey import MasterKey
from walarchiver.keys.printable import parse_printable
from walarchiver.keys.rootkey import parse_root_text
from walarchiver.keys.xwing import XWingIdentity
from walarchiver.storage.memory import MemoryStore


def prepared(label: str = "init", custodians: tuple[str, ...] = ("alice", "bob")) -> NewRepository:
    return prepare_repository("main", custodians, now_us=NOW_US, random=FixedChance(label))


def test_every_key_is_made_and_is_in_the_keyring() -> None:
    new = prepared()
    assert set(new.key_files) == set(new.printable)
    assert set(new.key_files) == {
        "root.key",
        "admin.key",
        "writer.key",
        "custodian-alice.key",
        "custodian-bob.key",
    }
    ring = verify_keyring_chain(parse_root_text(new.root), [new.keyring])
    keys = [parse_key_file(text) for text in new.key_files.values()]
    assert {key.root for key in keys} == {parse_root_text(new.root)}
    assert {key.repo for key in keys} == {new.repo, ring.repo, parse_mark(new.mark).repo}
    assert len({key.secret for key in keys}) == 5
    assert set(ring.members) == {member_of(key) for key in keys if key.role is not KeyRole.ROOT}
    for name, text in new.printable.items():
        key = parse_key_file(new.key_files[name])
        assert parse_printable(text, name=key.name) == key


def test_any_one_custodian_opens_what_the_writer_seals() -> None:
    new = prepared()
    ring = verify_keyring_chain(parse_root_text(new.root), [new.keyring])
    writer = parse_key_file(new.key_files["writer.key"]).signer()
    drawn = new_epoch(
        recipients_of(ring, SYSTEM),
        repo=new.repo,
        system=SYSTEM,
        signer=writer,
        from_us=NOW_US,
        random=FixedChance("epoch"),
    )
    for name in ("custodian-alice.key", "custodian-bob.key"):
        identity = XWingIdentity.from_seed(parse_key_file(new.key_files[name]).secret)
        assert open_epoch(parse_epoch_object(drawn.raw), [identity]) == drawn.key


def test_secrets_do_not_show_and_are_not_in_the_repository() -> None:
    new = prepared()
    for text in new.key_files.values():
        secret = parse_key_file(text).secret
        assert secret.hex() not in repr(new)
        assert secret.hex().encode() not in new.keyring + new.mark


@pytest.mark.parametrize(
    "custodians", [(), ("alice",), ("alice", "alice"), ("alice", "../bob"), ("alice", ""), ("alice", "b c")]
)
def test_a_single_custodian_or_a_bad_name_is_refused(custodians: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        prepared(custodians=custodians)


def test_a_master_key_may_stand_alone() -> None:
    master = MasterKey.from_bytes(seed("master"))
    new = prepare_repository("main", [], now_us=NOW_US, random=FixedChance("m"), master_key=master)
    ring = verify_keyring_chain(parse_root_text(new.root), [new.keyring])
    assert [member.id for member in ring.having(Role.CUSTODIAN, SYSTEM)] == [master.recipient]
    assert set(new.key_files) == {"root.key", "admin.key", "writer.key"}


def test_the_root_is_no_member() -> None:
    with pytest.raises(UsageError):
        member_of(parse_key_file(prepared().key_files["root.key"]))


def test_a_repository_is_written_once_and_the_same_one_again_is_fine() -> None:
    store = MemoryStore(SteppingClock())
    with pytest.raises(NoRepository):
        read_mark(store)
    new = prepared()
    write_repository(store, new)
    write_repository(store, new)
    assert read_mark(store).repo == new.repo
    with pytest.raises(RepositoryExists):
        write_repository(store, prepared("another"))
    assert store.get(repo_key(), bytes_max=1 << 20) == new.mark
    assert store.get(keyring_key(1), bytes_max=1 << 20) == new.keyring


@pytest.mark.parametrize("half", ["mark", "keyring"])
def test_half_a_repository_is_finished_by_its_maker_and_by_nobody_else(half: str) -> None:
    new = prepared()
    key, body = (repo_key(), new.mark) if half == "mark" else (keyring_key(1), new.keyring)
    store = MemoryStore(SteppingClock())
    store.put_new(key, body)
    with pytest.raises(RepositoryExists):
        write_repository(store, prepared("another"))
    assert sum(1 for _ in store.list_keys("")) == 1
    write_repository(store, new)
    assert store.get(keyring_key(1), bytes_max=1 << 20) == new.keyring


def test_a_strangers_mark_is_refused() -> None:
    store = MemoryStore(SteppingClock())
    store.put_new(repo_key(), b"hello\n")
    with pytest.raises(MalformedObject):
        read_mark(store)
