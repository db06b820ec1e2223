"""Custodians of type `master-key`: one 32-byte key that a team keeps itself.

Rules (docs/format.md, section 4):
- The same key wraps and unwraps, so a writer that has it can read the past; `status` says so.
- A wrap is AES key wrap (RFC 3394) under a key derived (HKDF-SHA256) from the master key and the
  wrap's place: no nonce to get wrong, and a wrap moved elsewhere does not open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from walarchiver.errors import ConfigError, KeyCannotOpen
from walarchiver.format.keyring import MASTER_KEY
from walarchiver.format.signed import DOMAIN, key_id
from walarchiver.keys.keyfile import read_secret

KEY_BYTES = 32
_HEX = re.compile(rb"[0-9A-Fa-f]{64}")
_LABEL = DOMAIN + b"master-key\0"


@dataclass(frozen=True, slots=True)
class MasterKey:
    """Recipient and identity at once."""

    recipient: str
    _key: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, key: bytes) -> MasterKey:
        """The custodian of a 32-byte key. Raises ConfigError for another length."""
        if len(key) != KEY_BYTES:
            raise ConfigError(f"master key of {len(key)} bytes, {KEY_BYTES} are needed")
        return cls(key_id(MASTER_KEY, key), key)

    @property
    def type(self) -> str:
        return MASTER_KEY

    def wrap(self, epoch_key: bytes, info: bytes) -> str:
        """The stanza body, in hex; the same for the same arguments."""
        return aes_key_wrap(self._wrapping_key(info), epoch_key).hex()

    def unwrap(self, body: str, info: bytes) -> bytes:
        """The epoch key in a stanza body. Raises KeyCannotOpen."""
        try:
            return aes_key_unwrap(self._wrapping_key(info), bytes.fromhex(body))
        except (InvalidUnwrap, ValueError) as error:
            raise KeyCannotOpen(f"master key {self.recipient} cannot open this epoch key") from error

    def _wrapping_key(self, info: bytes) -> bytes:
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=_LABEL + info).derive(self._key)


def parse_master_key(content: bytes) -> MasterKey:
    """The master key in what a file, command or credential gave: 32 raw bytes, or 64 hex digits
    with white space around. Raises ConfigError."""
    if len(content) == KEY_BYTES:
        return MasterKey.from_bytes(content)
    digits = content.strip()
    if _HEX.fullmatch(digits) is None:
        raise ConfigError(
            f"master key is neither {KEY_BYTES} bytes nor {2 * KEY_BYTES} hex digits",
            hint="Make one with `openssl rand -hex 32`.",
        )
    return MasterKey.from_bytes(bytes.fromhex(digits.decode("ascii")))


def read_master_key(path: Path) -> MasterKey:
    """The master key in a file. Raises ConfigError."""
    return parse_master_key(read_secret(path))
