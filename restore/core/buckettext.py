"""What a bucket plan says, for people and for machines; and which exit status it stands for.

Rules:
- What cannot be restored comes before what can. Lists are cut after `SHOWN_MAX` lines, and say so; the plan
  file has all of them.
- A dry run says that it is one, and how to carry it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from restore.core.bucketactions import Action, Kind, Undelete
from restore.core.bucketlines import PlanHeader, action_members, store_time
from restore.core.bucketstate import Loss
from restore.core.buckettotals import Tally, cost_lines, tally_members

SHOWN_MAX = 20
LISTED_MAX = 1000
OK, FAILED, DEGRADED, INCONSISTENT = 0, 1, 3, 15
_LISTED = (Kind.LOST, Kind.NEEDS_KEY, Kind.AMBIGUOUS, Kind.THAW, Kind.MARK_DELETED, Kind.EXTRA)

_SAID = {
    Kind.COPY: "to copy",
    Kind.COPY_IN_PARTS: "to copy in parts (above 5 GB)",
    Kind.REMOVE_MARKERS: "to undelete by removing delete markers",
    Kind.MARK_DELETED: "to delete: newer than the moment (their versions stay)",
    Kind.EXTRA: "newer than the moment, left as they are",
    Kind.THAW: "in an archive tier, to be brought back first",
    Kind.NEEDS_KEY: "not readable without the customer's key",
    Kind.LOST: "LOST",
    Kind.AMBIGUOUS: "AMBIGUOUS: not known, nothing is done",
    Kind.NOTHING: "with doubts, but nothing has to be done",
}
_ORDER = (
    Kind.LOST,
    Kind.NEEDS_KEY,
    Kind.AMBIGUOUS,
    Kind.THAW,
    Kind.COPY,
    Kind.COPY_IN_PARTS,
    Kind.REMOVE_MARKERS,
    Kind.MARK_DELETED,
    Kind.EXTRA,
    Kind.NOTHING,
)


@dataclass(slots=True)
class Digest:
    """The sums of a plan, and the actions that somebody should look at."""

    tally: Tally
    listed: dict[Kind, list[Action]] = field(default_factory=dict)
    flagged: list[Action] = field(default_factory=list)
    flagged_found: int = 0

    def add(self, action: Action) -> None:
        self.tally.add(action)
        if action.kind in _LISTED:
            listed = self.listed.setdefault(action.kind, [])
            if len(listed) < LISTED_MAX:
                listed.append(action)
        elif action.flags:
            self.flagged_found += 1
            if len(self.flagged) < LISTED_MAX:
                self.flagged.append(action)


def status_of(tally: Tally) -> int:
    """The exit status that a plan stands for: 15 with losses, 3 with what is not certain or not at hand."""
    if tally.keys(Kind.LOST, Kind.NEEDS_KEY):
        return INCONSISTENT
    return DEGRADED if tally.keys(Kind.AMBIGUOUS, Kind.THAW) else OK


def headline(header: PlanHeader) -> str:
    """What the plan is for, in one line."""
    where = "in place" if header.in_place else f"into {header.target}"
    if header.to_prefix:
        where += f", below {header.to_prefix}"
    source = "" if header.reads_own_bucket else f", from {header.source}"
    return f"restore {header.states} {where}{source}, as of {header.requested}"


def plan_text(header: PlanHeader, digest: Digest, *, next_step: str) -> str:
    """The whole plan's summary."""
    tally = digest.tally
    lines = [headline(header), f"window: {header.verdict}"]
    lines += [f"  - {cause}" for cause in header.causes]
    lines += [f"listed: {store_time(header.scanned)}", *_chosen(header), ""]
    lines.append(f"{tally.unchanged:>12,}  as they should be")
    for kind in _ORDER:
        total = tally.kinds.get(kind)
        if total is not None:
            size = f", {total.bytes:,} bytes" if total.bytes else ""
            lines.append(f"{total.keys:>12,}  {_SAID[kind]}{size}")
    for kind in _ORDER:
        lines += _list(kind, digest)
    if digest.flagged:
        lines += ["", "flagged:"]
        lines += [_flagged_line(action) for action in digest.flagged[:SHOWN_MAX]]
        lines += _more(digest.flagged_found, min(len(digest.flagged), SHOWN_MAX))
    lines += ["", *cost_lines(tally), "", next_step]
    return "\n".join(lines) + "\n"


