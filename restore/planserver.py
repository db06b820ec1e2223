"""Serves restore_command of one restored instance, obeying its plan; nothing else.

The same edge as the daemon's (walarchiver/api.py), on a socket in the instance's workplace. Only
the owner of the data directory, root and the server's own user may ask. The next files of the plan are
fetched ahead into the workplace, the first ones at once. It ends by itself when the instance has been
promoted, or removed.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from restore.core.estimate import Part
from restore.core.plan import Plan
from restore.fetcher import Fetcher
from restore.prefetch import Fate, Window
from restore.rates import note_span
from restore.workplace import Workplace, find_plan
from walarchiver.api import Api, ApiLimits, serve_api
from walarchiver.assembly import Archive, Host, open_archive
from walarchiver.errors import DatabaseUnavailable, FetchInDoubt, NotAWalFile, Refused, WrongCluster
from walarchiver.listening import Peer, PeerRule
from walarchiver.log import get_log
from walarchiver.metrics import Metrics
from walarchiver.ports import Clock
from walarchiver.postgres.control import in_production

log = get_log("plan")

LOOK_INTERVAL_S = 1.0

FETCH_THREADS = 2
"""PostgreSQL asks for one file at a time; the second is for a request whose caller vanished."""


class PlanHandlers:
    """api.Handlers for one plan."""

    def __init__(
        self,
        plan: Plan,
        place: Workplace,
        archive: Archive,
        clock: Clock,
        count: Callable[[Fate], None] = lambda _fate: None,
    ) -> None:
        """`count` is told what became of each file that was fetched ahead.

        Raises WrongCluster when the plan was made for another repository or cluster."""
        if (str(plan.system), plan.repository) != (archive.system, archive.repository.repo):
            raise WrongCluster(
                f"plan {plan.id} is for system {plan.system} in repository {plan.repository}, "
                f"not for {archive.system} in {archive.repository.repo}"
            )
        self.plan_value = plan
        self._place = place
        self._clock = clock
        self._pool = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._fetcher = Fetcher(
            repository=archive.repository,
            ledger=archive.ledger,
            segment_size=archive.segment_size,
            plan=plan,
            spool=place.spool,
            window=Window(),
            count=count,
        )
        self.fetched = 0
        self.fetched_bytes = 0
        self._fetching_s = 0.0

    async def push(self, _cluster: str | None, _path: str, _peer: Peer, /) -> None:
        raise Refused(
            "this server serves a restored instance and archives nothing",
            hint="Accept the restored cluster first, then point archive_command at the daemon.",
        )

    async def fetch(
        self, _cluster: str | None, plan: str | None, name: str, path: str, _peer: Peer, /
    ) -> None:
        """Place one file of the plan."""
        if plan != self.plan_value.id:
            raise FetchInDoubt(f"asked for plan {plan}, this server obeys plan {self.plan_value.id}")
        destination = Path(path)
        folder = self._place.target / "pg_wal"
        if destination.parent.resolve() != folder.resolve():
            raise NotAWalFile(f"{path} does not lie in {folder}")
        loop = asyncio.get_running_loop()
        began_s = self._clock.monotonic_s()
        size = await loop.run_in_executor(self._pool, self._fetcher.fetch, name, destination)
        self.fetched += 1
        self.fetched_bytes += size
        self._fetching_s += self._clock.monotonic_s() - began_s
        log.info("fetched", plan=self.plan_value.id, file=name, bytes=size)

    async def status(self) -> Mapping[str, object]:
        return {"schema_version": 1, "plan": self.plan_value.id, "fetched": self.fetched}

    async def horizon(self, _cluster: str | None, /) -> Mapping[str, object]:
        return await self.status()

    def begin(self) -> None:
        """Have what recovery begins with fetched before it asks; what fails there, its ask is told."""
        self._pool.submit(self._fetcher.begin)

    def note_rates(self, state: Path, *, recovery_s: float | None = None) -> None:
        """Keep how fast WAL was fetched and, in the rest of a whole recovery's time, replayed."""
        note_span(state, self._clock, Part.WAL_FETCH, self.fetched_bytes, self._fetching_s)
        if recovery_s is not None:
            replaying_s = recovery_s - self._fetching_s
            note_span(state, self._clock, Part.REPLAY, self.fetched_bytes, replaying_s)

    def not_ready(self) -> str | None:
        return None

    def close(self) -> None:
        """Begin nothing new, and leave nothing in the spool; a fetch under way ends in its own time."""
        self._fetcher.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


@asynccontextmanager
async def plan_served(
    host: Host, plan: Plan, place: Workplace, archive: Archive
) -> AsyncIterator[PlanHandlers]:
    """Serve the plan from entry to exit."""
    metrics = Metrics("plan", only_cluster=plan.cluster)

    def count(fate: Fate) -> None:
        metrics.prefetches.labels(cluster=plan.cluster, outcome=fate).inc()

    handlers = PlanHandlers(plan, place, archive, host.clock, count)
    api = Api(
        handlers,
        metrics=metrics,
        clock=host.clock,
        limits=ApiLimits(fetch_s=host.settings.server.fetch_deadline.total_seconds()),
        peers=PeerRule.of(host.settings.server.users, [place.target]),
    )
    try:
        async with serve_api(api, socket_path=place.socket, listen=None, drain_s=2.0):
            handlers.begin()
            yield handlers
    finally:
        handlers.close()


async def serve_plan(host: Host, reference: str) -> None:
    """`walarchiver serve --plan`: serve until SIGTERM or SIGINT, or until recovery was seen to end."""
    plan, place = find_plan(reference, host.settings.server.state)
    archive = await asyncio.to_thread(open_archive, host, plan.cluster, system=str(plan.system))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with plan_served(host, plan, place, archive) as handlers:
        log.info("serving plan", plan=plan.id, socket=place.socket)
        watching = asyncio.create_task(_recovered(place))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
            log.info("recovery is over", plan=plan.id, instance=place.target)
        for task in (watching, stopping):
            task.cancel()
    handlers.note_rates(host.settings.server.state)


async def _recovered(place: Workplace) -> None:
    """Return when the instance needs WAL no more: seen to recover, and then promoted or removed."""
    seen = False
    while True:
        over = await asyncio.to_thread(recovery_over, place)
        if over and seen:
            return
        if not over and not seen:
            seen = True
            log.info("waiting for recovery to end", instance=place.target)
        await asyncio.sleep(LOOK_INTERVAL_S)


def recovery_over(place: Workplace) -> bool:
    """Whether PostgreSQL has promoted itself there, or everything was removed.

    Its signal files go first; after that it still asks for a timeline history (timeline.c,
    writeTimeLineHistory). So pg_control has to say that the new timeline is in production.
    """
    if not place.target.exists():
        return True
    if place.recovering or (place.target / "standby.signal").exists():
        return False
    try:
        return in_production(place.target)
    except DatabaseUnavailable:
        return False
