"""Assembly: puts stores, keys and archives together from the configuration, for every root.

Rules:
- Nothing here decides; it reads the files that the configuration names and connects parts.
- Secrets are read when they are needed and never kept in settings.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from walarchiver.catalog import Catalog
from walarchiver.checkpoints import Checkpointer, Kept, look_into
from walarchiver.clock import SystemClock, SystemRandom
from walarchiver.core.objectname import repo_key
from walarchiver.core.segment import SegmentBytes
from walarchiver.depositor import Depositor
from walarchiver.errors import ConfigError, KeyMissing, WalarchiverError, WrongCluster
from walarchiver.format.mark import MARK_BYTES_MAX
from walarchiver.format.records import ClusterRecord, KeyringRecord, Record
from walarchiver.format.signed import Signer
from walarchiver.keys.epochs import recipients_of
from walarchiver.keys.keyfile import KeyFile, KeyRole, read_key_file
from walarchiver.keys.masterkey import MasterKey, parse_master_key, read_master_key
from walarchiver.keys.rootkey import parse_root_text
from walarchiver.keys.xwing import XWingIdentity
from walarchiver.ledger import Ledger, Proposal, Writer
from walarchiver.log import get_log
from walarchiver.ports import Clock, Identity, ObjectStore, Random
from walarchiver.repository import Repository, first_cluster
from walarchiver.secondplace import InForce, SecondPlace
from walarchiver.settings import Settings
from walarchiver.settings_schema import BucketSettings, RepositorySettings
from walarchiver.storage import open_store
from walarchiver.storage.credentials import CredentialsCommand, CredentialSource, PlatformRole, file_source
from walarchiver.storage.guarded import GuardedStore
from walarchiver.storage.options import Addressing, ChecksumMode, S3Options
from walarchiver.storage.probe import probe_create_once
from walarchiver.storage.retry import RetryPolicy

if TYPE_CHECKING:
    from walarchiver.postgres.probe import ServerFacts

log = get_log("repository")

COMMAND_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Host:
    """What every root needs: configuration, time and chance."""

    settings: Settings
    clock: Clock
    random: Random
    patience: RetryPolicy = field(default_factory=RetryPolicy)
    """How long a store is asked again."""
    say: Callable[[str], None] = lambda _line: None
    """Gets lines for a person who waits."""
    warn: Callable[[str], None] = lambda line: log.warning("degraded", message=line)
    """Gets what somebody should know although the work goes on."""

    @classmethod
    def here(cls, settings: Settings) -> Host:
        """For programs that nobody waits for."""
        return cls(settings, SystemClock(), SystemRandom())


@dataclass(frozen=True, slots=True)
class Archive:
    """One cluster's part of one repository."""

    cluster: ClusterRecord
    repository: Repository
    ledger: Ledger
    single_writer: bool = False
    """The store does not refuse second creates: only one host may archive into it."""

    @property
    def system(self) -> str:
        return self.ledger.system

    @property
    def catalog(self) -> Catalog:
        return self.ledger.catalog

    @property
    def segment_size(self) -> SegmentBytes:
        return SegmentBytes(self.cluster.segment_size)


# --- parts -------------------------------------------------------------------------------------


def store_of(host: Host, section: RepositorySettings) -> ObjectStore:
    """The object store of a repository. Raises ConfigError, StoreDenied."""
    return open_store(section.url, s3=s3_options_of(host, section), clock=host.clock, random=host.random)


def s3_options_of(host: Host, section: RepositorySettings | BucketSettings) -> S3Options:
    """How to reach the S3 store of a section."""
    return S3Options(
        endpoint=section.endpoint,
        region=section.region,
        addressing=Addressing(section.addressing),
        checksum_mode=ChecksumMode(section.checksum_mode),
        ca_file=section.ca_file,
        allow_http=section.allow_http,
        credentials=_credentials(section),
        retry=host.patience,
        notice=host.say,
    )


def _credentials(section: RepositorySettings | BucketSettings) -> CredentialSource:
    if section.credentials_file is not None:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        return file_source(section.credentials_file, credentials_directory=Path(folder) if folder else None)
    if section.credentials_command is not None:
        return CredentialsCommand(section.credentials_command)
    return PlatformRole()


def master_key_of(section: RepositorySettings) -> MasterKey | None:
    """The symmetric key of a repository that has one. Raises ConfigError."""
    if section.master_key_file is not None:
        return read_master_key(section.master_key_file)
    if section.master_key_command is None:
        return None
    try:
        done = subprocess.run(
            section.master_key_command, capture_output=True, check=True, timeout=COMMAND_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"master_key_command did not print a key: {type(error).__name__}") from None
    return parse_master_key(done.stdout)


