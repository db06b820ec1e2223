"""A repository in memory, and processes that come and go on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit.chance import SteppingClock
from tests.kit.faultystore import FaultyStore
from tests.kit.walmaker import MIB, make_segment
from walarchiver.archiver import Archived, Archiver
from walarchiver.budget import ByteBudget
from walarchiver.catalog import Catalog
from walarchiver.clock import SystemRandom
from walarchiver.core.segment import Segment, SegmentBytes, WalFile
from walarchiver.depositor import Depositor
from walarchiver.format.records import ClusterRecord, KeyringRecord, Record
from walarchiver.format.signed import Signer
from walarchiver.keys.epochs import recipients_of
from walarchiver.keys.init import NewRepository, prepare_repository, write_repository
from walarchiver.keys.keyfile import KeyFile, parse_key_file
from walarchiver.keys.masterkey import MasterKey
from walarchiver.keys.rootkey import parse_root_text
from walarchiver.keys.xwing import XWingIdentity
from walarchiver.ledger import Ledger, Proposal, Writer
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.offered import ClusterFacts
from walarchiver.ports import Identity, ObjectStore, Recipient
from walarchiver.repository import Repository
from walarchiver.scanner import Scanner
from walarchiver.storage.memory import MemoryStore

SYSTEM_ID = 7_300_000_000_000_000_001
SYSTEM = str(SYSTEM_ID)
MASTER = MasterKey.from_bytes(bytes(range(32)))


def segment_bytes(name: str, *, seed: int = 0, size: SegmentBytes = MIB) -> bytes:
    return make_segment(Segment.parse(name, size), system=SYSTEM_ID, seed=seed, size=size)


def name_of(number: int, timeline: int = 1, size: SegmentBytes = MIB) -> str:
    return Segment(timeline, number).name(size)


@dataclass
class World:
    """One repository, its keys, its clock, and the store that everybody sees."""

    clock: SteppingClock = field(default_factory=SteppingClock)
    random: SystemRandom = field(default_factory=SystemRandom)
    master: bool = False
    segment_size: SegmentBytes = MIB
    plain_store: ObjectStore | None = None
    custodians: Sequence[str] = ("alice", "bob")

    def __post_init__(self) -> None:
        if self.plain_store is None:
            self.plain_store = MemoryStore(self.clock)
        self.store = FaultyStore(self.plain_store)
        self.new: NewRepository = prepare_repository(
            "repo",
            self.custodians,
            now_us=self.clock.now_us(),
            random=self.random,
            master_key=MASTER if self.master else None,
        )
        write_repository(self.plain_store, self.new)
        self.root = parse_root_text(self.new.root)

    @property
    def memory(self) -> MemoryStore:
        assert isinstance(self.plain_store, MemoryStore)
        return self.plain_store

    def key(self, name: str) -> KeyFile:
        return parse_key_file(self.new.key_files[f"{name}.key"])

    def identity(self, custodian: str = "alice") -> Identity:
        return XWingIdentity.from_seed(self.key(f"custodian-{custodian}").secret)

    def repository(self, *identities: Identity, store: ObjectStore | None = None) -> Repository:
        return Repository.open(store or self.store, root=self.root, identities=identities)

    def process(self, **options: object) -> Process:
        """A fresh process: nothing in it is remembered from another."""
        return Process(self, **options)  # type: ignore[arg-type]

    def began(self) -> Process:
        """A process that has written the first entry, or found it."""
        process = self.process()
        process.begin()
        return process

    def plant(self, key: str, body: bytes) -> None:
        """Put a version on top of what is there, as somebody with the store's keys could."""
        self.memory.add_delete_marker(key)
        self.memory.put_new(key, body)

    def replace(self, key: str, body: bytes | None) -> None:
        """Change what stands under a name behind everybody's back; None removes it."""
        for version in list(self.memory.list_versions(key)):
            if version.key == key:
                self.memory.delete_version(key, version_id=version.version_id)
        if body is not None:
            self.memory.put_new(key, body)

    def keys(self, part: str) -> list[str]:
        """Names in the store that contain `part`."""
        assert self.plain_store is not None
        return [version.key for version in self.plain_store.list_keys("v1/") if part in version.key]


