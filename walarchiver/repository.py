"""Repository: one place in object storage, trusted from its pinned root key downwards.

Rules (docs/format.md, "Keys and trust", "Reads"):
- Root → keyring → signer's role → ledger → object: nothing is believed before what vouches for it.
- A record's version id is a hint. Any version of the key whose bytes have the recorded SHA-256 is
  the object: hint first, then the latest, then all. A missing object that the ledger records is an
  error, never an absence. Who compares the plain bytes with the record (restore/plainfile.py) may open
  the likeliest version first, and ask for the SHA-256 only when that does not give them (ADR 0020).
- Epoch keys are opened with the identities at hand; the valid revision is the highest one that
  verifies, and revision 0 must be the one that the ledger records. Without an identity nothing can
  be read (and nothing needs to be, to archive).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from walarchiver.catalog import Catalog, FileRecord
from walarchiver.core.objectname import (
    CLUSTERS_PREFIX,
    cluster_of,
    epoch_key_prefix,
    parse_epoch_key_name,
    repo_key,
)
from walarchiver.errors import (
    KeyMissing,
    LedgerBroken,
    NoRepository,
    ObjectDamaged,
    ObjectMissing,
    StoreDenied,
    UnknownCluster,
    Untrusted,
    WalarchiverError,
)
from walarchiver.format.epoch import EPOCH_OBJECT_BYTES_MAX, EpochKeyObject, verify_epoch_object
from walarchiver.format.header import Expected, Header
from walarchiver.format.keyring import Keyring
from walarchiver.format.mark import MARK_BYTES_MAX, parse_mark
from walarchiver.format.records import BackupPart, ClusterRecord, StoredObject
from walarchiver.format.seal import open_sealed, sealed_views
from walarchiver.keyringstore import check_home, read_keyrings, vouched_mark
from walarchiver.keys.epochs import open_epoch
from walarchiver.ledger import Ledger, Writer
from walarchiver.log import get_log
from walarchiver.ports import Identity, ObjectStore, StoredVersion

log = get_log("repository")

Body: TypeAlias = "bytes | bytearray"
"""What the store gives."""


@dataclass
class Repository:
    """An opened repository. Thread-safe; calls block."""

    store: ObjectStore
    repo: str
    root: bytes
    keyrings: Mapping[int, Keyring]
    mark: str
    """The hash of `v1/REPO`."""
    identities: tuple[Identity, ...] = ()
    _epoch_keys: dict[tuple[str, str], bytes] = field(default_factory=dict)
    _catalogs: dict[str, Catalog] = field(default_factory=dict)
    """By system: what the ledger says, of epochs here."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, store: ObjectStore, *, root: bytes, identities: Sequence[Identity] = ()) -> Repository:
        """Read and verify REPO and the keyrings.

        Raises NoRepository, KeyringBroken, ObjectDamaged, StoreUnavailable, StoreDenied.
        """
        raw = store.get(repo_key(), bytes_max=MARK_BYTES_MAX)
        if raw is None:
            raise NoRepository(f"{store.url} holds no walarchiver repository")
        try:
            keyrings = read_keyrings(store, root=root)
        except Untrusted:
            parse_mark(raw)  # another format says so itself
            raise
        raw = vouched_mark(store, raw, keyrings)
        repo, mark = parse_mark(raw).repo, hashlib.sha256(raw).hexdigest()
        check_home(store, keyrings, repo, mark)
        return cls(store, repo, root, keyrings, mark, tuple(identities))

    def known(self) -> Mapping[int, Keyring]:
        """The keyrings that were read last, by number."""
        return self.keyrings

    def refresh(self) -> Mapping[int, Keyring]:
        """Read the keyrings again. Raises KeyringBroken, StoreUnavailable."""
        keyrings = read_keyrings(self.store, root=self.root)
        check_home(self.store, keyrings, self.repo, self.mark)
        self.keyrings = keyrings
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

    def find_system(
        self, name: str | None, catalogs: Callable[[str], Catalog] = lambda _system: Catalog(None)
    ) -> str:
        """The newest system identifier whose first ledger record has this cluster name.

        `catalogs` gives the catalog to read a system's ledger into, so that none is read twice.
        Raises UnknownCluster when there is none, or when `name` is None and there are several names.
        """
        named: dict[str, list[tuple[int, str]]] = {}
        for system in self.systems():
            catalog = catalogs(system)
            try:
                try:
                    self._ledger(system, catalog).refresh()
                except LedgerBroken as error:
                    # Whoever chooses this cluster is told; it must not keep others from being found.
                    log.error("ledger broken", system=system, reason=error.message)
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
        """One cluster's ledger; with a writer it can be extended.

        Its catalog says from now on which epoch keys of the cluster to believe.
        """
        self._catalogs[system] = catalog
        return self._ledger(system, catalog, writer, observe)

    def _ledger(
        self,
        system: str,
        catalog: Catalog,
        writer: Writer | None = None,
        observe: Callable[[str], None] = lambda _step: None,
    ) -> Ledger:
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
            raise KeyMissing("this host has no key that opens the archive (no `identity` is configured)")
        key = self._unwrap_epoch(system, epoch)
        with self._lock:
            self._epoch_keys[system, epoch] = key
        return key

    def _unwrap_epoch(self, system: str, epoch: str) -> bytes:
        return open_epoch(self.epoch_in_force(system, epoch), self.identities)

    def epoch_in_force(self, system: str, epoch: str) -> EpochKeyObject:
        """The highest revision of an epoch's key object that verifies. Raises ObjectMissing, Untrusted."""
        versions: dict[int, list[StoredVersion]] = {}
        for version in self.store.list_versions(epoch_key_prefix(system, epoch)):
            name = parse_epoch_key_name(version.key)
            if name is not None and not version.is_delete_marker:
                versions.setdefault(name.revision, []).append(version)
        problem: WalarchiverError | None = None
        for revision in sorted(versions, reverse=True):
            try:
                return self._key_object(system, epoch, revision, versions[revision])
            except Untrusted as error:
                problem = error
        raise problem or ObjectMissing(f"the key object of epoch {epoch} is not in {self.store.url}")

    def _key_object(
        self, system: str, epoch: str, revision: int, versions: Sequence[StoredVersion]
    ) -> EpochKeyObject:
        """The one content of a key object's name that verifies. Raises Untrusted."""
        found: dict[str, EpochKeyObject] = {}
        problem: Untrusted | None = None
        for version in versions:
            try:
                raw = self.store.get(
                    version.key, version_id=version.version_id, bytes_max=EPOCH_OBJECT_BYTES_MAX
                )
                if raw is not None:
                    verified = verify_epoch_object(
                        raw, self.keyrings.values(), system=system, epoch=epoch, revision=revision
                    )
                    self._check_recorded(verified)
                    found[verified.sha256] = verified
            except Untrusted as error:
                problem = error
        if len(found) > 1:
            raise Untrusted(f"key object {epoch}.{revision} has {len(found)} different versions that verify")
        if not found:
            raise problem or ObjectMissing(f"key object {epoch}.{revision} is listed but cannot be read")
        return next(iter(found.values()))

    def _check_recorded(self, found: EpochKeyObject) -> None:
        """Every revision must be the one that the ledger names. Raises Untrusted."""
        catalog = self._catalogs.get(found.system)
        recorded = None if catalog is None else catalog.epoch_revisions(found.epoch).get(found.revision)
        if recorded is None or recorded.sha256 != found.sha256:
            raise Untrusted(
                f"key object {found.epoch}.{found.revision} is not the one that the ledger records"
            )

    def stored_bytes(self, obj: StoredObject) -> Body:
        """The stored body that a record vouches for. Raises ObjectMissing, ObjectDamaged."""
        for body in self.bodies(obj):
            if has_recorded_bytes(obj, body):
                return body
        raise ObjectDamaged(f"no version of {obj.key} has the bytes that the ledger recorded")

    def bodies(self, obj: StoredObject) -> Iterator[Body]:
        """Every stored body of the recorded length, the likeliest first; none of them is proven.

        Raises ObjectMissing, ObjectDamaged when there is none at all.
        """
        problem: WalarchiverError | None = None
        found = False
        for version_id in self._candidate_versions(obj):
            try:
                body = self.store.get(obj.key, version_id=version_id, bytes_max=obj.stored_len)
            except ObjectDamaged as error:  # longer than recorded, or cut off
                problem = error
                continue
            except StoreDenied as error:
                if version_id is None or version_id != obj.version_id:
                    raise
                problem = error  # a store may refuse a hint that another store gave
                continue
            if body is None:
                continue
            if len(body) == obj.stored_len:
                found = True
                yield body
            else:
                problem = ObjectDamaged(f"no version of {obj.key} has the bytes that the ledger recorded")
        if not found:
            missing = f"{obj.key} is recorded in the ledger but is not in {self.store.url}"
            raise problem or ObjectMissing(missing)

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

        yield from open_sealed(self._key_of, (self.stored_bytes(obj),), expect)

    def opened(self, body: Body, expect: Expected) -> Iterator[memoryview]:
        """The plain bytes of a stored body that need not be the recorded one; each view is valid until the
        next. The caller compares length and digest with what the ledger records."""
        yield from sealed_views(self._key_of, (body,), expect)

    def _key_of(self, header: Header) -> bytes:
        return self.epoch_key(header.system, header.epoch)

    def expected(self, system: str, record: FileRecord, part: int) -> Expected:
        """What the header of one part of a WAL file has to say."""
        return Expected(
            kind=record.kind,
            repo=self.repo,
            system=system,
            name=record.name,
            tli=int(record.name[:8], 16),
            part=part,
            parts=len(record.objects),
        )

    def plain_file(self, system: str, record: FileRecord) -> Iterator[bytes]:
        """The plain bytes of a WAL file, part after part; the caller checks length and digest."""
        for part, obj in enumerate(record.objects):
            yield from self.plain(obj, self.expected(system, record, part))

    def plain_part(self, system: str, backup: str, part: BackupPart) -> Iterator[bytes]:
        """The plain bytes of one part of a base backup."""
        expect = Expected(kind="base", repo=self.repo, system=system, name=backup, part=part.n, raw=part.raw)
        yield from self.plain(part.object, expect)


def has_recorded_bytes(obj: StoredObject, body: Body) -> bool:
    """Whether a stored body is the one that a record vouches for."""
    return len(body) == obj.stored_len and hashlib.sha256(body).hexdigest() == obj.stored_sha256


def first_cluster(records: Iterable[ClusterRecord], system: str) -> ClusterRecord:
    """The cluster's latest facts. Raises UnknownCluster when nothing was ever recorded."""
    latest = None
    for record in records:
        latest = record
    if latest is None:
        raise UnknownCluster(f"the ledger of system {system} is empty")
    return latest
