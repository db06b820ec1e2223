"""Canonical JSON: one spelling per value, every other one refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.errors import MalformedObject
from walarchiver.format.canonical import INTEGER_MAX, canonical_json, parse_canonical

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(max_codepoint=126), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_a_value_survives_its_spelling(value: object) -> None:
    spelled = canonical_json(value)  # type: ignore[arg-type]
    assert parse_canonical(spelled) == value
    assert spelled.isascii()


@given(st.dictionaries(names, st.integers(0, 9), min_size=2))
def test_the_order_of_insertion_does_not_show(value: dict[str, int]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


def test_the_spelling_is_the_one_written_down() -> None:
    value = {"b": ['\n\x01\x7f"\\/', "é", "\U0001f600"], "a": {"z": None, "y": True, "x": -1}}
    assert canonical_json(value) == (
        b'{"a":{"x":-1,"y":true,"z":null},"b":["\\n\\u0001\\u007f\\"\\\\/","\\u00e9","\\ud83d\\ude00"]}'
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" {}",
        b"{} ",
        b"{}\n",
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"NaN",
        b"Infinity",
        b"9007199254740992",
        b"-9007199254740992",
        b"1" * 5000,
        '"é"'.encode(),
        b'"\\u00E9"',
        b'"\\u0041"',
        b'"\\/"',
        b'"\\ud83d"',
        b'"\\ude00\\ud83d"',
        b'{"\\u00e9":1}',
        b"[1,]",
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        b"[" * 40 + b"]" * 40,
        b"[" * 100_000,
        b"[1]\x00",
    ],
)
def test_every_other_spelling_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedObject):
        parse_canonical(raw)


@pytest.mark.parametrize(
    "value", [1.5, {"a": {1: 2}}, {"é": 1}, "\ud800", 2**53, [b"bytes"], {"a": {1, 2}}, float("nan")]
)
def test_a_value_without_a_spelling_is_refused(value: object) -> None:
    with pytest.raises(MalformedObject):
        canonical_json(value)  # type: ignore[arg-type]


@given(values, st.integers(0, 3))
def test_pretty_printed_json_is_refused(value: object, indent: int) -> None:
    pretty = json.dumps(value, indent=indent, sort_keys=True).encode()
    if pretty != canonical_json(value):  # type: ignore[arg-type]
        with pytest.raises(MalformedObject):
            parse_canonical(pretty)
