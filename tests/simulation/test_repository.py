"""Reading back: which version of an object counts, and what is never believed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from restore.plainfile import lay_plain, write_plain
from tests.kit.faultystore import Fault
from tests.kit.walmaker import MIB
from tests.simulation.world import SYSTEM, Process, World, name_of, wal_file
from walarchiver.errors import (
    KeyCannotOpen,
    ObjectDamaged,
    ObjectMisplaced,
    ObjectMissing,
    StoreDenied,
    StoreUnavailable,
    Untrusted,
    WalarchiverError,
)
from walarchiver.format.records import StoredObject, WalRecord
from walarchiver.ports import ObjectStore, StoredVersion
from walarchiver.repository import Repository

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
    """What both ways of reading say, which is the same."""
    told = [told_by(way, process, record) for way in (write_plain, lay_plain)]
    assert told[0] == told[1]
    if isinstance(told[0], bytes):
        return told[0]
    kind, message = told[0]
    raise kind(message)


def told_by(
    way: Callable[[Repository, str, WalRecord, BinaryIO], None], process: Process, record: WalRecord
) -> bytes | tuple[type[WalarchiverError], str]:
    out = io.BytesIO()
    try:
        way(process.repository, SYSTEM, record, out)
    except WalarchiverError as error:
        return type(error), error.message
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
    assert seen.versions == [*asked, *asked], "by each of the two ways of reading"
    assert versions[-1] == genuine


def test_a_store_that_refuses_a_strangers_version_id_is_asked_without(world: World, content: bytes) -> None:
    process = reader(world)
    world.store.fail(Fault("get", stored(process).key, error=lambda: StoreDenied("invalid version id")))
    assert opened(process, record_of(process)) == content


def test_a_store_that_refuses_everything_is_not_called_empty(world: World, content: bytes) -> None:
    process = reader(world)
    key = stored(process).key
    world.store.fail(Fault("get", key, times=99, error=lambda: StoreDenied("access denied")))
    with pytest.raises(StoreDenied):
        opened(process, record_of(process))


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
        opened(process, record_of(process))


@pytest.mark.parametrize("at", [0, 9, 40, 500, 70_000, -1])
def test_a_flipped_byte_is_never_handed_out_as_good(world: World, content: bytes, at: int) -> None:
    process = reader(world)
    obj = stored(process)
    body = world.memory.get(obj.key, bytes_max=1 << 30)
    assert body is not None
    world.replace(obj.key, flipped(body, at % len(body)))
    with pytest.raises(ObjectDamaged, match="no version of"):
        opened(process, record_of(process))


@pytest.mark.parametrize("change", ["truncated", "extended"])
def test_a_body_of_another_length_is_damage(world: World, content: bytes, change: str) -> None:
    process = reader(world)
    obj = stored(process)
    body = world.memory.get(obj.key, bytes_max=1 << 30)
    assert body is not None
    world.replace(obj.key, body[:-1] if change == "truncated" else body + b"\0")
    with pytest.raises(ObjectDamaged):
        opened(process, record_of(process))


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
        opened(process, record_of(process))


def test_without_any_identity_the_refusal_says_so(world: World, content: bytes) -> None:
    process = world.process(write=False)
    process.ledger.refresh()
    with pytest.raises(KeyCannotOpen, match="no `identity`"):
        opened(process, record_of(process))
