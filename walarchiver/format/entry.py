"""Ledger entries: a batch of records with its place in the chain, signed.

Rules (docs/format.md, section 5): this module spells and reads one entry; whether it belongs
where it stands is for `chain.py` to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import MalformedObject
from walarchiver.format.canonical import JsonValue
from walarchiver.format.codec import record_from_json, record_to_json
from walarchiver.format.fields import Fields
from walarchiver.format.records import Record
from walarchiver.format.signed import SignedKind, SignedText, Signer, split_signed

ENTRY_BYTES_MAX = 16 << 20
"""A longer object at a ledger name is void."""
RECORDS_MAX = 256
NO_ENTRY = "0" * 64
"""`prev` of the first valid entry."""


@dataclass(frozen=True, slots=True)
class VoidMark:
    """An object at a ledger name that is no valid entry: its number and the hash of its bytes."""

    seq: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; `time` is microseconds since 1970 on the writer's clock, `sha256` the hash of
    the stored bytes ("" before they exist)."""

    repo: str
    system: str
    seq: int
    prev: str
    time: int
    writer: str
    boot: str
    keyring: int
    records: tuple[Record, ...]
    void: tuple[VoidMark, ...] = ()
    sha256: str = ""


def encode_and_sign(entry: Entry, signer: Signer) -> bytes:
    """The stored bytes of an entry. Raises MalformedObject when it cannot be written."""
    if entry.writer != signer.id:
        raise MalformedObject(f"entry of {entry.writer} signed by {signer.id}")
    records: Sequence[JsonValue] = [record_to_json(record) for record in entry.records]
    value: dict[str, JsonValue] = {
        "boot": entry.boot,
        "keyring": entry.keyring,
        "prev": entry.prev,
        "records": records,
        "repo": entry.repo,
        "seq": entry.seq,
        "system": entry.system,
        "time": format_rfc3339(entry.time),
        "writer": entry.writer,
    }
    if entry.void:
        value["void"] = [{"seq": mark.seq, "sha256": mark.sha256} for mark in entry.void]
    raw = signer.sign(SignedKind.ENTRY, value)
    _from_text(split_signed(SignedKind.ENTRY, raw))  # check on write as on read
    if len(raw) > ENTRY_BYTES_MAX:
        raise MalformedObject(f"entry of {len(raw)} bytes, {ENTRY_BYTES_MAX} is the most")
    return raw


def split_entry(raw: bytes) -> tuple[Entry, SignedText]:
    """An entry taken apart, and its text, whose signature is *not* verified. Raises MalformedObject."""
    if len(raw) > ENTRY_BYTES_MAX:
        raise MalformedObject(f"entry of {len(raw)} bytes, {ENTRY_BYTES_MAX} is the most")
    text = split_signed(SignedKind.ENTRY, raw)
    return _from_text(text), text


def parse_entry(raw: bytes) -> Entry:
    """As `split_entry`, for those who know already that it is valid. Raises MalformedObject."""
    return split_entry(raw)[0]


def _from_text(text: SignedText) -> Entry:
    fields = Fields(text.value(), "entry")
    voids = _voids(fields)
    entry = Entry(
        repo=fields.hex("repo", 16),
        system=fields.system(),
        seq=fields.integer("seq"),
        prev=fields.hex("prev", 32),
        time=fields.time_us("time"),
        writer=fields.hex("writer", 8),
        boot=fields.hex("boot", 8),
        keyring=fields.integer("keyring", low=1, high=9999),
        records=tuple(record_from_json(value) for value in fields.items("records")),
        void=voids,
        sha256=text.sha256,
    )
    fields.end()
    if not 1 <= len(entry.records) <= RECORDS_MAX:
        raise MalformedObject(f"entry of {len(entry.records)} records, 1 to {RECORDS_MAX} are allowed")
    return entry


def _voids(fields: Fields) -> tuple[VoidMark, ...]:
    if not fields.has("void"):
        return ()
    values = fields.items("void")
    if not values:
        raise MalformedObject("entry: an empty void is left out")
    return tuple(_void(value) for value in values)


def _void(value: JsonValue) -> VoidMark:
    fields = Fields(value, "void")
    mark = VoidMark(fields.integer("seq"), fields.hex("sha256", 32))
    fields.end()
    return mark
