"""Checkpoints kept outside of the repository: what the end of a chain was, signed.

Rules (docs/format.md, section 5):
- Signed text of kind `checkpoint` under a name that says repository, cluster and entry; written once.
- It counts when its signer has a role that may sign `checkpoint`: in the keyring that it names, and in the
  one in force at that entry of the reader's chain (or at the end of a shorter one), if that is later. So a
  key that was removed cannot go on to vouch by naming an old keyring.
- A chain that lacks the entry, or has another there, was cut off or is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import MalformedObject, ObjectMisplaced, Untrusted
from walarchiver.format.canonical import JsonValue
from walarchiver.format.chain import MAY_SIGN
from walarchiver.format.fields import Fields
from walarchiver.format.keyring import Keyring
from walarchiver.format.records import CheckpointRecord
from walarchiver.format.signed import SignedKind, Signer, split_signed

CHECKPOINT_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """At `time` (microseconds since 1970 on the writer's clock) entry `seq` had the hash `sha256`."""

    repo: str
    system: str
    seq: int
    sha256: str
    time: int
    keyring: int
    """The keyring that vouches for the writer."""
    writer: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.sha256}"


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """The stored bytes. Raises MalformedObject when it cannot be written."""
    if checkpoint.writer != signer.id:
        raise MalformedObject(f"checkpoint of {checkpoint.writer} signed by {signer.id}")
    value: dict[str, JsonValue] = {
        "keyring": checkpoint.keyring,
        "repo": checkpoint.repo,
        "seq": checkpoint.seq,
        "sha256": checkpoint.sha256,
        "system": checkpoint.system,
        "time": format_rfc3339(checkpoint.time),
        "writer": checkpoint.writer,
    }
    raw = signer.sign(SignedKind.CHECKPOINT, value)
    parse_checkpoint(raw)  # check on write as on read
    return raw


def parse_checkpoint(raw: bytes) -> Checkpoint:
    """A checkpoint whose signature is *not* verified. Raises MalformedObject."""
    if len(raw) > CHECKPOINT_BYTES_MAX:
        raise MalformedObject(f"checkpoint of {len(raw)} bytes, {CHECKPOINT_BYTES_MAX} is the most")
    fields = Fields(split_signed(SignedKind.CHECKPOINT, raw).value(), "checkpoint")
    checkpoint = Checkpoint(
        repo=fields.hex("repo", 16),
        system=fields.system(),
        seq=fields.integer("seq"),
        sha256=fields.hex("sha256", 32),
        time=fields.time_us("time"),
        keyring=fields.integer("keyring", low=1, high=9999),
        writer=fields.hex("writer", 8),
    )
    fields.end()
    return checkpoint


def verify_checkpoint(
    raw: bytes,
    keyrings: Mapping[int, Keyring],
    *,
    repo: str,
    system: str,
    seq: int | None = None,
    in_force: int = 1,
) -> Checkpoint:
    """The checkpoint in stored bytes, of just this chain and (when `seq` is given) this name.

    `in_force`: the keyring in force at that entry of the reader's chain, or at the end of a shorter one.

    Raises MalformedObject, ObjectMisplaced, Untrusted, BadSignature.
    """
    checkpoint = parse_checkpoint(raw)
    if (checkpoint.repo, checkpoint.system) != (repo, system) or seq not in (None, checkpoint.seq):
        raise ObjectMisplaced(
            f"checkpoint is of entry {checkpoint.seq} of system {checkpoint.system} "
            f"in repository {checkpoint.repo}"
        )
    public = b""
    for number in sorted({checkpoint.keyring, max(checkpoint.keyring, in_force)}):
        keyring = keyrings.get(number)
        if keyring is None or keyring.repo != repo:
            raise Untrusted(f"checkpoint needs keyring {number}, which is not known")
        public = _public_key(keyring, checkpoint.writer, system)
    split_signed(SignedKind.CHECKPOINT, raw).verify(public)
    return checkpoint


def _public_key(keyring: Keyring, writer: str, system: str) -> bytes:
    """Raises Untrusted when the keyring gives this key no role that may sign checkpoints."""
    for member in keyring.signer(writer, system):
        if CheckpointRecord.kind in MAY_SIGN.get(member.role, frozenset()) and member.public is not None:
            return member.public
    raise Untrusted(f"signer {writer} may not sign checkpoints in keyring {keyring.n}")
