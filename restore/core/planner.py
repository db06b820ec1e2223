"""decide(): from what is known and what is asked to one stop point, or a refusal with its reason.

The rule for a moment T:
1. Of the base backups on the path, the newest whose WAL reaches its own end and before whose end
   nothing newer than T happened. PostgreSQL lacks that second check.
2. A(T) = the first event after the backup's end with a time after T: stop just before it. Times
   are not ordered like WAL; what clock steps make of that is reported as the disputed range.
3. No A(T): the state at T is the state at the end of the WAL, if T is proven to be covered (IDLE);
   otherwise T is refused, since the commit that matters may not be archived yet.
Every other kind of target ends up as a record's start too. No time, xid or name ever reaches
PostgreSQL: an LSN target is the only one that means the same thing under every clock.

A refusal is never silent about alternatives: the nearest moments on both sides, other timelines.
Decisions are pure: the same view, target and knowledge give the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from restore.core import search
from restore.core.branches import diverge, known_timelines, path_to
from restore.core.choice import Choice, Refusal
from restore.core.decision import build_decision
from restore.core.model import (
    AtLatest,
    AtLsn,
    AtName,
    AtTime,
    AtXid,
    Decision,
    Nearest,
    Target,
    Verdict,
    View,
    WalKnowledge,
)
from restore.core.targets import choose_latest, choose_lsn, choose_name, choose_time, choose_xid
from restore.core.unscanned import marked, shortened
from restore.core.walk import Branch
from restore.core.when import describe_target
from restore.core.windows import branch_windows, nearest_to_lsn, nearest_to_time
from restore.core.wording import branch_text, moment
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn, format_lsn

Policy = Literal["exclude", "include"]
"""For clock steps: `exclude` = nothing newer than T gets in (as PostgreSQL does); `include` =
nothing older than T gets lost."""

_ELSEWHERE = (Verdict.NOT_PROVEN, Verdict.BEFORE_FIRST_BACKUP, Verdict.UNKNOWN_TARGET)
"""Refusals that mean "not on this path": found on another one, they become WRONG_BRANCH."""


def decide(
    view: View,
    target: Target,
    knowledge: WalKnowledge,
    *,
    timeline: int | None = None,
    disputed: Policy = "exclude",
) -> Decision:
    """Where to stop, from which base backup, along which timelines; or why it cannot be done.

    `timeline`: the path to take (default: the one production is on). Raises only what `knowledge`
    raises: an unreachable target is an answer.
    """
    chosen = view.current_timeline if timeline is None else timeline
    path = path_to(view, chosen)
    if path is None:
        return _no_path(view, chosen)
    if knowledge.index is not None and disputed == "exclude":
        short = shortened(view, target, knowledge.index)
        found = (
            None if short is None else marked(_decide(short.view, path, target, knowledge, disputed), short)
        )
        if found is not None:
            return found
    return _decide(view, path, target, knowledge, disputed)


def _decide(
    view: View, path: TimelineHistory, target: Target, knowledge: WalKnowledge, disputed: Policy
) -> Decision:
    """What these runs of WAL say."""
    asked = _Asked(view, target, knowledge, disputed)
    branch = Branch(view, path, knowledge)
    choice = asked.choose(branch)
    if isinstance(choice, Refusal):
        return _refuse(asked, branch, choice)
    decision = build_decision(branch, choice, knowledge)
    others = tuple(asked.others(branch, after=choice.lsn))
    sentences = tuple(f"on {where.sentence}" for where in others if not where.same_stop(branch, choice))
    return replace(decision, explained=decision.explained + sentences)


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """Where the target lies on another path."""

    branch: Branch
    choice: Choice

    @property
    def sentence(self) -> str:
        commit = search.last_commit_before(self.branch, self.choice.walk, self.choice.high)
        last = "none" if commit is None else f"transaction {commit.xid} of {moment(commit.time)}"
        return (
            f"timeline {self.branch.path.timeline} replay would end at {format_lsn(self.choice.lsn)}, "
            f"the last commit being {last}"
        )

    def same_stop(self, branch: Branch, choice: Choice) -> bool:
        """Whether it is the very same record on the same timeline."""
        here = (choice.lsn, choice.inclusive, branch.timeline_at(choice.lsn))
        return here == (self.choice.lsn, self.choice.inclusive, self.branch.timeline_at(self.choice.lsn))


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question, put to one path after the other."""

    view: View
    target: Target
    knowledge: WalKnowledge
    disputed: Policy

    def choose(self, branch: Branch) -> Choice | Refusal:
        match self.target:
            case AtTime(time):
                return choose_time(branch, time, include_disputed=self.disputed == "include")
            case AtLsn(lsn):
                return choose_lsn(branch, lsn)
            case AtXid():
                return choose_xid(branch, self.target)
            case AtName(name):
                return choose_name(branch, name)
            case AtLatest():
                return choose_latest(branch)
            case _:
                assert_never(self.target)

    def others(self, branch: Branch, *, after: Lsn | None = None) -> Iterator[_Elsewhere]:
        """The other paths that reach the target; `after`: only those that part up to there."""
        if isinstance(self.target, AtLatest):
            return
        for timeline in known_timelines(self.view):
            path = None if timeline == branch.path.timeline else path_to(self.view, timeline)
            if path is None or (after is not None and not _parts(branch.path, path, after)):
                continue
            other = Branch(self.view, path, self.knowledge)
            if self._too_early(other):
                continue
            choice = self.choose(other)
            if isinstance(choice, Choice):
                yield _Elsewhere(other, choice)

    def _too_early(self, branch: Branch) -> bool:
        """Whether every base backup of a path ended behind the asked moment."""
        if not isinstance(self.target, AtTime):
            return False
        return all(backup.stop_time > self.target.time for backup in branch.candidates())


