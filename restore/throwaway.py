"""A throwaway instance: restored to a moment, proven to be there, read only, seen by nobody, gone afterwards.

Rules:
- It is promoted at the planned record, not paused before it: a paused one keeps the locks of transactions
  that were open at that moment, so the very table whose DROP or TRUNCATE is to be undone could not be
  read (ADR 0011). Sessions read only by default; what a writing one does is thrown away too.
- It reads no configuration of the original but postgresql.auto.conf, whose dangerous settings the command
  line overrides: nothing is preloaded, no background worker starts, nothing is archived or replicated,
  no TCP port opens, and no path, group or memory size of the production host is asked for.
- It is not durable (fsync = off): a power cut costs nothing, since it is made anew.
- Where its recovery ended is judged exactly as a restore's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from restore.core.estimate import Part
from restore.core.model import Decision
from restore.core.plan import Plan
from restore.diskspace import check_room
from restore.instance import Instance, Reached
from restore.pipeline import Progress
from restore.placing import Options, Placement
from restore.planserver import PlanHandlers, plan_served
from restore.rates import note_span
from restore.restoring import judge
from restore.workplace import Workplace
from walarchiver.assembly import Archive, Host
from walarchiver.errors import RestoreFailed
from walarchiver.format.backupchain import chain_of
from walarchiver.postgres.process import RunAs, StopMode
from walarchiver.postgres.tables import private_dsn

SAY_INTERVAL_S = 2.0
LOG_LINES = 15
WAL_BYTES_KEPT = 2 << 30
"""At most so much replayed WAL stays in pg_wal (max_wal_size, spread checkpoints counted twice)."""

_QUIET = {
    "hot_standby": "off",
    "default_transaction_read_only": "on",
    "max_worker_processes": "0",
    "autovacuum": "off",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "synchronous_standby_names": "",
    "archive_command": "",
    "unix_socket_group": "",
    "bonjour": "off",
    "jit": "off",
    "restart_after_crash": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "shared_buffers": "128MB",
    "huge_pages": "off",
    "max_wal_size": "1GB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}
_QUIET_SINCE = {
    17: {
        "event_triggers": "off",
        "summarize_wal": "off",
        "sync_replication_slots": "off",
        "transaction_timeout": "0",
    },
    18: {"io_method": "worker"},
}
_QUIET_ONLY = {14: {"stats_temp_directory": "pg_stat_tmp"}}
_PRELOAD_WORDS = ("resource manager", "shared_preload_libraries", "must be preloaded", "must be loaded via")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made, and how its server runs."""

    host: Host
    archive: Archive
    plan: Plan
    place: Workplace
    owner: RunAs | None
    bin_dir: Path
    user: str
    """The role that looks where recovery is."""
    timeout_s: float
    keep_preload: bool
    """Read the original's own configuration, and load the libraries that it names."""
    requested: str
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Throwaway:
    """A running one, proven to be at the planned stop."""

    order: Order
    instance: Instance
    reached: Reached
    wal_files: int

    def dsn(self, dbname: str) -> str:
        """For sessions that read only by default."""
        return private_dsn(self.instance.dsn(), user=self.order.user, dbname=dbname)


def bytes_needed(decision: Decision) -> int:
    """Room that a throwaway takes at least: the backup, and the WAL that replay keeps."""
    assert decision.backup is not None, "a refusal needs no room"
    assert decision.wal is not None, "a refusal needs no room"
    return decision.backup.raw_in_all + min(decision.wal.bytes, WAL_BYTES_KEPT)


def run_dir(place: Workplace) -> Path:
    """Where the server's socket, log and access rules are."""
    return place.folder.with_name("run")


def quiet_settings(major: int, *, keep_preload: bool) -> dict[str, str]:
    """What keeps a copy of any cluster to itself, on any host, besides what every Instance does."""
    chosen = dict(_QUIET)
    for since, more in _QUIET_SINCE.items():
        if major >= since:
            chosen |= more
    chosen |= _QUIET_ONLY.get(major, {})
    if not keep_preload:
        chosen["shared_preload_libraries"] = ""
    return chosen


