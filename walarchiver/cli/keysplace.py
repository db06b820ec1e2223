"""What the verbs of `keys` share: which repository is meant, its parts, and the keys they are given.

Rule: a key file named on the command line must be of this repository, and of the role it is used in.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from walarchiver.assembly import (
    Host,
    catalog_of,
    guard_store,
    identities_of,
    root_of,
    signer_of,
    store_of,
)
from walarchiver.catalog import Catalog
from walarchiver.cli.context import Context
from walarchiver.errors import UsageError
from walarchiver.format.signed import Signer
from walarchiver.keys.keyfile import KeyFile, KeyRole, read_key_file
from walarchiver.keys.xwing import XWingIdentity
from walarchiver.ports import Identity
from walarchiver.repository import Repository
from walarchiver.settings import RepositorySettings, Settings


@dataclass(frozen=True, slots=True)
class Place:
    """The repository that a verb works on."""

    host: Host
    name: str
    section: RepositorySettings
    repository: Repository

    def catalog(self, system: str) -> Catalog:
        """A catalog to read a system's ledger into; close it."""
        return catalog_of(self.host, self.repository, system)

    def key(self, path: Path, *roles: KeyRole) -> KeyFile:
        """A private key of this repository. Raises ConfigError, UsageError."""
        key = read_key_file(path)
        if key.role not in roles:
            raise UsageError(f"{path} is of role {key.role}, and {' or '.join(roles)} is needed")
        if key.repo != self.repository.repo:
            raise UsageError(f"{path} is of repository {key.repo}, this one is {self.repository.repo}")
        return key

    def signers(self, given: Path | None) -> list[Signer]:
        """Keys that may sign records: the one given, then this host's own."""
        found = [] if given is None else [self.key(given, KeyRole.ADMIN, KeyRole.WRITER).signer()]
        if self.section.signing_key is not None:
            found.append(signer_of(self.section))
        if not found:
            raise UsageError(
                "a change of keys is recorded in the ledger, and no key is at hand to sign that with",
                hint="Name an admin's key file with --sign-key.",
            )
        return found


def add_repository(parser: argparse.ArgumentParser) -> None:
    """The option that says which repository is meant."""
    parser.add_argument("--repository", metavar="NAME", help="may be left out when there is only one")


def open_place(
    context: Context, given: str | None, *, identities: Sequence[Path] = (), changing: bool = False
) -> Place:
    """Open the repository, with the custodians' key files named or else the configured identity.

    `changing`: the store is probed for create-once first. Raises ConfigError, NoRepository, ….
    """
    host = context.host()
    name = repository_name(host.settings, given)
    section = host.settings.repository(name)
    opened = [_identity(path) for path in identities] or identities_of(section)
    repository = Repository.open(store_of(host, section), root=root_of(section), identities=opened)
    if changing:
        guard_store(repository)
    return Place(host, name, section, repository)


def _identity(path: Path) -> Identity:
    key = read_key_file(path)
    if key.role is not KeyRole.CUSTODIAN:
        raise UsageError(f"{path} is of role {key.role} and opens nothing")
    return XWingIdentity.from_seed(key.secret)


def repository_name(settings: Settings, given: str | None) -> str:
    """The section that is meant. Raises UsageError."""
    if given is not None:
        return given
    if len(settings.repositories) == 1:
        return next(iter(settings.repositories))
    raise UsageError(f"--repository is needed; there is {', '.join(settings.repositories)}")
