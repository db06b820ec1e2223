"""What can be seen of a versioned bucket as a whole, and how an index keeps it.

Rules:
- An observation is made at a moment of the store's clock; its value is canonical JSON or a word:
  `versioning`: the status. `lifecycle`: a list of rules, or `hidden` when they may not be asked for. `scan`:
  `{"entries":…,"keys":…,"prefix":…}`, a complete listing below the prefix was asked for then (and with
  `"loses_keys":true` the server lost some in its listings; what was lost was found). `feed_gap`:
  `{"since":…}`, events of the time since then may be missing. `multipart_time`: a MultipartTime.
- `parse` functions raise ValueError for what these rules do not know.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from walarchiver.core.version import StoreMs

HIDDEN = "hidden"
"""The lifecycle rules may not be asked for with these credentials."""


class Versioning(StrEnum):
    """GetBucketVersioning's Status; `Off` when it never was enabled."""

    ENABLED = "Enabled"
    SUSPENDED = "Suspended"
    OFF = "Off"


@dataclass(frozen=True, slots=True)
class LifecycleRule:
    """What one enabled lifecycle rule removes (S3 API, GetBucketLifecycleConfiguration)."""

    id: str
    prefix: str
    noncurrent_days: int | None
    """Replaced or deleted versions go this many days after their successor was written."""
    newer_noncurrent: int | None
    """So many noncurrent versions are kept beyond that."""
    expires: bool
    """Adds delete markers to current versions (restorable while the versions stay)."""
    filtered: bool
    """Holds for some tags or sizes only; taken as if it held for all."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Something seen of the bucket as a whole, at a moment of the store's clock."""

    at: StoreMs
    kind: str
    """`versioning`, `lifecycle`, `scan` (a complete listing asked for then), `feed_gap`, `multipart_time`."""
    value: str
    """Canonical JSON or a word; what it means is said above."""


def rules_text(rules: Sequence[LifecycleRule] | None) -> str:
    """The value of a `lifecycle` observation; None: hidden."""
    return HIDDEN if rules is None else _json([asdict(rule) for rule in rules])


def parse_rules(value: str) -> tuple[LifecycleRule, ...] | None:
    """Inverse of `rules_text`."""
    if value == HIDDEN:
        return None
    try:
        return tuple(LifecycleRule(**members) for members in json.loads(value))
    except TypeError as fault:
        raise ValueError(f"{value!r} is no list of lifecycle rules") from fault


def scan_text(prefix: str, *, keys: int, entries: int, loses_keys: bool = False) -> str:
    """The value of a `scan` observation; `loses_keys`: the server's listings were seen to."""
    told = {"entries": entries, "keys": keys, "prefix": prefix}
    return _json(told | ({"loses_keys": True} if loses_keys else {}))


def parse_scan(value: str) -> str:
    """The prefix below which everything was listed."""
    return str(_member(value, "prefix"))


def gap_text(since: StoreMs) -> str:
    """The value of a `feed_gap` observation."""
    return _json({"since": since})


def parse_gap(value: str) -> StoreMs:
    """Since when events may be missing."""
    since = _member(value, "since")
    if not isinstance(since, int):
        raise ValueError(f"{value!r} has no time")
    return StoreMs(since)


def _member(value: str, name: str) -> object:
    members = json.loads(value)
    if not isinstance(members, dict) or name not in members:
        raise ValueError(f"{value!r} has no {name}")
    return members[name]


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
