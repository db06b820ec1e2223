"""CRC-32C (Castagnoli), the checksum of WAL records and of backup manifests.

Rules:
- One function, `crc32c(data, crc=0)`, chained as `crc32c(b, crc32c(a)) == crc32c(a + b)`: the compiled one
  (_walskim.c) where it was built, else `plain_crc32c`, which is many times slower. `joined_crc32c` makes the
  sum of a whole from the sums of its pieces, in whatever order they came.
- Plain: long input is first *folded*: a CRC is a remainder modulo P, so a part of the input may be
  replaced by anything with the same remainder. For each D below, x**D leaves the same remainder as
  a sum of only five powers x**e with small e. The first h bits of the input, which stand D or more
  places left of the last bit, are therefore cut off and added back five times, a few places apart.
  Python's long integers do that at memory speed. What is left is too short to fold and goes
  through tables, eight bytes at a time.

Source of the polynomial: RFC 3720, section 12.1 and appendix B.4 (0x1EDC6F41, bits reflected).
`tests/core/test_crc32c.py` proves the exponents from the polynomial alone.
"""

from __future__ import annotations

import struct
from functools import lru_cache

REFLECTED_POLYNOMIAL = 0x82F63B78

FOLDS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (1 << 20, (41, 42, 56, 66, 135)),
    (1 << 19, (23, 62, 75, 99, 186)),
    (1 << 18, (5, 18, 64, 176, 199)),
    (1 << 17, (18, 37, 134, 159, 204)),
    (1 << 16, (68, 98, 122, 123, 154)),
    (1 << 15, (24, 101, 146, 199, 248)),
    (1 << 14, (5, 73, 83, 113, 227)),
    (1 << 13, (42, 87, 170, 171, 185)),
    (1 << 12, (79, 88, 99, 112, 173)),
    (1 << 11, (25, 108, 178, 191, 192)),
    (1 << 10, (54, 169, 181, 221, 231)),
    (1 << 9, (2, 69, 158, 198, 253)),
)
"""(D, exponents e) with x**D equal to the sum of x**e modulo the polynomial, D descending."""

_FOLD_BYTES_MIN = 96
"""Shorter input is faster through the tables alone."""
_CHUNK_BYTES = 1 << 18
"""Longer input is cut: integers that fit the processor's cache fold fastest."""
_ONES = 0xFFFFFFFF


def _tables() -> tuple[tuple[int, ...], ...]:
    """Table k: what a byte has become after itself and k zero bytes were shifted in."""
    first = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (REFLECTED_POLYNOMIAL if value & 1 else 0)
        first.append(value)
    tables = [tuple(first)]
    for _ in range(7):
        tables.append(tuple(first[value & 255] ^ value >> 8 for value in tables[-1]))
    return tuple(tables)


_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7 = _tables()


def plain_crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """The CRC-32C of `data`, continuing after bytes whose CRC-32C is `crc`."""
    state = crc ^ _ONES
    if len(data) < _FOLD_BYTES_MIN:
        return _by_table(data, state) ^ _ONES
    for at in range(0, len(data), _CHUNK_BYTES):
        chunk = data[at : at + _CHUNK_BYTES]
        if len(chunk) < _FOLD_BYTES_MIN:
            state = _by_table(chunk, state)
        else:
            state = _by_table(_folded(chunk, state), 0)
    return state ^ _ONES


def joined_crc32c(first: int, second: int, second_bytes: int) -> int:
    """The CRC-32C of two pieces together, from the sums of both and the length of the second."""
    left, place = second_bytes, 0
    while left:
        if left & 1:
            first = _product(first, _shift(place))
        left >>= 1
        place += 1
    return first ^ second


@lru_cache
def _shift(place: int) -> int:
    """x**(8 * 2**place), the highest power in bit 0: what 2**place zero bytes multiply a sum by."""
    return 1 << 23 if place == 0 else _product(_shift(place - 1), _shift(place - 1))


def _product(one: int, other: int) -> int:
    """Of two polynomials modulo the polynomial, bits reflected."""
    product = 0
    for place in range(31, -1, -1):
        if one >> place & 1:
            product ^= other
        other = other >> 1 ^ (REFLECTED_POLYNOMIAL if other & 1 else 0)
    return product


def _folded(data: bytes | bytearray | memoryview, state: int) -> bytes:
    """At most 64 bytes that leave the same remainder as `state` followed by `data`."""
    bits = len(data) * 8
    value = int.from_bytes(data, "little") ^ state  # bit 0 is the highest power of x
    for distance, exponents in FOLDS:
        reach = distance - exponents[-1]
        while bits > distance:
            cut = min(bits - distance, reach)
            head = value & (1 << cut) - 1
            value >>= cut
            bits -= cut
            for exponent in exponents:
                value ^= head << (distance - cut - exponent)
    return value.to_bytes(bits // 8, "little")


def _by_table(data: bytes | bytearray | memoryview, state: int) -> int:
    """`state` after `data`, eight bytes at a time."""
    whole = len(data) // 8
    for (word,) in struct.iter_unpack("<Q", data[: whole * 8]):
        word ^= state
        state = (
            _T7[word & 255]
            ^ _T6[word >> 8 & 255]
            ^ _T5[word >> 16 & 255]
            ^ _T4[word >> 24 & 255]
            ^ _T3[word >> 32 & 255]
            ^ _T2[word >> 40 & 255]
            ^ _T1[word >> 48 & 255]
            ^ _T0[word >> 56]
        )
    for byte in data[whole * 8 :]:
        state = _T0[(state ^ byte) & 255] ^ state >> 8
    return state


try:
    from walarchiver.core._walskim import crc32c as crc32c
except ImportError:
    crc32c = plain_crc32c
