"""When each key was last listed, as steps over the order of keys, in SQLite.

Rules:
- From a step's key on, up to the next one, the last listing that counted was asked for at its time; None:
  there was none.
- A listing that was asked for earlier than a step's changes nothing there.
- A single key is a range too: it ends at the key itself with a zero byte behind.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from dataclasses import dataclass

from walarchiver.core.version import StoreMs


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a range; the first one begins where the range does."""

    keys: tuple[bytes, ...]
    asked: tuple[StoreMs | None, ...]

    def at(self, key: bytes) -> StoreMs | None:
        if len(self.keys) == 1:
            return self.asked[0]
        return self.asked[bisect_right(self.keys, key) - 1]


def covered_steps(db: sqlite3.Connection, first: bytes, end: bytes) -> Steps:
    """The steps of the keys from `first` on, before `end`."""
    (asked,) = db.execute(
        "SELECT asked FROM covered WHERE first<=? ORDER BY first DESC LIMIT 1", (first,)
    ).fetchone()
    later = db.execute(
        "SELECT first, asked FROM covered WHERE first>? AND first<? ORDER BY first", (first, end)
    ).fetchall()
    return Steps((first, *(key for key, _ in later)), (asked, *(then for _, then in later)))


def cover(db: sqlite3.Connection, end: bytes, asked: StoreMs, steps: Steps) -> None:
    """Note a listing of the range whose steps were `steps`, up to `end`."""
    first = steps.keys[0]
    db.execute("INSERT OR IGNORE INTO covered VALUES (?, ?)", (end, steps.asked[-1]))
    db.execute("DELETE FROM covered WHERE first>=? AND first<?", (first, end))
    last: StoreMs | None = None
    for key, then in zip(steps.keys, steps.asked, strict=True):
        now = asked if then is None else max(asked, then)
        if now != last:
            db.execute("INSERT INTO covered VALUES (?, ?)", (key, now))
        last = now
    (after,) = db.execute("SELECT asked FROM covered WHERE first=?", (end,)).fetchone()
    if after == last:
        db.execute("DELETE FROM covered WHERE first=?", (end,))
