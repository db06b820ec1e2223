"""Findings: what an examination saw, how bad it is, and what to do about it.

Rules:
- A finding is a line for people and a member for machines; only what is not well has a next step.
- An error met while looking is itself a finding, with the error's code and next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from walarchiver.errors import Untrusted, WalarchiverError

DEGRADED = 3
FAILED = 1


class Level(StrEnum):
    """How a condition stands."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition."""

    name: str
    level: Level
    text: str
    next_step: str = ""
    code: str = ""
    """The error's code, where an error was met."""
    exit_status: int = FAILED
    """What the program exits with when this is the worst finding and a failure."""

    def members(self) -> dict[str, object]:
        """The finding in JSON output."""
        found: dict[str, object] = {"name": self.name, "level": self.level.value, "text": self.text}
        if self.next_step:
            found["next_step"] = self.next_step
        if self.code:
            found["code"] = self.code
        return found


def ok(name: str, text: str) -> Finding:
    return Finding(name, Level.OK, text)


def warn(name: str, text: str, next_step: str) -> Finding:
    return Finding(name, Level.WARN, text, next_step)


def fail(name: str, text: str, next_step: str, *, exit_status: int = FAILED) -> Finding:
    return Finding(name, Level.FAIL, text, next_step, exit_status=exit_status)


def met(name: str, error: WalarchiverError, level: Level = Level.FAIL) -> Finding:
    """What an error means for the condition that was looked at."""
    status = error.exit_status if isinstance(error, Untrusted) else FAILED
    return Finding(name, level, error.message, error.next_step, error.code, status)


def looked_at(name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What `look` finds, its failure included."""
    found: list[Finding] = []
    try:
        found.extend(look())
    except WalarchiverError as error:
        found.append(met(name, error))
    return found


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level; OK for none."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def exit_of(findings: Sequence[Finding]) -> int:
    """0 when all is well, 3 with warnings, else the highest status among the failures."""
    match worst(findings):
        case Level.OK:
            return 0
        case Level.WARN:
            return DEGRADED
        case Level.FAIL:
            return max(finding.exit_status for finding in findings if finding.level is Level.FAIL)


def findings_text(findings: Sequence[Finding]) -> str:
    """A line per finding; what is not well is followed by its next step."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.name:<{width}}  {finding.text}")
        if finding.next_step:
            lines.append(f"{'':<4}  {'':<{width}}  next: {finding.next_step}")
    return "\n".join(lines)
