"""From a name, or a file, to the tables that are meant."""

from __future__ import annotations

import pytest

from restore.core.tables import Listed, table_of_file, tables_named
from walarchiver.core.lsn import Lsn
from walarchiver.core.relfile import PG_CLASS, RelFile, Slot
from walarchiver.errors import TableNotListed
from walarchiver.format.relationmap import DatabaseRelations, Relation


def relation(oid: int, name: str, schema: str = "public", kind: str = "r", **more: object) -> Relation:
    found = Relation(oid, schema, name, kind, "p", oid, 1663, 0, (), Slot(0, oid % 100), 700)
    return found._replace(**more)  # type: ignore[arg-type]


SCHEMAS = {"public": 2200, "sales": 16400, "Straße": 16500}
CATALOG = relation(PG_CLASS, "pg_class", "pg_catalog")
ORDERS, SALES = relation(20, "orders"), relation(21, "orders", "sales")
PARTED = relation(30, "parted", kind="p", file=0)
FIRST, SECOND = relation(31, "parted_1", parents=(30,)), relation(32, "parted_2", parents=(30, 99))
INNER = relation(33, "parted_2_1", parents=(32, 30))
QUOTED = relation(40, 'Or"ders.x', "Straße")


def listed(
    *relations: Relation, oid: int = 5, name: str = "shop", lsn: int = 100, problem: str = ""
) -> Listed:
    schemas = tuple((SCHEMAS[name], name) for name in sorted({each.schema for each in relations}))
    database = DatabaseRelations(
        oid, name, Lsn(lsn - 1), Lsn(lsn), schemas, () if problem else (CATALOG, *relations), problem
    )
    return Listed(f"list at {lsn}", database)


SHOP = listed(ORDERS, SALES, PARTED, FIRST, SECOND, INNER, QUOTED, relation(50, "view", kind="v"))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("public.orders", ["public.orders"]),
        ("PUBLIC.Orders", ["public.orders"]),
        ("sales.orders", ["sales.orders"]),
        ('"Straße"."Or""ders.x"', ['Straße.Or"ders.x']),
        ("parted", ["public.parted", "public.parted_1", "public.parted_2", "public.parted_2_1"]),
        ("parted_2", ["public.parted_2", "public.parted_2_1"]),
    ],
)
def test_a_name_means_the_table_and_its_partitions(asked: str, names: list[str]) -> None:
    wanted = tables_named([SHOP], asked, None)
    assert [table.name for table in wanted.tables] == names
    assert (wanted.database, wanted.database_name) == (5, "shop")
    assert wanted.catalog == RelFile(1663, 5, PG_CLASS)
    assert wanted.list_lsns == (100,)
    assert RelFile(1663, 5, 20) in wanted.listed


def test_a_name_that_fits_several_tables_is_refused_with_all_of_them() -> None:
    with pytest.raises(TableNotListed) as refused:
        tables_named([SHOP], "orders", None)
    assert refused.value.message == "orders could be any of these: shop: public.orders, shop: sales.orders"
    other = listed(ORDERS, oid=6, name="other")
    with pytest.raises(TableNotListed, match=r"shop: public\.orders, other: public\.orders"):
        tables_named([SHOP, other], "public.orders", None)
    assert tables_named([SHOP, other], "public.orders", "other").database == 6


@pytest.mark.parametrize("asked", ["nowhere", "public.view", "a.b.c", "", '"orders', "sales.Parted"])
def test_a_name_that_no_list_has_is_refused(asked: str) -> None:
    with pytest.raises(TableNotListed) as refused:
        tables_named([SHOP], asked, None)
    assert refused.value.next_step
    with pytest.raises(TableNotListed, match=r"no list of relations at all|is not TABLE"):
        tables_named([], asked, None)


def test_a_table_that_no_list_has_may_have_been_made_between_two() -> None:
    """With schema and database the WAL can be asked for the name."""
    wanted = tables_named([SHOP], "sales.gone", "shop")
    assert (wanted.tables, wanted.relname) == ((), "gone")
    assert (wanted.schemas, len(wanted.other_schemas)) == ({16400}, 2)
    with pytest.raises(TableNotListed):
        tables_named([SHOP], "sales.gone", "elsewhere")


def test_what_several_lists_say_of_a_table_is_put_together() -> None:
    later = listed(ORDERS._replace(file=77, persistence="u", row=Slot(3, 4)), lsn=200)
    gone = listed(SALES, lsn=300)
    silent = listed(lsn=250, problem="refused")
    wanted = tables_named([SHOP, later, silent, gone], "public.orders", None)
    (table,) = wanted.tables
    assert table.files == {RelFile(1663, 5, 20), RelFile(1663, 5, 77)}
    assert [(one.lsn, one.there, one.slot) for one in table.sightings] == [
        (100, True, Slot(0, 20)),
        (200, True, Slot(3, 4)),
        (300, False, None),
    ]
    assert table.unlogged
    assert wanted.doubts == ()


def test_a_pg_class_that_was_rewritten_between_two_lists_is_a_doubt() -> None:
    moved = Listed(
        "later",
        DatabaseRelations(5, "shop", Lsn(1), Lsn(2), (), (CATALOG._replace(file=9999), ORDERS)),
    )
    (doubt,) = tables_named([SHOP, moved], "public.orders", None).doubts
    assert "pg_class itself was rewritten" in doubt


def test_a_file_means_the_table_that_has_it_or_itself() -> None:
    wanted = table_of_file([SHOP], RelFile(1663, 5, 32))
    assert [table.name for table in wanted.tables] == [
        "public.parted_2"
    ]  # no partitions: one file was asked for
    alone = table_of_file([SHOP], RelFile(1663, 5, 12345))
    assert [(table.name, table.files) for table in alone.tables] == [
        ("1663/5/12345", {RelFile(1663, 5, 12345)})
    ]
    assert (alone.database_name, alone.catalog) == ("shop", RelFile(1663, 5, PG_CLASS))
    unknown = table_of_file([SHOP], RelFile(1663, 6, 1))
    assert (unknown.database_name, unknown.catalog) == ("6", RelFile(1663, 6, PG_CLASS))
