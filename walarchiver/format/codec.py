"""Ledger records to JSON and back, driven by the field types of `records.py`.

Rules (docs/format.md, section 5):
- `record_to_json` and `record_from_json` are inverses.
- A known kind is understood whole or refused (MalformedObject): no unknown, missing or
  ill-typed member. `None` is spelled by leaving the member out.
- An unknown kind is kept verbatim as `UnknownRecord`.
"""

from __future__ import annotations

import hashlib
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from walarchiver.core.lsn import MAX_LSN, Lsn, format_lsn, parse_lsn
from walarchiver.core.moment import CommitTime, StoreTime, format_rfc3339, parse_rfc3339
from walarchiver.core.objectname import is_system_text
from walarchiver.errors import MalformedObject, UsageError
from walarchiver.format import records
from walarchiver.format.canonical import INTEGER_MAX, JsonValue, canonical_json, parse_object
from walarchiver.format.records import BackupPart, Record, UnknownRecord

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HASHES = frozenset({"digest", "sha256", "stored_sha256", "parts_sha256", "old", "new"})

_KINDS: dict[str, type[Record]] = {
    cls.kind: cls for cls in get_args(records.Record) if cls is not UnknownRecord
}
KNOWN_KINDS = frozenset(_KINDS)


@dataclass(frozen=True, slots=True)
class _Member:
    """How one dataclass field is spelled."""

    name: str
    optional: bool
    encode: Callable[[Any], JsonValue]
    decode: Callable[[JsonValue, str], object]


_PLANS: dict[type[Any], tuple[_Member, ...]] = {}
"""How each record class is spelled; worked out from its field types on first use."""


def record_to_json(record: Record) -> dict[str, JsonValue]:
    """The JSON object of a record, its kind included. Raises MalformedObject for an illegal value."""
    if isinstance(record, UnknownRecord):
        value = parse_object(record.content)
        if value.get("kind") != record.kind or record.kind in _KINDS:
            raise MalformedObject(f"content of an unknown record is not of kind {record.kind!r}")
        return value
    spelled = _encode_value(record)
    _decode_value(type(record), spelled, record.kind)  # check on write as on read
    return {"kind": record.kind, **spelled}


def record_from_json(value: JsonValue) -> Record:
    """The record that a JSON object spells. Raises MalformedObject."""
    if not isinstance(value, dict) or not isinstance(kind := value.get("kind"), str) or not kind:
        raise MalformedObject("record without a kind")
    cls = _KINDS.get(kind)
    if cls is None:
        return UnknownRecord(kind, canonical_json(value))
    members = {name: member for name, member in value.items() if name != "kind"}
    return cast(Record, _decode_value(cls, members, kind))


def parts_sha256(parts: Sequence[BackupPart]) -> str:
    """What a `backup` record carries over its parts: the hash of their JSON array in order of n."""
    ordered = sorted(parts, key=lambda part: part.n)
    return hashlib.sha256(canonical_json([_encode_value(part) for part in ordered])).hexdigest()


# --- dataclass driven ------------------------------------------------------------------------


def _encode_value(value: object) -> dict[str, JsonValue]:
    spelled: dict[str, JsonValue] = {}
    for member in _members(type(value)):
        field = getattr(value, member.name)
        if field is None and member.optional:
            continue
        spelled[member.name] = member.encode(field)
    return spelled


def _decode_value(cls: type[Any], value: JsonValue, where: str) -> object:
    if not isinstance(value, dict):
        raise MalformedObject(f"{where}: object expected")
    left = dict(value)
    arguments: dict[str, object] = {}
    for member in _members(cls):
        if member.name in left:
            arguments[member.name] = member.decode(left.pop(member.name), f"{where}.{member.name}")
        elif member.optional:
            arguments[member.name] = None
        else:
            raise MalformedObject(f"{where}: member {member.name!r} is missing")
    if left:
        raise MalformedObject(f"{where}: unknown member {min(left)!r}")
    made: object = cls(**arguments)
    return made


def _members(cls: type[Any]) -> tuple[_Member, ...]:
    if cls not in _PLANS:
        _PLANS[cls] = _plan(cls)
    return _PLANS[cls]


