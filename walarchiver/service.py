"""The daemon: builds everything, one TaskGroup, drains on SIGTERM.

Rules:
- The socket answers from the first moment; clusters become ready on their own. A request that comes before
  the first try to open its cluster is over waits for it; after a failed try it is refused with the reason.
- SIGTERM and SIGINT drain: new work is refused, work in progress may end within `server.drain`,
  then everything stops. What was not acknowledged is offered again by PostgreSQL. On a socket that
  systemd passed, new callers are not refused: they wait in its queue for the next server.
- Threads: `workers` for bytes (compress, seal, digest), a few per repository that send, and a bounded pool
  of others that wait for storage and database. The event loop touches no bulk bytes.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from restore.fetcher import Fetcher
from restore.prefetch import Window, spool_beside
from walarchiver.api import Api, ApiLimits, serve_api
from walarchiver.archivedmemory import ArchivedMemory
from walarchiver.archiver import Archiver
from walarchiver.assembly import Archive, Host, checkpointer_of, depositor_of, join_archive, signer_of
from walarchiver.bucketassembly import bucket_of
from walarchiver.bucketwatch import BucketWatch, Watched
from walarchiver.budget import ByteBudget
from walarchiver.buffers import Buffers
from walarchiver.clusterservice import ClusterService, Lane, riding_samples, rode_along
from walarchiver.errors import ConfigError, UsageError, WalarchiverError, WrongCluster
from walarchiver.gauges import ALARMING, keep_gauges
from walarchiver.heap import share_the_heap
from walarchiver.horizon import HorizonSamples
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.listening import ConnectionLimits, Peer, PeerRule
from walarchiver.log import get_log
from walarchiver.lookahead import SENT_MORE
from walarchiver.metrics import Metrics
from walarchiver.offered import ClusterFacts
from walarchiver.postgres.control import read_data_directory
from walarchiver.postgres.probe import ServerFacts, probe_server
from walarchiver.scanner import scanner_for
from walarchiver.settings import ClusterSettings
from walarchiver.status import status_document
from walarchiver.systemd import Notifier
from walarchiver.upkeep import Upkeep

log = get_log("server")

IO_THREADS = 16


class Service:
    """The handlers behind the socket, and the life of the server."""

    def __init__(
        self, host: Host, *, version: str, observe: Callable[[str], None] = lambda _step: None
    ) -> None:
        """`observe` is told each step of the archive path; tests use it to stop there."""
        self._host = host
        self._observe = observe
        settings = host.settings.server
        self._io = ThreadPoolExecutor(IO_THREADS, thread_name_prefix="io")
        self._cpu = ThreadPoolExecutor(settings.workers, thread_name_prefix="cpu")
        self._budget = ByteBudget(settings.memory)
        self._buffers = Buffers(settings.workers)
        self._sending: list[ThreadPoolExecutor] = []
        self._stop = asyncio.Event()
        self._fetchers: list[Fetcher] = []
        names = list(host.settings.clusters)
        self.metrics = Metrics(version, only_cluster=names[0] if len(names) == 1 else "")
        self.clusters: Mapping[str, ClusterService] = {
            name: ClusterService(
                name,
                section,
                open_lanes=self._opener(name, section),
                executor=self._io,
                clock=host.clock,
                workers=settings.workers,
                watch=self._watch(name, section),
            )
            for name, section in host.settings.clusters.items()
            if section.data_directory is not None
        }

    # --- handlers (api.Handlers) -----------------------------------------------------------------

    async def push(self, cluster: str | None, path: str, _peer: Peer) -> None:
        """Return when the WAL file is durable and in the ledger."""
        service = self._cluster(cluster)
        await service.tried()
        try:
            archived = await service.push(Path(path))
        except WalarchiverError as error:
            if error.code in ALARMING:
                self.metrics.alarms.labels(cluster=service.name, code=error.code).inc()
            log.warning(
                "push refused", cluster=service.name, path=path, code=error.code, reason=error.message
            )
            raise
        for one in archived:
            if one.fresh:
                self.metrics.plain_bytes.labels(cluster=service.name).inc(one.bytes)
        log.info("archived", cluster=service.name, file=Path(path).name, fresh=any(a.fresh for a in archived))

    async def fetch(self, cluster: str | None, plan: str | None, name: str, path: str, _peer: Peer) -> None:
        """Return when the file is at `path`."""
        if plan is not None:
            raise UsageError(
                f"this server does not serve plan {plan}",
                hint="Start one with `walarchiver serve --plan ID`.",
            )
        service = self._cluster(cluster)
        await service.tried()
        size = await service.fetch(name, Path(path))
        log.info("fetched", cluster=service.name, file=name, bytes=size)

    async def status(self) -> Mapping[str, object]:
        """What `walarchiver status --output json` shows, of every cluster that is open."""
        loop = asyncio.get_running_loop()
        found: dict[str, object] = {}
        for name, service in self.clusters.items():
            lane = service.lanes[0]
            found[name] = await loop.run_in_executor(
                self._io, status_document, lane.archive, self._host.clock, lane.upkeep.kept
            )
        return {"schema_version": 1, "clusters": found}

    async def horizon(self, cluster: str | None, /) -> Mapping[str, object]:
        """Record the newest horizon sample now, so that a plan reaches as far as can be proven."""
        service = self._cluster(cluster)
        await service.prove_idle(at_once=True)
        return {"schema_version": 1, "cluster": service.name}

    def not_ready(self) -> str | None:
        waiting = [name for name, service in self.clusters.items() if not service.ready]
        return f"not ready: {', '.join(waiting)}" if waiting else None

    def _cluster(self, name: str | None) -> ClusterService:
        chosen = self._host.settings.cluster_name(name)
        try:
            return self.clusters[chosen]
        except KeyError:
            raise ConfigError(f"cluster {chosen} has no `data_directory`, so it is not served here") from None

    # --- building ------------------------------------------------------------------------------

    def _watch(self, name: str, section: ClusterSettings) -> BucketWatch | None:
        if section.bucket is None:
            return None
        host = self._host
        command = [sys.executable, "-m", "walarchiver.cli.main", "--config", str(host.settings.source)]
        watched = Watched(
            cluster=name,
            dsn=section.dsn,
            open_bucket=partial(bucket_of, host, name),
            scan_command=[*command, "--cluster", name, "--quiet", "bucket", "scan"],
            scan_interval_s=section.bucket.scan.total_seconds(),
        )
        alarm = partial(self._alarm, name)
        return BucketWatch(watched, executor=self._io, clock=host.clock, alarm=alarm)

    def _opener(self, name: str, section: ClusterSettings) -> Callable[[], Sequence[Lane]]:
        def open_lanes() -> Sequence[Lane]:
            assert section.data_directory is not None
            here = read_data_directory(section.data_directory)

            def identity() -> ServerFacts:
                return facts_of(name, section.dsn, here.system)

            joined = [  # all of them first: it is tried again until none fails, and a lane is kept
                join_archive(self._host, name, repository, identity, here.system, self._observe)
                for repository in section.repositories
            ]
            return [
                self._lane(name, repository, archive)
                for repository, archive in zip(section.repositories, joined, strict=True)
            ]

        return open_lanes

    def _lane(self, name: str, repository_name: str, archive: Archive) -> Lane:
        section = self._host.settings.repository(repository_name)
        cluster = self._host.settings.cluster(name)
        signer = signer_of(section)
        checkpointer = checkpointer_of(self._host, name, archive, signer)
        queue = LedgerQueue(archive.ledger, self._io)
        samples = HorizonSamples(archive.segment_size)
        workers = self._host.settings.server.workers
        sending = ThreadPoolExecutor(workers + SENT_MORE, thread_name_prefix=f"send-{repository_name}")
        self._sending.append(sending)  # of its own: a store that hangs keeps no other one waiting
        archiver = Archiver(
            cluster=ClusterFacts(name, int(archive.system), archive.cluster.major, archive.segment_size),
            depositor=depositor_of(self._host, archive, section),
            queue=queue,
            cpu=self._cpu,
            io=self._io,
            budget=self._budget,
            sending=sending,
            parts_max=2 * workers + SENT_MORE,
            buffers=self._buffers,
            memory=ArchivedMemory(self._host.clock.now_us),
            scanner=scanner_for(archive.segment_size),
            companions=riding_samples(samples, archive.segment_size),
            accompanied=rode_along(samples, self._host.clock),
            observe=self._observe,
        )
        fetcher = None
        if archive.repository.identities:
            fetcher = Fetcher(
                repository=archive.repository,
                ledger=archive.ledger,
                segment_size=archive.segment_size,
                plan=None,
                spool=cluster.fetch_spool or spool_beside(cluster.data_directory),
                window=Window(),
                count=lambda fate: self.metrics.prefetches.labels(cluster=name, outcome=fate).inc(),
            )
            self._fetchers.append(fetcher)
        upkeep = Upkeep(queue, checkpointer, self._io, alarm=partial(self._alarm, name))
        return Lane(repository_name, archive, archiver, queue, samples, fetcher, upkeep, signer.id)

    def _alarm(self, cluster: str, error: WalarchiverError) -> None:
        self.metrics.alarms.labels(cluster=cluster, code=error.code).inc()

    # --- running -------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin to drain; safe to call from a signal handler of the loop, and twice."""
        self._stop.set()

    async def run(self, *, notifier: Notifier | None = None, passed: socket.socket | None = None) -> None:
        """Serve until `stop`, on the socket that systemd `passed` or on one of our own.

        Raises ConfigError, Locked when the socket cannot be had.
        """
        share_the_heap()
        settings = self._host.settings.server
        notifier = notifier or Notifier()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        drain_s = settings.drain.total_seconds()
        async with AsyncExitStack() as edge:
            api = serve_api(
                self._api(),
                socket_path=settings.socket,
                listen=settings.listen,
                drain_s=drain_s,
                passed=passed,
            )
            await edge.enter_async_context(api)  # outside the group, which would wrap what it raises
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(service.run()) for service in self.clusters.values()]
                gauges = keep_gauges(self.metrics, self.clusters, clock=self._host.clock, executor=self._io)
                running.append(tasks.create_task(gauges))
                log.info("serving", socket=settings.socket, clusters=", ".join(self.clusters))
                notifier.ready(self._summary())
                running.append(tasks.create_task(notifier.keep_alive(self._summary)))
                await self._stop.wait()
                log.info("draining")
                notifier.stopping(self._summary())
                drained_s = self._host.clock.monotonic_s() + drain_s
                await edge.aclose()
                await self._finish(drained_s)
                for task in running:
                    task.cancel()
        for fetcher in self._fetchers:
            fetcher.close()
        for pool in (self._io, self._cpu, *self._sending):
            pool.shutdown(wait=False, cancel_futures=True)
        log.info("stopped")

    async def _finish(self, until_s: float) -> None:
        """Let work without a caller end, too, inside the one drain."""
        try:
            async with asyncio.timeout(max(0.0, until_s - self._host.clock.monotonic_s())):
                for service in self.clusters.values():
                    await service.drain()
        except TimeoutError:
            log.warning("work cut at the end of the drain")

    def _api(self) -> Api:
        settings = self._host.settings.server
        folders = [s.data_directory for s in self._host.settings.clusters.values() if s.data_directory]
        limits = ApiLimits(
            push_s=settings.push_deadline.total_seconds(),
            fetch_s=settings.fetch_deadline.total_seconds(),
            connections=ConnectionLimits(connections_max=settings.connections),
        )
        return Api(
            self,
            metrics=self.metrics,
            clock=self._host.clock,
            limits=limits,
            peers=PeerRule.of(settings.users, folders),
        )

    def _summary(self) -> str:
        """One line for `systemctl status`."""
        if self._stop.is_set():
            return "draining"
        return self.not_ready() or f"archiving {', '.join(self.clusters) or 'nothing'}"


def facts_of(cluster: str, dsn: str | None, system: int) -> ServerFacts:
    """The running server's facts, for a cluster that the repository does not know yet.

    Raises ConfigError, DatabaseUnavailable, WrongCluster.
    """
    if dsn is None:
        raise ConfigError(f"cluster {cluster} needs a `dsn` until it is known in the repository")
    facts = probe_server(dsn)
    if facts.system != system:
        raise WrongCluster(
            f"the dsn of cluster {cluster} reaches system {facts.system}, its data directory is {system}",
            hint="Let `dsn` and `data_directory` name the same cluster.",
        )
    return facts
