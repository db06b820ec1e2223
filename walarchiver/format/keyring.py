"""Keyrings: whom a repository trusts, signed by its root.

Rules (docs/format.md, section 4):
- Keyring n names the hash of keyring n - 1; they are read from 1 on without a break.
- The first one that the pinned root signed is trusted, those before it by the hashes, each one
  behind it by the root in force (a trusted keyring may name `next_root`).
- Members are sorted by (role, id); an id is the hash of the key it stands for.
- A keyring may name the hash of the repository's mark, which nothing else vouches for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import BadSignature, KeyringBroken, MalformedObject
from walarchiver.format.canonical import JsonValue
from walarchiver.format.fields import Fields
from walarchiver.format.signed import ED25519, SignedKind, SignedText, Signer, key_id, split_signed

KEYRING_BYTES_MAX = 1 << 20
HPKE_XWING = "hpke-xwing"
MASTER_KEY = "master-key"
_CUSTODIAN_TYPES = frozenset({HPKE_XWING, MASTER_KEY, "aws-kms", "vault-transit"})


class Role(StrEnum):
    """What a member's key is for."""

    CUSTODIAN = "custodian"
    WRITER = "writer"
    ADMIN = "admin"
    PRUNER = "pruner"
    DRILLER = "driller"


@dataclass(frozen=True, slots=True)
class KeyringMember:
    """One key with one role. `systems` None: every cluster."""

    role: Role
    id: str
    type: str
    name: str
    public: bytes | None = None
    """None exactly for a master key, which has no public form."""
    systems: tuple[str, ...] | None = None

    def covers(self, system: str) -> bool:
        """Whether this member's scope includes the cluster."""
        return self.systems is None or system in self.systems

    def to_json(self) -> dict[str, JsonValue]:
        value: dict[str, JsonValue] = {
            "id": self.id,
            "name": self.name,
            "role": self.role.value,
            "type": self.type,
        }
        if self.public is not None:
            value["public"] = self.public.hex()
        if self.systems is not None:
            value["systems"] = list(self.systems)
        return value


@dataclass(frozen=True, slots=True)
class Keyring:
    """One keyring that verified; `sha256` is the hash of its stored bytes."""

    n: int
    repo: str
    time: int
    """Microseconds since 1970 on the signer's clock; for people."""
    members: tuple[KeyringMember, ...]
    prev: str | None = None
    next_root: bytes | None = None
    sha256: str = ""
    mark: str | None = None
    """The hash of `v1/REPO`."""

    def having(self, role: Role, system: str) -> tuple[KeyringMember, ...]:
        """Members with this role whose scope includes the cluster."""
        return tuple(member for member in self.members if member.role is role and member.covers(system))

    def has_role(self, role: Role, member_id: str, system: str) -> bool:
        """Whether this signing key has the role on the cluster."""
        return any(member.role is role for member in self.signer(member_id, system))

    def signer(self, member_id: str, system: str) -> tuple[KeyringMember, ...]:
        """Every role that this signing key has on the cluster; empty for a stranger."""
        return tuple(
            member
            for member in self.members
            if member.id == member_id and member.type == ED25519 and member.covers(system)
        )


def sign_keyring(keyring: Keyring, root: Signer) -> bytes:
    """The stored bytes of a keyring (its `sha256` is not looked at). Raises MalformedObject."""
    value: dict[str, JsonValue] = {
        "members": [member.to_json() for member in _sorted(keyring.members)],
        "n": keyring.n,
        "repo": keyring.repo,
        "time": format_rfc3339(keyring.time),
    }
    if keyring.mark is not None:
        value["mark"] = keyring.mark
    if keyring.prev is not None:
        value["prev"] = keyring.prev
    if keyring.next_root is not None:
        value["next_root"] = keyring.next_root.hex()
    raw = root.sign(SignedKind.KEYRING, value)
    parse_keyring(raw)  # check on write as on read
    return raw


def parse_keyring(raw: bytes) -> Keyring:
    """A keyring taken apart; its signature is *not* verified. Raises MalformedObject."""
    return _parsed(split_signed(SignedKind.KEYRING, raw))


