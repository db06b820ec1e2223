"""The honest window of a versioned bucket: which moments can be brought back completely, and why no others.

Rules (docs/bucket.md tells them again):
- The window is: versioning Enabled ∩ what lifecycle rules leave alone ∩ what the index has seen. Each end,
  and each span left out, names its cause.
- The index has seen all from the first complete listing (a version removed for ever before it is not known)
  to the last one. What is made *and* removed for ever between two listings is never known.
- Between two answers about versioning, the worse one held: a change happened right after the first. Behind
  the last answer it holds on; before the first nothing is known.
- A noncurrent version goes at the first midnight UTC that is not before its successor's write plus the
  rule's days (Amazon S3 User Guide, "Lifecycle configuration elements"). A version that was current at T has
  a later successor, so what a rule surely left alone at an instant `now` is what was current behind
  midnight(now) - days. Rules that were changed count up to the observation that shows the change. More
  versions may be there: a bonus, not a promise.
- A rule for a part of the keys counts for all, and a filter as if there were none.
- Events that may be missing leave a gap until a complete listing was asked for behind it.
- Rules that leave less than the configured retention are an alarm, whatever is there by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from walarchiver.core.bucketfacts import (
    LifecycleRule,
    Observation,
    Versioning,
    parse_gap,
    parse_rules,
    parse_scan,
)
from walarchiver.core.version import FOREVER, StoreMs

DAY_MS = 86_400_000
_UNLIMITED_DAYS = 365
_NEVER = StoreMs(-FOREVER)


class Cause(StrEnum):
    """What ends the window, or is taken out of it."""

    FIRST_SCAN = "first_scan"
    """Nothing earlier was listed, so what was removed before is not known."""
    LAST_SCAN = "last_scan"
    """What came later was not listed yet."""
    NEVER_SCANNED = "never_scanned"
    VERSIONING = "versioning"
    """Off or suspended: what was replaced or deleted is lost."""
    LIFECYCLE = "lifecycle"
    """A rule may have removed what was replaced since."""
    FEED_GAP = "feed_gap"
    """Events may be missing, and nothing was listed since."""


class Certainty(StrEnum):
    """What can be said of the bucket's state at a moment."""

    COMPLETE = "complete"
    UNPROVEN = "unproven"
    """Before the first complete listing, or there is none."""
    NOT_VERSIONED = "not_versioned"
    BEYOND_LIFECYCLE = "beyond_lifecycle"
    """The state is known, but a rule may have removed versions that it needs."""
    COVERAGE_GAP = "coverage_gap"
    AFTER_LAST_SCAN = "after_last_scan"


class Alarm(StrEnum):
    """What somebody must act on."""

    RETENTION = "retention"
    """A rule leaves less than the configured retention."""
    RULE_SHORTENED = "rule_shortened"
    """Told as long as versions are missed that the earlier rule would have kept."""
    RULES_HIDDEN = "rules_hidden"
    """The lifecycle rules may not be asked for: no promise can be checked."""
    NOT_VERSIONED = "not_versioned"
    """Versioning is not enabled now."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An end of the window: the first or last moment that this cause allows."""

    at: StoreMs
    cause: Cause
    told: str


