"""Makes and reads the plan of a bucket restore: a file that never changes, one line for each key to touch.

Rules:
- A plan rests on complete and recent listings of all buckets concerned; else it is refused. It is made
  without a single writing request.
- Nothing is planned for a bucket that does not keep versions now.
- Keys stream by in their order; memory does not grow with the bucket. What would be read is examined first
  (HEAD of the version), so that archived, customer-encrypted and vanished versions are known beforehand.
- The file is written under another name and renamed when it is whole; its last line has the hash of all
  others, and is checked before the first action is believed.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from restore.core.bucketactions import (
    Action,
    Case,
    Kind,
    Options,
    decide,
    wants_examination,
)
from restore.core.bucketlines import (
    PlanEnd,
    PlanHeader,
    action_line,
    end_line,
    header_line,
    parse_action,
    parse_end,
    parse_header,
    store_time,
)
from restore.core.bucketstate import (
    Origin,
    Want,
    holding_of,
    live,
    origin_in,
    want_of,
)
from restore.core.buckettotals import Tally
from restore.inparallel import answered
from walarchiver.bucketports import EvidenceBucket, LifecycleRule, VersionIndex, Versioning
from walarchiver.core.version import EntryKind, Row, StoreMs
from walarchiver.errors import BucketIndexStale, BucketNotVersioned, MalformedObject

NOW = StoreMs(64_060_588_800_000)
"""The year 4000: the state that the newest listing shows, whatever the store's clock says."""
FRESH_MS = 6 * 3600 * 1000
"""No plan is made from a listing that began longer ago: a bucket of 10^8 versions takes hours to list."""
LINE_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a plan is made of: which index tells what, and which bucket is read and written."""

    states: VersionIndex
    """Tells what was there at the moment."""
    origins: VersionIndex
    """Tells what is there where the bytes are read; the same one unless a second bucket is read."""
    targets: VersionIndex
    """Tells what is there where it is written; the same one when restoring in place."""
    source: EvidenceBucket
    target: EvidenceBucket
    rules: tuple[LifecycleRule, ...] = ()
    """Of the bucket that `states` tells of: why versions may be gone."""
    copied_before: Callable[[str, str, str], bool] = lambda _to, _version, _source: False
    """Whether a journal says that a version (of the target's key) is a copy of another one."""

    @property
    def second_bucket(self) -> bool:
        return self.origins is not self.states


Progress = Callable[[int, str], None]
"""Told how many keys were looked at, and the newest."""


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """A plan file that was found whole."""

    path: Path
    header: PlanHeader
    end: PlanEnd

    def actions(self) -> Iterator[tuple[int, Action]]:
        """Every action with its number, in key order."""
        with open(self.path, "rb") as file:
            file.readline()
            for number in range(self.end.actions):
                yield number, parse_action(file.readline(LINE_BYTES_MAX))

    def tally(self) -> Tally:
        """The sums of the plan."""
        sums = Tally(unchanged=self.end.unchanged)
        for _, action in self.actions():
            sums.add(action)
        return sums


def make_plan(
    ground: Ground,
    header: PlanHeader,
    path: Path,
    *,
    wants: Iterable[Want] | None = None,
    overrides: Mapping[str, Want] | None = None,
    threads: int = 8,
    progress: Progress = lambda _count, _key: None,
) -> BucketPlan:
    """Write the plan to `path`, which must not exist. Without `wants`: the state at the header's moment, but
    for the keys in `overrides`.

    Raises BucketNotVersioned, BucketIndexStale, Store…, OSError.
    """
    _check(ground, header)
    planner = _Planner(ground, header)
    if wants is None:
        wants = overridden(planner.wants(), overrides or {})
    unfinished = path.with_suffix(".unfinished")
    hasher = hashlib.sha256()
    count = looked = 0
    with open(unfinished, "wb") as file:
        line = header_line(header)
        hasher.update(line)
        file.write(line)
        for action in answered(planner.settle, planner.cases(wants), threads=threads):
            looked += 1
            progress(looked, action.key)
            if not _has_line(action):
                continue
            line = action_line(action)
            hasher.update(line)
            file.write(line)
            count += 1
        unchanged = planner.untouched() + looked - count
        end = PlanEnd(count, unchanged, hasher.hexdigest())
        file.write(end_line(end))
        file.flush()
        os.fsync(file.fileno())
    unfinished.chmod(0o400)
    os.link(unfinished, path)  # fails when there is one
    unfinished.unlink()
    return BucketPlan(path, header, end)


def overridden(wants: Iterable[Want], overrides: Mapping[str, Want]) -> Iterator[Want]:
    """The same in key order, with what is known better in the place of what was thought, or in between."""
    left = iter(sorted(overrides))
    following = next(left, None)
    for want in wants:
        while following is not None and following < want.key:
            yield overrides[following]
            following = next(left, None)
        if following == want.key:
            following = next(left, None)
        yield overrides.get(want.key, want)
    while following is not None:
        yield overrides[following]
        following = next(left, None)


def listed_at(index: VersionIndex, prefix: str) -> StoreMs | None:
    """When the newest complete listing of everything below `prefix` was asked for; None: there is none."""
    newest = None
    for seen in index.observations():
        if seen.kind == "scan" and prefix.startswith(str(json.loads(seen.value)["prefix"])):
            newest = seen.at if newest is None else max(newest, seen.at)
    return newest


def _check(ground: Ground, header: PlanHeader) -> None:
    if ground.target.versioning() is not Versioning.ENABLED:
        raise BucketNotVersioned(
            f"versioning of {ground.target.url} is not enabled: nothing is written there"
        )
    now = ground.target.date()
    _check_listing(ground.states, header.states, header.prefix, header.moment, header.moment)
    _check_listing(ground.origins, header.source, header.prefix, now, StoreMs(now - FRESH_MS))
    target_prefix = header.to_prefix + header.prefix
    _check_listing(ground.targets, header.target, target_prefix, now, StoreMs(now - FRESH_MS))


def _check_listing(index: VersionIndex, url: str, prefix: str, moment: StoreMs, after: StoreMs) -> None:
    listed = listed_at(index, prefix)
    if listed is None:
        raise BucketIndexStale(f"{url} was never listed to its end below {prefix!r}")
    if listed < after:
        raise BucketIndexStale(
            f"{url} was listed at {store_time(listed)}, which says too little of {store_time(moment)}"
        )


def _has_line(action: Action) -> bool:
    return action.kind is not Kind.NOTHING or bool(action.flags)


def read_plan(path: Path) -> BucketPlan:
    """The plan in a file, proven to be whole. Raises MalformedObject, OSError."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        header = parse_header(first := file.readline(LINE_BYTES_MAX))
        hasher.update(first)
        last = file.readline(LINE_BYTES_MAX)
        actions = 0
        while following := file.readline(LINE_BYTES_MAX):
            hasher.update(last)
            actions += 1
            last = following
    end = parse_end(last)
    if (end.sha256, end.actions) != (hasher.hexdigest(), actions):
        raise MalformedObject(f"the plan {path} was changed since it was made")
    return BucketPlan(path, header, end)


# --- from the index to actions ---------------------------------------------------------------------------


class _Planner:
    """Turns the state at a moment into cases, and cases into actions."""

    def __init__(self, ground: Ground, header: PlanHeader) -> None:
        self._ground = ground
        self._header = header
        self._options: Options = header.options
        self._in_place = header.in_place
        self._there = 0
        """Of the keys streamed, how many held something at the moment."""

    # --- what should be there

    def wants(self) -> Iterator[Want]:
        """Every key that may have to be touched, in key order."""
        states, moment, prefix = self._ground.states, self._header.moment, self._header.prefix
        found: list[Iterator[tuple[str, int, object]]] = [
            ((each.key, 1, each.doubts) for each in states.uncertain(moment, prefix=prefix))
        ]
        if self._in_place:
            found.append((each.key, 0, each.before) for each in states.diff(moment, NOW, prefix=prefix))
        else:
            found.append((row.entry.key, 0, row) for row in states.as_of(moment, prefix=prefix))
            found.append(self._extras())
        for key, group in groupby(heapq.merge(*found, key=itemgetter(0)), key=itemgetter(0)):
            members = {source: value for _, source, value in group}
            yield self._want(key, members)

    def _extras(self) -> Iterator[tuple[str, int, object]]:
        """Keys that the target holds now, by the names that they have in the source."""
        added = self._header.to_prefix
        for row in self._ground.targets.as_of(NOW, prefix=added + self._header.prefix):
            yield row.entry.key[len(added) :], 2, row

    def _want(self, key: str, members: dict[int, object]) -> Want:
        doubts = members.get(1, ())
        assert isinstance(doubts, tuple)
        at = members.get(0)
        assert at is None or isinstance(at, Row)
        moment = self._header.moment
        history = self._ground.states.history(key) if self._needs_history(at, bool(doubts)) else ()
        if at is None and self._in_place:
            at = next((row for row in history if row.was_current(moment)), None)
            at = at if at is not None and at.entry.kind is EntryKind.VERSION else None
        if at is not None:
            self._there += 1
        return want_of(key, at, doubts, history, moment)

    def _needs_history(self, at: Row | None, doubted: bool) -> bool:
        return self._in_place or doubted or (at is not None and at.is_gone)

    def untouched(self) -> int:
        """Keys that were not streamed because they hold what they should."""
        if not self._in_place:
            return 0
        totals = self._ground.states.totals(self._header.moment, prefix=self._header.prefix)
        return max(totals.objects - self._there, 0)

    # --- what to do

    def cases(self, wants: Iterable[Want]) -> Iterator[Case]:
        for want in wants:
            yield self._case(want)

    def _case(self, want: Want) -> Case:
        ground, to = self._ground, self._header.to_prefix + want.key
        here = want.history if self._in_place and want.history else ground.targets.history(to)
        holding = holding_of(live(here))
        origin = self._origin(want)
        current = holding.current
        return Case(
            want=want,
            to=to,
            holding=holding,
            origin=origin,
            in_place=self._in_place,
            same_bucket=not ground.second_bucket,
            rules=ground.rules,
            copied_before=current is not None
            and origin is not None
            and ground.copied_before(to, current.version_id, origin.entry.version_id),
        )

    def _origin(self, want: Want) -> Origin | None:
        row = want.row
        if row is None:
            return None
        ground = self._ground
        if not ground.second_bucket and not row.is_gone:
            return Origin(row.entry, exact=True)
        if not ground.second_bucket and want.history:
            return origin_in(row, live(want.history), same_bucket=True)
        return origin_in(row, live(ground.origins.history(want.key)), same_bucket=not ground.second_bucket)

    def settle(self, case: Case) -> Action:
        """Decide; ask HEAD where that is needed. Runs in several threads."""
        action = decide(case, self._options)
        if not wants_examination(case, action):
            return action
        return decide(examined(case, self._ground.source, self._ground.target), self._options)


def examined(case: Case, source: EvidenceBucket, target: EvidenceBucket) -> Case:
    """The case with what HEAD says of the wanted version and, where they may be equal, of the current one."""
    origin, current = case.origin, case.holding.current
    if origin is None:
        return case
    detail = source.detail(origin.entry.key, origin.entry.version_id)
    current_detail = None
    if current is not None and detail is not None and current.size == detail.size:
        current_detail = target.detail(current.key, current.version_id)
    return replace(case, examined=True, origin_detail=detail, current_detail=current_detail)


def wants_by_name(states: VersionIndex, names: Iterable[str], moment: StoreMs) -> Iterator[Want]:
    """What these keys should hold, each once and in key order: their newest version before the moment.

    For keys that are known to be needed, for example because a database refers to them.
    """
    needed = frozenset(names)
    doubted = {each.key: each.doubts for each in states.uncertain(moment) if each.key in needed}
    for key in sorted(needed):
        history = states.history(key)
        at = next((row for row in history if row.was_current(moment)), None)
        if at is not None and at.entry.kind is not EntryKind.VERSION:
            at = None
        yield want_of(key, at, doubted.get(key, ()), history, moment, by_name=True)
