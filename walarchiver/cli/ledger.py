"""`walarchiver ledger verify`: read and verify the whole chain afresh, and say how far that reaches."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from typing import TYPE_CHECKING

from walarchiver.assembly import Host, open_repository
from walarchiver.cli import superseding
from walarchiver.cli.context import Context
from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import LedgerBroken, UnknownCluster, UsageError
from walarchiver.operate.ledgeraudit import Audit, AuditedEntry, Checkpoint, audit_ledger
from walarchiver.repository import Repository

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

DEGRADED = 3
_PROGRESS_EVERY = 1000
_CHECKPOINT = re.compile(r"([0-9]{1,19}):([0-9a-f]{64})")


def register(subparsers: Subparsers) -> None:
    """Add `ledger` and its verb."""
    parser = subparsers.add_parser("ledger", help="verify the signed chain of everything archived")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verify = verbs.add_parser("verify", help="read the whole chain from the store and verify it")
    verify.add_argument(
        "--min-checkpoint", metavar="N:HASH", help="fail unless the chain holds entry N with this hash"
    )
    verify.add_argument("--entries", action="store_true", help="list every entry")
    verify.add_argument("--repository", metavar="NAME", help="default: the cluster's first")
    verify.add_argument("--system", metavar="ID", help="an older system identifier of the same cluster name")
    superseding.add(verbs)


def run(context: Context, args: argparse.Namespace) -> int:
    if args.verb == "supersede":
        return superseding.run(context, args)
    wanted = None if args.min_checkpoint is None else parse_checkpoint(args.min_checkpoint)
    host = Host.here(context.settings())
    cluster = host.settings.cluster_name(context.cluster)
    repository = open_repository(host, args.repository or host.settings.cluster(cluster).repositories[0])
    try:
        system = args.system or _system_of(repository, cluster)

        def progress(seq: int) -> None:
            if seq and seq % _PROGRESS_EVERY == 0:
                context.progress(f"ledger verify: {seq:,} entries read")

        audit = audit_ledger(repository, system, progress)
    finally:
        repository.store.close()
    if wanted is not None:
        audit.require(wanted)
    if audit.head is None:
        raise LedgerBroken(
            f"ledger of system {system} has no valid entry",
            hint="Entries were removed or changed: look for deleted versions and for copies of the ledger.",
        )
    if audit.name != cluster:
        raise UnknownCluster(f"system {system} is cluster {audit.name!r}, not {cluster!r}")
    text = _text(audit, audit.head, repository, wanted, entries=args.entries)
    context.result(text, _members(audit, audit.head, repository, wanted, entries=args.entries))
    if audit.forged is not None:
        return LedgerBroken.exit_status
    return DEGRADED if audit.unsettled or audit.strays else 0


def parse_checkpoint(text: str) -> Checkpoint:
    """`41:9f86…`, as `ledger verify` prints it. Raises UsageError."""
    match = _CHECKPOINT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is not a checkpoint",
            hint="Give the number and hash of an entry as `walarchiver ledger verify` printed them: N:HASH.",
        )
    return Checkpoint(int(match[1]), match[2])


def _system_of(repository: Repository, cluster: str) -> str:
    """The only system identifier there, whatever state its chain is in; else the cluster's newest."""
    systems = repository.systems()
    return systems[0] if len(systems) == 1 else repository.find_system(cluster)


def _text(
    audit: Audit, head: AuditedEntry, repository: Repository, wanted: Checkpoint | None, *, entries: bool
) -> str:
    counts = Counter(kind for entry in audit.valid for kind in entry.kinds)
    lines = [
        f"cluster {audit.name} (system {audit.system}) in {repository.store.url}",
        f"{len(audit.valid):,} entries verified from the root key on: "
        + ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())),
    ]
    for number, begun in audit.keyrings:
        since = "not in force here" if begun is None else f"in force from entry {begun}"
        lines.append(f"keyring  {number}: {since}")
    unsettled = {entry.seq for entry in audit.unsettled}
    for entry in audit.voids:
        state = "no later entry settles it" if entry.seq in unsettled else "settled"
        lines.append(f"void     {entry.seq}:{entry.sha256} changes nothing; {state}")
    lines += [f"stray    {key} is no entry of this chain" for key in audit.strays]
    if entries:
        lines += [_line(entry) for entry in audit.valid]
    lines.append(f"head     {head.seq}:{head.sha256} written {format_rfc3339(head.time_us)}")
    if wanted is not None:
        lines.append(f"contains {wanted}: nothing up to entry {wanted.seq} was removed or changed")
    lines.append(_bound(head, wanted))
    if audit.forged is not None:
        lines.append(
            f"next: entry {audit.forged} is void but signed by a member: what stood before it was changed, "
            "or a host writes that was revoked. Look for older versions and copies of the ledger"
        )
    elif unsettled or audit.strays:
        lines.append("next: find out who else may write to the store; the entries are safe and go on")
    return "\n".join(lines)


def _bound(head: AuditedEntry, wanted: Checkpoint | None) -> str:
    reach = "its newest entries" if wanted is None else f"entries behind {wanted.seq}"
    return (
        f"A chain alone cannot show whether {reach} were cut off. Keep {head.seq}:{head.sha256} elsewhere; "
        f"--min-checkpoint then shows that all until {format_rfc3339(head.time_us)} is there"
    )


def _line(entry: AuditedEntry) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(entry.kinds).items()))
    return f"entry    {entry.seq}:{entry.sha256} {format_rfc3339(entry.time_us)} by {entry.writer}: {kinds}"


def _members(
    audit: Audit, head: AuditedEntry, repository: Repository, wanted: Checkpoint | None, *, entries: bool
) -> dict[str, object]:
    unsettled = {entry.seq for entry in audit.unsettled}
    members: dict[str, object] = {
        "cluster": audit.name,
        "system": audit.system,
        "repository": repository.store.url,
        "entries": len(audit.valid),
        "records": dict(sorted(Counter(kind for entry in audit.valid for kind in entry.kinds).items())),
        "void": [
            {"seq": entry.seq, "sha256": entry.sha256, "settled": entry.seq not in unsettled}
            for entry in audit.voids
        ],
        "strays": list(audit.strays),
        "keyrings": [{"n": number, "in_force_from": begun} for number, begun in audit.keyrings],
        "head": {"seq": head.seq, "sha256": head.sha256, "time": format_rfc3339(head.time_us)},
        "min_checkpoint": None if wanted is None else {"seq": wanted.seq, "sha256": wanted.sha256},
        "signed_void": audit.forged,
        "code": None if audit.forged is None else LedgerBroken.code,
    }
    if entries:
        members["entry"] = [
            {
                "seq": entry.seq,
                "sha256": entry.sha256,
                "time": format_rfc3339(entry.time_us),
                "writer": entry.writer,
                "kinds": list(entry.kinds),
            }
            for entry in audit.valid
        ]
    return members
