"""Repository: one place in object storage, trusted from its pinned root key downwards.

Rules (docs/format.md, "Keys and trust", "Reads"):
- Root → keyring → signer's role → ledger → object: nothing is believed before what vouches for it.
- A record's version id is a hint. Any version of the key whose bytes have the recorded SHA-256 is
  the object: hint first, then the latest, then all. A missing object that the ledger records is an
  error, never an absence.
- Epoch keys are opened with the identities at hand; the valid revision is the highest one that
  verifies. Without an identity nothing can be read (and nothing needs to be, to archive).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from walarchiver.catalog import Catalog, FileRecord
from walarchiver.core.objectname import (
    CLUSTERS_PREFIX,
    KEYRING_PREFIX,
    cluster_of,
    epoch_key_prefix,
    keyring_key,
    parse_epoch_key_name,
    repo_key,
)
from walarchiver.errors import (
    KeyCannotOpen,
    KeyringBroken,
    NoRepository,
    ObjectDamaged,
    ObjectMissing,
    UnknownCluster,
    Untrusted,
    WalarchiverError,
)
from walarchiver.format.epoch import EPOCH_OBJECT_BYTES_MAX, verify_epoch_object
from walarchiver.format.header import Expected, Header
from walarchiver.format.keyring import Keyring, verify_keyrings
from walarchiver.format.mark import MARK_BYTES_MAX, parse_mark
from walarchiver.format.records import BackupPart, ClusterRecord, StoredObject
from walarchiver.format.seal import open_sealed
from walarchiver.keys.epochs import open_epoch
from walarchiver.ledger import Ledger, Writer
from walarchiver.ports import Identity, ObjectStore

CLEAR_BYTES_MAX = 8 << 20
"""Bound on any clear-text object (REPO, keyring, key object)."""


@dataclass
class Repository:
    """An opened repository. Thread-safe; calls block."""

    store: ObjectStore
    repo: str
    root: bytes
    keyrings: Mapping[int, Keyring]
    identities: tuple[Identity, ...] = ()
    _epoch_keys: dict[tuple[str, str], bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, store: ObjectStore, *, root: bytes, identities: Sequence[Identity] = ()) -> Repository:
        """Read and verify REPO and the keyrings.

        Raises NoRepository, KeyringBroken, StoreUnavailable, StoreDenied.
        """
        raw = store.get(repo_key(), bytes_max=MARK_BYTES_MAX)
        if raw is None:
            raise NoRepository(f"{store.url} holds no walarchiver repository")
        repo = parse_mark(raw).repo
        return cls(store, repo, root, read_keyrings(store, root=root, repo=repo), tuple(identities))

    def known(self) -> Mapping[int, Keyring]:
        """The keyrings that were read last, by number."""
        return self.keyrings

    def refresh(self) -> Mapping[int, Keyring]:
        """Read the keyrings again. Raises KeyringBroken, StoreUnavailable."""
        self.keyrings = read_keyrings(self.store, root=self.root, repo=self.repo)
        return self.keyrings

    @property
    def newest_keyring(self) -> Keyring:
        return self.keyrings[max(self.keyrings)]

    # --- clusters ------------------------------------------------------------------------------

    def systems(self) -> list[str]:
        """System identifiers that have anything in the repository."""
        found: list[str] = []
        after = ""
        while True:
            version = next(iter(self.store.list_keys(CLUSTERS_PREFIX, start_after=after)), None)
            if version is None:
                return found
            system = cluster_of(version.key)
            if system is not None:
                found.append(system)
            after = f"{CLUSTERS_PREFIX}{version.key.removeprefix(CLUSTERS_PREFIX).split('/')[0]}/~"

    def find_system(self, name: str | None) -> str:
        """The newest system identifier whose first ledger record has this cluster name.

        Raises UnknownCluster when there is none, or when `name` is None and there are several names.
        """
        named: dict[str, list[tuple[int, str]]] = {}
        for system in self.systems():
            catalog = Catalog(None)
            try:
                ledger = self.ledger(system, catalog)
                ledger.refresh()
                for record in catalog.clusters()[:1]:
                    named.setdefault(record.name, []).append((catalog.head_time_us() or 0, system))
            finally:
                catalog.close()
        if name is None and len(named) == 1:
            (name,) = named
        if name is None or name not in named:
            known = ", ".join(sorted(named)) or "none"
            raise UnknownCluster(f"no cluster {name or ''} in {self.store.url}; it holds: {known}")
        return max(named[name])[1]

    def ledger(
        self,
        system: str,
        catalog: Catalog,
        writer: Writer | None = None,
        observe: Callable[[str], None] = lambda _step: None,
    ) -> Ledger:
        """One cluster's ledger; with a writer it can be extended."""
        return Ledger(
            store=self.store,
            repo=self.repo,
            system=system,
            catalog=catalog,
            keyrings=self,
            writer=writer,
            observe=observe,
        )

    # --- opening -------------------------------------------------------------------------------

    def epoch_key(self, system: str, epoch: str) -> bytes:
        """The 32-byte key of an epoch. Raises KeyCannotOpen, ObjectMissing, Untrusted."""
        with self._lock:
            known = self._epoch_keys.get((system, epoch))
        if known is not None:
            return known
        if not self.identities:
            raise KeyCannotOpen("this host has no key that opens the archive (no `identity` is configured)")
        key = self._unwrap_epoch(system, epoch)
        with self._lock:
            self._epoch_keys[system, epoch] = key
        return key

    def _unwrap_epoch(self, system: str, epoch: str) -> bytes:
        prefix = epoch_key_prefix(system, epoch)
        versions = [v for v in self.store.list_versions(prefix) if not v.is_delete_marker]
        problem: WalarchiverError | None = None
        for version in sorted(versions, key=lambda v: v.key, reverse=True):
            name = parse_epoch_key_name(version.key)
            raw = self.store.get(version.key, version_id=version.version_id, bytes_max=EPOCH_OBJECT_BYTES_MAX)
            if name is None or raw is None:
                continue
            try:
                verified = verify_epoch_object(
                    raw, self.keyrings.values(), system=system, epoch=epoch, revision=name.revision
                )
            except Untrusted as error:
                problem = error
                continue
            return open_epoch(verified, self.identities)
        raise problem or ObjectMissing(f"the key object of epoch {epoch} is not in {self.store.url}")

    def stored_bytes(self, obj: StoredObject) -> bytes:
        """The stored body that a record vouches for. Raises ObjectMissing, ObjectDamaged."""
        seen_other = False
        for version_id in self._candidate_versions(obj):
            body = self.store.get(obj.key, version_id=version_id, bytes_max=obj.stored_len)
            if body is None:
                continue
            if len(body) == obj.stored_len and hashlib.sha256(body).hexdigest() == obj.stored_sha256:
                return body
            seen_other = True
        if seen_other:
            raise ObjectDamaged(f"no version of {obj.key} has the bytes that the ledger recorded")
        raise ObjectMissing(f"{obj.key} is recorded in the ledger but is not in {self.store.url}")

    def _candidate_versions(self, obj: StoredObject) -> Iterator[str | None]:
        tried: set[str | None] = set()
        if obj.version_id is not None:
            tried.add(obj.version_id)
            yield obj.version_id
        if None not in tried:
            tried.add(None)
            yield None
        for version in self.store.list_versions(obj.key):
            if version.key == obj.key and not version.is_delete_marker and version.version_id not in tried:
                yield version.version_id

    def plain(self, obj: StoredObject, expect: Expected) -> Iterator[bytes]:
        """The plain bytes of a sealed object, verified; complete only when the iteration ends."""

        def key_of(header: Header) -> bytes:
            return self.epoch_key(header.system, header.epoch)

        yield from open_sealed(key_of, (self.stored_bytes(obj),), expect)

    def plain_file(self, system: str, record: FileRecord) -> Iterator[bytes]:
        """The plain bytes of a WAL file, part after part; the caller checks length and digest."""
        for part, obj in enumerate(record.objects):
            expect = Expected(
                kind=record.kind,
                repo=self.repo,
                system=system,
                name=record.name,
                tli=int(record.name[:8], 16),
                part=part,
                parts=len(record.objects),
            )
            yield from self.plain(obj, expect)

    def plain_part(self, system: str, backup: str, part: BackupPart) -> Iterator[bytes]:
        """The plain bytes of one part of a base backup."""
        expect = Expected(kind="base", repo=self.repo, system=system, name=backup, part=part.n, raw=part.raw)
        yield from self.plain(part.object, expect)


