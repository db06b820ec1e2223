"""A catalog whose file cannot be written goes on in memory: losing state loses nothing and stops nobody."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.simulation.test_ledger import archive, names, same_everywhere, wal
from tests.simulation.world import Process, World
from walarchiver.catalog import Catalog
from walarchiver.errors import CatalogUnavailable


def test_a_state_folder_that_is_full_stops_nobody_and_loses_nothing(tmp_path: Path) -> None:
    world = World()
    process = world.process(catalog=tmp_path / "c.sqlite")
    said: list[str] = []
    process.catalog._db._warn = said.append
    process.begin()
    process.catalog._db.execute("PRAGMA max_page_count=1")  # no fewer than are in use already
    for number in range(20):
        facts = [archive(wal(n)) for n in range(number * 20, number * 20 + 20)]
        assert process.ledger.commit(facts) == [None] * 20
    (line,) = said
    assert "c.sqlite cannot be written (database or disk is full)" in line
    same_everywhere(world, process)
    assert len(names(process)) == len(set(names(process))) == 400
    process.catalog.close()
    later = world.process(catalog=tmp_path / "c.sqlite")
    later.ledger.refresh()
    assert names(later) == names(process_in_memory(world))


def process_in_memory(world: World) -> Process:
    process = world.process(write=False)
    process.ledger.refresh()
    return process


def test_a_catalog_that_can_no_longer_be_read_either_begins_anew_and_never_with_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    process = world.process(catalog=tmp_path / "c.sqlite")
    process.begin()
    assert process.ledger.commit([archive(wal(1))]) == [None]
    process.catalog._db.execute("PRAGMA max_page_count=1")
    unreadable = sqlite3.OperationalError("disk I/O error")

    class Broken:
        def __init__(self, db: sqlite3.Connection) -> None:
            self._db = db

        def __getattr__(self, name: str) -> object:
            if name == "backup":
                raise unreadable
            return getattr(self._db, name)

    monkeypatch.setattr(process.catalog._db, "_db", Broken(process.catalog._db._db))

    def fill() -> None:
        for number in range(20):
            process.ledger.commit([archive(wal(n)) for n in range(number * 20 + 2, number * 20 + 22)])

    with pytest.raises(CatalogUnavailable):
        fill()
    process.ledger.refresh()
    same_everywhere(world, process)


def test_a_catalog_that_cannot_be_opened_is_kept_in_memory_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "c.sqlite").mkdir()
    said: list[str] = []
    catalog = Catalog(tmp_path / "c.sqlite", said.append)
    assert catalog.next_seq() == 0
    assert "unable to open database file" in said[0]
