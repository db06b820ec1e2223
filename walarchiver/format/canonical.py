"""Canonical JSON: one value, one spelling, so that a hash or signature of it means something.

Rules (docs/format.md, section 1):
- ASCII, members sorted by name, no white space, no floats, integers within ±(2**53 - 1).
- Reading refuses every other spelling of the same value (MalformedObject); the surest way to
  know is to write what was read and to compare.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn, TypeAlias

from walarchiver.errors import MalformedObject

JsonValue: TypeAlias = "bool | int | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"

INTEGER_MAX = 2**53 - 1
DEPTH_MAX = 32


def canonical_json(value: JsonValue) -> bytes:
    """The one spelling of `value`.

    Raises MalformedObject for a value that has none: a float, a number past 2**53 - 1, a name
    that is not ASCII, an unpaired surrogate, nesting deeper than 32.
    """
    _check(value, 0)
    return json.dumps(
        value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode("ascii")


def parse_canonical(raw: bytes | bytearray | memoryview) -> JsonValue:
    """The value that `raw` spells. Raises MalformedObject unless the spelling is the canonical one."""
    try:
        text = bytes(raw).decode("ascii")
        value: JsonValue = json.loads(
            text,
            object_pairs_hook=_members,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
            parse_int=_integer,
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError, JSONDecodeError included
        raise MalformedObject(f"not JSON: {type(error).__name__}") from error
    if canonical_json(value) != bytes(raw):
        raise MalformedObject("JSON is not in its canonical spelling")
    return value


def parse_object(raw: bytes | bytearray | memoryview) -> dict[str, JsonValue]:
    """As `parse_canonical`, for bytes that must spell an object."""
    value = parse_canonical(raw)
    if not isinstance(value, dict):
        raise MalformedObject(f"JSON object expected, not {type(value).__name__}")
    return value


def _check(value: JsonValue, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise MalformedObject(f"nested deeper than {DEPTH_MAX}")
    match value:
        case None | bool():
            pass
        case int():
            if abs(value) > INTEGER_MAX:
                raise MalformedObject(f"{value} is beyond the integers that JSON carries")
        case str():
            _check_text(value)
        case Mapping():
            for name, member in value.items():
                if not isinstance(name, str) or not name.isascii():
                    raise MalformedObject(f"member name {name!r} is not ASCII")
                _check(member, depth + 1)
        case list() | tuple():
            for item in value:
                _check(item, depth + 1)
        case _:
            raise MalformedObject(f"{type(value).__name__} has no canonical spelling")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedObject("text holds an unpaired surrogate") from error


def _members(pairs: Iterable[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members: dict[str, JsonValue] = {}
    for name, value in pairs:
        if name in members:
            raise MalformedObject(f"member {name!r} occurs twice")
        members[name] = value
    return members


def _integer(text: str) -> int:
    if len(text) > 17:  # sign and 16 digits hold 2**53
        raise MalformedObject(f"{text[:20]}… is beyond the integers that JSON carries")
    return int(text)


def _refuse_number(text: str) -> NoReturn:
    raise MalformedObject(f"{text[:20]} is not an integer")