def _chosen(header: PlanHeader) -> list[str]:
    options, found = header.options, []
    if options.missing_only:
        found.append("only keys that hold nothing now")
    if options.delete_newer:
        found.append("what is newer than the moment gets a delete marker")
    if options.undelete is Undelete.MARKERS:
        found.append("deleted keys come back by removing their delete markers")
    if options.accept_uncertain:
        found.append("what is not certain is restored as it probably was")
    return [f"chosen: {'; '.join(found)}"] if found else []


def _list(kind: Kind, digest: Digest) -> list[str]:
    listed = digest.listed.get(kind)
    if not listed:
        return []
    lines = ["", f"{_SAID[kind]}:"]
    lines += [f"  {_named(action)}: {_why(action)}" for action in listed[:SHOWN_MAX]]
    return lines + _more(digest.tally.keys(kind), min(len(listed), SHOWN_MAX))


def _more(total: int, shown: int) -> list[str]:
    return [f"  and {total - shown:,} more, see the plan file"] if total > shown else []


def _named(action: Action) -> str:
    return repr(action.key)[1:-1] if not action.key.isprintable() else action.key


def _flagged_line(action: Action) -> str:
    return f"  {_named(action)}: {action.kind.value}, {', '.join(flag.value for flag in action.flags)}"


def _why(action: Action) -> str:
    if action.loss is not None:
        return loss_text(action.loss)
    return action.why


def loss_text(loss: Loss) -> str:
    """`existed [from, to), removed between A and B: cause`."""
    existed = f"version {loss.version_id} existed [{store_time(loss.existed_from)}, "
    existed += f"{store_time(loss.existed_until)})"
    if loss.purged_after is None and loss.purged_by is None:
        return f"{existed}: {loss.cause}"
    after = "its first listing" if loss.purged_after is None else store_time(loss.purged_after)
    before = "this listing" if loss.purged_by is None else store_time(loss.purged_by)
    return f"{existed}, removed for ever between {after} and {before}: {loss.cause}"


def plan_members(header: PlanHeader, digest: Digest, *, sha256: str, path: str) -> dict[str, object]:
    """The plan for machines; lists hold at most LISTED_MAX, the file at `path` has all."""
    return {
        "plan": header.id,
        "plan_file": path,
        "plan_sha256": sha256,
        "bucket": header.states,
        "source": header.source,
        "target": header.target,
        "to_prefix": header.to_prefix,
        "prefix": header.prefix,
        "in_place": header.in_place,
        "moment": store_time(header.moment),
        "requested": header.requested,
        "listed": store_time(header.scanned),
        "window": {"verdict": header.verdict, "causes": list(header.causes)},
        **tally_members(digest.tally),
        **{kind.value: [_members(action) for action in digest.listed.get(kind, ())] for kind in _LISTED},
        "flagged": [_members(action) for action in digest.flagged],
        "estimate": cost_lines(digest.tally),
    }


def _members(action: Action) -> Mapping[str, object]:
    members: dict[str, object] = dict(action_members(action))
    if action.loss is not None:
        members["loss"] = {
            "version": action.loss.version_id,
            "existed_from": store_time(action.loss.existed_from),
            "existed_until": store_time(action.loss.existed_until),
            "purged_after": None
            if action.loss.purged_after is None
            else store_time(action.loss.purged_after),
            "purged_by": None if action.loss.purged_by is None else store_time(action.loss.purged_by),
            "cause": action.loss.cause,
        }
    return members