def _parts(one: TimelineHistory, other: TimelineHistory, lsn: Lsn) -> bool:
    """Whether two paths hold different records somewhere up to `lsn`."""
    parting = diverge(one, other)
    return parting is not None and parting <= lsn


def _refuse(asked: _Asked, branch: Branch, refusal: Refusal) -> Decision:
    what = describe_target(asked.target)
    verdict, reason = refusal.verdict, refusal.reason
    others = [] if verdict is Verdict.AMBIGUOUS else list(asked.others(branch))
    if others and verdict in _ELSEWHERE:
        verdict = Verdict.WRONG_BRANCH
        reason = (
            f"{what} is not on {branch_text(branch.path)}: {reason}; but on {others[0].sentence} "
            f"(choose it with --timeline {others[0].branch.path.timeline})"
        )
    return Decision(
        verdict=verdict,
        reason=reason,
        path=branch.path,
        horizon=refusal.horizon,
        nearest=_nearest(asked.target, branch),
        missing=refusal.missing,
        candidates=refusal.candidates,
        explained=refusal.notes + tuple(f"on {where.sentence}" for where in others),
    )


def _nearest(target: Target, branch: Branch) -> Nearest:
    match target:
        case AtTime(time):
            return nearest_to_time(branch, time)
        case AtLsn(lsn):
            return nearest_to_lsn(branch_windows(branch), lsn)
        case _:
            return Nearest(None, None)


def _no_path(view: View, timeline: int) -> Decision:
    """The history file that the path needs is not recorded, or there is no such timeline at all."""
    if timeline in known_timelines(view):
        name = f"{timeline:08X}.history"
        return Decision(
            Verdict.GAP,
            f"{name} is not archived, and PostgreSQL follows no timeline above 1 without its history file",
            TimelineHistory(timeline),
        )
    known = ", ".join(str(each) for each in known_timelines(view))
    return Decision(
        Verdict.WRONG_BRANCH,
        f"there is no timeline {timeline} in the archive; there are: {known}",
        TimelineHistory(timeline),
    )