@dataclass(frozen=True, slots=True)
class Excluded:
    """Moments in (since, until) that are not covered."""

    since: StoreMs
    until: StoreMs
    cause: Cause
    told: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of one moment, and why."""

    certainty: Certainty
    told: str


@dataclass(frozen=True, slots=True)
class Warned:
    """An alarm with its values."""

    alarm: Alarm
    told: str


@dataclass(frozen=True, slots=True)
class Window:
    """Which moments can be restored completely. Of `starts` and `ends` the first one counts."""

    starts: tuple[Bound, ...]
    ends: tuple[Bound, ...]
    excluded: tuple[Excluded, ...]
    """In order of time; within the bounds or not."""
    alarms: tuple[Warned, ...]

    @property
    def start(self) -> Bound:
        return self.starts[0]

    @property
    def end(self) -> Bound:
        return self.ends[0]

    @property
    def reachable(self) -> tuple[tuple[StoreMs, StoreMs], ...]:
        """The moments of the window as spans, both ends included, oldest first."""
        spans = []
        since = self.start.at
        for hole in sorted(self.excluded, key=lambda one: one.since):
            if since <= min(hole.since, self.end.at):
                spans.append((since, min(hole.since, self.end.at)))
            since = max(since, hole.until)
        if since <= self.end.at:
            spans.append((since, self.end.at))
        return tuple(spans)

    def verdict(self, moment: StoreMs) -> Verdict:
        """What can be said of the state at `moment`."""
        holes = [hole for hole in self.excluded if hole.since < moment < hole.until]
        for hole in holes:
            if hole.cause is Cause.VERSIONING:
                return Verdict(Certainty.NOT_VERSIONED, hole.told)
        for bound in self.ends:
            if moment > bound.at:
                gaps = [hole.told for hole in holes if hole.cause is Cause.FEED_GAP]
                if gaps:
                    return Verdict(Certainty.COVERAGE_GAP, gaps[0])
                never = bound.cause is Cause.NEVER_SCANNED
                return Verdict(Certainty.UNPROVEN if never else Certainty.AFTER_LAST_SCAN, bound.told)
        missed = [bound for bound in self.starts if moment < bound.at]
        for bound in missed:
            if bound.cause is not Cause.LIFECYCLE:
                return Verdict(Certainty.UNPROVEN, bound.told)
        if missed:
            return Verdict(Certainty.BEYOND_LIFECYCLE, missed[0].told)
        return Verdict(Certainty.COMPLETE, "")

    def nearest(self, moment: StoreMs) -> tuple[StoreMs | None, StoreMs | None]:
        """The last reachable moment at or before, and the first at or after."""
        before = [min(moment, until) for since, until in self.reachable if since <= moment]
        after = [max(moment, since) for since, until in self.reachable if until >= moment]
        return (before[-1] if before else None, after[0] if after else None)


def window_of(
    observations: Sequence[Observation],
    *,
    now: StoreMs,
    prefix: str = "",
    retention_ms: int | None = None,
) -> Window:
    """The window at `now`, of the keys below `prefix`, from what was observed, oldest first.

    `retention_ms`: the configured retention window.
    """
    seen = [one for one in observations if one.at <= now]
    scans = sorted(o.at for o in seen if o.kind == "scan" and prefix.startswith(parse_scan(o.value)))
    answers = [(at, Versioning(value)) for at, value in _turns(seen, "versioning")]
    rules = [(at, parse_rules(value)) for at, value in _turns(seen, "lifecycle")]
    starts = _lifecycle_bounds(rules, now)
    if not scans:
        told = "the bucket was never listed completely"
        starts.append(Bound(FOREVER, Cause.NEVER_SCANNED, told))
        ends = [Bound(_NEVER, Cause.NEVER_SCANNED, told)]
    else:
        starts.append(Bound(scans[0], Cause.FIRST_SCAN, "it was first listed completely then"))
        ends = [Bound(scans[-1], Cause.LAST_SCAN, "it was last listed completely then")]
    first_enabled = next((at for at, answer in answers if answer is Versioning.ENABLED), FOREVER)
    starts.append(Bound(first_enabled, Cause.VERSIONING, "versioning was first seen enabled then"))
    starts.sort(key=lambda bound: -bound.at)
    holes = [*_unversioned(answers), *_gaps(seen, scans[-1] if scans else _NEVER)]
    holes.sort(key=lambda hole: (hole.since, hole.until))
    alarms = _alarms(answers, rules, retention_ms, now)
    return Window(tuple(starts), tuple(ends), tuple(holes), tuple(alarms))


def _turns(seen: Sequence[Observation], kind: str) -> list[tuple[StoreMs, str]]:
    """The answers of a kind, of equal ones in a row only the first and the last: nothing rests on others."""
    answers: list[tuple[StoreMs, str]] = []
    for one in seen:
        if one.kind == kind:
            if [value for _, value in answers[-2:]] == [one.value, one.value]:
                answers.pop()
            answers.append((one.at, one.value))
    return answers


def guaranteed_since(days: int, now: StoreMs) -> StoreMs:
    """The first moment whose versions no rule with so many noncurrent days may have removed by `now`."""
    return StoreMs(now // DAY_MS * DAY_MS - days * DAY_MS + 1)


def shortest(rules: Sequence[LifecycleRule]) -> LifecycleRule | None:
    """The rule that removes noncurrent versions first."""
    removing = [rule for rule in rules if rule.noncurrent_days is not None]
    return min(removing, key=lambda rule: rule.noncurrent_days or 0, default=None)


_Rules = Sequence[tuple[StoreMs, tuple[LifecycleRule, ...] | None]]


def _lifecycle_bounds(rules: _Rules, now: StoreMs) -> list[Bound]:
    """What each answer about the rules leaves, up to the next answer; at most the latest one."""
    bounds = []
    for (_, answer), (until, _) in pairwise([*rules, (now, None)]):
        rule = shortest(answer or ())
        if rule is not None and rule.noncurrent_days is not None:
            since = guaranteed_since(rule.noncurrent_days, until)
            told = f"rule {rule.id!r} removes replaced versions after {_days(rule.noncurrent_days)}"
            if until != now:
                told += ", and was there until then"
            bounds.append(Bound(since, Cause.LIFECYCLE, told))
    return [max(bounds, key=lambda bound: bound.at)] if bounds else []


def _unversioned(answers: Sequence[tuple[StoreMs, Versioning]]) -> list[Excluded]:
    """From the last time it was enabled before, or for ever, to the first time it was again."""
    holes: list[Excluded] = []
    enabled = _NEVER
    since: StoreMs | None = None
    told = ""
    for at, answer in answers:
        if answer is not Versioning.ENABLED and since is None:
            since, told = enabled, f"versioning was {answer.value}"
        elif answer is Versioning.ENABLED:
            if since is not None:
                holes.append(Excluded(since, at, Cause.VERSIONING, told))
            since, enabled = None, at
    if since is not None:
        holes.append(Excluded(since, FOREVER, Cause.VERSIONING, told.replace("was", "is")))
    return holes


def _gaps(seen: Sequence[Observation], last_scan: StoreMs) -> list[Excluded]:
    gaps = [(parse_gap(one.value), one.at) for one in seen if one.kind == "feed_gap"]
    told = "events may have been missed, and nothing was listed completely since"
    return [
        Excluded(max(since, last_scan), StoreMs(until + 1), Cause.FEED_GAP, told)
        for since, until in gaps
        if until > last_scan
    ]


def _alarms(
    answers: Sequence[tuple[StoreMs, Versioning]], rules: _Rules, retention_ms: int | None, now: StoreMs
) -> list[Warned]:
    alarms = []
    if answers and answers[-1][1] is not Versioning.ENABLED:
        told = f"versioning is {answers[-1][1].value}: what is replaced or deleted is lost"
        alarms.append(Warned(Alarm.NOT_VERSIONED, told))
    if rules and rules[-1][1] is None:
        told = "the lifecycle rules may not be asked for, so nothing is known of what they remove"
        alarms.append(Warned(Alarm.RULES_HIDDEN, told))
    known = [(at, answer) for at, answer in rules if answer is not None]
    rule = shortest(known[-1][1]) if known else None
    if rule is None or rule.noncurrent_days is None:
        return alarms
    keeps = f"rule {rule.id!r} removes replaced versions after {_days(rule.noncurrent_days)}"
    if retention_ms is not None and rule.noncurrent_days * DAY_MS < retention_ms:
        told = f"{keeps}, the retention window is {_span(retention_ms)}"
        alarms.append(Warned(Alarm.RETENTION, told))
    since, before = known[-1][0], known[-1][1]
    for at, answer in reversed(known):
        if answer != before:
            before = answer
            break
        since = at
    if before != known[-1][1]:
        had = shortest(before)
        days = had.noncurrent_days if had is not None and had.noncurrent_days is not None else None
        lasts = _UNLIMITED_DAYS if days is None else days
        if lasts > rule.noncurrent_days and now < since + lasts * DAY_MS:
            was = "for ever" if days is None else _days(days)
            alarms.append(Warned(Alarm.RULE_SHORTENED, f"{keeps}; they were kept {was} before"))
    return alarms


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


def _span(ms: int) -> str:
    return _days(ms // DAY_MS) if ms % DAY_MS == 0 else f"{ms / 3_600_000:g} hours"
