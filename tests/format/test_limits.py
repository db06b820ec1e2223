"""What is too long, of the wrong type, or signed by another than it names is refused, on write as on read."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import zstandard

from tests.format import world as w
from walarchiver.core import objectname as names
from walarchiver.errors import MalformedObject, ObjectDamaged
from walarchiver.format.canonical import canonical_json, parse_object
from walarchiver.format.checkpoint import CHECKPOINT_BYTES_MAX, Checkpoint, parse_checkpoint, sign_checkpoint
from walarchiver.format.entry import ENTRY_BYTES_MAX, encode_and_sign, parse_entry
from walarchiver.format.fields import Fields
from walarchiver.format.frame import frame_views
from walarchiver.format.header import MAGIC, read_header
from walarchiver.format.rollup import ROLLUP_BYTES_MAX, encode_rollup

CHECKPOINT = Checkpoint(w.REPO, w.SYSTEM, 41, "5" * 64, w.NOW_US, 1, w.WRITER.id)


# --- entries and checkpoints -------------------------------------------------------------------------


def test_an_entry_too_long_to_be_read_is_not_written() -> None:
    chain = w.Chain()
    chain.begin()
    entry = parse_entry(chain.build(w.gap()))
    longest = ENTRY_BYTES_MAX - len(encode_and_sign(replace(entry, records=(w.gap(""),)), w.WRITER))
    raw = encode_and_sign(replace(entry, records=(w.gap("x" * longest),)), w.WRITER)
    assert len(raw) == ENTRY_BYTES_MAX
    assert parse_entry(raw).records == (w.gap("x" * longest),)
    with pytest.raises(MalformedObject, match=f"entry of {ENTRY_BYTES_MAX + 1} bytes"):
        encode_and_sign(replace(entry, records=(w.gap("x" * (longest + 1)),)), w.WRITER)
    with pytest.raises(MalformedObject, match=f"entry of {ENTRY_BYTES_MAX + 1} bytes"):
        parse_entry(raw + b"\n")


def test_a_checkpoint_is_signed_by_the_writer_that_it_names() -> None:
    assert parse_checkpoint(sign_checkpoint(CHECKPOINT, w.WRITER)) == CHECKPOINT
    with pytest.raises(MalformedObject, match="signed by"):
        sign_checkpoint(CHECKPOINT, w.OTHER_WRITER)


def test_a_checkpoint_too_long_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(MalformedObject, match=f"checkpoint of {CHECKPOINT_BYTES_MAX + 1} bytes"):
        parse_checkpoint(b" " * (CHECKPOINT_BYTES_MAX + 1))


def test_a_checkpoint_is_told_as_min_checkpoint_takes_it() -> None:
    assert str(CHECKPOINT) == "41:" + "5" * 64


@pytest.mark.parametrize("system", ["0", "007", "x", "18446744073709551616"])
def test_a_name_of_no_cluster_is_no_checkpoints(system: str) -> None:
    key = names.checkpoint_key(w.REPO, w.SYSTEM, 41)
    assert names.parse_checkpoint_key(key) == names.CheckpointName(w.REPO, w.SYSTEM, 41)
    assert names.parse_checkpoint_key(key.replace(w.SYSTEM, system)) is None
    assert names.parse_checkpoint_key(key + "x") is None


@pytest.mark.parametrize("repo", ["", "../" + w.REPO[3:], w.REPO.upper(), w.REPO[1:]])
def test_checkpoints_of_what_is_no_repository_have_no_name(repo: str) -> None:
    with pytest.raises(ValueError, match="is not a repository id"):
        names.checkpoints_prefix(repo, w.SYSTEM)


# --- fields and headers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "value", "says"),
    [
        (lambda fields: fields.text("a"), 7, "a is 7, not text"),
        (lambda fields: fields.text("a"), None, "a is None, not text"),
        (lambda fields: fields.items("a"), {}, "a is {}, not an array"),
        (lambda fields: fields.items("a"), "[]", r"a is '\[\]', not an array"),
    ],
)
def test_a_member_of_another_type_is_refused(
    taken: Callable[[Fields], object], value: object, says: str
) -> None:
    with pytest.raises(MalformedObject, match=says):
        taken(Fields({"a": value}, "thing"))  # type: ignore[dict-item]


@pytest.mark.parametrize("spelled", [b"[]", b"1", b'"{}"', b"null"])
def test_a_value_that_is_no_object_is_refused(spelled: bytes) -> None:
    with pytest.raises(MalformedObject, match="JSON object expected"):
        parse_object(spelled)


def test_an_object_cut_anywhere_in_its_header_is_refused() -> None:
    spelled = canonical_json({"v": 1})
    whole = MAGIC + len(spelled).to_bytes(4, "big") + spelled
    for length in range(len(whole)):
        with pytest.raises(MalformedObject, match=r"shorter than its own|ends inside its header"):
            read_header(whole[:length])
    with pytest.raises(MalformedObject, match="header"):
        read_header(whole)  # whole now, and refused for what it lacks


# --- frames ------------------------------------------------------------------------------------------


def unpacked(stored: bytes, raw: int, *, step: int) -> bytes:
    pieces = (stored[at : at + step] for at in range(0, len(stored), step))
    return b"".join(map(bytes, frame_views(raw, pieces)))


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1 << 20])
def test_a_frame_is_the_same_in_whatever_pieces_it_arrives(step: int) -> None:
    plain = b"".join(b"%d " % (number * number) for number in range(60_000))  # several blocks
    stored = zstandard.ZstdCompressor(write_checksum=True).compress(plain)
    assert unpacked(stored, len(plain), step=step) == plain


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_a_frame_that_gives_more_than_it_announces_is_cut_off(step: int) -> None:
    """By hand, as no compressor would: ten bytes announced, raw blocks of eight and eight given."""
    blocks = b"".join((8 << 3 | last).to_bytes(3, "little") + b"12345678" for last in (0, 1))
    frame = b"\x28\xb5\x2f\xfd" + bytes([0b0010_0100, 10]) + blocks + bytes(4)
    with pytest.raises(ObjectDamaged):
        unpacked(frame, 10, step=step)


# --- roll-ups ----------------------------------------------------------------------------------------


def test_a_block_that_does_not_get_smaller_is_not_written_beyond_the_bounds() -> None:
    """What fits plain may not fit stored: noise grows when it is packed."""
    noise = random.Random(7).randbytes(ROLLUP_BYTES_MAX)
    quarter = ENTRY_BYTES_MAX
    entries = [noise[at : at + quarter] for at in range(0, len(noise), quarter)]
    entries[-1] = entries[-1][:-200]
    with pytest.raises(MalformedObject, match="stored bytes"):
        encode_rollup(entries, repo=w.REPO, system=w.SYSTEM, first=0, block=len(entries))
