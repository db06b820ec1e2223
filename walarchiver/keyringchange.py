"""Changing whom a repository trusts: the next keyring, and its record in every chain.

Rules (docs/format.md, "Keyring"):
- The keyring is put first, create-once; then every chain of the repository records it. Only then is
  the change done. A run that was interrupted between is finished by the same command again.
- Whoever signs the records must be a writer or admin in the new keyring, on every cluster: asked
  before anything is put.
- A taken name with other bytes is somebody else's change: told, never overwritten, never merged.
- A chain that cannot be extended keeps no other from it; it is reported, and the change is not done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from walarchiver.catalog import Catalog
from walarchiver.core.objectname import keyring_key
from walarchiver.errors import (
    KeyringChanged,
    KeyTaken,
    StoreUnavailable,
    UsageError,
    WalarchiverError,
)
from walarchiver.format.keyring import KEYRING_BYTES_MAX, Keyring, Role, parse_keyring
from walarchiver.format.records import KeyringRecord, Record
from walarchiver.format.signed import Signer
from walarchiver.keys.change import Wish, concerns, fulfilled, next_keyring
from walarchiver.ledger import Proposal, Writer
from walarchiver.log import get_log
from walarchiver.ports import Clock, Random
from walarchiver.repository import Repository

log = get_log("keyring")

_MAY_RECORD = (Role.WRITER, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class ChainOutcome:
    """What became of one chain."""

    system: str
    cluster: str
    """Its name; empty for a chain without a valid entry, which takes the newest keyring when it begins."""
    before: int
    """The keyring that was in force."""
    failure: WalarchiverError | None = None


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """What a change did, or with `dry_run` would do."""

    keyring: Keyring
    made: bool
    """False: the keyring was as wished already."""
    chains: tuple[ChainOutcome, ...]
    concerns: tuple[str, ...]

    @property
    def failures(self) -> list[ChainOutcome]:
        return [chain for chain in self.chains if chain.failure is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changing:
    """What a change needs of the world; `catalogs` gives the catalog of a system, which is closed again."""

    repository: Repository
    clock: Clock
    random: Random
    catalogs: Callable[[str], Catalog]
    signers: Sequence[Signer]
    """Keys that may sign the records; the first one that has a role where it is needed."""
    observe: Callable[[str], None] = lambda _step: None


def change_keyring(changing: Changing, wish: Wish, root: Signer | None, *, dry_run: bool) -> ChangeOutcome:
    """Make the wish true, in the keyring and in every chain; `root` may be None to go on only.

    Raises KeyringChanged, LastKeyHolder, UsageError (nothing was changed), Untrusted, Store….
    """
    repository = changing.repository
    keyrings = repository.refresh()
    systems = repository.systems()
    if fulfilled(wish, keyrings, repository.root):
        newest = repository.newest_keyring
        _check_signers(changing, newest, systems)
        return _outcome(changing, newest, systems, made=False, dry_run=dry_run)
    if root is None:
        raise UsageError("the root key file is needed to sign a new keyring", hint="Name it with --root-key.")
    raw = next_keyring(
        wish,
        keyrings,
        pinned_root=repository.root,
        root=root,
        systems=systems,
        mark=repository.mark,
        now_us=changing.clock.now_us(),
    )
    made = parse_keyring(raw)
    _check_signers(changing, made, systems)
    if not dry_run:
        changing.observe("keyring: before put")
        _put(repository, made.n, raw)
        changing.observe("keyring: after put")
        repository.refresh()
        systems = repository.systems()  # a cluster may have begun meanwhile
    return _outcome(changing, made, systems, made=True, dry_run=dry_run)


def _put(repository: Repository, n: int, raw: bytes) -> None:
    key = keyring_key(n)
    try:
        repository.store.put_new(key, raw)
    except KeyTaken as error:
        there = repository.store.get(key, bytes_max=KEYRING_BYTES_MAX)
        if there == raw:
            return  # an earlier try of this very put
        raise KeyringChanged(f"keyring {n} was made by somebody else meanwhile") from error
    except StoreUnavailable as error:
        raise StoreUnavailable(
            f"whether keyring {n} is there is not known: {error.message}",
            hint="Give the same command again: it goes on where this one stopped.",
        ) from error


def _check_signers(changing: Changing, keyring: Keyring, systems: Sequence[str]) -> None:
    for system in systems:
        _signer_for(changing, keyring, system)


def _signer_for(changing: Changing, keyring: Keyring, system: str) -> Signer:
    for signer in changing.signers:
        if any(keyring.has_role(role, signer.id, system) for role in _MAY_RECORD):
            return signer
    given = " ".join(signer.id for signer in changing.signers) or "none"
    raise UsageError(
        f"keys at hand ({given}) are neither writer nor admin of cluster {system} in keyring {keyring.n}",
        hint="Name the key file of an admin, who stays one, with --sign-key.",
    )


def _outcome(
    changing: Changing, keyring: Keyring, systems: Sequence[str], *, made: bool, dry_run: bool
) -> ChangeOutcome:
    chains = []
    for system in systems:
        chains.append(_record(changing, keyring, system, dry_run=dry_run))
        changing.observe("keyring: chain done")
    return ChangeOutcome(keyring, made, tuple(chains), tuple(concerns(keyring, systems)))


def _record(changing: Changing, keyring: Keyring, system: str, *, dry_run: bool) -> ChainOutcome:
    """Let one chain record the newest keyring."""
    catalog = changing.catalogs(system)
    cluster, before = "", 0
    try:
        signer = _signer_for(changing, keyring, system)
        writer = Writer(signer, changing.random.token(8).hex(), changing.clock)
        ledger = changing.repository.ledger(system, catalog, writer, changing.observe)
        state = ledger.refresh()
        before = state.keyring_n
        cluster = state.cluster.name if state.cluster is not None else ""
        if cluster and not dry_run:
            (refusal,) = ledger.commit([recording(changing.repository)])
            if refusal is not None:
                raise refusal
    except WalarchiverError as error:
        log.error("keyring not recorded", system=system, code=error.code, reason=error.message)
        return ChainOutcome(system, cluster, before, error)
    finally:
        catalog.close()
    return ChainOutcome(system, cluster, before)


def recording(repository: Repository) -> Proposal:
    """Puts the newest keyring into force on a chain that does not have it yet."""

    def decide(catalog: Catalog) -> tuple[Record, ...]:
        newest = repository.newest_keyring
        if not catalog.clusters() or catalog.keyring_n() >= newest.n:
            return ()
        return (KeyringRecord(n=newest.n, sha256=newest.sha256),)

    return Proposal("keyring", decide)
