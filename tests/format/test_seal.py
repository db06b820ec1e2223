"""Sealed objects: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable, Iterable, Iterator

import pytest
import zstandard
from cryptography.cobblestone import Cobblestone256Encryptor
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.format.world import EPOCH_KEY, SYSTEM, header, seed
from walarchiver.errors import (
    KeyCannotOpen,
    MalformedObject,
    ObjectDamaged,
    ObjectMisplaced,
    StoreUnavailable,
    Untrusted,
)
from walarchiver.format.header import HEADER_BYTES_MAX, MAGIC, PREFIX_BYTES, Expected, Header, read_header
from walarchiver.format.seal import FAST, ZstdParams, open_sealed, plain_digest, seal

ANYTHING = Expected()


def key_of(_: Header) -> bytes:
    return EPOCH_KEY


def reopened(stored: bytes | Iterable[bytes], expect: Expected = ANYTHING) -> bytes:
    return b"".join(open_sealed(key_of, [stored] if isinstance(stored, bytes) else stored, expect))


def sealed(plain: bytes, **changed: object) -> bytes:
    return bytes(seal(EPOCH_KEY, header(len(plain), **changed), [plain]).body)


def stream_of(inner: bytes, head: bytes) -> bytes:
    """An authentic stream with a content of our choice, as a hostile writer could make it."""
    encryptor = Cobblestone256Encryptor(EPOCH_KEY, hashlib.sha256(head).digest())
    return head + encryptor.update(inner) + encryptor.finalize()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40_000), max_size=5), st.integers(1, 50_000))
def test_what_was_sealed_opens_however_it_is_cut(pieces: list[bytes], cut: int) -> None:
    plain = b"".join(pieces)
    body = seal(EPOCH_KEY, header(len(plain)), pieces)
    stored = bytes(body.body)
    assert hashlib.sha256(stored).hexdigest() == body.sha256
    assert reopened(stored[at : at + cut] for at in range(0, len(stored), cut)) == plain
    assert read_header(stored) == header(len(plain))


@pytest.mark.parametrize("size", [0, 1, 17, 16383, 16384, 16385, 131072, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize("content", ["zero", "random"])
def test_every_size_at_an_edge_opens(size: int, content: str) -> None:
    plain = bytes(size) if content == "zero" else (hashlib.shake_128(b"x").digest(size) if size else b"")
    assert reopened(sealed(plain)) == plain


def test_opening_gives_small_pieces_and_sealing_holds_no_second_copy() -> None:
    plain = bytes(16 << 20)
    assert max(map(len, open_sealed(key_of, [sealed(plain)], ANYTHING))) <= 512 << 10

    noise = hashlib.shake_128(b"noise").digest(1 << 20)
    tracemalloc.start()
    try:
        body = seal(EPOCH_KEY, header(16 << 20), (noise for _ in range(16))).body
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * len(body) + (2 << 20)
    assert held >= len(body)


@pytest.mark.parametrize("plain", [b"", b"segment"])
def test_every_flipped_bit_is_found(plain: bytes) -> None:
    stored = sealed(plain)
    for place in range(len(stored)):
        for bit in range(8):
            changed = bytearray(stored)
            changed[place] ^= 1 << bit
            with pytest.raises(Untrusted):
                reopened(bytes(changed))


@pytest.mark.parametrize("plain", [b"", b"segment", bytes(20_000)])
def test_every_truncation_and_any_tail_is_found(plain: bytes) -> None:
    stored = sealed(plain)
    for length in range(len(stored)):
        with pytest.raises(Untrusted):
            reopened(stored[:length])
    for tail in (b"\0", stored):
        with pytest.raises(Untrusted):
            reopened(stored + tail)


def test_a_stream_cut_between_chunks_is_found_only_at_its_end() -> None:
    noise = hashlib.shake_128(b"noise").digest(700_000)
    stored = sealed(noise)
    head = PREFIX_BYTES + int.from_bytes(stored[8:12], "big")
    cut = stored[: head + 56 + 40 * (16384 + 16)]
    given_out: list[bytes] = []
    with pytest.raises(ObjectDamaged):
        given_out.extend(open_sealed(key_of, [cut], ANYTHING))
    assert given_out
    assert noise.startswith(b"".join(given_out))


def test_the_header_is_bound_to_the_body() -> None:
    one, two = (
        sealed(b"same", name="000000010000000000000007"),
        sealed(b"same", name="000000010000000000000008"),
    )
    border = PREFIX_BYTES + int.from_bytes(one[8:12], "big")
    with pytest.raises(ObjectDamaged):
        reopened(two[:border] + one[border:])


def test_another_key_does_not_open() -> None:
    with pytest.raises(ObjectDamaged):
        list(open_sealed(lambda _: seed("other"), [sealed(b"x")], ANYTHING))


@pytest.mark.parametrize(
    "wanted",
    [
        {"repo": "f" * 32},
        {"system": "1"},
        {"kind": "history"},
        {"name": "000000010000000000000008"},
        {"tli": 2},
        {"part": 1},
        {"parts": 2},
        {"raw": 5},
        {"epoch": "0" * 16},
        {"writer": "0" * 16},
    ],
    ids=lambda wanted: next(iter(wanted)),
)
def test_a_whole_object_in_the_wrong_place_is_refused_before_any_key_is_asked_for(
    wanted: dict[str, object],
) -> None:
    def never(_: Header) -> bytes:
        raise AssertionError("asked for a key")

    with pytest.raises(ObjectMisplaced):
        list(open_sealed(never, [sealed(b"plain.")], Expected(**wanted)))  # type: ignore[arg-type]
    right = Expected(system=SYSTEM, kind="wal", part=0, raw=6)
    assert reopened(sealed(b"plain."), right) == b"plain."


def frame(plain: bytes, **parameters: int) -> bytes:
    settings = {"write_content_size": 1, "write_checksum": 1, "window_log": 19, **parameters}
    chosen = zstandard.ZstdCompressionParameters.from_level(1, **settings)
    return zstandard.ZstdCompressor(compression_params=chosen).compress(plain)


BLOCK = 128 << 10
"""The most that a block of a frame gives."""


def spelled_frame(content: int, *blocks: bytes) -> bytes:
    """A frame of raw blocks, a window of 1 MiB, that announces what it likes; its checksum is nothing."""
    head = b"\x28\xb5\x2f\xfd" + bytes([0b10000100, 10 << 3]) + content.to_bytes(4, "little")
    last = len(blocks) - 1
    framed = ((len(block) << 3 | (n == last)).to_bytes(3, "little") + block for n, block in enumerate(blocks))
    return head + b"".join(framed) + bytes(4)


HOSTILE: dict[str, Callable[[], tuple[bytes, int]]] = {
    "more in a block than announced": lambda: (spelled_frame(10, b"x" * 1000, b"y"), 10),
    "more behind its window than announced": lambda: (spelled_frame(3 << 20, *[b"x" * BLOCK] * 30), 3 << 20),
    "less in its blocks than announced": lambda: (spelled_frame(3000, b"x" * 1000), 3000),
    "no checksum": lambda: (frame(b"12345", write_checksum=0), 5),
    "no content size": lambda: (frame(b"12345", write_content_size=0), 5),
    "longer than announced": lambda: (frame(b"12345"), 4),
    "shorter than announced": lambda: (frame(b"12345"), 6),
    "a second frame": lambda: (frame(b"12345") + frame(b""), 5),
    "a tail": lambda: (frame(b"12345") + b"\0", 5),
    "a skippable frame before": lambda: (b"\x50\x2a\x4d\x18\x00\x00\x00\x00" + frame(b"12345"), 5),
    "a skippable frame behind": lambda: (frame(b"12345") + b"\x50\x2a\x4d\x18\x00\x00\x00\x00", 5),
    "no frame": lambda: (b"", 0),
    "no zstd": lambda: (b"12345", 5),
    "no checksum bytes": lambda: (frame(b"12345")[:-4], 5),
    "wrong checksum": lambda: (frame(b"12345")[:-4] + b"\0\0\0\0", 5),
    "window over 8 MiB": lambda: (frame(b"\0" * (17 << 20), window_log=24), 17 << 20),
    "one segment over 8 MiB": lambda: (frame(b"\0" * (9 << 20), window_log=27), 9 << 20),
    "reserved block": lambda: (frame(b"12345")[:6] + b"\x07\0\0" + b"\0\0\0\0", 5),
    "empty bomb": lambda: (frame(b"\0" * (1 << 20))[:-4] * 2, 1 << 20),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_authentic_stream_with_a_wrong_content_is_refused(what: str) -> None:
    inner, raw = HOSTILE[what]()
    with pytest.raises(ObjectDamaged):
        reopened(stream_of(inner, header(raw).encode()))


def test_a_frame_made_by_another_compressor_opens() -> None:
    plain = b"".join(bytes([n % 251]) * (n % 97) for n in range(20_000))
    for parameters in ({}, {"window_log": 23}, {"window_log": 10}):
        assert reopened(stream_of(frame(plain, **parameters), header(len(plain)).encode())) == plain


def spelled(json: bytes) -> bytes:
    return MAGIC + len(json).to_bytes(4, "big") + json


GOOD = header(5).encode()[PREFIX_BYTES:]
HEADS: dict[str, bytes] = {
    "another magic": b"AGE!" + spelled(GOOD)[4:],
    "version 2": b"PITR\x00\x02\r\n" + spelled(GOOD)[8:],
    "line ends translated": b"PITR\x00\x01\n" + spelled(GOOD)[8:],
    "no length": MAGIC + b"\0\0\0\0",
    "header too long": spelled(GOOD[:-1] + b',"x":"' + b"x" * HEADER_BYTES_MAX + b'"}'),
    "space": spelled(GOOD.replace(b'"part":0', b'"part": 0')),
    "unknown member": spelled(GOOD.replace(b'"part":0', b'"paid":1,"part":0')),
    "twice": spelled(GOOD.replace(b'"part":0', b'"part":0,"part":0')),
    "v 2": spelled(GOOD.replace(b'"v":1', b'"v":2')),
    "raw as text": spelled(GOOD.replace(b'"raw":5', b'"raw":"5"')),
    "raw over 64 MiB": spelled(GOOD.replace(b'"raw":5', b'"raw":67108865')),
    "part beyond parts": spelled(GOOD.replace(b'"part":0', b'"part":1')),
    "timeline 0": spelled(GOOD.replace(b'"tli":1', b'"tli":0')),
    "unknown kind": spelled(GOOD.replace(b'"kind":"wal"', b'"kind":"law"')),
    "unknown comp": spelled(GOOD.replace(b'"comp":"zstd"', b'"comp":"lz4"')),
    "system as number": spelled(GOOD.replace(f'"{SYSTEM}"'.encode(), SYSTEM.encode())),
    "not an object": spelled(b"[]"),
    "parts with base": spelled(GOOD.replace(b'"kind":"wal"', b'"kind":"base"')),
    "no parts with wal": spelled(GOOD.replace(b'"parts":1,', b"")),
}


@pytest.mark.parametrize("what", HEADS)
def test_a_header_that_does_not_follow_the_format_is_refused(what: str) -> None:
    assert reopened(stream_of(frame(b"12345"), spelled(GOOD))) == b"12345"
    with pytest.raises(MalformedObject):
        reopened(stream_of(frame(b"12345"), HEADS[what]))


def test_a_header_says_its_version_before_anything_else() -> None:
    with pytest.raises(MalformedObject, match="version 2"):
        read_header(b"PITR\x00\x02\r\n\0\0\0\0")


@pytest.mark.parametrize("pieces", [[b"1234"], [b"123456"], [b"12345", b"6"], []])
def test_sealing_refuses_another_length_than_announced(pieces: list[bytes]) -> None:
    with pytest.raises(MalformedObject):
        seal(EPOCH_KEY, header(5), pieces)


@pytest.mark.parametrize(
    "changed",
    [{"system": "x"}, {"writer": "me"}, {"parts": None}, {"v": 2}, {"tli": 0}, {"name": "x" * 70_000}],
)
def test_a_header_that_readers_would_refuse_is_never_written(changed: dict[str, object]) -> None:
    with pytest.raises(MalformedObject):
        header(5, **changed).encode()


def test_failures_of_the_source_and_of_the_key_pass_through() -> None:
    def broken() -> Iterator[bytes]:
        yield sealed(b"x")[:40]
        raise StoreUnavailable("connection reset")

    with pytest.raises(StoreUnavailable):
        reopened(broken())

    def no_key(_: Header) -> bytes:
        raise KeyCannotOpen("no key")

    with pytest.raises(KeyCannotOpen):
        list(open_sealed(no_key, [sealed(b"x")], ANYTHING))


def test_no_two_seals_are_equal_and_parameters_are_the_writers_choice() -> None:
    plain = bytes(range(256)) * 4096
    one = seal(EPOCH_KEY, header(len(plain)), [plain], params=FAST)
    two = seal(EPOCH_KEY, header(len(plain)), [memoryview(plain)], params=ZstdParams(level=3, window_log=21))
    assert one.sha256 != two.sha256
    assert reopened(bytes(one.body)) == reopened(bytes(two.body)) == plain


def test_the_digest_is_blake3() -> None:
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert plain_digest([]) == plain_digest([b"", b""]) == empty
    assert plain_digest([b"ab", memoryview(b"c")]) == plain_digest([b"abc"]) != empty