def read_keyrings(store: ObjectStore, *, root: bytes, repo: str) -> dict[int, Keyring]:
    """Every keyring, verified from the pinned root. Raises KeyringBroken."""
    raws: list[bytes] = []
    while (raw := _verifying_keyring(store, root, raws)) is not None:
        raws.append(raw)
    if not raws:
        raise KeyringBroken(f"{store.url} has no keyring below {KEYRING_PREFIX}")
    keyrings = verify_keyrings(root, raws)
    if any(keyring.repo != repo for keyring in keyrings.values()):
        raise KeyringBroken(f"the keyring in {store.url} belongs to another repository")
    return keyrings


def _verifying_keyring(store: ObjectStore, root: bytes, before: Sequence[bytes]) -> bytes | None:
    """The stored bytes of the next keyring: the version that verifies; None when there is none."""
    key = keyring_key(len(before) + 1)
    versions = [v for v in store.list_versions(key) if v.key == key and not v.is_delete_marker]
    bodies = (store.get(key, version_id=v.version_id, bytes_max=CLEAR_BYTES_MAX) for v in reversed(versions))
    found = {body for body in bodies if body is not None}
    good, problem = [], None
    for body in found:
        try:
            verify_keyrings(root, [*before, body])
        except Untrusted as error:
            problem = error
        else:
            good.append(body)
    if len(good) > 1:
        raise KeyringBroken(f"{key} has {len(good)} different versions that verify")
    if problem is not None and not good:
        raise problem
    return good[0] if good else None


def first_cluster(records: Iterable[ClusterRecord], system: str) -> ClusterRecord:
    """The cluster's latest facts. Raises UnknownCluster when nothing was ever recorded."""
    latest = None
    for record in records:
        latest = record
    if latest is None:
        raise UnknownCluster(f"the ledger of system {system} is empty")
    return latest
