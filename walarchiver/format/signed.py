"""Signed text: canonical JSON, a line feed, an Ed25519 signature in hex, a line feed.

Rules (docs/format.md, section 1):
- The signature covers `walarchiver/1/ ‖ kind ‖ 00 ‖ JSON`: text of one kind never passes as another.
- The hash of signed text covers every stored byte.
- A key is called by the first 8 bytes of SHA-256(`walarchiver/1/ ‖ type ‖ 00 ‖ public form`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from walarchiver.errors import BadSignature, MalformedObject
from walarchiver.format.canonical import JsonValue, canonical_json, parse_object

DOMAIN = b"walarchiver/1/"
ED25519 = "ed25519"
_TAIL = re.compile(rb"\n([0-9a-f]{128})\n")
_TAIL_BYTES = 130


class SignedKind(StrEnum):
    """What a signature is about."""

    ENTRY = "entry"
    KEYRING = "keyring"
    EPOCH = "epoch"
    CHECKPOINT = "checkpoint"


def key_id(key_type: str, form: bytes) -> str:
    """What a key is called: 16 hex digits of the hash of its type and public form."""
    return hashlib.sha256(DOMAIN + key_type.encode("ascii") + b"\0" + form).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Signer:
    """A private signing key; `id` is what keyrings and entries call it."""

    id: str
    public: bytes
    _key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> Signer:
        """The signer of a 32-byte Ed25519 seed (RFC 8032)."""
        key = Ed25519PrivateKey.from_private_bytes(seed)
        public = key.public_key().public_bytes_raw()
        return cls(key_id(ED25519, public), public, key)

    def sign(self, kind: SignedKind, value: JsonValue) -> bytes:
        """The signed text of `value`, as it is stored."""
        spelled = canonical_json(value)
        signature = self._key.sign(_message(kind, spelled))
        return spelled + b"\n" + signature.hex().encode("ascii") + b"\n"


@dataclass(frozen=True, slots=True)
class SignedText:
    """Signed text taken apart; the signature is *not* verified yet."""

    kind: SignedKind
    spelled: bytes
    signature: bytes
    sha256: str
    """Hash of all stored bytes."""

    def value(self) -> dict[str, JsonValue]:
        """The JSON object. Raises MalformedObject."""
        return parse_object(self.spelled)

    def verify(self, public: bytes) -> None:
        """Raises BadSignature unless the holder of `public` signed this text as this kind."""
        try:
            key = Ed25519PublicKey.from_public_bytes(public)
            key.verify(self.signature, _message(self.kind, self.spelled))
        except (InvalidSignature, ValueError) as error:
            raise BadSignature(f"{self.kind}: signature is not by {key_id(ED25519, public)}") from error


def split_signed(kind: SignedKind, raw: bytes) -> SignedText:
    """Take stored bytes apart. Raises MalformedObject."""
    match = _TAIL.fullmatch(raw[-_TAIL_BYTES:])
    if match is None or len(raw) <= _TAIL_BYTES:
        raise MalformedObject(f"{kind}: not a line of JSON and a line with a signature")
    spelled = raw[:-_TAIL_BYTES]
    signature = bytes.fromhex(match[1].decode("ascii"))
    return SignedText(kind, spelled, signature, hashlib.sha256(raw).hexdigest())


def _message(kind: SignedKind, spelled: bytes) -> bytes:
    return DOMAIN + kind.value.encode("ascii") + b"\0" + spelled