def identities_of(section: RepositorySettings) -> tuple[Identity, ...]:
    """The keys at hand that open the archive; none is an ordinary answer. Raises ConfigError."""
    found: list[Identity] = []
    if section.identity is not None:
        key = identity_file(section.identity)
        if key.role is not KeyRole.CUSTODIAN:
            raise ConfigError(
                f"{section.identity} is a {key.role}'s key and opens nothing",
                hint="Name a custodian's key file as `identity`.",
            )
        found.append(XWingIdentity.from_seed(key.secret))
    master = master_key_of(section)
    return (*found, master) if master is not None else tuple(found)


def identity_file(path: Path) -> KeyFile:
    """The key that opens the archive. Raises KeyMissing, ConfigError."""
    if not path.exists():
        raise KeyMissing(f"the key file {path} is not there")
    return read_key_file(path)


def root_of(section: RepositorySettings) -> bytes:
    """The pinned root verification key: configured, or named by the custodian's key file."""
    if section.root is not None:
        return parse_root_text(section.root)
    if section.identity is not None:
        return identity_file(section.identity).root
    raise ConfigError(
        "the repository has no `root`, so nothing in it could be trusted",
        hint="Set `root` to the text that `walarchiver keys init` printed (wa-root1...).",
    )


def signer_of(section: RepositorySettings) -> Signer:
    """This host's writer key. Raises ConfigError."""
    if section.signing_key is None:
        raise ConfigError(
            "the repository has no `signing_key`, so this host cannot write to it",
            hint="Name the writer key file that `walarchiver keys init` made.",
        )
    key = read_key_file(section.signing_key)
    if key.role is not KeyRole.WRITER:
        raise ConfigError(f"{section.signing_key} is a {key.role}'s key, a writer's is needed")
    return key.signer()


def open_repository(host: Host, name: str) -> Repository:
    """Open the configured repository. Raises ConfigError, NoRepository, KeyringBroken, Store…"""
    section = host.settings.repository(name)
    store = store_of(host, section)
    return Repository.open(store, root=root_of(section), identities=identities_of(section))


def writer_of(host: Host, section: RepositorySettings) -> Writer:
    return Writer(signer=signer_of(section), boot=host.random.token(8).hex(), clock=host.clock)


def second_place_of(
    host: Host, cluster: str, repository: Repository, system: str, in_force: InForce
) -> SecondPlace | None:
    """Where a cluster's checkpoints are kept besides the repository; None when nowhere.

    Raises ConfigError, StoreDenied, StoreUnavailable.
    """
    place = host.settings.cluster(cluster).checkpoints
    if place is None:
        return None
    if place in host.settings.repositories:
        store = store_of(host, host.settings.repository(place))
    else:
        store = open_store(place, s3=None, clock=host.clock, random=host.random)
    return SecondPlace(store, repository, repo=repository.repo, system=system, in_force=in_force)


def checkpointer_of(host: Host, cluster: str, archive: Archive, signer: Signer) -> Checkpointer:
    """Keeps an archive's checkpoints; the second place is opened only when it is needed."""
    url = host.settings.cluster(cluster).checkpoints

    def open_place() -> SecondPlace:
        place = second_place_of(host, cluster, archive.repository, archive.system, archive.catalog.keyring_at)
        assert place is not None
        return place

    return Checkpointer(
        archive.ledger,
        signer,
        host.clock,
        place_url=url,
        open_place=None if url is None else open_place,
    )


def kept_of(host: Host, archive: Archive) -> Kept | None:
    """What the second place says of an archive's chain; None when none is configured."""
    url = host.settings.cluster(archive.cluster.name).checkpoints
    if url is None:
        return None
    try:
        place = second_place_of(
            host, archive.cluster.name, archive.repository, archive.system, archive.catalog.keyring_at
        )
    except WalarchiverError as error:
        return Kept(url, None, error)
    assert place is not None
    try:
        return look_into(place, archive.catalog)
    finally:
        place.store.close()


# --- archives ------------------------------------------------------------------------------------


def catalog_of(host: Host, repository: Repository, system: str) -> Catalog:
    """The catalog file in the state folder, or one in memory where that cannot be written.

    Each user has a file of his own: one that root made would lock the daemon out.
    """
    folder = host.settings.server.state / "catalog"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "read-only, or no permission"
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        host.warn(f"{folder} cannot be written ({reason}): the catalog is kept in memory, nothing is lost")
        return Catalog(None)
    return Catalog(folder / f"{repository.repo}-{system}-{os.geteuid()}.sqlite", host.warn)


