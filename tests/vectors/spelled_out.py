"""Sealed objects by docs/format.md alone: nothing of walarchiver is used here.

A second implementation, so that a mistake in the first (or in the library below it) is not
written into the vectors as truth.
"""

from __future__ import annotations

import hashlib

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

CHUNK = 16384
TAG = 16
LABEL = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"


class DoesNotOpen(Exception):
    pass


def head(json: bytes) -> bytes:
    return bytes.fromhex("5049545200010d0a") + len(json).to_bytes(4, "big") + json


def frame(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_content_size=True, write_checksum=True).compress(plain)


def _keys(key: bytes, salt: bytes, beginning: bytes) -> tuple[AESGCM, int, bytes]:
    info = LABEL + salt + hashlib.sha256(beginning).digest()
    derived = HKDFExpand(SHA512(), 76, info).derive(key)
    return AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big"), derived[44:]


def seal(key: bytes, salt: bytes, beginning: bytes, inner: bytes) -> bytes:
    """The stored object with the given salt; `inner` goes in as it is."""
    cipher, base, commitment = _keys(key, salt, beginning)
    out = beginning + salt + commitment
    for number in range(len(inner) // CHUNK + 1):
        nonce = (base ^ number).to_bytes(12, "big")
        out += cipher.encrypt(nonce, inner[number * CHUNK : (number + 1) * CHUNK], None)
    return out


def unseal(key: bytes, stored: bytes) -> bytes:
    """The plain bytes of a stored object."""
    border = 12 + int.from_bytes(stored[8:12], "big")
    beginning, salt, commitment = (
        stored[:border],
        stored[border : border + 24],
        stored[border + 24 : border + 56],
    )
    cipher, base, wanted = _keys(key, salt, beginning)
    if commitment != wanted:
        raise DoesNotOpen("commitment")
    body, inner, number = stored[border + 56 :], b"", 0
    while True:
        chunk, body = body[: CHUNK + TAG], body[CHUNK + TAG :]
        try:
            plain = cipher.decrypt((base ^ number).to_bytes(12, "big"), chunk, None)
        except InvalidTag as error:
            raise DoesNotOpen("chunk") from error
        inner, number = inner + plain, number + 1
        if len(plain) < CHUNK:
            break
    if body:
        raise DoesNotOpen("tail")
    return zstandard.ZstdDecompressor().decompress(inner)