def _plan(cls: type[Any]) -> tuple[_Member, ...]:
    hints = get_type_hints(cls)
    found = []
    for field in fields(cls):
        hint, optional = _without_none(hints[field.name])
        assert optional or field.default is MISSING, f"{cls.__name__}.{field.name}: defaults are for None"
        found.append(_Member(field.name, optional, _encoder(hint), _decoder(hint, field.name)))
    return tuple(found)


def _without_none(hint: object) -> tuple[object, bool]:
    if get_origin(hint) in (types.UnionType, Union):
        inner = [arg for arg in get_args(hint) if arg is not type(None)]
        assert len(inner) == 1, f"{hint} is not one type or None"
        return inner[0], True
    return hint, False


def _encoder(hint: object) -> Callable[[Any], JsonValue]:
    if hint is Lsn:
        return format_lsn
    if hint is CommitTime or hint is StoreTime:
        return _encode_time
    if get_origin(hint) is tuple:
        item = _encoder(get_args(hint)[0])
        return lambda values: [item(value) for value in values]
    if is_dataclass(hint):
        return _encode_value
    return lambda value: value


def _decoder(hint: object, name: str) -> Callable[[JsonValue, str], object]:
    if hint is Lsn:
        return _decode_lsn
    if hint is CommitTime or hint is StoreTime:
        return _decode_time
    if hint is bool:
        return _decode_bool
    if hint is int:
        return _decode_integer
    if hint is str:
        return _decode_hash if name in _HASHES else _decode_system if name == "system" else _decode_text
    if get_origin(hint) is tuple:
        item = _decoder(get_args(hint)[0], name)
        return lambda value, where: _decode_items(value, where, item)
    assert isinstance(hint, type), f"no spelling for {hint}"
    assert is_dataclass(hint), f"no spelling for {hint}"
    return lambda value, where: _decode_value(hint, value, where)


# --- single values ---------------------------------------------------------------------------


def _fault(where: str, wanted: str, value: object) -> MalformedObject:
    return MalformedObject(f"{where} is {repr(value)[:80]}, not {wanted}")


def _encode_time(time_us: int) -> str:
    try:
        return format_rfc3339(time_us)
    except OverflowError as error:
        raise MalformedObject(f"{time_us} µs is outside of the calendar") from error


def _decode_items(
    value: JsonValue, where: str, item: Callable[[JsonValue, str], object]
) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _fault(where, "an array", value)
    return tuple(item(element, f"{where}[{index}]") for index, element in enumerate(value))


def _decode_text(value: JsonValue, where: str) -> str:
    if not isinstance(value, str):
        raise _fault(where, "text", value)
    return value


def _decode_hash(value: JsonValue, where: str) -> str:
    text = _decode_text(value, where)
    if _SHA256.fullmatch(text) is None:
        raise _fault(where, "64 lower-case hex digits", value)
    return text


def _decode_system(value: JsonValue, where: str) -> str:
    text = _decode_text(value, where)
    if not is_system_text(text):
        raise _fault(where, "a system identifier", value)
    return text


def _decode_bool(value: JsonValue, where: str) -> bool:
    if not isinstance(value, bool):
        raise _fault(where, "true or false", value)
    return value


def _decode_integer(value: JsonValue, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INTEGER_MAX:
        raise _fault(where, f"an integer from 0 to {INTEGER_MAX}", value)
    return value


def _decode_lsn(value: JsonValue, where: str) -> Lsn:
    text = _decode_text(value, where)
    try:
        lsn = parse_lsn(text)
    except UsageError as error:
        raise _fault(where, "an LSN", value) from error
    if not 0 <= lsn <= MAX_LSN or format_lsn(lsn) != text:
        raise _fault(where, "an LSN in its canonical spelling", value)
    return lsn


def _decode_time(value: JsonValue, where: str) -> CommitTime:
    try:
        return CommitTime(parse_rfc3339(_decode_text(value, where)))
    except ValueError as error:
        raise _fault(where, "an instant such as 2026-11-22T14:32:06.000000Z", value) from error
