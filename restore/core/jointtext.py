"""A comparison of database and bucket, as text for people and members for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from restore.core.references import SETTLED, Finding, Standing, Tally
from walarchiver.core.moment import format_rfc3339
from walarchiver.core.version import StoreMs

CONSISTENT, INCONSISTENT = "CONSISTENT", "INCONSISTENT"
_MEANING: Mapping[Standing, str] = {
    Standing.EXACT: "named by their version, there",
    Standing.MATCH: "current at the moment, fitting",
    Standing.LATE: "stored shortly after the moment",
    Standing.EARLY_DELETE: "deleted shortly before the moment",
    Standing.MISMATCH: "other bytes at the moment, the right ones nearby",
    Standing.OLDER: "only a version far from the moment fits",
    Standing.UNCERTAIN: "state at the moment not certain",
    Standing.LOST: "no version fits",
}


@dataclass(frozen=True, slots=True)
class JointReport:
    """What is told of a comparison."""

    moment: StoreMs
    tally: Tally
    findings: Sequence[Finding]
    listed_all: bool
    orphans: Sequence[str]
    orphan_bytes: int
    keyless: int
    read_objects: int
    read_bytes: int
    guard_ms: int
    held: frozenset[str] = frozenset()
    """Keys of findings of which another reference means what they held at the moment."""
    unlisted_near: int = 0
    """References that stand well by another version than was current, and are not among the findings."""

    @property
    def verdict(self) -> str:
        return CONSISTENT if self.tally.consistent else INCONSISTENT


def joint_text(report: JointReport, *, listed: int) -> str:
    """Some lines; at most `listed` findings and orphans each."""
    tally = report.tally
    lines = [
        f"{report.verdict}: {tally.references:,} references of the database against the bucket as of "
        f"{format_rfc3339(report.moment * 1000)}, guard interval {report.guard_ms / 1000:g} s"
    ]
    for standing in Standing:
        count = tally.standings.get(standing, 0)
        if count:
            lines.append(f"  {count:>9,} {standing.value.replace('_', ' '):<12} {_MEANING[standing]}")
    if tally.unproven:
        lines.append(f"  {tally.unproven:>9,} of these fit by their listing; --deep reads the bytes, too")
    if report.read_objects:
        lines.append(f"  {report.read_objects:>9,} bodies read ({report.read_bytes / 1e6:,.1f} MB)")
    if report.keyless:
        lines.append(f"  {report.keyless:>9,} rows of the query name no key")
    if tally.orphans is not None:
        lines.append(
            f"  {tally.orphans:>9,} objects ({report.orphan_bytes / 1e6:,.1f} MB) that nothing refers to"
        )
    lines += _listed(report, listed)
    return "\n".join(lines)


def _listed(report: JointReport, listed: int) -> list[str]:
    wrong = [finding for finding in report.findings if finding.standing not in SETTLED]
    lines = [f"{one.standing.value.replace('_', ' ')}: {one.reference.key!r}: {one.reason}" for one in wrong]
    shown = lines[:listed]
    if len(lines) > listed:
        have = "them all" if report.listed_all else f"the first {len(lines):,}"
        shown.append(f"… and more; --output json has {have}")
    return shown


def joint_members(report: JointReport) -> dict[str, object]:
    """For --output json."""
    tally = report.tally
    return {
        "verdict": report.verdict,
        "moment": format_rfc3339(report.moment * 1000),
        "guard_ms": report.guard_ms,
        "references": tally.references,
        "standings": {standing.value: tally.standings.get(standing, 0) for standing in Standing},
        "unproven": tally.unproven,
        "keyless_rows": report.keyless,
        "bodies_read": report.read_objects,
        "bytes_read": report.read_bytes,
        "orphans": None
        if tally.orphans is None
        else {"count": tally.orphans, "bytes": report.orphan_bytes, "first": list(report.orphans)},
        "findings_complete": report.listed_all,
        "findings": [
            {
                "key": one.reference.key,
                "standing": one.standing.value,
                "version_id": None if one.row is None else one.row.entry.version_id,
                "proven": one.proven,
                "reason": one.reason,
            }
            for one in report.findings
        ],
    }
