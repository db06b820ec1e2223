"""`walarchiver ledger verify`: read and verify the whole chain afresh, and say how far that reaches."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from walarchiver.assembly import open_repository
from walarchiver.cli import superseding
from walarchiver.cli.context import Context
from walarchiver.errors import LedgerBroken, UnknownCluster
from walarchiver.operate.ledgeraudit import audit_ledger
from walarchiver.operate.ledgertold import Told
from walarchiver.operate.mincheckpoint import checked_path, look_outside, parse_typed, seen_in
from walarchiver.repository import Repository

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

DEGRADED = 3
_PROGRESS_EVERY = 1000


def register(subparsers: Subparsers) -> None:
    """Add `ledger` and its verb."""
    parser = subparsers.add_parser("ledger", help="verify the signed chain of everything archived")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verify = verbs.add_parser("verify", help="read the whole chain from the store and verify it")
    verify.add_argument(
        "--min-checkpoint",
        metavar="CHECKPOINT",
        help="fail unless the chain holds this entry: N:HASH as printed, or a file or folder of checkpoints",
    )
    verify.add_argument("--entries", action="store_true", help="list every entry")
    verify.add_argument("--repository", metavar="NAME", help="default: the cluster's first")
    verify.add_argument("--system", metavar="ID", help="an older system identifier of the same cluster name")
    superseding.add(verbs)


def run(context: Context, args: argparse.Namespace) -> int:
    if args.verb == "supersede":
        return superseding.run(context, args)
    given: str | None = args.min_checkpoint
    typed = None if given is None else parse_typed(given)
    path = None if given is None or typed is not None else checked_path(given)
    host = context.host()
    cluster = host.settings.cluster_name(context.cluster)
    repository = open_repository(host, args.repository or host.settings.cluster(cluster).repositories[0])
    try:
        system = args.system or _system_of(repository, cluster)

        def progress(seq: int) -> None:
            if seq and seq % _PROGRESS_EVERY == 0:
                context.progress(f"ledger verify: {seq:,} entries read")

        audit = audit_ledger(repository, system, progress)
        wanted = typed if path is None else seen_in(path, repository, audit, context.progress)
        kept = look_outside(host, cluster, repository, audit)
    finally:
        repository.store.close()
    for seen in (wanted, None if kept is None else kept.seen):
        if seen is not None:
            audit.require(seen)
    if audit.head is None:
        raise LedgerBroken(
            f"ledger of system {system} has no valid entry",
            hint="Entries were removed or changed: look for deleted versions and for copies of the ledger.",
        )
    if audit.name != cluster:
        raise UnknownCluster(f"system {system} is cluster {audit.name!r}, not {cluster!r}")
    told = Told(audit, audit.head, repository.store.url, wanted, kept)
    context.result(told.text(entries=args.entries), told.members(entries=args.entries))
    if audit.forged is not None or audit.differing:
        return LedgerBroken.exit_status
    degraded = audit.unsettled or audit.strays or audit.refused or (kept and kept.failure)
    return DEGRADED if degraded else 0


def _system_of(repository: Repository, cluster: str) -> str:
    """The only system identifier there, whatever state its chain is in; else the cluster's newest."""
    systems = repository.systems()
    return systems[0] if len(systems) == 1 else repository.find_system(cluster)
