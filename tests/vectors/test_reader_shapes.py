"""The stand-alone reader and the program take and refuse the same records, member by member."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.format.test_chain_roles import EXAMPLES
from walarchiver.errors import MalformedObject
from walarchiver.format.codec import record_from_json, record_to_json

READER = Path(__file__).resolve().parents[2] / "docs/reader/reader.py"
VALUES: tuple[object, ...] = (
    *(None, True, -1, 0, 1, 2**53 - 1, "", "x", "0/0", "0/3000148", "00/1", "0/ffff", "100000000/0"),
    *("a" * 64, "A" * 64, "1", "0", "01", str(2**64), str(2**64 - 1), [], {}, ["x"], [{}]),
    *(f"2026-11-22T14:32:{second}.000000Z" for second in ("06", "60", "61", "0x")),
    *("2026-02-29T00:00:00.000000Z", "0000-01-01T00:00:00.000000Z", "2026-11-22T14:32:06Z"),
    "2026-11-22T24:00:00.000000Z",
)


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stand_alone_reader", READER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in inner:
        yield (*path, name)
        yield from places(member, (*path, name))


def changes(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The record with one thing different, and what that is."""
    for path in places(record):
        if path == ("kind",):
            continue
        for value in VALUES:
            changed = copy.deepcopy(record)
            holder: Any = changed
            for step in path[:-1]:
                holder = holder[step]
            holder[path[-1]] = value
            yield f"{path} is {value!r}", changed
        changed = copy.deepcopy(record)
        holder = changed
        for step in path[:-1]:
            holder = holder[step]
        del holder[path[-1]]
        yield f"{path} is not there", changed
        if isinstance(holder, dict):
            holder["zzz"] = 1
            yield f"{path[:-1]} has one more", changed


def takes(read: Callable[[], object], refusal: type[Exception]) -> bool:
    try:
        read()
    except refusal:
        return False
    return True


@pytest.mark.parametrize("kind", EXAMPLES)
def test_both_take_and_refuse_the_same_records(reader: ModuleType, kind: str) -> None:
    record: Any = record_to_json(EXAMPLES[kind])
    reader.parsed(reader.spelled(record), "record")
    seen = set()
    for what, changed in changes(record):
        ours = takes(lambda changed=changed: record_from_json(changed), MalformedObject)
        theirs = takes(lambda changed=changed: reader.parsed(reader.spelled(changed), "record"), ValueError)
        assert ours == theirs, f"{kind}: {what}: the program says {ours}, the reader {theirs}"
        seen.add(ours)
    assert seen == {True, False}
