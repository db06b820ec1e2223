"""Roll-ups: a block's bytes come out as they went in, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable

import pytest
import zstandard

from tests.format import world as w
from walarchiver.core.objectname import ROLL_ENTRIES, parse_roll_key, roll_key
from walarchiver.errors import MalformedObject, ObjectDamaged, ObjectMisplaced, Untrusted
from walarchiver.format.chain import Accepted, ChainState, Void, accept
from walarchiver.format.entry import ENTRY_BYTES_MAX
from walarchiver.format.rollup import (
    LINE_BYTES_MAX,
    ROLLUP_BYTES_MAX,
    encode_rollup,
    judge_rollup,
    split_rollup,
)

BLOCK = 4


def grown(count: int = BLOCK, *, void_at: int | None = None) -> w.Chain:
    """A chain of `count` entries, with junk at one place."""
    chain = w.Chain()
    chain.begin()
    for seq in range(1, count):
        chain.put(b"\n{}\n" * 40 if seq == void_at else chain.build(w.horizon(seq)))
    return chain


def encoded(entries: Iterable[bytes], first: int = 0, block: int = BLOCK) -> bytes:
    return encode_rollup(list(entries), repo=w.REPO, system=w.SYSTEM, first=first, block=block)


def split(stored: bytes, first: int = 0, block: int = BLOCK) -> list[bytes]:
    return list(split_rollup(stored, repo=w.REPO, system=w.SYSTEM, first=first, block=block))


def judge(state: ChainState, seq: int, raw: bytes) -> Accepted | Void:
    return accept(state, seq, raw, w.RINGS)


def frame(content: bytes, **options: object) -> bytes:
    settings = {"level": 3, "write_content_size": True, "write_checksum": True, **options}
    return zstandard.ZstdCompressor(**settings).compress(content)  # type: ignore[arg-type]


def line(**changed: object) -> bytes:
    value = {"first": 0, "lengths": [1, 0, 2, 3], "repo": w.REPO, "system": w.SYSTEM, **changed}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


BODY = b"abbccc"


@pytest.mark.parametrize(
    "entries",
    [[b"a", b"", b"bb", b"ccc"], [b"\n"] * 4, [b"{}\n", b"\0" * 100_000, b"x" * (3 << 20), b""]],
)
def test_any_bytes_come_out_as_they_went_in(entries: list[bytes]) -> None:
    assert split(encoded(entries)) == entries
    assert split(encoded(entries, first=8), first=8) == entries


def test_a_block_of_the_real_size_is_small_and_read_in_pieces() -> None:
    entries = [b"%d " % number * (number % 97) for number in range(ROLL_ENTRIES)]
    stored = encode_rollup(entries, repo=w.REPO, system=w.SYSTEM, first=ROLL_ENTRIES)
    assert len(stored) < sum(map(len, entries)) // 10
    pieces = split_rollup(stored, repo=w.REPO, system=w.SYSTEM, first=ROLL_ENTRIES)
    assert [next(pieces) for _ in range(3)] == entries[:3]
    assert list(pieces) == entries[3:]


def test_names_are_aligned() -> None:
    key = roll_key(w.SYSTEM, 8192)
    assert key.endswith("/roll/0000000000002000-0000000000002fff.zst")
    name = parse_roll_key(key)
    assert name is not None
    assert (name.first, name.last) == (8192, 12287)
    for wrong in ("0000000000002001-0000000000003000", "0000000000002000-0000000000003000"):
        assert parse_roll_key(f"v1/c/{w.SYSTEM}/roll/{wrong}.zst") is None
    with pytest.raises(ValueError, match="do not begin"):
        roll_key(w.SYSTEM, 1)


# --- what is refused -------------------------------------------------------------------------------


HOSTILE: dict[str, tuple[type[Exception], Callable[[], bytes]]] = {
    "nothing": (ObjectDamaged, lambda: b""),
    "no zstd": (ObjectDamaged, lambda: line() + BODY),
    "no content size": (ObjectDamaged, lambda: frame(line() + BODY, write_content_size=False)),
    "no checksum": (ObjectDamaged, lambda: frame(line() + BODY, write_checksum=False)),
    "a byte behind the frame": (ObjectDamaged, lambda: frame(line() + BODY) + b"\0"),
    "a second frame": (ObjectDamaged, lambda: frame(line() + BODY) + frame(b"")),
    "cut short": (ObjectDamaged, lambda: frame(line() + BODY)[:-1]),
    "a bomb": (MalformedObject, lambda: frame(bytes(ROLLUP_BYTES_MAX + 1))),
    "too long": (MalformedObject, lambda: bytes(ROLLUP_BYTES_MAX + 1)),
    "a window of 16 MiB": (
        ObjectDamaged,
        lambda: zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(
                window_log=24, write_content_size=1, write_checksum=1
            )
        ).compress(line(lengths=[0, 0, 0, 9 << 20]) + bytes(9 << 20)),
    ),
    "a line without end": (MalformedObject, lambda: frame(b"{" + b" " * LINE_BYTES_MAX + b"}\n")),
    "no line": (MalformedObject, lambda: frame(b"abc")),
    "a line that is no JSON": (MalformedObject, lambda: frame(b"4 entries\n" + BODY)),
    "another spelling": (MalformedObject, lambda: frame(line().replace(b":", b": ") + BODY)),
    "a strange member": (MalformedObject, lambda: frame(line(more=1) + BODY)),
    "a missing member": (MalformedObject, lambda: frame(b'{"first":0,"lengths":[1,0,2,3]}\n' + BODY)),
    "another repository": (ObjectMisplaced, lambda: frame(line(repo="f" * 32) + BODY)),
    "another cluster": (ObjectMisplaced, lambda: frame(line(system="1") + BODY)),
    "another block": (ObjectMisplaced, lambda: frame(line(first=4) + BODY)),
    "an entry too few": (MalformedObject, lambda: frame(line(lengths=[1, 2, 3]) + BODY)),
    "an entry too many": (MalformedObject, lambda: frame(line(lengths=[1, 0, 2, 3, 0]) + BODY)),
    "lengths beyond the end": (MalformedObject, lambda: frame(line(lengths=[1, 0, 2, 4]) + BODY)),
    "bytes behind the entries": (MalformedObject, lambda: frame(line() + BODY + b"\n")),
    "a negative length": (MalformedObject, lambda: frame(line(lengths=[1, -1, 3, 3]) + BODY)),
    "a length that is true": (MalformedObject, lambda: frame(line(lengths=[True, 0, 2, 3]) + BODY)),
    "a length that is text": (MalformedObject, lambda: frame(line(lengths=["1", 0, 2, 3]) + BODY)),
    "an entry over 16 MiB": (
        MalformedObject,
        lambda: frame(line(lengths=[0, 0, 0, ENTRY_BYTES_MAX + 1]) + bytes(ENTRY_BYTES_MAX + 1)),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_roll_up_is_refused(name: str) -> None:
    expected, made = HOSTILE[name]
    with pytest.raises(expected):
        split(made())


def test_the_good_neighbour_of_those_is_taken() -> None:
    assert split(frame(line() + BODY)) == [b"a", b"", b"bb", b"ccc"]


def test_no_flipped_bit_brings_in_another_entry() -> None:
    """zstd ignores a few bits, and more than one spelling unpacks to the same; then nothing is changed."""
    raws = grown().raws
    stored = encoded(raws)
    harmless = 0
    for place in range(8 * len(stored)):
        changed = bytearray(stored)
        changed[place // 8] ^= 1 << place % 8
        try:
            entries = split(bytes(changed))
        except Untrusted:
            continue
        assert entries == raws
        harmless += 1
    assert harmless < len(stored) // 10, "nearly all of them are noticed"


@pytest.mark.parametrize(
    ("entries", "first", "block"),
    [([b"a"] * 3, 0, 4), ([b"a"] * 4, 2, 4), ([bytes(ENTRY_BYTES_MAX + 1), b"", b"", b""], 0, 4)],
)
def test_what_would_be_no_roll_up_is_not_written(entries: list[bytes], first: int, block: int) -> None:
    with pytest.raises(MalformedObject):
        encoded(entries, first=first, block=block)


def test_a_block_beyond_the_bounds_is_not_written() -> None:
    with pytest.raises(MalformedObject):
        encoded([bytes(ENTRY_BYTES_MAX)] * 4)


# --- what counts ------------------------------------------------------------------------------------


def test_void_entries_count_when_a_later_one_names_them() -> None:
    chain = grown(void_at=2)
    verdicts = list(judge_rollup(ChainState(w.REPO, w.SYSTEM), chain.raws, judge, first=0))
    assert [type(verdict) for verdict in verdicts] == [Accepted, Accepted, Void, Accepted]
    assert verdicts[-1].state == chain.state


@pytest.mark.parametrize("void_at", [3, 1])
def test_a_roll_up_that_nothing_vouches_for_does_not_count(void_at: int) -> None:
    raws = grown(void_at=3).raws if void_at == 3 else [grown().raws[0], b"junk", *grown().raws[2:]]
    with pytest.raises(Untrusted, match="nothing vouches"):
        list(judge_rollup(ChainState(w.REPO, w.SYSTEM), raws, judge, first=0))


def test_a_reader_inside_the_block_compares_what_it_knows() -> None:
    chain, begun = grown(), grown(2)
    hashes = [hashlib.sha256(raw).hexdigest() for raw in chain.raws]
    verdicts = list(judge_rollup(begun.state, chain.raws, judge, first=0, known=hashes.__getitem__))
    assert [verdict.state.next_seq for verdict in verdicts] == [3, 4]
    for known in (lambda _seq: None, lambda _seq: "0" * 64):
        with pytest.raises(Untrusted, match="than was read before"):
            list(judge_rollup(begun.state, chain.raws, judge, first=0, known=known))
