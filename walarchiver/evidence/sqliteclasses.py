"""Storage classes by number, in SQLite.

Rules:
- A name gets its number once, for ever; all processes see the same. There are a dozen of them in the world.
"""

from __future__ import annotations

from walarchiver.evidence.sqlitefile import IndexFile


class Classes:
    """Thread-safe: both maps only grow, and the file decides."""

    def __init__(self, file: IndexFile) -> None:
        self._file = file
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._read()

    def number(self, name: str) -> int:
        """Never called for a new name inside a transaction."""
        number = self._numbers.get(name)
        if number is None:
            with self._file.writing() as db:
                db.execute("INSERT OR IGNORE INTO class (name) VALUES (?)", (name,))
            self._read()
            number = self._numbers[name]
        return number

    def name(self, number: int) -> str:
        name = self._names.get(number)
        if name is None:
            self._read()
            name = self._names[number]
        return name

    def _read(self) -> None:
        with self._file.reading() as db:
            for number, name in db.execute("SELECT number, name FROM class"):
                self._names[number] = name
                self._numbers[name] = number
