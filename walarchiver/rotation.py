"""Rotation: wraps every epoch key anew, to the custodians of the newest keyring; data never moves.

Rules (docs/format.md, "Revisions"):
- A revision is put under the next free number, then recorded; what is not recorded does not count, so
  a run that was interrupted leaves nothing that matters, and the next one goes on.
- A key whose revision in force is wrapped to just the wanted custodians is left as it is.
- Nothing is recorded behind a keyring later than the one that was wrapped for.
- Each new revision is read back from the store, and opened when a key at hand can.
- It takes nothing away: older revisions open the same bodies for as long as anybody has them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from walarchiver.catalog import Catalog
from walarchiver.core.objectname import epoch_key_name
from walarchiver.errors import (
    KeyCannotOpen,
    KeyringChanged,
    KeyTaken,
    ObjectDamaged,
    Untrusted,
    UsageError,
    WalarchiverError,
)
from walarchiver.format.epoch import EpochKeyObject
from walarchiver.format.keyring import Keyring, Role
from walarchiver.format.records import EpochRecord, Record
from walarchiver.format.signed import Signer
from walarchiver.keyringchange import recording
from walarchiver.keys.epochs import open_epoch, rewrapped
from walarchiver.ledger import Ledger, Proposal, Writer
from walarchiver.ports import Clock, Random, Recipient
from walarchiver.repository import Repository

BATCH = 64
"""Revisions recorded in one entry."""
THREADS = 8
_REVISION_MAX = 9999


@dataclass(frozen=True, slots=True)
class NotRotated:
    """An epoch key that could not be wrapped anew; its data is as readable as before."""

    epoch: str
    code: str
    message: str


@dataclass(slots=True)
class ClusterRotation:
    """What was done, or with a dry run would be, for one cluster."""

    system: str
    cluster: str
    keyring: int
    epochs: int = 0
    current: int = 0
    """Wrapped to the wanted custodians already."""
    written: int = 0
    opened: int = 0
    """Of those written: read back, and opened with a key at hand."""
    failed: list[NotRotated] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotating:
    """What a rotation needs; `recipients` gives everybody that a cluster's keys are wrapped to."""

    repository: Repository
    clock: Clock
    random: Random
    catalogs: Callable[[str], Catalog]
    admin: Signer
    recipients: Callable[[Keyring, str], Sequence[Recipient]]
    dry_run: bool
    progress: Callable[[ClusterRotation, int], None] = lambda _found, _done: None
    observe: Callable[[str], None] = lambda _step: None


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A revision that is in the store, and its record."""

    record: EpochRecord
    revision: int


def rotate(rotating: Rotating) -> list[ClusterRotation]:
    """Rotate every cluster of the repository.

    Raises UsageError (not an admin), KeyCannotOpen (no key at hand), KeyringChanged, Store….
    """
    repository = rotating.repository
    if not repository.identities:
        raise KeyCannotOpen("to wrap keys anew they must be opened, and no custodian's key is at hand")
    repository.refresh()
    keyring = repository.newest_keyring
    systems = repository.systems()
    for system in systems:
        if not keyring.has_role(Role.ADMIN, rotating.admin.id, system):
            raise UsageError(
                f"key {rotating.admin.id} is no admin of cluster {system} in keyring {keyring.n}",
                hint="Name an admin's key file with --admin-key.",
            )
    found = []
    for system in systems:
        catalog = rotating.catalogs(system)
        try:
            done = _rotate_cluster(rotating, keyring, system, catalog)
        finally:
            catalog.close()
        if done is not None:
            found.append(done)
    return found


def _rotate_cluster(
    rotating: Rotating, keyring: Keyring, system: str, catalog: Catalog
) -> ClusterRotation | None:
    writer = Writer(rotating.admin, rotating.random.token(8).hex(), rotating.clock)
    ledger = rotating.repository.ledger(system, catalog, writer, rotating.observe)
    state = ledger.refresh()
    if state.cluster is None:
        return None
    if not rotating.dry_run:
        _commit(ledger, recording(rotating.repository))
    epochs = catalog.epochs()
    found = ClusterRotation(system, state.cluster.name, keyring.n, epochs=len(epochs))
    recipients = rotating.recipients(keyring, system)
    for batch in _batches(epochs):
        _rotate_batch(rotating, found, ledger, recipients, batch)
        rotating.progress(found, found.current + found.written + len(found.failed))
    return found


def _batches(epochs: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(epochs), BATCH):
        yield epochs[first : first + BATCH]


def _rotate_batch(
    rotating: Rotating,
    found: ClusterRotation,
    ledger: Ledger,
    recipients: Sequence[Recipient],
    epochs: Sequence[str],
) -> None:
    def one(epoch: str) -> _Fresh | NotRotated | None:
        try:
            return _wrap_anew(rotating, found.system, epoch, recipients)
        except (Untrusted, KeyCannotOpen) as error:
            return NotRotated(epoch, error.code, error.message)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="rotate") as pool:
        results = list(pool.map(one, epochs))
    fresh = [result for result in results if isinstance(result, _Fresh)]
    found.current += results.count(None)
    found.failed += [result for result in results if isinstance(result, NotRotated)]
    if fresh and not rotating.dry_run:
        rotating.observe("rotate: before record")
        _commit(ledger, _revisions(found.keyring, fresh))
        rotating.observe("rotate: recorded")
        for each in fresh:
            found.opened += _check(rotating.repository, found.system, each, recipients)
    found.written += len(fresh)


def _wrap_anew(rotating: Rotating, system: str, epoch: str, recipients: Sequence[Recipient]) -> _Fresh | None:
    """Put a new revision; None when the one in force is wrapped to just these recipients."""
    standing = rotating.repository.epoch_in_force(system, epoch)
    if {stanza.recipient for stanza in standing.stanzas} == {to.recipient for to in recipients}:
        return None
    key = open_epoch(standing, rotating.repository.identities)
    if rotating.dry_run:
        return _Fresh(EpochRecord(epoch, "0" * 64, standing.revision + 1), standing.revision + 1)
    revision, raw = _put(rotating, standing, key, recipients)
    rotating.observe("rotate: after put")
    return _Fresh(EpochRecord(epoch, hashlib.sha256(raw).hexdigest(), revision), revision)


def _put(
    rotating: Rotating, standing: EpochKeyObject, key: bytes, recipients: Sequence[Recipient]
) -> tuple[int, bytes]:
    """Put under the next free number: what no record names is never adopted."""
    for revision in range(standing.revision + 1, _REVISION_MAX + 1):
        raw = rewrapped(standing, key, recipients, revision=revision, signer=rotating.admin)
        try:
            rotating.repository.store.put_new(epoch_key_name(standing.system, standing.epoch, revision), raw)
        except KeyTaken:
            continue
        return revision, raw
    raise Untrusted(f"every revision of epoch {standing.epoch} above {standing.revision} is taken")


def _revisions(keyring_n: int, fresh: Sequence[_Fresh]) -> Proposal:
    def decide(catalog: Catalog) -> tuple[Record, ...]:
        if catalog.keyring_n() > keyring_n:
            raise KeyringChanged(
                f"keyring {catalog.keyring_n()} came into force while keys were wrapped for {keyring_n}",
                hint="Run `walarchiver keys rotate` again: it wraps to the custodians of the newest one.",
            )
        return tuple(each.record for each in fresh)

    return Proposal("rotate", decide)


def _check(repository: Repository, system: str, each: _Fresh, recipients: Sequence[Recipient]) -> bool:
    """Whether the stored revision is in force and wrapped as wanted, and was opened again."""
    standing = repository.epoch_in_force(system, each.record.epoch)
    wanted = {to.recipient for to in recipients}
    if standing.revision < each.revision or {stanza.recipient for stanza in standing.stanzas} != wanted:
        raise ObjectDamaged(f"epoch key {each.record.epoch} does not read back as revision {each.revision}")
    try:
        open_epoch(standing, repository.identities)
    except KeyCannotOpen:
        return False  # rotated with the key of a custodian who is one no longer
    return True


def _commit(ledger: Ledger, proposal: Proposal) -> None:
    (refusal,) = ledger.commit([proposal])
    if isinstance(refusal, WalarchiverError):
        raise refusal
