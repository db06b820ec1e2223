"""CRC-32C: the published vectors, and a bit-by-bit reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core.crc32c import FOLDS, REFLECTED_POLYNOMIAL, crc32c, joined_crc32c, plain_crc32c

POLYNOMIAL = 1 << 32 | 0x1EDC6F41
RFC_3720_VECTORS = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
]


def bit_by_bit(data: bytes, crc: int = 0) -> int:
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (REFLECTED_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def power_of_x(exponent: int) -> int:
    """x**exponent modulo the polynomial, by squaring."""

    def times(a: int, b: int) -> int:
        product = 0
        for bit in range(b.bit_length()):
            if b >> bit & 1:
                product ^= a << bit
        for bit in range(product.bit_length() - 1, 31, -1):
            if product >> bit & 1:
                product ^= POLYNOMIAL << bit - 32
        return product

    result = 1
    for bit in f"{exponent:b}":
        result = times(result, result)
        if bit == "1":
            result = times(result, 2)
    return result


@pytest.mark.parametrize(("data", "crc"), RFC_3720_VECTORS)
def test_the_vectors_of_rfc_3720_hold(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc
    assert plain_crc32c(data) == crc


def test_the_check_value_of_the_digits_holds() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(("distance", "exponents"), FOLDS)
def test_a_fold_leaves_the_remainder_as_it_is(distance: int, exponents: tuple[int, ...]) -> None:
    folded = 0
    for exponent in exponents:
        folded ^= power_of_x(exponent)
    assert folded == power_of_x(distance)
    assert list(exponents) == sorted(set(exponents))
    assert exponents[-1] * 2 <= distance


@given(st.binary(max_size=1500), st.integers(0, 2**32 - 1))
def test_any_bytes_give_what_the_definition_gives(data: bytes, crc: int) -> None:
    assert plain_crc32c(data, crc) == bit_by_bit(data, crc)
    assert crc32c(data, crc) == bit_by_bit(data, crc)


@pytest.mark.parametrize("length", [95, 96, 97, 128, 129, 4096, 8168, 65_536, 262_143, 262_145, 262_200])
def test_every_way_through_the_folds_gives_what_the_definition_gives(length: int) -> None:
    data = bytes((i * i + 7 * i) % 251 for i in range(length))
    assert plain_crc32c(data) == crc32c(data) == bit_by_bit(data)


@given(st.binary(max_size=600), st.binary(max_size=600))
def test_pieces_chain_to_the_whole(one: bytes, two: bytes) -> None:
    assert plain_crc32c(two, plain_crc32c(one)) == plain_crc32c(one + two)
    assert crc32c(two, crc32c(one)) == crc32c(one + two)


@given(st.binary(max_size=600), st.binary(max_size=600))
def test_the_sums_of_pieces_make_the_sum_of_the_whole(one: bytes, two: bytes) -> None:
    assert joined_crc32c(crc32c(one), crc32c(two), len(two)) == crc32c(one + two)


@given(st.binary(max_size=300))
def test_every_kind_of_buffer_gives_the_same(data: bytes) -> None:
    assert plain_crc32c(bytearray(data)) == plain_crc32c(memoryview(data)) == plain_crc32c(data)
    assert crc32c(bytearray(data)) == crc32c(memoryview(data)) == crc32c(data)
