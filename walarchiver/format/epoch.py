"""Epoch key objects: one symmetric key, wrapped to every custodian, in clear signed text.

Rules (docs/format.md, section 4):
- Revision 0 is signed by the writer that drew the key, later ones by an admin.
- `check` proves an unwrapped key; `wrap_info` binds a wrap to its place.
- Of several revisions the highest that verifies is in force.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import MalformedObject, ObjectMisplaced, Untrusted
from walarchiver.format.canonical import JsonValue, canonical_json
from walarchiver.format.fields import Fields
from walarchiver.format.keyring import Keyring, Role
from walarchiver.format.signed import DOMAIN, SignedKind, Signer, split_signed

EPOCH_OBJECT_BYTES_MAX = 1 << 20
EPOCH_KEY_BYTES = 32
_CHECK_LABEL = DOMAIN + b"epoch-check\0"


@dataclass(frozen=True, slots=True)
class Stanza:
    """The epoch key wrapped to one recipient; `body` is hex."""

    recipient: str
    type: str
    body: str


@dataclass(frozen=True, slots=True)
class EpochKeyObject:
    """`from_us`: when the key came into use. `by`: who signed; `sha256`: hash of the stored bytes."""

    epoch: str
    system: str
    repo: str
    writer: str
    from_us: int
    check: str
    stanzas: tuple[Stanza, ...]
    by: str
    revision: int = 0
    sha256: str = ""

    def info(self, recipient: str) -> bytes:
        """What the wrap for `recipient` is bound to."""
        return wrap_info(self.epoch, recipient, self.repo, self.system, self.writer)

    def proves(self, key: bytes) -> bool:
        """Whether `key` is the key of this epoch."""
        return hmac.compare_digest(epoch_check(key), self.check)


def epoch_check(key: bytes) -> str:
    """The `check` of an epoch key: it can be told right from wrong, and nothing else."""
    return hashlib.sha256(_CHECK_LABEL + key).hexdigest()


def wrap_info(epoch: str, recipient: str, repo: str, system: str, writer: str) -> bytes:
    """The `info` of a wrap: canonical JSON of its place."""
    return canonical_json(
        {"epoch": epoch, "recipient": recipient, "repo": repo, "system": system, "writer": writer}
    )


def sign_epoch_object(epoch: EpochKeyObject, signer: Signer) -> bytes:
    """The stored bytes (`sha256` is not looked at). Raises MalformedObject."""
    stanzas = sorted(epoch.stanzas, key=lambda stanza: stanza.recipient)
    raw = signer.sign(
        SignedKind.EPOCH,
        {
            "by": epoch.by,
            "check": epoch.check,
            "epoch": epoch.epoch,
            "from": format_rfc3339(epoch.from_us),
            "repo": epoch.repo,
            "rev": epoch.revision,
            "stanzas": [{"body": s.body, "recipient": s.recipient, "type": s.type} for s in stanzas],
            "system": epoch.system,
            "writer": epoch.writer,
        },
    )
    parse_epoch_object(raw)  # check on write as on read
    return raw


def parse_epoch_object(raw: bytes) -> EpochKeyObject:
    """A key object taken apart; its signature is *not* verified. Raises MalformedObject."""
    text = split_signed(SignedKind.EPOCH, raw)
    fields = Fields(text.value(), "epoch key object")
    epoch = EpochKeyObject(
        epoch=fields.hex("epoch", 8),
        system=fields.system(),
        repo=fields.hex("repo", 16),
        writer=fields.hex("writer", 8),
        from_us=fields.time_us("from"),
        check=fields.hex("check", 32),
        stanzas=tuple(_stanza(value) for value in fields.items("stanzas")),
        by=fields.hex("by", 8),
        revision=fields.integer("rev", high=9999),
        sha256=text.sha256,
    )
    fields.end()
    recipients = [stanza.recipient for stanza in epoch.stanzas]
    if not recipients or recipients != sorted(set(recipients)):
        raise MalformedObject("epoch key object: stanzas are not in order, or there is none")
    if epoch.revision == 0 and epoch.by != epoch.writer:
        raise MalformedObject("epoch key object: revision 0 is by another than its writer")
    return epoch


def verify_epoch_object(
    raw: bytes, keyrings: Iterable[Keyring], *, system: str, epoch: str, revision: int
) -> EpochKeyObject:
    """The key object that stands under a name, if a signer of any of `keyrings` may have made it.

    `keyrings` are all that ever were in force on the chain, since old epochs are signed by
    writers of their day. Raises MalformedObject, ObjectMisplaced (another place's object) or
    Untrusted (nobody of the right role signed it).
    """
    parsed = parse_epoch_object(raw)
    if (parsed.system, parsed.epoch, parsed.revision) != (system, epoch, revision):
        raise ObjectMisplaced(f"key object of epoch {parsed.epoch}.{parsed.revision} in another's place")
    role = Role.WRITER if revision == 0 else Role.ADMIN
    text = split_signed(SignedKind.EPOCH, raw)
    for keyring in keyrings:
        for member in keyring.signer(parsed.by, system):
            if member.role is role and member.public is not None and keyring.repo == parsed.repo:
                text.verify(member.public)
                return parsed
    raise Untrusted(f"key object {epoch}.{revision} is signed by {parsed.by}, who is no {role} of {system}")


def _stanza(value: JsonValue) -> Stanza:
    fields = Fields(value, "stanza")
    stanza = Stanza(fields.hex("recipient", 8), fields.text("type"), fields.hex("body"))
    fields.end()
    return stanza
