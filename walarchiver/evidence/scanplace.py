"""How far a scan has come: a small file beside the index, so that a scan goes on where it was ended.

Rules:
- A part is done when the index holds it. The file is written after that, by rename; losing it costs listing
  again, never a wrong result.
- A file that cannot be read, or is of another scan, is as none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from walarchiver.bucketports import KeyRange
from walarchiver.core.version import StoreMs

_SCHEMA = 1


@dataclass(slots=True)
class Shard:
    """A range that one worker lists, part by part."""

    keys: KeyRange
    next_key: str | None
    """The first key that is not done; None: all are."""

    @property
    def left(self) -> KeyRange | None:
        return None if self.next_key is None else KeyRange(self.next_key, self.keys.last)


@dataclass(slots=True)
class Place:
    """A scan that was begun and did not end."""

    bucket: str
    prefix: str
    asked: StoreMs
    """The store's clock when it began."""
    shards: list[Shard] = field(default_factory=list)
    carefully: bool = False
    """The server has been seen to lose keys in listings."""
    keys: int = 0
    entries: int = 0


def read_place(path: Path, *, bucket: str, prefix: str) -> Place | None:
    """The scan of this bucket and prefix that was begun; None when there is none."""
    try:
        found = json.loads(path.read_text(encoding="ascii"))
        place = _place(found)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return place if (place.bucket, place.prefix) == (bucket, prefix) else None


def write_place(path: Path, place: Place) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "schema": _SCHEMA,
        "bucket": place.bucket,
        "prefix": place.prefix,
        "asked": place.asked,
        "carefully": place.carefully,
        "keys": place.keys,
        "entries": place.entries,
        "shards": [[shard.keys.first, shard.keys.last, shard.next_key] for shard in place.shards],
    }
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(document), encoding="ascii")
    os.replace(fresh, path)


def forget_place(path: Path) -> None:
    path.unlink(missing_ok=True)


def _place(found: Mapping[str, object]) -> Place:
    if found["schema"] != _SCHEMA or not isinstance(found["shards"], list):
        raise ValueError("another release's")
    numbers = [found["asked"], found["keys"], found["entries"]]
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError("not a number")
    return Place(
        bucket=str(found["bucket"]),
        prefix=str(found["prefix"]),
        asked=StoreMs(int(str(found["asked"]))),
        shards=[
            Shard(KeyRange(str(first), _text(last)), _text(next_key))
            for first, last, next_key in found["shards"]
        ],
        carefully=found["carefully"] is True,
        keys=int(str(found["keys"])),
        entries=int(str(found["entries"])),
    )


def _text(found: object) -> str | None:
    return None if found is None else str(found)