def verify_keyrings(root_public: bytes, raws: Sequence[bytes]) -> dict[int, Keyring]:
    """Every keyring by number, from the stored bytes of number 1, 2, … in order.

    Raises KeyringBroken when they do not lead from the pinned root key to the newest one, and
    MalformedObject when one of them is no keyring.
    """
    if not raws:
        raise KeyringBroken("the repository has no keyring")
    texts = [split_signed(SignedKind.KEYRING, raw) for raw in raws]
    keyrings = [_parsed(text) for text in texts]
    _check_links(keyrings)
    root, trusted = root_public, False
    for text, keyring in zip(texts, keyrings, strict=True):
        try:
            text.verify(root)
        except BadSignature as error:
            if trusted:
                raise KeyringBroken(f"keyring {keyring.n} is not signed by the root in force") from error
            continue
        trusted = True
        root = keyring.next_root if keyring.next_root is not None else root
    if not trusted:
        raise KeyringBroken("no keyring is signed by the pinned root key")
    return {keyring.n: keyring for keyring in keyrings}


def verify_keyring_chain(root_public: bytes, raws: Sequence[bytes]) -> Keyring:
    """The newest keyring; as `verify_keyrings`."""
    return _newest(verify_keyrings(root_public, raws))


def _newest(keyrings: Mapping[int, Keyring]) -> Keyring:
    return keyrings[max(keyrings)]


def _check_links(keyrings: Sequence[Keyring]) -> None:
    before: Keyring | None = None
    for number, keyring in enumerate(keyrings, start=1):
        if keyring.n != number:
            raise KeyringBroken(f"keyring {keyring.n} in the place of {number}")
        if keyring.prev != (before.sha256 if before else None):
            raise KeyringBroken(f"keyring {number} does not follow keyring {number - 1}")
        if before and keyring.repo != before.repo:
            raise KeyringBroken(f"keyring {number} is of repository {keyring.repo}")
        before = keyring


def _sorted(members: Sequence[KeyringMember]) -> list[KeyringMember]:
    return sorted(members, key=lambda member: (member.role.value, member.id))


def _parsed(text: SignedText) -> Keyring:
    fields = Fields(text.value(), "keyring")
    keyring = Keyring(
        n=fields.integer("n", low=1, high=9999),
        repo=fields.hex("repo", 16),
        time=fields.time_us("time"),
        members=tuple(_member(value) for value in fields.items("members")),
        prev=fields.hex("prev", 32) if fields.has("prev") else None,
        next_root=bytes.fromhex(fields.hex("next_root", 32)) if fields.has("next_root") else None,
        sha256=text.sha256,
        mark=fields.hex("mark", 32) if fields.has("mark") else None,
    )
    fields.end()
    places = [(member.role.value, member.id) for member in keyring.members]
    if places != sorted(set(places)):
        raise MalformedObject("keyring: members are not in order, or one occurs twice")
    for role in (Role.CUSTODIAN, Role.WRITER):
        if not any(member.role is role for member in keyring.members):
            raise MalformedObject(f"keyring: no {role}")
    return keyring


def _member(value: JsonValue) -> KeyringMember:
    fields = Fields(value, "keyring member")
    role = Role(fields.one_of("role", frozenset(Role)))
    types = _CUSTODIAN_TYPES if role is Role.CUSTODIAN else frozenset({ED25519})
    key_type = fields.one_of("type", types)
    public = None if key_type == MASTER_KEY else bytes.fromhex(fields.hex("public"))
    systems: tuple[str, ...] | None = None
    if fields.has("systems"):
        systems = tuple(
            Fields({"system": item}, "keyring scope").system() for item in fields.items("systems")
        )
    member = KeyringMember(role, fields.hex("id", 8), key_type, fields.text("name"), public, systems)
    fields.end()
    _check_form(member)
    return member


def _check_form(member: KeyringMember) -> None:
    lengths = {ED25519: 32, HPKE_XWING: 1216}
    if member.public is None:
        return
    if len(member.public) != lengths.get(member.type, len(member.public)):
        raise MalformedObject(f"keyring: {member.type} key of {len(member.public)} bytes")
    if member.id != key_id(member.type, member.public):
        raise MalformedObject(f"keyring: {member.id} is not the id of its key")
