"""Custodians of type `hpke-xwing`: epoch keys wrapped to a post-quantum and classical public key.

Rules (docs/format.md, section 4):
- The secret is a 32-byte seed; SHAKE256 makes 64 bytes for ML-KEM-768 and 32 for X25519 of it
  (X-Wing: draft-connolly-cfrg-xwing-kem).
- A wrap is single-shot HPKE (RFC 9180) with MLKEM768-X25519, HKDF-SHA256 and AES-256-GCM; `info`
  binds it to its place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from walarchiver.errors import KeyCannotOpen, MalformedObject
from walarchiver.format.epoch import EPOCH_KEY_BYTES
from walarchiver.format.keyring import HPKE_XWING
from walarchiver.format.signed import key_id

SEED_BYTES = 32
MLKEM_PUBLIC_BYTES = 1184
PUBLIC_BYTES = MLKEM_PUBLIC_BYTES + 32
WRAPPED_BYTES = 1120 + EPOCH_KEY_BYTES + 16

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class XWingRecipient:
    """A custodian's public key."""

    recipient: str
    public: bytes
    _key: MLKEM768X25519PublicKey = field(repr=False, compare=False)

    @classmethod
    def from_public(cls, public: bytes) -> XWingRecipient:
        """The recipient of a public form. Raises MalformedObject when it is none."""
        if len(public) != PUBLIC_BYTES:
            raise MalformedObject(f"X-Wing public key of {len(public)} bytes, not {PUBLIC_BYTES}")
        try:
            mlkem = MLKEM768PublicKey.from_public_bytes(public[:MLKEM_PUBLIC_BYTES])
            x25519 = X25519PublicKey.from_public_bytes(public[MLKEM_PUBLIC_BYTES:])
            key = MLKEM768X25519PublicKey(mlkem, x25519)
        except ValueError as error:
            raise MalformedObject("not an X-Wing public key") from error
        return cls(key_id(HPKE_XWING, public), public, key)

    @property
    def type(self) -> str:
        return HPKE_XWING

    def wrap(self, epoch_key: bytes, info: bytes) -> str:
        """The stanza body: encapsulation and ciphertext, in hex."""
        return _SUITE.encrypt(epoch_key, self._key, info=info).hex()


@dataclass(frozen=True, slots=True)
class XWingIdentity:
    """A custodian's private key; its public form is in `public`."""

    recipient: str
    public: bytes
    _key: MLKEM768X25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> XWingIdentity:
        """The key pair of a 32-byte seed."""
        if len(seed) != SEED_BYTES:
            raise ValueError("X-Wing seed is not 32 bytes")
        expanded = hashlib.shake_256(seed).digest(96)
        mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        return cls(key_id(HPKE_XWING, public), public, MLKEM768X25519PrivateKey(mlkem, x25519))

    @property
    def type(self) -> str:
        return HPKE_XWING

    def unwrap(self, body: str, info: bytes) -> bytes:
        """The epoch key in a stanza body. Raises KeyCannotOpen."""
        try:
            wrapped = bytes.fromhex(body)
            key = _SUITE.decrypt(wrapped, self._key, info=info)
        except (InvalidTag, ValueError) as error:
            raise KeyCannotOpen(f"custodian {self.recipient} cannot open this epoch key") from error
        if len(key) != EPOCH_KEY_BYTES:
            raise KeyCannotOpen(f"epoch key of {len(key)} bytes, not {EPOCH_KEY_BYTES}")
        return key
