"""The `facts` part: what was written is read again, spelled canonically; odd bytes are refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core.lsn import Lsn
from walarchiver.core.relfile import PG_CLASS, RelFile, Slot
from walarchiver.errors import MalformedObject
from walarchiver.format.canonical import parse_canonical
from walarchiver.format.relationmap import (
    DatabaseRelations,
    Relation,
    RelationMap,
    parse_relation_map,
    relation_map_bytes,
)

numbers = st.integers(0, 2**32 - 1)
names = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
relations = st.builds(
    Relation,
    numbers,
    names,
    names,
    st.sampled_from("rmpt"),
    st.sampled_from("pu"),
    numbers,
    numbers,
    numbers,
    st.lists(numbers, max_size=2).map(tuple),
    st.builds(Slot, numbers, numbers),
    numbers,
)
databases = st.builds(
    DatabaseRelations,
    oid=numbers,
    name=names,
    before=st.integers(0, 2**64 - 1).map(Lsn),
    after=st.integers(0, 2**64 - 1).map(Lsn),
    schemas=st.lists(st.tuples(numbers, names), max_size=3).map(tuple),
    relations=st.lists(relations, max_size=3).map(tuple),
    problem=names,
)


@given(st.lists(databases, max_size=3).map(tuple).map(RelationMap))
def test_a_map_survives_its_own_bytes_which_are_canonical(found: RelationMap) -> None:
    raw = relation_map_bytes(found)
    assert parse_relation_map(raw) == found
    parse_canonical(raw)


def test_a_partitioned_table_has_no_file_and_pg_class_has_one() -> None:
    parted = Relation(20, "s", "t", "p", "p", 0, 1663, 0, (), Slot(0, 1), 700)
    catalog = parted._replace(oid=PG_CLASS, kind="r", file=1259)
    database = DatabaseRelations(5, "d", Lsn(1), Lsn(2), relations=(catalog, parted))
    assert database.file_of(parted) is None
    assert database.catalog() == RelFile(1663, 5, 1259)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(v=2),
        lambda d: d.pop("databases"),
        lambda d: d["databases"][0].pop("oid"),
        lambda d: d["databases"][0].update(before="x"),
        lambda d: d["databases"][0]["relations"][0].pop(),
        lambda d: d["databases"][0]["relations"][0].__setitem__(0, -1),
        lambda d: d["databases"][0]["relations"][0].__setitem__(0, 1.5),
        lambda d: d["databases"][0]["relations"][0].__setitem__(2, 7),
        lambda d: d["databases"][0]["relations"][0].__setitem__(9, [1]),
        lambda d: d.update(databases=None),
    ],
)
def test_odd_maps_are_refused(change) -> None:  # type: ignore[no-untyped-def]
    one = Relation(20, "s", "t", "r", "p", 20, 1663, 0, (), Slot(0, 1), 700)
    whole = RelationMap((DatabaseRelations(5, "d", Lsn(1), Lsn(2), relations=(one,)),))
    document = json.loads(relation_map_bytes(whole))
    change(document)
    with pytest.raises(MalformedObject):
        parse_relation_map(json.dumps(document).encode())
    for junk in (b"", b"[]", b"\xff", b"[" * 100_000):
        with pytest.raises(MalformedObject):
            parse_relation_map(junk)
