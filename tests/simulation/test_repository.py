"""Reading back: which version of an object counts, and what is never believed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from restore.plainfile import write_plain
from tests.kit.faultystore import Fault
from tests.kit.walmaker import MIB
from tests.simulation.world import SYSTEM, Process, World, name_of, wal_file
from walarchiver.core.objectname import keyring_key, ledger_key, repo_key
from walarchiver.errors import (
    KeyCannotOpen,
    KeyringBroken,
    LedgerBroken,
    MalformedObject,
    NoRepository,
    ObjectDamaged,
    ObjectMisplaced,
    ObjectMissing,
    StoreDenied,
    StoreUnavailable,
    UnknownCluster,
    Untrusted,
    WalarchiverError,
)
from walarchiver.format.keyring import Keyring, parse_keyring, sign_keyring
from walarchiver.format.records import StoredObject, WalRecord
from walarchiver.format.signed import Signer
from walarchiver.keys.init import member_of, prepare_repository, write_repository
from walarchiver.keys.keyfile import KeyFile, KeyRole
from walarchiver.ports import ObjectStore, StoredVersion
from walarchiver.repository import Repository, read_keyrings
from walarchiver.storage.memory import MemoryStore

NAME = name_of(1)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def content(world: World, tmp_path: Path) -> bytes:
    path = wal_file(tmp_path, NAME)
    world.began().archive(path)
    return path.read_bytes()


def reader(world: World) -> Process:
    process = world.process(write=False, identities=[world.identity()])
    process.ledger.refresh()
    return process


def stored(process: Process, name: str = NAME) -> StoredObject:
    record = process.catalog.file(name)
    assert record is not None
    return record.objects[0]


def opened(process: Process, record: WalRecord) -> bytes:
    out = io.BytesIO()
    write_plain(process.repository, SYSTEM, record, out)
    return out.getvalue()


def record_of(process: Process, name: str = NAME) -> WalRecord:
    record = process.catalog.file(name)
    assert isinstance(record, WalRecord)
    return record


# --- versions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hint", [None, "0000000000000001", "of-another-store"])
def test_a_version_hint_that_is_wrong_costs_nothing(world: World, content: bytes, hint: str | None) -> None:
    process = reader(world)
    record = record_of(process)
    moved = replace(record, objects=(replace(record.objects[0], version_id=hint),))
    assert opened(process, moved) == content


class _Asked:
    """A store that tells which versions of a name were asked for, in order; `all` is a listing."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self.versions: list[str | None] = []

    def get(self, key: str, *, version_id: str | None = None, bytes_max: int) -> bytes | None:
        if key == self._key:
            self.versions.append(version_id)
        return self._store.get(key, version_id=version_id, bytes_max=bytes_max)

    def list_versions(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        if prefix == self._key:
            self.versions.append("all")
        return self._store.list_versions(prefix, start_after=start_after)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@pytest.mark.parametrize("step", ["hint", "latest", "all"])
def test_the_hint_is_tried_first_then_the_latest_then_all(world: World, content: bytes, step: str) -> None:
    """A copied repository has other version ids; a later version may stand above the genuine one."""
    process = reader(world)
    obj = stored(process)
    genuine = obj.version_id
    assert genuine is not None, "what was archived into a store with versions carries the hint"
    if step != "latest":
        world.plant(obj.key, b"planted above")
    versions = [v.version_id for v in world.memory.list_versions(obj.key) if not v.is_delete_marker]
    hint, asked = {
        "hint": (genuine, [genuine]),
        "latest": ("of-another-store", ["of-another-store", None]),
        "all": ("of-another-store", ["of-another-store", None, "all", *versions]),
    }[step]
    seen = _Asked(world.store, obj.key)
    process.repository.store = seen  # type: ignore[assignment]
    record = record_of(process)
    moved = replace(record, objects=(replace(obj, version_id=hint),))
    assert opened(process, moved) == content
    assert seen.versions == asked
    assert versions[-1] == genuine


def test_a_store_that_refuses_a_strangers_version_id_is_asked_without(world: World, content: bytes) -> None:
    process = reader(world)
    world.store.fail(Fault("get", stored(process).key, error=lambda: StoreDenied("invalid version id")))
    assert process.plain(NAME) == content


def test_a_store_that_refuses_everything_is_not_called_empty(world: World, content: bytes) -> None:
    process = reader(world)
    key = stored(process).key
    world.store.fail(Fault("get", key, times=99, error=lambda: StoreDenied("access denied")))
    with pytest.raises(StoreDenied):
        process.plain(NAME)


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.mark.parametrize("kind", ["flipped", "shorter", "longer", "deleted", "another object"])
def test_a_damaged_newest_version_is_passed_over_for_the_genuine_one(
    world: World, content: bytes, kind: str, tmp_path: Path
) -> None:
    process = reader(world)
    obj = stored(process)
    body = world.memory.get(obj.key, bytes_max=1 << 30)
    assert body is not None
    other = world.memory.get(world.keys("/keys/")[0], bytes_max=1 << 30)
    assert other is not None
    if kind == "deleted":
        world.memory.add_delete_marker(obj.key)
    else:
        bad = {"flipped": flipped(body, 5000), "shorter": body[:-1], "longer": body + b"\0"}
        world.plant(obj.key, bad.get(kind, other))
    for hint in (obj.version_id, None, "wrong"):
        record = record_of(process)
        asked = replace(record, objects=(replace(obj, version_id=hint),))
        assert opened(process, asked) == content


def test_a_missing_object_is_missing_and_not_absent(world: World, content: bytes) -> None:
    process = reader(world)
    world.replace(stored(process).key, None)
    with pytest.raises(ObjectMissing, match="recorded in the ledger but is not in"):
        process.plain(NAME)


@pytest.mark.parametrize("at", [0, 9, 40, 500, 70_000, -1])
def test_a_flipped_byte_is_never_handed_out_as_good(world: World, content: bytes, at: int) -> None:
    process = reader(world)
    obj = stored(process)
    body = world.memory.get(obj.key, bytes_max=1 << 30)
    assert body is not None
    world.replace(obj.key, flipped(body, at % len(body)))
    with pytest.raises(ObjectDamaged, match="no version of"):
        process.plain(NAME)


@pytest.mark.parametrize("change", ["truncated", "extended"])
def test_a_body_of_another_length_is_damage(world: World, content: bytes, change: str) -> None:
    process = reader(world)
    obj = stored(process)
    body = world.memory.get(obj.key, bytes_max=1 << 30)
    assert body is not None
    world.replace(obj.key, body[:-1] if change == "truncated" else body + b"\0")
    with pytest.raises(ObjectDamaged):
        process.plain(NAME)


def test_bytes_that_the_record_vouches_for_must_still_be_the_file_that_was_asked(
    world: World, tmp_path: Path
) -> None:
    """A lying record: right hash of the stored body, but of another segment."""
    world.began().archive(wal_file(tmp_path, NAME), wal_file(tmp_path, name_of(2)))
    process = reader(world)
    first, second = record_of(process), record_of(process, name_of(2))
    with pytest.raises(ObjectMisplaced):
        opened(process, replace(first, objects=second.objects))
    with pytest.raises(ObjectDamaged):
        opened(process, replace(first, digest=second.digest))
    with pytest.raises(ObjectDamaged):
        opened(process, replace(first, len=MIB - 1))
    with pytest.raises(Untrusted):
        opened(process, replace(first, objects=first.objects * 2))


@pytest.mark.parametrize("error", [StoreUnavailable, StoreDenied])
@pytest.mark.parametrize("prefix", ["wal/", "keys/"])
def test_a_store_that_cannot_be_read_is_said_to_be_so(
    world: World, content: bytes, prefix: str, error: type[WalarchiverError]
) -> None:
    process = reader(world)
    for operation in ("get", "list_versions"):
        fault = Fault(operation, f"v1/c/{SYSTEM}/{prefix}", times=99, error=lambda: error("no"))
        world.store.fail(fault)
    with pytest.raises(error):
        process.plain(NAME)


def test_without_any_identity_the_refusal_says_so(world: World, content: bytes) -> None:
    process = world.process(write=False)
    process.ledger.refresh()
    with pytest.raises(KeyCannotOpen, match="no `identity`"):
        process.plain(NAME)


# --- keyrings ----------------------------------------------------------------------------------------


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


# --- clusters ----------------------------------------------------------------------------------------


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
