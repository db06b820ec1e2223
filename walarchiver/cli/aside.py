"""What `peek` and `rescue` share: options, and a throwaway instance from asking for it to its last file.

Rules:
- Ctrl-C, SIGTERM and SIGHUP all end a command in the same way: everything is stopped and removed first.
- Before anything else, what dead commands left in the same place is ended and removed.
- Nothing is downloaded before the answer is yes, the programs are at hand, and there is room.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from restore.core.plan import Plan
from restore.core.plandocument import plan_document
from restore.core.plantext import plan_text
from restore.instance import check_work_dir, find_programs
from restore.throwaway import Order, Throwaway, bytes_needed, run_dir, throwaway
from restore.throwawayfolder import DATA, Abandoned, default_root, remove_abandoned, throwaway_folder
from restore.workplace import Workplace
from walarchiver.assembly import Host
from walarchiver.cli.asking import Answer, add_question, answer, hook_path, plan_of
from walarchiver.cli.context import Context
from walarchiver.cli.plan import refusal_of
from walarchiver.cli.restoretarget import check_hook, owner_of
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import format_rfc3339
from walarchiver.embedded.binaries import find_postgres_bin
from walarchiver.errors import UsageError, WalarchiverError
from walarchiver.postgres.process import RunAs, find_system_bin

PLACES = "throwaway-places"
"""File in the state folder: places that --workdir named, one a line, so that a crash's rest is found."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The moment, and where and how the throwaway instance lives."""
    add_question(parser, required=False)
    parser.add_argument(
        "--workdir", type=Path, metavar="DIR", help="where it lives meanwhile (default: by `state`)"
    )
    parser.add_argument("--owner", metavar="USER", help="as root: who its server runs as (default: postgres)")
    parser.add_argument(
        "--bin-dir", type=Path, metavar="DIR", help="PostgreSQL's programs, of the right major"
    )
    parser.add_argument(
        "--user", default="postgres", metavar="ROLE", help="the cluster's role to work as (default: postgres)"
    )
    parser.add_argument(
        "--keep-preload",
        action="store_true",
        help="read the cluster's own configuration and load its shared_preload_libraries",
    )
    parser.add_argument(
        "--no-space-check", action="store_true", help="begin although the disk looks too small"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be restored, and do nothing")
    parser.add_argument("--hook", metavar="PATH", help="the hook's launcher (default: beside this program)")
    parser.add_argument(
        "--timeout", type=int, default=86400, metavar="SECONDS", help="give up waiting for recovery after"
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """A moment that can be had, before anything was made for it."""

    context: Context
    host: Host
    args: argparse.Namespace
    purpose: str
    found: Answer

    def say(self, line: str) -> None:
        self.context.progress(f"{self.purpose}: {line}")

    @property
    def needed(self) -> int:
        """Bytes on disk, at least."""
        return bytes_needed(self.found.decision)

    @property
    def estimate(self) -> str:
        """What it takes, for people."""
        decision = self.found.decision
        assert decision.backup is not None
        assert decision.wal is not None
        backup, wal = decision.backup, decision.wal
        return (
            f"a whole cluster is restored for this: {backup.stored / 1e6:,.1f} MB to fetch and "
            f"{backup.raw / 1e6:,.1f} MB to write of {backup.id}, then {wal.count} WAL segments "
            f"({wal.bytes / 1e6:,.1f} MB) to replay; {self.needed / 1e6:,.1f} MB of room are needed"
        )


def ask(context: Context, args: argparse.Namespace, purpose: str, *, stdout_is_taken: bool = False) -> Asked:
    """Clean up after dead commands, then ask the planner.

    Raises NotReachable and its kin after showing the answer, as `restore` does.
    """
    if args.at is None:
        raise UsageError("--at is missing", hint="Which moment? For example --at '10 minutes ago'.")
    host = context.host()
    clean(context, host, args.workdir, purpose)
    found = answer(context, host, args)
    refusal = refusal_of(found)
    if refusal is not None:
        text = plan_text(found.decision, found.view, requested=found.understood)
        if stdout_is_taken:
            context.progress(text)
        else:
            context.result(text, plan_document(found.decision, found.view, requested=found.understood))
        raise refusal
    return Asked(context, host, args, purpose, found)


def show_dry_run(asked: Asked) -> int:
    """The plan and what it takes."""
    found = asked.found
    document = plan_document(found.decision, found.view, requested=found.understood, duration=found.duration)
    text = plan_text(found.decision, found.view, requested=found.understood, duration=found.duration)
    asked.context.result(
        f"{text.rstrip()}\n{asked.estimate}", {**document, "bytes_on_disk": asked.needed, "dry_run": True}
    )
    return 0


@contextmanager
def made(asked: Asked) -> Iterator[Throwaway]:
    """The throwaway instance; nothing of it is left afterwards."""
    host, args, found = asked.host, asked.args, asked.found
    owner = owner_of(args.owner)
    hook = hook_path(args.hook)
    check_hook(hook, owner)
    bin_dir = find_programs(
        found.view.major, bin_dir=args.bin_dir, search=(find_system_bin, find_postgres_bin)
    )
    root = place_of(host, args.workdir)
    _check_lengths(root / f"{asked.purpose}-{'0' * 8}")
    about = {"made": format_rfc3339(host.clock.now_us()), "at": found.requested, "command": asked.purpose}
    asked.say(found.decision.reason)
    asked.say(asked.estimate)
    with ends_as_by_ctrl_c():
        stack = contextlib.ExitStack()
        try:
            folder = stack.enter_context(
                throwaway_folder(root, asked.purpose, host.random.token(4).hex(), owner, about)
            )
            order = _order(asked, Workplace.beside(folder / DATA), hook, owner, bin_dir)
            one = stack.enter_context(
                throwaway(order, check_space=not args.no_space_check, needed=asked.needed)
            )
            asked.say(
                f"PostgreSQL {order.plan.major} stands {stop_text(order.plan)}: {found.understood.text}; it "
                "reads only, and is removed at the end"
            )
            yield one
        finally:
            with interrupts_go_to(lambda: asked.say("removing what was made, a moment")):
                stack.close()


def _check_lengths(folder: Path) -> None:
    """Whether sockets can have their paths below `folder`. Raises UsageError."""
    try:
        check_work_dir(run_dir(Workplace.beside(folder / DATA)))
    except UsageError as error:
        raise UsageError(error.message, hint="Name a place with a shorter path with --workdir.") from None


def _order(asked: Asked, place: Workplace, hook: Path, owner: RunAs | None, bin_dir: Path) -> Order:
    return Order(
        host=asked.host,
        archive=asked.found.archive,
        plan=plan_of(asked.host, asked.found, place, hook),
        place=place,
        owner=owner,
        bin_dir=bin_dir,
        user=asked.args.user,
        timeout_s=asked.args.timeout,
        keep_preload=asked.args.keep_preload,
        requested=asked.found.requested,
        say=asked.say,
    )


def stop_text(plan: Plan) -> str:
    """Where it stands, for people."""
    stop = plan.stop
    commit = f", transaction {stop.last_commit.xid} being the last" if stop.last_commit is not None else ""
    side = "after" if stop.inclusive else "before"
    return f"{side} {format_lsn(stop.lsn)} on timeline {stop.timeline}{commit}"


def stop_members(plan: Plan) -> dict[str, object]:
    """Where it stands, for machines."""
    stop = plan.stop
    commit = stop.last_commit
    return {
        "lsn": format_lsn(stop.lsn),
        "inclusive": stop.inclusive,
        "timeline": stop.timeline,
        "last_commit": None if commit is None else {"xid": commit.xid, "time": format_rfc3339(commit.time)},
    }


# --- places --------------------------------------------------------------------------------------


def place_of(host: Host, workdir: Path | None) -> Path:
    """Where throwaways live; a place that --workdir names is noted for the next clean-up."""
    if workdir is None:
        return default_root(host.settings.server.state)
    root = workdir.absolute()
    if root not in _noted(host):
        with contextlib.suppress(OSError), (host.settings.server.state / PLACES).open("a") as out:
            out.write(f"{root}\n")
    return root


def clean(context: Context, host: Host, workdir: Path | None, purpose: str) -> tuple[Abandoned, ...]:
    """End and remove what dead commands left; what cannot be removed is told, and is no failure."""
    places = [default_root(host.settings.server.state), *_noted(host)]
    if workdir is not None:
        places.append(workdir.absolute())
    found: list[Abandoned] = []
    for root in dict.fromkeys(places):
        try:
            found += remove_abandoned(root)
        except (WalarchiverError, OSError) as error:
            context.warning(f"throwaway instances in {root} were not cleaned up: {error}")
    for one in found:
        context.progress(f"{purpose}: {one.line}")
    return tuple(found)


def _noted(host: Host) -> list[Path]:
    try:
        return [Path(line) for line in (host.settings.server.state / PLACES).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return []


# --- ending --------------------------------------------------------------------------------------


@contextmanager
def ends_as_by_ctrl_c() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP do what Ctrl-C does, so nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            before[number] = signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts_go_to(receiver: Callable[[], None]) -> Iterator[None]:
    """Inside, Ctrl-C calls `receiver` and interrupts nothing of ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda _number, _frame: receiver())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
