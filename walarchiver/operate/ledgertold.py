"""What `walarchiver ledger verify` says of an audited chain: a screen of text, and members for machines.

Rule: how far back it would be seen that entries were cut off is always said, and so is how to know more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import LedgerBroken, WalarchiverError
from walarchiver.operate.ledgeraudit import Audit, AuditedEntry, SeenEntry


@dataclass(frozen=True, slots=True)
class Outside:
    """What the second place says: its newest checkpoint, or why it could not be asked."""

    url: str
    seen: SeenEntry | None
    failure: WalarchiverError | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """An audit that held against every checkpoint at hand."""

    audit: Audit
    head: AuditedEntry
    repository: str
    """Where the chain was read from."""
    wanted: SeenEntry | None
    """What `--min-checkpoint` named."""
    outside: Outside | None
    """None when no second place is configured."""

    @property
    def bound(self) -> SeenEntry | None:
        """The newest entry that somebody outside saw: nothing up to it was cut off."""
        outside = None if self.outside is None else self.outside.seen
        seen = [one for one in (self.wanted, outside) if one is not None]
        return max(seen, key=lambda one: one.seq, default=None)

    def text(self, *, entries: bool) -> str:
        audit, head = self.audit, self.head
        counts = Counter(kind for entry in audit.valid for kind in entry.kinds)
        lines = [
            f"cluster {audit.name} (system {audit.system}) in {self.repository}",
            f"{len(audit.valid):,} entries verified from the root key on: "
            + ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())),
        ]
        for number, begun in audit.keyrings:
            since = "not in force here" if begun is None else f"in force from entry {begun}"
            lines.append(f"keyring  {number}: {since}")
        if audit.rolled_up:
            lines.append(f"rolled   {len(audit.rolled_up)} blocks are in roll-ups as they stand")
        unsettled = {entry.seq for entry in audit.unsettled}
        for entry in audit.voids:
            state = "no later entry settles it" if entry.seq in unsettled else "settled"
            lines.append(f"void     {entry.seq}:{entry.sha256} changes nothing; {state}")
        lines += [f"stray    {key} is no entry of this chain" for key in audit.strays]
        lines += [f"refused  {why}" for why in audit.refused]
        lines += [
            f"differs  entry {seq} is another one at its name than in its roll-up" for seq in audit.differing
        ]
        if entries:
            lines += [_line(entry) for entry in audit.valid]
        lines.append(f"head     {head.seq}:{head.sha256} written {format_rfc3339(head.time_us)}")
        lines += self._bounds()
        lines += self._next()
        return "\n".join(lines)

    def _bounds(self) -> list[str]:
        lines = []
        if self.wanted is not None:
            lines.append(
                f"contains {self.wanted}: nothing up to entry {self.wanted.seq} was removed or changed"
            )
        if self.outside is None:
            lines.append("outside  nothing: no second place for checkpoints is configured")
        elif self.outside.failure is not None:
            lines.append(f"outside  {self.outside.url} could not be asked: {self.outside.failure.message}")
        elif self.outside.seen is None:
            lines.append(f"outside  {self.outside.url} has no checkpoint of this chain")
        else:
            lines.append(f"outside  {self.outside.seen} in {self.outside.url}: the chain contains it")
        bound = self.bound
        if bound is None:
            lines.append("bound    none: a chain alone cannot show whether its newest entries were cut off")
        else:
            when = "" if bound.time_us is None else f" ({format_rfc3339(bound.time_us)})"
            lines.append(f"bound    truncation would be seen back to entry {bound.seq}{when}, not behind it")
        lines.append(
            f"Keep {self.head.seq}:{self.head.sha256} elsewhere; --min-checkpoint then shows that all until "
            f"{format_rfc3339(self.head.time_us)} is there"
        )
        return lines

    def _next(self) -> list[str]:
        audit = self.audit
        if audit.forged is not None:
            return [
                f"next: entry {audit.forged} is void but signed by a member: what stood before it was "
                "changed, or a host writes that was revoked. Look for older versions and copies of the ledger"
            ]
        if audit.differing:
            return ["next: the roll-ups hold what was signed; find out who changed the ledger's names"]
        if audit.unsettled or audit.strays or audit.refused:
            return ["next: find out who else may write to the store; the entries are safe and go on"]
        return []

    def members(self, *, entries: bool) -> dict[str, object]:
        audit, head = self.audit, self.head
        unsettled = {entry.seq for entry in audit.unsettled}
        broken = audit.forged is not None or bool(audit.differing)
        members: dict[str, object] = {
            "cluster": audit.name,
            "system": audit.system,
            "repository": self.repository,
            "entries": len(audit.valid),
            "records": dict(sorted(Counter(kind for one in audit.valid for kind in one.kinds).items())),
            "void": [
                {"seq": entry.seq, "sha256": entry.sha256, "settled": entry.seq not in unsettled}
                for entry in audit.voids
            ],
            "strays": list(audit.strays),
            "rolled_up": list(audit.rolled_up),
            "refused_rollups": list(audit.refused),
            "differing": list(audit.differing),
            "keyrings": [{"n": number, "in_force_from": begun} for number, begun in audit.keyrings],
            "head": {"seq": head.seq, "sha256": head.sha256, "time": format_rfc3339(head.time_us)},
            "min_checkpoint": _seen(self.wanted),
            "second_place": None
            if self.outside is None
            else {
                "place": self.outside.url,
                "newest": _seen(self.outside.seen),
                "failure": self.outside.failure and self.outside.failure.code,
            },
            "bound": _seen(self.bound),
            "signed_void": audit.forged,
            "code": LedgerBroken.code if broken else None,
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


def _line(entry: AuditedEntry) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(entry.kinds).items()))
    return f"entry    {entry.seq}:{entry.sha256} {format_rfc3339(entry.time_us)} by {entry.writer}: {kinds}"


def _seen(seen: SeenEntry | None) -> dict[str, object] | None:
    if seen is None:
        return None
    members: dict[str, object] = {"seq": seen.seq, "sha256": seen.sha256}
    if seen.time_us is not None:
        members["time"] = format_rfc3339(seen.time_us)
    return members