class Process:
    """One process of one host on the repository: ledger, catalog, depositor."""

    def __init__(
        self,
        world: World,
        *,
        catalog: Path | None = None,
        store: ObjectStore | None = None,
        identities: Sequence[Identity] = (),
        signer: Signer | None = None,
        write: bool = True,
        observe: Callable[[str], None] = lambda _step: None,
    ) -> None:
        self.world = world
        self.store = store or world.store
        self.observe = observe
        self.repository = world.repository(*identities, store=self.store)
        self.signer = signer or world.key("writer").signer()
        self.catalog = Catalog(catalog)
        writer = Writer(self.signer, world.random.token(8).hex(), world.clock) if write else None
        self.ledger: Ledger = self.repository.ledger(SYSTEM, self.catalog, writer, observe)
        self.depositor = Depositor(
            store=self.store,
            repo=self.repository.repo,
            system=SYSTEM,
            segment_size=world.segment_size,
            signer=self.signer,
            keyring=lambda: self.repository.newest_keyring,
            recipients=self._recipients,
            clock=world.clock,
            random=world.random,
        )

    def _recipients(self, keyring: object) -> Sequence[Recipient]:
        masters = {MASTER.recipient: MASTER} if self.world.master else {}
        return recipients_of(self.repository.newest_keyring, SYSTEM, master_keys=masters)

    def begin(self) -> None:
        keyring = self.repository.newest_keyring
        cluster = ClusterRecord("main", SYSTEM, 15, self.world.segment_size, True)

        def decide(catalog: Catalog) -> tuple[Record, ...]:
            return () if catalog.clusters() else (cluster, KeyringRecord(keyring.n, keyring.sha256))

        assert self.ledger.commit([Proposal("cluster", decide)]) == [None]

    @contextlib.asynccontextmanager
    async def archiving(
        self,
        *,
        companions: Callable[[WalFile], tuple[Record, ...]] = lambda _file: (),
        accompanied: Callable[[Sequence[Record]], None] = lambda _records: None,
        threads: int = 8,
        budget: int = 256 << 20,
        scanner: Scanner | None = None,
        shared_cpu: ThreadPoolExecutor | None = None,
    ) -> AsyncIterator[Archiver]:
        """An archiver with its ledger queue running; the process ends with the block."""
        with ThreadPoolExecutor(threads) as io, ThreadPoolExecutor(2) as own_cpu:
            cpu = shared_cpu or own_cpu
            queue = LedgerQueue(self.ledger, io)
            running = asyncio.create_task(queue.run())
            archiver = Archiver(
                cluster=ClusterFacts("main", SYSTEM_ID, 15, self.world.segment_size),
                depositor=self.depositor,
                queue=queue,
                cpu=cpu,
                io=io,
                budget=ByteBudget(budget),
                scanner=scanner,
                companions=companions,
                accompanied=accompanied,
                observe=self.observe,
            )
            try:
                yield archiver
            finally:
                queue.close()
                await asyncio.wait([running])

    def archive(self, *paths: Path) -> list[Archived]:
        """Archive files one after the other and end."""

        async def run() -> list[Archived]:
            async with self.archiving() as archiver:
                return [await archiver.archive(path.name, path) for path in paths]

        return asyncio.run(run())

    def plain(self, name: str) -> bytes:
        """The bytes of an archived file, opened with this process's identities."""
        record = self.catalog.file(name)
        assert record is not None, f"{name} is not recorded"
        return b"".join(self.repository.plain_file(SYSTEM, record))


def wal_file(folder: Path, name: str, content: bytes | None = None, *, seed: int = 0) -> Path:
    """A WAL file in a folder, as pg_wal would have it."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.write_bytes(segment_bytes(name, seed=seed) if content is None else content)
    return path


def entry_keys(world: World) -> Iterator[str]:
    yield from world.keys(f"{SYSTEM}/ledger/")
