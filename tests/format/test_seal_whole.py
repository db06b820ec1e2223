"""Sealing what lies in memory at once: the body is just as long as it was made, and opens as any other."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor

from tests.format.world import EPOCH_KEY, header
from walarchiver.errors import MalformedObject
from walarchiver.format.header import Expected, read_header
from walarchiver.format.seal import open_sealed, seal_whole, stream_bytes


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, (1 << 20) - 300, 1 << 20, (5 << 20) + 1])
def test_whatever_its_size_it_opens_again(size: int) -> None:
    plain = hashlib.shake_128(b"x").digest(size) if size else b""
    sealed = seal_whole(EPOCH_KEY, header(size), memoryview(plain))
    stored = bytes(sealed.body)
    assert hashlib.sha256(stored).hexdigest() == sealed.sha256
    assert read_header(stored) == header(size)
    assert b"".join(open_sealed(lambda _: EPOCH_KEY, [stored], Expected())) == plain


@pytest.mark.parametrize("count", [0, 1, 16383, 16384, 16385, 32767, 32768, 1 << 20])
def test_the_length_of_a_stream_is_known_beforehand(count: int) -> None:
    encryptor = Cobblestone256Encryptor(EPOCH_KEY, bytes(32))
    assert len(encryptor.update(bytes(count)) + encryptor.finalize()) == stream_bytes(count)


def test_another_length_than_announced_is_refused() -> None:
    with pytest.raises(MalformedObject):
        seal_whole(EPOCH_KEY, header(3), b"four")
