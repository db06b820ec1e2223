"""What doctor says of keys: who may read them, whether they are in force, whether they open the newest epoch.

Rule: no secret, nor a part or hash of one, is in a finding; keys are named by file and member name.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from walarchiver.assembly import Archive, identities_of, root_of, signer_of
from walarchiver.errors import KeyCannotOpen
from walarchiver.format.keyring import Keyring, Role
from walarchiver.keys.change import concerns
from walarchiver.operate.findings import Finding, fail, looked_at, met, ok, warn
from walarchiver.settings_schema import RepositorySettings


def key_findings(
    prefix: str, section: RepositorySettings, archive: Archive | None, *, archiving: bool
) -> Iterator[Finding]:
    """Findings about one repository's keys. `archiving`: this host pushes WAL, so it needs a writer's key."""
    yield from looked_at(f"{prefix}root", lambda: _root(prefix, section))
    yield from looked_at(f"{prefix}writer", lambda: _writer(prefix, section, archive, archiving=archiving))
    if archive is not None:
        yield from _keyring(f"{prefix}keyring", archive)
    yield from looked_at(
        f"{prefix}identity", lambda: _identity(prefix, section, archive, archiving=archiving)
    )
    for name, path in (
        ("signing_key", section.signing_key),
        ("identity", section.identity),
        ("credentials_file", section.credentials_file),
        ("master_key_file", section.master_key_file),
    ):
        if path is not None:
            yield _permissions(f"{prefix}{name} file", path)


def _root(prefix: str, section: RepositorySettings) -> Iterator[Finding]:
    root_of(section)
    if section.root is None:
        yield warn(
            f"{prefix}root",
            "the root key is taken from the identity's file, not pinned in the configuration",
            "Set `root` to the text that `walarchiver keys init` printed.",
        )
    else:
        yield ok(f"{prefix}root", "the root key is pinned")


def _writer(
    prefix: str, section: RepositorySettings, archive: Archive | None, *, archiving: bool
) -> Iterator[Finding]:
    name = f"{prefix}writer"
    if section.signing_key is None:
        if archiving:
            yield fail(name, "this host archives and has no `signing_key`", "Name this host's writer key.")
        return
    signer = signer_of(section)
    if archive is None:
        return
    keyring = archive.repository.newest_keyring
    for member in keyring.signer(signer.id, archive.system):
        if member.role is Role.WRITER:
            yield ok(name, f"this host's key is writer {member.name!r} in keyring {keyring.n}")
            return
    yield fail(
        name,
        f"this host's key {signer.id} is no writer of this cluster in keyring {keyring.n}",
        "An administrator adds it to the keyring, or `signing_key` names another repository's key.",
    )


def _keyring(name: str, archive: Archive) -> Iterator[Finding]:
    """Whether the newest keyring is in force on the chain, and what is worrying about it."""
    newest, in_force = archive.repository.newest_keyring, archive.catalog.keyring_n()
    if in_force < newest.n:
        yield warn(
            name,
            f"keyring {newest.n} is stored, and keyring {in_force} is in force in this ledger",
            "Give the command that changed the keyring again: it goes on where it was interrupted.",
        )
    for concern in concerns(newest, [archive.system]):
        yield warn(name, f"keyring {newest.n}: {concern}", "See docs/keys.md.")
    if in_force >= newest.n and not concerns(newest, [archive.system]):
        yield ok(name, f"keyring {newest.n} is in force, {_counted(newest, archive.system)}")


def _counted(keyring: Keyring, system: str) -> str:
    custodians, writers = (len(keyring.having(role, system)) for role in (Role.CUSTODIAN, Role.WRITER))
    return f"with {custodians} custodians and {writers} writer{'' if writers == 1 else 's'}"


def _identity(
    prefix: str, section: RepositorySettings, archive: Archive | None, *, archiving: bool
) -> Iterator[Finding]:
    name = f"{prefix}identity"
    if not identities_of(section):
        text = "none here: this host archives and cannot read" if archiving else "none here"
        if archiving:
            yield ok(name, text)
        else:
            yield warn(name, text, "A host that restores needs a custodian's key file as `identity`.")
        return
    if archiving and section.identity is not None:
        yield warn(
            name,
            "a custodian's key lies on a host that archives: whoever takes this host reads every backup",
            "Keep custodians' keys elsewhere; archiving does not need one.",
        )
    epochs = archive.catalog.epochs() if archive is not None else []
    if archive is None or not epochs:
        return
    try:
        archive.repository.epoch_key(archive.system, epochs[-1])
    except KeyCannotOpen as error:
        yield met(name, error)
    else:
        yield ok(name, f"the identity opens the newest epoch, {epochs[-1]}")


def _permissions(name: str, path: Path) -> Finding:
    try:
        found = path.stat()
    except OSError as error:
        return fail(
            name, f"{path} cannot be seen: {error.strerror}", "Is the path right, and this user its own?"
        )
    if not stat.S_ISREG(found.st_mode):
        return fail(name, f"{path} is not a file", "Name the key file itself.")
    if found.st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return fail(name, f"{path} is open to every user", f"Run `chmod 600 {path}`.")
    if found.st_mode & (stat.S_IRGRP | stat.S_IWGRP):
        return warn(name, f"{path} is open to its group", f"Run `chmod 600 {path}`.")
    return ok(name, f"{path} is closed to others")
