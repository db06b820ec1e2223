"""Epoch keys: drawing one and wrapping it to every custodian; getting one back.

Rules (docs/format.md, section 4):
- A new key is wrapped to every custodian whose scope has the cluster; none may be left out, since
  any single one must be able to restore everything.
- An unwrapped key counts only when it is proven by `check`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from walarchiver.errors import ConfigError, KeyCannotOpen, Untrusted
from walarchiver.format.epoch import (
    EPOCH_KEY_BYTES,
    EpochKeyObject,
    Stanza,
    epoch_check,
    parse_epoch_object,
    sign_epoch_object,
    wrap_info,
)
from walarchiver.format.keyring import HPKE_XWING, MASTER_KEY, Keyring, Role
from walarchiver.format.signed import Signer
from walarchiver.keys.masterkey import MasterKey
from walarchiver.keys.xwing import XWingRecipient
from walarchiver.ports import Identity, Random, Recipient


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """A fresh epoch key (memory only), and the object that must be durable before its first use."""

    epoch: str
    key: bytes = field(repr=False)
    raw: bytes = field(repr=False)
    sha256: str
    """What the `epoch` record carries."""


def recipients_of(
    keyring: Keyring, system: str, *, master_keys: Mapping[str, MasterKey] | None = None
) -> list[Recipient]:
    """Everyone that an epoch key of this cluster must be wrapped to; master keys by their id.

    Raises ConfigError when a master key of the keyring is not at hand, or a custodian is of a
    type that this release cannot wrap to.
    """
    known = master_keys or {}
    found: list[Recipient] = []
    for member in keyring.having(Role.CUSTODIAN, system):
        if member.type == HPKE_XWING and member.public is not None:
            found.append(XWingRecipient.from_public(member.public))
        elif member.type == MASTER_KEY and member.id in known:
            found.append(known[member.id])
        else:
            raise ConfigError(
                f"custodian {member.id} ({member.name}, {member.type}) cannot be wrapped to from here",
                hint="A master key must be named in the [repository] section of every archiving host.",
            )
    if not found:
        raise ConfigError(f"keyring {keyring.n} has no custodian for cluster {system}")
    return found


def new_epoch(
    recipients: Iterable[Recipient], *, repo: str, system: str, signer: Signer, from_us: int, random: Random
) -> NewEpoch:
    """Draw an epoch key and wrap it to all `recipients`; revision 0, signed by the writer."""
    epoch, key = random.token(8).hex(), random.token(EPOCH_KEY_BYTES)
    stanzas = tuple(
        Stanza(to.recipient, to.type, to.wrap(key, wrap_info(epoch, to.recipient, repo, system, signer.id)))
        for to in recipients
    )
    raw = sign_epoch_object(
        EpochKeyObject(
            epoch=epoch,
            system=system,
            repo=repo,
            writer=signer.id,
            from_us=from_us,
            check=epoch_check(key),
            stanzas=stanzas,
            by=signer.id,
        ),
        signer,
    )
    return NewEpoch(epoch, key, raw, parse_epoch_object(raw).sha256)


def rewrapped(
    epoch: EpochKeyObject, key: bytes, recipients: Iterable[Recipient], *, revision: int, signer: Signer
) -> bytes:
    """The same epoch key, wrapped to `recipients`: a later revision, signed by an admin.

    `epoch` must have been verified, and `key` opened from it.
    """
    stanzas = tuple(
        Stanza(to.recipient, to.type, to.wrap(key, epoch.info(to.recipient))) for to in recipients
    )
    return sign_epoch_object(
        replace(epoch, stanzas=stanzas, by=signer.id, revision=revision, sha256=""), signer
    )


def open_epoch(epoch: EpochKeyObject, identities: Iterable[Identity]) -> bytes:
    """The epoch key, by the first identity that has a stanza here and opens it.

    `epoch` must have been verified (`verify_epoch_object`). Raises KeyCannotOpen when none
    does, Untrusted when what opened is not the key that the object proves.
    """
    tried = []
    for identity in identities:
        tried.append(identity.recipient)
        for stanza in epoch.stanzas:
            if stanza.recipient != identity.recipient:
                continue
            try:
                key = identity.unwrap(stanza.body, epoch.info(stanza.recipient))
            except KeyCannotOpen:
                continue
            if not epoch.proves(key):
                raise Untrusted(f"stanza of {stanza.recipient} holds another key than epoch {epoch.epoch}'s")
            return key
    wanted = " ".join(stanza.recipient for stanza in epoch.stanzas)
    have = " ".join(tried) or "none"
    raise KeyCannotOpen(f"epoch {epoch.epoch} is wrapped to {wanted}, keys at hand: {have}")
