"""Making a repository's keys, its mark and its first keyring: `walarchiver keys init`.

Rules:
- `prepare_repository` touches nothing: chance and time come in, texts and bytes come out.
- Root, admin, writer and at least two custodians; with a master key custodians may be none.
- `write_repository` creates or fails; repeating it with the same value is safe. Key files are
  written before it, by the caller: a repository without its keys would be lost at birth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from walarchiver.core.objectname import keyring_key, repo_key
from walarchiver.errors import KeyTaken, NoRepository, RepositoryExists, UsageError
from walarchiver.format.keyring import (
    HPKE_XWING,
    KEYRING_BYTES_MAX,
    MASTER_KEY,
    Keyring,
    KeyringMember,
    Role,
    sign_keyring,
    verify_keyrings,
)
from walarchiver.format.mark import MARK_BYTES_MAX, RepositoryMark, parse_mark
from walarchiver.format.signed import ED25519, Signer
from walarchiver.keys.keyfile import KeyFile, KeyRole
from walarchiver.keys.masterkey import MasterKey
from walarchiver.keys.printable import printable_form
from walarchiver.keys.rootkey import root_text
from walarchiver.keys.xwing import XWingIdentity
from walarchiver.ports import ObjectStore, Random

CUSTODIANS_MIN = 2


@dataclass(frozen=True, slots=True)
class NewRepository:
    """All that a new repository consists of; secrets are not shown."""

    repo: str
    root: str
    """The text to pin: `wa-root1…`."""
    mark: bytes
    keyring: bytes
    key_files: Mapping[str, str] = field(repr=False)
    """File name (`root.key`, `custodian-alice.key`, …) to content."""
    printable: Mapping[str, str] = field(repr=False)
    """The same keys as they are printed."""


def prepare_repository(
    name: str,
    custodians: Sequence[str],
    *,
    now_us: int,
    random: Random,
    master_key: MasterKey | None = None,
    writers: Sequence[str] = ("writer",),
    admins: Sequence[str] = ("admin",),
) -> NewRepository:
    """Draw every key of a new repository.

    Raises UsageError for fewer than two custodians without a master key, for a name that occurs
    twice or that cannot be part of a file name.
    """
    _check_names(custodians, writers, admins, master_key)
    repo = random.token(16).hex()
    root = Signer.from_seed(root_seed := random.token(32))
    keys = [KeyFile(KeyRole.ROOT, "root", repo, root.public, root_seed)]
    for role, names in (
        (KeyRole.CUSTODIAN, custodians),
        (KeyRole.WRITER, writers),
        (KeyRole.ADMIN, admins),
    ):
        keys += [KeyFile(role, who, repo, root.public, random.token(32)) for who in names]
    members = [member_of(key) for key in keys if key.role is not KeyRole.ROOT]
    if master_key is not None:
        members.append(KeyringMember(Role.CUSTODIAN, master_key.recipient, MASTER_KEY, "master key"))
    mark = RepositoryMark(repo, name, now_us).encode()
    first = Keyring(
        n=1, repo=repo, time=now_us, members=tuple(members), mark=hashlib.sha256(mark).hexdigest()
    )
    keyring = sign_keyring(first, root)
    verify_keyrings(root.public, [keyring])
    return NewRepository(
        repo=repo,
        root=root_text(root.public),
        mark=mark,
        keyring=keyring,
        key_files={_file_name(key): key.encode() for key in keys},
        printable={_file_name(key): printable_form(key) for key in keys},
    )


def member_of(key: KeyFile, *, systems: tuple[str, ...] | None = None) -> KeyringMember:
    """The keyring member that a private key is the other half of. Raises UsageError for a root."""
    if key.role is KeyRole.ROOT:
        raise UsageError("the root key is not a member of the keyring that it signs")
    role = Role(key.role.value)
    if role is Role.CUSTODIAN:
        identity = XWingIdentity.from_seed(key.secret)
        return KeyringMember(role, identity.recipient, HPKE_XWING, key.name, identity.public, systems)
    signer = key.signer()
    return KeyringMember(role, signer.id, ED25519, key.name, signer.public, systems)


def write_repository(store: ObjectStore, new: NewRepository) -> None:
    """Create the mark and keyring 1. Raises RepositoryExists when another one is there."""
    there = store.get(keyring_key(1), bytes_max=KEYRING_BYTES_MAX)
    if there is not None and there != new.keyring:
        raise RepositoryExists(f"{store.url} has a keyring already")
    for key, body, bytes_max in (
        (repo_key(), new.mark, MARK_BYTES_MAX),
        (keyring_key(1), new.keyring, KEYRING_BYTES_MAX),
    ):
        try:
            store.put_new(key, body)
        except KeyTaken as error:
            if store.get(key, bytes_max=bytes_max) != body:
                raise RepositoryExists(f"{store.url} has a repository already") from error


def read_mark(store: ObjectStore) -> RepositoryMark:
    """The mark of the repository at a place. Raises NoRepository, MalformedObject."""
    raw = store.get(repo_key(), bytes_max=MARK_BYTES_MAX)
    if raw is None:
        raise NoRepository(f"no repository at {store.url}")
    return parse_mark(raw)


def _check_names(
    custodians: Sequence[str], writers: Sequence[str], admins: Sequence[str], master_key: MasterKey | None
) -> None:
    if master_key is None and len(custodians) < CUSTODIANS_MIN:
        raise UsageError(
            f"{len(custodians)} custodians, at least {CUSTODIANS_MIN} are needed",
            hint="Losing the only key file would lose every backup: name two custodians.",
        )
    if not writers:
        raise UsageError("a repository needs a writer")
    for names in (custodians, writers, admins):
        for who in names:
            if not who.isascii() or not who.replace("-", "").replace("_", "").isalnum():
                raise UsageError(f"{who!r} cannot name a key", hint="Use letters, digits, - and _.")
        if len(set(names)) != len(names):
            raise UsageError(f"a name occurs twice in {', '.join(names)}")


def _file_name(key: KeyFile) -> str:
    return f"{key.role}.key" if key.role.value == key.name else f"{key.role}-{key.name}.key"
