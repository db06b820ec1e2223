"""What the keys at hand really open: the newest epoch of every chain, or each one.

Rules:
- Proven is what was opened here and now, from the store's bytes. A custodian whose key is not at hand
  is only known to be wrapped to.
- A key at hand that does not open an epoch it was tried on is a failure, whosever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from walarchiver.catalog import Catalog
from walarchiver.errors import KeyCannotOpen, Untrusted
from walarchiver.format.keyring import Role
from walarchiver.keys.epochs import open_epoch
from walarchiver.ports import Identity
from walarchiver.repository import Repository


@dataclass(slots=True)
class Custody:
    """One custodian and one cluster."""

    name: str
    """Empty for a key at hand that is no custodian of the newest keyring."""
    id: str
    at_hand: bool
    wrapped: int = 0
    """Epochs whose revision in force is wrapped to it."""
    opened: int = 0


@dataclass(slots=True)
class ClusterCustody:
    """What was tried for one cluster."""

    system: str
    cluster: str
    epochs: tuple[str, ...]
    """The ones that were tried."""
    epochs_total: int
    keyring: int
    custodians: list[Custody]
    problems: list[str]

    @property
    def failed(self) -> bool:
        """Whether a key at hand did not open everything that was tried."""
        tried = len(self.epochs)
        return bool(self.problems) or any(one.at_hand and one.opened < tried for one in self.custodians)


def try_keys(
    repository: Repository, catalogs: Callable[[str], Catalog], *, every: bool
) -> list[ClusterCustody]:
    """Try the repository's identities. Raises KeyCannotOpen without any, Store…, LedgerBroken."""
    if not repository.identities:
        raise KeyCannotOpen("there is no key to test: this host has no `identity`, and none was given")
    found = []
    for system in repository.systems():
        catalog = catalogs(system)
        try:
            state = repository.ledger(system, catalog).refresh()
            if state.cluster is not None:
                found.append(_test_cluster(repository, system, state.cluster.name, catalog.epochs(), every))
        finally:
            catalog.close()
    return found


def _test_cluster(
    repository: Repository, system: str, cluster: str, epochs: Sequence[str], every: bool
) -> ClusterCustody:
    keyring = repository.newest_keyring
    at_hand = {identity.recipient: identity for identity in repository.identities}
    members = keyring.having(Role.CUSTODIAN, system)
    rows = {member.id: Custody(member.name, member.id, member.id in at_hand) for member in members}
    for recipient in at_hand:
        rows.setdefault(recipient, Custody("", recipient, True))
    tried = tuple(epochs if every else epochs[-1:])
    found = ClusterCustody(system, cluster, tried, len(epochs), keyring.n, list(rows.values()), [])
    for epoch in tried:
        _try_epoch(repository, found, rows, at_hand, epoch)
    return found


def _try_epoch(
    repository: Repository,
    found: ClusterCustody,
    rows: dict[str, Custody],
    at_hand: dict[str, Identity],
    epoch: str,
) -> None:
    try:
        standing = repository.epoch_in_force(found.system, epoch)
    except Untrusted as error:
        found.problems.append(f"epoch {epoch}: {error.message} ({error.code})")
        return
    for stanza in standing.stanzas:
        row = rows.get(stanza.recipient)
        if row is not None:
            row.wrapped += 1
    for recipient, identity in at_hand.items():
        try:
            open_epoch(standing, [identity])
        except KeyCannotOpen:
            continue
        except Untrusted as error:
            found.problems.append(f"epoch {epoch}: {error.message} ({error.code})")
        else:
            rows[recipient].opened += 1
