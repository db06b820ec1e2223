"""`peek` and `rescue`: what is refused before anything is asked, and how a table's name is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.cli.main import main
from walarchiver.core.table import NAME_BYTES_MAX, TableName
from walarchiver.errors import UsageError

REFUSED = [
    (["rescue", "--at", "latest", "--table", "t"], "neither --out nor --into-dsn"),
    (["rescue", "--table", "t", "--out", "{new}"], "--at is missing"),
    (["rescue", "--at", "latest", "--table", "a.b.c", "--out", "{new}"], "has 3 parts"),
    (["rescue", "--at", "latest", "--table", "a b", "--out", "{new}"], "no table's name"),
    (["rescue", "--at", "latest", "--table", "t", "--out", "{there}"], "exists already"),
    (["rescue", "--at", "latest", "--table", "t", "--out", "{new}/x"], "is no folder"),
    (["rescue", "--at", "latest", "--table", "t", "--out", "-", "--output", "json"], "both go to stdout"),
    (
        ["rescue", "--at", "latest", "--table", "a", "--table", "b", "--out", "{new}", "--format", "csv"],
        "a csv file holds one table",
    ),
    (
        ["rescue", "--at", "latest", "--table", "a", "--table", "b", "--out", "{new}", "--where", "x"],
        "--where is for one table",
    ),
    (
        ["rescue", "--at", "latest", "--table", "a", "--out", "{new}", "--into-schema", "x"],
        "without --into-dsn",
    ),
    (
        ["rescue", "--at", "latest", "--table", "a", "--into-dsn", "", "--into-schema", "pg_x"],
        "cannot be a schema's name",
    ),
    (["peek"], "--at is missing"),
    (["peek", "--at", "latest", "--output", "json"], "needs --command"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_what_makes_no_sense_is_refused_at_once(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, there = tmp_path / "walarchiver.toml", tmp_path / "there"
    config.write_text(f'[repository.main]\nurl = "file://{tmp_path}/none"\n[cluster.main]\n')
    there.touch()
    given = [word.format(new=tmp_path / "new", there=there) for word in words]
    assert main(["--config", str(config), *given]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    message = json.loads(told.err)["error"]["message"] if told.err.startswith("{") else told.err
    assert said in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "walarchiver.toml"]


NAMES = [
    ("orders", (None, "orders"), '"orders"'),
    ("Sales.Orders", ("sales", "orders"), '"sales"."orders"'),
    ('"Sales" . "Ord""ers.x"', ("Sales", 'Ord"ers.x'), '"Sales"."Ord""ers.x"'),
    ("straße", (None, "straße"), '"straße"'),
    ('" "', (None, " "), '" "'),
]


@pytest.mark.parametrize(("text", "parts", "sql"), NAMES)
def test_a_table_is_named_as_sql_names_it(text: str, parts: tuple[str | None, str], sql: str) -> None:
    name = TableName.parse(text)
    assert ((name.schema, name.name), name.sql) == (parts, sql)


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", '"', '""', 'a"b', "a b", "a..b", "x" * 64, '"a" "b"'])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        TableName.parse(text)


part = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: len(text.encode()) <= NAME_BYTES_MAX
)


@given(st.none() | part, part)
def test_a_name_survives_its_own_spelling(schema: str | None, name: str) -> None:
    assert TableName.parse(TableName(schema, name).sql) == TableName(schema, name)
