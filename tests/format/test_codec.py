"""Records: understood whole or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.format.world import CLUSTER, RECORD_1, gap, horizon
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime, StoreTime
from walarchiver.errors import MalformedObject
from walarchiver.format import records as r
from walarchiver.format import scans
from walarchiver.format.canonical import canonical_json, parse_canonical
from walarchiver.format.codec import KNOWN_KINDS, parts_sha256, record_from_json, record_to_json

sizes = st.integers(0, 2**53 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
systems = st.integers(1, 2**64 - 1).map(str)
HASHES = {"digest", "sha256", "stored_sha256", "parts_sha256", "old", "new"}


def of_class(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any value of a record class, by its fields."""
    return st.builds(cls, **{field.name: of_field(field.name, str(field.type)) for field in fields(cls)})


def of_field(name: str, hint: str) -> st.SearchStrategy[Any]:
    if hint.endswith(" | None"):
        return st.none() | of_field(name, hint.removesuffix(" | None"))
    if hint.startswith("tuple["):
        inner = hint.removeprefix("tuple[").removesuffix(", ...]")
        return st.lists(of_field(name, inner), max_size=2).map(tuple)
    if hint == "str":
        return hashes if name in HASHES else systems if name == "system" else texts
    plain: dict[str, st.SearchStrategy[Any]] = {
        "int": sizes,
        "bool": st.booleans(),
        "Lsn": st.integers(0, 2**64 - 1).map(Lsn),
        "CommitTime": st.integers(0, 4_000_000_000_000_000).map(CommitTime),
        "StoreTime": st.integers(0, 4_000_000_000_000_000).map(StoreTime),
    }
    if hint in plain:
        return plain[hint]
    cls = getattr(r, hint, None) or getattr(scans, hint)
    assert is_dataclass(cls)
    return of_class(cls)  # type: ignore[arg-type]


KINDS = [cls for cls in get_args(r.Record) if cls is not r.UnknownRecord]


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.kind)
@settings(max_examples=25)
@given(data=st.data())
def test_every_record_survives_its_json(cls: type[Any], data: st.DataObject) -> None:
    record = data.draw(of_class(cls))
    spelled = canonical_json(record_to_json(record))
    assert record_from_json(parse_canonical(spelled)) == record


def test_all_kinds_are_known() -> None:
    assert {cls.kind for cls in KINDS} == KNOWN_KINDS


def test_records_are_spelled_as_the_format_says() -> None:
    assert canonical_json(record_to_json(horizon())) == (
        b'{"kind":"horizon","lsn":"0/3000148","time":"2026-11-22T14:32:06.000000Z","timeline":1}'
    )
    space = r.TablespaceFact(16384, 1, None)
    label = r.LabelRecord("x", "0" * 64, 3, (r.StoredObject("k", 9, "1" * 64),))
    assert record_to_json(label)["objects"] == [{"key": "k", "stored_len": 9, "stored_sha256": "1" * 64}]
    assert space.path is None


def test_an_unknown_kind_is_kept_verbatim() -> None:
    spelled = b'{"kind":"tide","lsn":null,"whatever":[1,{"x":"y"}]}'
    record = record_from_json(parse_canonical(spelled))
    assert record == r.UnknownRecord("tide", spelled)
    assert canonical_json(record_to_json(record)) == spelled


def changed(**members: object) -> dict[str, Any]:
    value: dict[str, Any] = {**record_to_json(horizon()), **members}
    return {name: member for name, member in value.items() if member is not ...}


@pytest.mark.parametrize(
    "value",
    [
        changed(lsn=...),
        changed(more=1),
        changed(timeline="1"),
        changed(timeline=True),
        changed(timeline=-1),
        changed(timeline=None),
        changed(lsn="0/03000148"),
        changed(lsn="0/3000148 "),
        changed(lsn="0/abc"),
        changed(lsn=50331976),
        changed(time="2026-11-22T14:32:06Z"),
        changed(time="2026-11-22T14:32:06.000000+00:00"),
        changed(time="2026-13-22T14:32:06.000000Z"),
        changed(kind=""),
        changed(kind=7),
        changed(kind=...),
        [],
        "horizon",
        {**record_to_json(RECORD_1), "sha256": "AB" * 32},
        {**record_to_json(RECORD_1), "sha256": "ab" * 31},
        {**record_to_json(CLUSTER), "system": "007"},
        {**record_to_json(CLUSTER), "system": "18446744073709551616"},
        {**record_to_json(CLUSTER), "data_checksums": 1},
        {**record_to_json(gap()), "cause": ["x"]},
    ],
)
def test_a_record_that_is_not_quite_one_is_refused(value: Any) -> None:
    with pytest.raises(MalformedObject):
        record_from_json(value)


@pytest.mark.parametrize(
    "record",
    [
        r.KeyringRecord(1, "short"),
        r.HorizonRecord(CommitTime(10**18), Lsn(1), 1),
        r.HorizonRecord(CommitTime(0), Lsn(2**64), 1),
        r.HorizonRecord(CommitTime(0), Lsn(1), -1),
        r.UnknownRecord("wal", b'{"kind":"wal"}'),
        r.UnknownRecord("tie", b'{"kind":"pin"}'),
        r.UnknownRecord("tie", b'{"kind": "tie"}'),
    ],
)
def test_an_illegal_record_is_never_written(record: r.Record) -> None:
    with pytest.raises(MalformedObject):
        record_to_json(record)


def test_the_hash_over_parts_does_not_depend_on_the_order_they_landed_in() -> None:
    stored = r.StoredObject("k", 9, "1" * 64)
    parts = [r.BackupPart(n, "tar", 0, n * 10, 10, "2" * 64, stored) for n in range(3)]
    again = parts_sha256(list(reversed(parts)))
    assert parts_sha256(parts) == again
    one = (
        '{"digest":"'
        + "2" * 64
        + '","n":%d,"object":{"key":"k","stored_len":9,"stored_sha256":"'
        + "1" * 64
        + '"},"offset":%d,"raw":10,"role":"tar","stream":0}'
    )
    spelled = "[" + ",".join(one % (n, n * 10) for n in range(3)) + "]"
    assert again == hashlib.sha256(spelled.encode()).hexdigest()
    assert parts_sha256(parts[:2]) != again
