"""Taking the members of a JSON object apart, strictly: each one present, known and well typed.

Rules: a `Fields` is made of one object; every `take_*` consumes a member or raises
MalformedObject; `end` raises when a member is left that nobody asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from walarchiver.core.moment import parse_rfc3339
from walarchiver.core.objectname import is_system_text
from walarchiver.errors import MalformedObject
from walarchiver.format.canonical import JsonValue

_HEX = re.compile(r"(?:[0-9a-f]{2})*")


class Fields:
    """The members of one JSON object, handed out once each."""

    def __init__(self, value: JsonValue, what: str) -> None:
        if not isinstance(value, Mapping):
            raise MalformedObject(f"{what}: object expected")
        self._left: dict[str, JsonValue] = dict(value)
        self._what = what

    def has(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> JsonValue:
        """The raw member."""
        if name not in self._left:
            raise MalformedObject(f"{self._what}: member {name!r} is missing")
        return self._left.pop(name)

    def fault(self, name: str, wanted: str, value: object) -> MalformedObject:
        shown = repr(value)
        return MalformedObject(f"{self._what}: {name} is {shown[:80]}, not {wanted}")

    def integer(self, name: str, *, low: int = 0, high: int = 2**53 - 1) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fault(name, f"an integer from {low} to {high}", value)
        return value

    def text(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str):
            raise self.fault(name, "text", value)
        return value

    def one_of(self, name: str, allowed: frozenset[str]) -> str:
        value = self.text(name)
        if value not in allowed:
            raise self.fault(name, "one of " + " ".join(sorted(allowed)), value)
        return value

    def hex(self, name: str, length: int | None = None) -> str:
        """Lower-case hex of `length` bytes (None: of any length)."""
        value = self.text(name)
        if _HEX.fullmatch(value) is None or (length is not None and len(value) != 2 * length):
            wanted = "lower-case hex" if length is None else f"{2 * length} lower-case hex digits"
            raise self.fault(name, wanted, value)
        return value

    def system(self, name: str = "system") -> str:
        value = self.text(name)
        if not is_system_text(value):
            raise self.fault(name, "a system identifier", value)
        return value

    def time_us(self, name: str) -> int:
        """An instant, as microseconds since 1970."""
        value = self.text(name)
        try:
            return parse_rfc3339(value)
        except ValueError as error:
            raise self.fault(name, "an instant such as 2026-11-22T14:32:06.000000Z", value) from error

    def items(self, name: str) -> list[JsonValue]:
        value = self.take(name)
        if not isinstance(value, list):
            raise self.fault(name, "an array", value)
        return value

    def end(self) -> None:
        """Raises MalformedObject when something is left."""
        if self._left:
            raise MalformedObject(f"{self._what}: unknown member {min(self._left)!r}")
