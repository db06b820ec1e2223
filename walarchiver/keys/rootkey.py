"""The root verification key as text: `wa-root1…`, short enough to compare by eye.

Rules (docs/format.md, section 4): `wa-root1`, then lower-case base32 without padding of the 32
bytes and a checksum of 4, so that a typing error is found before anything is trusted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from walarchiver.errors import ConfigError

_PREFIX = "wa-root1"
_TEXT_CHARS = 58
"""Base32 digits of 36 bytes."""


def root_text(public: bytes) -> str:
    """The text of a 32-byte Ed25519 public key."""
    if len(public) != 32:
        raise ValueError("root key is not 32 bytes")
    encoded = base64.b32encode(public + _checksum(public)).decode("ascii")
    return _PREFIX + encoded.rstrip("=").lower()


def parse_root_text(text: str) -> bytes:
    """The 32 bytes; inverse of `root_text`. Raises ConfigError."""
    digits = text.removeprefix(_PREFIX)
    if not text.startswith(_PREFIX) or len(digits) != _TEXT_CHARS:
        raise ConfigError(
            f"{text!r} is not a root verification key",
            hint="Copy the whole text that begins with wa-root1 from the output of `walarchiver keys init`.",
        )
    padded = digits.upper() + "=" * (-len(digits) % 8)
    try:
        decoded = base64.b32decode(padded)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"{text!r} holds a character that no root key has") from error
    public, checksum = decoded[:32], decoded[32:]
    if checksum != _checksum(public) or root_text(public) != text:
        raise ConfigError(
            f"{text!r} was mistyped: its checksum does not fit",
            hint="Compare it with the output of `walarchiver keys init` or with a key file.",
        )
    return public


def _checksum(public: bytes) -> bytes:
    return hashlib.sha256(_PREFIX.encode("ascii") + public).digest()[:4]
