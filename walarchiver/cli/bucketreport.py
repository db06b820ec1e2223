"""What became of a bucket restore, for people and machines, and its exit status."""

from __future__ import annotations

from restore.bucketjournal import Outcome, Result
from restore.bucketrestore import Report
from restore.core.bucketactions import Kind
from restore.core.bucketlines import PlanHeader
from restore.core.buckettext import DEGRADED, FAILED, INCONSISTENT, OK, Digest, headline
from walarchiver.cli.bucketmoment import key_text

SHOWN_MAX = 20

_SAID = {
    Outcome.DONE: "restored",
    Outcome.UNCHANGED: "held what they should already",
    Outcome.THAW_REQUESTED: "asked back from an archive tier: hours; go on with --plan then",
    Outcome.LEFT: "left as they are",
    Outcome.CONTENDED: "given up: somebody kept writing to them",
    Outcome.FAILED: "FAILED",
}


def report_status(report: Report) -> int:
    """1 when something failed, 15 with losses, 3 with what is not as it should be yet, else 0."""
    if report.count(Outcome.FAILED, Outcome.CONTENDED) or report.faults_found > report.by_others:
        return FAILED
    if report.left.get(Kind.LOST) or report.left.get(Kind.NEEDS_KEY):
        return INCONSISTENT
    unsure = report.left.get(Kind.AMBIGUOUS, 0) + report.left.get(Kind.THAW, 0)
    unsure += report.count(Outcome.THAW_REQUESTED) + report.replanned_found + report.by_others
    return DEGRADED if unsure else OK


def report_text(header: PlanHeader, digest: Digest, report: Report) -> str:
    """The whole answer of --apply."""
    lines = [headline(header), f"plan {header.id}, window {header.verdict}", ""]
    lines.append(f"{digest.tally.unchanged:>12,}  were as they should be, and not touched")
    for outcome, count in report.outcomes.items():
        lines.append(f"{count:>12,}  {_SAID[outcome]}")
    lines += [f"{report.bytes_copied:>12,}  bytes copied", ""]
    lines.append(f"verified: {report.verified:,} keys listed again, {report.faults_found:,} not as written")
    lines += [f"  {key_text(fault.key)}: {fault.why}" for fault in report.faults[:SHOWN_MAX]]
    lines += _unexpected(report)
    return "\n".join(lines)


def left_lines(report: Report) -> list[str]:
    """What did not go as planned, for an answer that tells of more than the bucket."""
    counts = [f"{count:,}  {_SAID[outcome]}" for outcome, count in report.outcomes.items()]
    faults = [f"{key_text(fault.key)}: {fault.why}" for fault in report.faults[:SHOWN_MAX]]
    return [line for line in (*counts, *faults, *_unexpected(report)) if line]


def _unexpected(report: Report) -> list[str]:
    lines: list[str] = []
    if report.replanned_found:
        lines += [
            "",
            f"{report.replanned_found:,} keys were written by somebody else after the plan was made;",
        ]
        lines.append("their versions lie below what was restored:")
        lines += [f"  {key_text(one.to)}: {one.replaced}" for one in report.replanned[:SHOWN_MAX]]
    if report.unsettled:
        lines += ["", "not restored:"]
        lines += [
            f"  {key_text(one.to)}: {one.kind.value}: {one.why}" for one in report.unsettled[:SHOWN_MAX]
        ]
        if len(report.unsettled) > SHOWN_MAX:
            lines.append("  and more, see the journal beside the plan")
    return lines


def report_members(report: Report) -> dict[str, object]:
    """The same for machines; lists hold at most a thousand."""
    return {
        "outcomes": {outcome.value: count for outcome, count in report.outcomes.items()},
        "left": {kind.value: count for kind, count in report.left.items()},
        "bytes_copied": report.bytes_copied,
        "verified": report.verified,
        "faults": [{"key": one.key, "why": one.why, "theirs": one.theirs} for one in report.faults],
        "faults_found": report.faults_found,
        "replanned": [_members(one) for one in report.replanned],
        "replanned_found": report.replanned_found,
        "not_restored": [_members(one) for one in report.unsettled],
        "exit_status": report_status(report),
    }


def _members(result: Result) -> dict[str, object]:
    return {
        "key": result.to,
        "kind": result.kind.value,
        "outcome": result.outcome.value,
        "why": result.why,
        "version": result.version_id,
        "replaced": result.replaced,
    }