@contextmanager
def throwaway(order: Order, *, check_space: bool, needed: int) -> Iterator[Throwaway]:
    """One at the planned stop; its server is ended when the caller is done, the folder is the caller's.

    Raises TargetDiskFull, RestoreFailed, DeadlineExceeded, ObjectDamaged, Store….
    """
    if check_space:
        check_room({order.place.target: needed})
    clock = order.host.clock
    began_s = clock.monotonic_s()
    options = Options(
        owner=order.owner,
        tablespaces={},
        workers=order.host.settings.server.workers,
        comments=(f"walarchiver throwaway of {order.requested}: plan {order.plan.id}",),
        check_space=False,
        progress=_unpacked(order),
    )
    Placement(order.archive, order.plan, order.place, options).carry_out()
    raw = sum(one.raw for one in chain_of(order.archive.catalog.backups(), order.plan.backup))
    note_span(order.host.settings.server.state, clock, Part.FILES, raw, clock.monotonic_s() - began_s)
    instance = _instance(order)
    try:
        try:
            made = asyncio.run(_recover(order, instance))
        except RestoreFailed as error:
            raise _explained(error, instance, order) from error
        yield made
    finally:
        instance.stop(StopMode.IMMEDIATE)


def _instance(order: Order) -> Instance:
    settings = quiet_settings(order.plan.major, keep_preload=order.keep_preload)
    work_dir = run_dir(order.place)
    own = order.place.target / "postgresql.conf"
    if not order.keep_preload:
        settings["config_file"] = str(work_dir / "postgresql.conf")  # one that Instance writes
    elif not own.exists():
        copies = sorted(order.place.configuration.rglob("postgresql.conf"))
        if len(copies) != 1:
            raise RestoreFailed(
                f"the backup holds {len(copies)} files postgresql.conf, so --keep-preload cannot be obeyed",
                hint="Leave --keep-preload out.",
            )
        settings["config_file"] = str(copies[0])
    return Instance(order.bin_dir, order.place.target, work_dir, settings=settings)


async def _recover(order: Order, instance: Instance) -> Throwaway:
    """Serve the plan, start, watch, judge."""
    clock = order.host.clock
    began_s = clock.monotonic_s()
    async with plan_served(order.host, order.plan, order.place, order.archive) as handlers:
        starting = asyncio.create_task(asyncio.to_thread(instance.start))
        watching: asyncio.Task[Reached] | None = None
        try:
            await asyncio.shield(starting)
            watching = asyncio.create_task(asyncio.to_thread(_watch, order, instance))
            await _told(order, handlers, watching)
        except BaseException:  # threads go on when interrupted: first let the start end, then end the server
            await asyncio.gather(starting, return_exceptions=True)
            await asyncio.to_thread(instance.stop, StopMode.IMMEDIATE)
            if watching is not None:
                await asyncio.gather(watching, return_exceptions=True)
            raise
        judge(order.plan, watching.result(), instance)
        state = order.host.settings.server.state
        handlers.note_rates(state, recovery_s=clock.monotonic_s() - began_s)
        return Throwaway(order, instance, watching.result(), handlers.fetched)


def _watch(order: Order, instance: Instance) -> Reached:
    return instance.watch(order.host.clock, timeout_s=order.timeout_s, user=order.user)


async def _told(order: Order, handlers: PlanHandlers, watching: asyncio.Task[Reached]) -> None:
    """Wait for the end of recovery, and say meanwhile how far it is."""
    total = order.plan.last - order.plan.first + 1
    while not (await asyncio.wait({watching}, timeout=SAY_INTERVAL_S))[0]:
        order.say(f"replaying: {handlers.fetched} files fetched of {total} segments and their histories")
    await watching


def _unpacked(order: Order) -> Callable[[Progress], None]:
    last_s = order.host.clock.monotonic_s()

    def report(progress: Progress) -> None:
        nonlocal last_s
        now_s = order.host.clock.monotonic_s()
        if now_s - last_s >= SAY_INTERVAL_S:
            last_s = now_s
            order.say(f"{progress.done / 1e6:,.0f} of {progress.total / 1e6:,.0f} MB unpacked")

    return report


def _explained(error: RestoreFailed, instance: Instance, order: Order) -> RestoreFailed:
    """The failure with the server's last words, since its log is removed with everything else."""
    log = instance.log_text()
    lines = log.strip().splitlines()[-LOG_LINES:]
    about_role = "--user" in error.next_step
    if lines and not about_role:
        order.say("the server's last lines:\n" + "\n".join(f"  {line}" for line in lines))
    hint = "Everything of the throwaway instance was removed, and production was not touched. "
    if not order.keep_preload and any(word in log for word in _PRELOAD_WORDS):
        hint += "Does the cluster need its own libraries? Then add --keep-preload."
    elif about_role:
        hint += error.next_step
    else:
        hint += "Does `walarchiver restore --at WHEN --into DIR --start` succeed? It leaves its log."
    return RestoreFailed(error.message, hint=hint)