def open_archive(
    host: Host,
    cluster: str | None,
    *,
    system: str | None = None,
    write: bool = False,
    repository_name: str | None = None,
) -> Archive:
    """Open a cluster for reading (or also for appending), with its ledger read to the head.

    `cluster`: as configured, or None for the only one. `system`: a system identifier, when a name
    has had several over the years. `repository_name`: default is the cluster's first one.
    Raises UnknownCluster, NoRepository, Untrusted, Store…
    """
    repository, ledger = open_ledger(
        host, cluster, system=system, write=write, repository_name=repository_name
    )
    ledger.refresh()
    return Archive(first_cluster(ledger.catalog.clusters(), ledger.system), repository, ledger)


def open_ledger(
    host: Host,
    cluster: str | None,
    *,
    system: str | None = None,
    write: bool = False,
    repository_name: str | None = None,
) -> tuple[Repository, Ledger]:
    """As `open_archive`, with the ledger as the local catalog has it, not read any further.

    Raises UnknownCluster, NoRepository, Untrusted, Store…
    """
    name = host.settings.cluster_name(cluster)
    repository_name = repository_name or host.settings.cluster(name).repositories[0]
    repository = open_repository(host, repository_name)
    chosen = system
    if chosen is None:
        chosen = repository.find_system(name, lambda each: catalog_of(host, repository, each))
    writer = writer_of(host, host.settings.repository(repository_name)) if write else None
    return repository, repository.ledger(chosen, catalog_of(host, repository, chosen), writer)


def depositor_of(host: Host, archive: Archive, section: RepositorySettings) -> Depositor:
    """Seals for a cluster with this host's writer key."""
    master = master_key_of(section)
    masters = {} if master is None else {master.recipient: master}
    return Depositor(
        store=archive.repository.store,
        repo=archive.repository.repo,
        system=archive.system,
        segment_size=archive.segment_size,
        signer=signer_of(section),
        keyring=lambda: archive.repository.newest_keyring,
        recipients=lambda keyring: recipients_of(keyring, archive.system, master_keys=masters),
        clock=host.clock,
        random=host.random,
        reread=archive.repository.refresh,
    )


def join_archive(
    host: Host,
    cluster: str,
    repository_name: str,
    identity: Callable[[], ServerFacts],
    system: int,
    observe: Callable[[str], None] = lambda _step: None,
) -> Archive:
    """Open a cluster for archiving; its ledger is begun when it has none.

    `system`: the data directory's own identifier. `identity` asks the running server, and is only
    called when the ledger does not know the cluster yet. Raises WrongCluster when the chain of
    this system identifier belongs to another cluster name.
    """
    section = host.settings.repository(repository_name)
    repository = open_repository(host, repository_name)
    single_writer = guard_store(repository)
    writer = writer_of(host, section)
    ledger = repository.ledger(str(system), catalog_of(host, repository, str(system)), writer, observe)
    ledger.refresh()
    if not ledger.catalog.clusters():
        begin_chain(ledger, repository, cluster, identity())
    record = first_cluster(ledger.catalog.clusters(), str(system))
    if record.name != cluster:
        raise WrongCluster(
            f"system {system} is archived as cluster {record.name!r}, the configuration calls it {cluster!r}",
            hint="Rename the [cluster] section, or re-initialise what was cloned.",
        )
    return Archive(record, repository, ledger, single_writer)


def guard_store(repository: Repository) -> bool:
    """Probe whether names can be written once only, in this very bucket; True when they cannot.

    Then every create looks first, which protects a single writer only. Raises Store….
    """
    mark = repository.store.get(repo_key(), bytes_max=MARK_BYTES_MAX)
    capability = probe_create_once(repository.store, repo_key(), mark or b"")
    if capability.create_once:
        return False
    log.error("single writer only", repository=repository.store.url, reason=capability.line)
    repository.store = GuardedStore(repository.store)
    return True


def begin_chain(ledger: Ledger, repository: Repository, cluster: str, facts: ServerFacts) -> None:
    """Write the first entry: what the cluster is, and the keyring in force."""
    record = ClusterRecord(
        name=cluster,
        system=ledger.system,
        major=facts.major,
        segment_size=facts.segment_size,
        data_checksums=facts.data_checksums,
    )
    keyring = repository.newest_keyring

    def decide(catalog: Catalog) -> tuple[Record, ...]:
        if catalog.clusters():
            return ()
        return record, KeyringRecord(n=keyring.n, sha256=keyring.sha256)

    (outcome,) = ledger.commit([Proposal("cluster", decide)])
    if outcome is not None:
        raise outcome
