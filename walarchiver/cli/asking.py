"""What `plan` and `restore` share: understanding --at, asking the planner, making the plan."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from restore.core.estimate import Estimate, estimate
from restore.core.model import Decision, View
from restore.core.plan import Plan, make_plan
from restore.core.recoveryconf import recovery_settings
from restore.core.when import Understood, describe_target, parse_when
from restore.planning import Question, ask, view_of
from restore.rates import read_rates
from restore.workplace import Workplace
from walarchiver.assembly import Archive, Host, open_archive
from walarchiver.cli.context import Context
from walarchiver.cli.othersystems import OtherSystem, other_systems
from walarchiver.clock import host_timezone
from walarchiver.core.segment import Segment
from walarchiver.errors import UsageError

HORIZON_TIMEOUT_S = 5.0


def add_question(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The options that say which moment is meant."""
    parser.add_argument(
        "--at",
        required=required,
        metavar="WHEN",
        help="2026-11-22T14:32:06Z, '2026-11-22 14:32:06 Europe/Berlin', '10 minutes ago', latest, "
        "lsn:0/3000148, xid:739, before-xid:739, name:before_migration",
    )
    parser.add_argument("--timeline", type=int, metavar="N", help="the branch to take; default: production's")
    parser.add_argument("--system", metavar="ID", help="an older system identifier of the same cluster name")


@dataclass(frozen=True, slots=True)
class Answer:
    """The planner's answer, and what it was asked about."""

    archive: Archive
    view: View
    understood: Understood
    decision: Decision
    duration: Estimate | None
    """How long carrying it out may take."""
    elsewhere: tuple[OtherSystem, ...]
    """After a refusal: other system identifiers of the cluster's name that cover the moment."""

    @property
    def requested(self) -> str:
        return describe_target(self.understood.target)


def answer(context: Context, host: Host, args: argparse.Namespace) -> Answer:
    """Ask the planner. Raises TimeNotUnderstood and its kin, UnknownCluster, KeyCannotOpen, …"""
    understood = parse_when(
        args.at,
        now_us=host.clock.now_us(),
        timezone=host.settings.server.timezone,
        host_timezone=host_timezone(),
    )
    prove_horizon(host, context.cluster)
    archive = open_archive(host, context.cluster, system=args.system)
    view = view_of(archive.catalog, archive.cluster, archive.ledger.state().next_seq)
    seen = 0

    def progress(segment: Segment) -> None:
        nonlocal seen
        seen += 1
        if seen % 16 == 0:
            context.progress(f"plan: {seen} segments read, at {segment.name(archive.segment_size)}")

    decision = ask(
        archive.repository,
        archive.catalog,
        view,
        Question(understood.target, args.timeline),
        progress=progress,
    )
    duration = estimate(decision, read_rates(host.settings.server.state))
    refused = decision.stop is None
    elsewhere = other_systems(host, archive, understood.target) if refused else ()
    return Answer(archive, view, understood, decision, duration, elsewhere)


def plan_of(host: Host, found: Answer, place: Workplace | None, hook: Path) -> Plan:
    """The plan of a reachable answer; without a place its restore_command is only a pattern."""
    plan_id = host.random.token(8).hex()
    if place is None:
        command = f"{hook} --socket <DIR>.walarchiver/wa.sock fetch --plan <ID> %f %p"
    else:
        command = place.restore_command(hook, plan_id)
    return make_plan(
        found.decision,
        found.view,
        plan_id=plan_id,
        repository=found.archive.repository.repo,
        requested=found.requested,
        made_at=host.clock.now_us(),
        keys=epochs_of(found),
        settings=recovery_settings(found.decision, restore_command=command),
    )


def epochs_of(found: Answer) -> tuple[str, ...]:
    """The epoch keys that the restore may need: those used since its chain of base backups began."""
    decision = found.decision
    if decision.backup is None:
        return ()
    below = decision.backup.below
    return found.archive.catalog.epochs_since_backup(below[0].id if below else decision.backup.id)


def hook_path(given: str | None) -> Path:
    """The hook's launcher: as given, beside this interpreter, or on PATH. Raises UsageError."""
    if given is not None:
        return Path(given).absolute()
    beside = Path(sys.executable).parent / "walarchiver-hook"
    if beside.is_file():
        return beside
    found = shutil.which("walarchiver-hook")
    if found is None:
        raise UsageError("walarchiver-hook is not on PATH", hint="Name it with --hook PATH.")
    return Path(found)


def prove_horizon(host: Host, cluster: str | None) -> None:
    """Ask a running daemon on this host to record its newest horizon sample; silence is fine."""
    path = host.settings.server.socket
    if not path.is_socket():
        return
    import http.client  # and TLS with it; most hosts that restore run no daemon

    connection = http.client.HTTPConnection("localhost", timeout=HORIZON_TIMEOUT_S)
    body = json.dumps({} if cluster is None else {"cluster": cluster})
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as channel:
        channel.settimeout(HORIZON_TIMEOUT_S)
        with contextlib.suppress(OSError, http.client.HTTPException):
            channel.connect(str(path))
            connection.sock = channel
            connection.request("POST", "/v1/horizon", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
