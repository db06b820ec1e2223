"""The public form of a key as a short text: what whoever signs keyrings gets to see of it.

Rules (docs/format.md, "Key files"):
- The lines of a key file with another first line, and `public` in the place of `secret`. There is no
  secret in it, so it may travel by any way that shows a change; `check` only finds damage.
- A master key has none. A root's serves as the next root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from walarchiver.errors import ConfigError, MalformedObject, UsageError
from walarchiver.format.keyring import HPKE_XWING, KeyringMember, Role
from walarchiver.format.signed import ED25519, key_id
from walarchiver.keys.keyfile import KeyFile, KeyRole, lines_check, read_lines
from walarchiver.keys.rootkey import parse_root_text, root_text
from walarchiver.keys.xwing import XWingIdentity, XWingRecipient

_FIRST = "walarchiver public key 1"
_NAMES = ("role", "name", "repo", "root", "type", "public", "check")
_BYTES_MAX = 65536
_ED25519_BYTES = 32
_PRIVATE = "walarchiver key 1"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What others may know of a key."""

    role: KeyRole
    name: str
    repo: str
    root: bytes
    """The root that its holder trusted when the key was made."""
    public: bytes

    @property
    def type(self) -> str:
        return HPKE_XWING if self.role is KeyRole.CUSTODIAN else ED25519

    @property
    def id(self) -> str:
        return key_id(self.type, self.public)

    def encode(self) -> str:
        """The text; `parse_public_key` is the inverse."""
        lines = [
            _FIRST,
            f"role: {self.role}",
            f"name: {self.name}",
            f"repo: {self.repo}",
            f"root: {root_text(self.root)}",
            f"type: {self.type}",
            f"public: {self.public.hex()}",
        ]
        text = "\n".join(["# Public key: no secret.", *lines, f"check: {lines_check(lines)}", ""])
        assert parse_public_key(text) == self
        return text

    def member(self, *, systems: tuple[str, ...] | None = None) -> KeyringMember:
        """What a keyring says of it. Raises UsageError for a root."""
        if self.role is KeyRole.ROOT:
            raise UsageError(
                "a root key is not a member of the keyring that it signs",
                hint="`walarchiver keys root` makes it the next root.",
            )
        return KeyringMember(Role(self.role.value), self.id, self.type, self.name, self.public, systems)


def public_key_of(key: KeyFile) -> PublicKey:
    """The public half of a private key."""
    if key.role is KeyRole.CUSTODIAN:
        public = XWingIdentity.from_seed(key.secret).public
    else:
        public = key.signer().public
    return PublicKey(key.role, key.name, key.repo, key.root, public)


def parse_public_key(text: str) -> PublicKey:
    """The key in the text of a public form. Raises ConfigError; one that says so for a private key."""
    if any(line.strip() == _PRIVATE for line in text.split("\n")):
        raise ConfigError(
            "this is a private key, where only its public form is needed",
            hint="Its holder runs `walarchiver keys export-public FILE` and sends what that prints.",
        )
    values = read_lines(text, _FIRST, _NAMES)
    if values["role"] not in set(KeyRole):
        raise ConfigError(f"public key: {values['role']!r} is not a role")
    if re.fullmatch("[0-9a-f]{32}", values["repo"]) is None or not _even_hex(values["public"]):
        raise ConfigError("public key: repository id or key is not spelled as hex")
    key = PublicKey(
        role=KeyRole(values["role"]),
        name=values["name"],
        repo=values["repo"],
        root=parse_root_text(values["root"]),
        public=bytes.fromhex(values["public"]),
    )
    if values["type"] != key.type:
        raise ConfigError(f"public key: a {key.role}'s key is not of type {values['type']!r}")
    _check_form(key)
    return key


def read_public_key(path: Path) -> PublicKey:
    """The public form in a file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > _BYTES_MAX:
        raise ConfigError(f"{path} is too long to be a key")
    try:
        return parse_public_key(content.decode("utf-8", "replace"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.next_step) from error


def _even_hex(text: str) -> bool:
    return re.fullmatch("([0-9a-f]{2})+", text) is not None


def _check_form(key: PublicKey) -> None:
    """Raises ConfigError for bytes that are no key of the type."""
    if key.role is KeyRole.CUSTODIAN:
        try:
            XWingRecipient.from_public(key.public)
        except MalformedObject as error:
            raise ConfigError(f"public key: {error.message}") from error
    elif len(key.public) != _ED25519_BYTES:
        raise ConfigError(f"public key: {len(key.public)} bytes, an ed25519 key has {_ED25519_BYTES}")
