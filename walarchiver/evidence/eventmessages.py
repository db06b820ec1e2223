"""Change notifications of a bucket, read from the texts of messages.

Sources: Amazon S3 User Guide, "Event message structure" (Records, `eventTime`, `sequencer`, keys encoded with
`+`; s3:TestEvent), "EventBridge event message structure" (names in `detail`, not encoded); Amazon SNS, "Raw
message delivery" (otherwise a message lies in the field `Message` of another).
Rules:
- A message may tell of nothing (a test) or of several changes. Whatever else it is: NotAnEvent, and why.
- Sequencers order the changes of one key as hexadecimal numbers of one length. Of unequal lengths the shorter
  one is to be filled with zeros, but the sources do not agree on which side: then nothing is concluded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_plus

from walarchiver.core.version import StoreMs

COMPLETED = "CompleteMultipartUpload"
_REMOVED = ("ObjectRemoved:Delete", "LifecycleExpiration:Delete")
_NESTED_MAX = 3
_TEXT_MAX = 1 << 20
_KEY_BYTES_MAX = 1024


class NotAnEvent(ValueError):
    """The message is none that a bucket sends; its text says why."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One change, as a notification tells it: a hint at what to list again."""

    bucket: str
    key: str
    version_id: str | None
    name: str
    """`ObjectCreated:Put`, `ObjectRemoved:Delete`, …; for EventBridge its kind of detail and the reason."""
    at: StoreMs
    sequencer: str | None

    @property
    def removes(self) -> bool:
        """Whether it tells that a version was removed for ever."""
        return self.name.endswith(_REMOVED)

    @property
    def ends_upload(self) -> bool:
        """Whether it tells when an upload in parts ended."""
        return self.name.endswith(COMPLETED)


def parse_message(text: str) -> tuple[Happened, ...]:
    """The changes that a message tells of. Raises NotAnEvent."""
    if len(text) > _TEXT_MAX:
        raise NotAnEvent(f"{len(text)} characters are too long for a notification")
    for _ in range(_NESTED_MAX):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise NotAnEvent("it is not JSON") from None
        if not isinstance(found, dict):
            raise NotAnEvent("it is not a JSON object")
        if found.get("Type") == "Notification" and isinstance(found.get("Message"), str):
            text = found["Message"]
            continue
        return tuple(_changes(found))
    raise NotAnEvent("messages lie in messages")


def is_later(one: str | None, other: str | None) -> bool | None:
    """Whether a change came after another one of the same key, by sequencers; None: that cannot be told."""
    if one is None or other is None or len(one) != len(other):
        return None
    return one.upper() > other.upper()


def _changes(found: Mapping[str, object]) -> Iterator[Happened]:
    if found.get("Event") == "s3:TestEvent":
        return
    if isinstance(found.get("detail"), dict):
        yield _of_event_bridge(found)
        return
    records = found.get("Records")
    if not isinstance(records, list):
        raise NotAnEvent("it has neither Records nor detail")
    for record in records:
        if not isinstance(record, dict):
            raise NotAnEvent("a record is not an object")
        yield _of_record(record)


def _of_record(record: Mapping[str, object]) -> Happened:
    told = _table(record, "s3")
    thing = _table(told, "object")
    return Happened(
        bucket=_text(_table(told, "bucket"), "name"),
        key=_key(_unquoted(_text(thing, "key"))),
        version_id=_optional(thing, "versionId"),
        name=_text(record, "eventName").removeprefix("s3:"),
        at=_instant(_text(record, "eventTime")),
        sequencer=_sequencer(thing),
    )


def _of_event_bridge(found: Mapping[str, object]) -> Happened:
    detail = _table(found, "detail")
    thing = _table(detail, "object")
    return Happened(
        bucket=_text(_table(detail, "bucket"), "name"),
        key=_key(_text(thing, "key")),
        version_id=_optional(thing, "version-id"),
        name=f"{_text(found, 'detail-type')}:{detail.get('reason') or ''}",
        at=_instant(_text(found, "time")),
        sequencer=_sequencer(thing),
    )


def _table(found: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = found.get(name)
    if not isinstance(value, dict):
        raise NotAnEvent(f"{name} is missing")
    return value


def _text(found: Mapping[str, object], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise NotAnEvent(f"{name} is missing")
    return value


def _optional(found: Mapping[str, object], name: str) -> str | None:
    value = found.get(name)
    return value if isinstance(value, str) and value else None


def _unquoted(text: str) -> str:
    try:
        return unquote_plus(text, errors="strict")
    except UnicodeDecodeError:
        raise NotAnEvent("key is not UTF-8") from None


def _key(key: str) -> str:
    if not key or len(key.encode("utf-8", "surrogatepass")) > _KEY_BYTES_MAX:
        raise NotAnEvent("key is missing or too long")
    return key


def _sequencer(thing: Mapping[str, object]) -> str | None:
    value = _optional(thing, "sequencer")
    if value is not None and (len(value) > 64 or not all(char in "0123456789abcdefABCDEF" for char in value)):
        raise NotAnEvent("sequencer is not hexadecimal")
    return value


def _instant(text: str) -> StoreMs:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise NotAnEvent(f"{text[:40]!r} is not a time with its zone")
    return StoreMs(int(found.timestamp() * 1000))
