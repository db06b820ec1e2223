"""The JSON form of a Plan; `plan_to_text` and `plan_from_text` are inverses.

Rules:
- LSNs as PostgreSQL prints them, instants RFC 3339 UTC with six digits, the system identifier as
  decimal text, segments by file name.
- Reading is strict: a missing, unknown or ill-typed member, or values that contradict each other,
  are refused (MalformedObject). Fetch obeys this file, so a damaged one must not be half understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn, TypeAlias

from restore.core.model import Stop, Verdict
from restore.core.plan import PLAN_SCHEMA_VERSION, Plan
from walarchiver.core.history import Fork, TimelineHistory
from walarchiver.core.lsn import Lsn, format_lsn, parse_lsn
from walarchiver.core.moment import CommitTime, format_rfc3339, parse_rfc3339
from walarchiver.core.scan import Event, EventKind
from walarchiver.core.segment import Segment, SegmentBytes, valid_segment_bytes
from walarchiver.errors import MalformedObject, NotAWalFile, UsageError

Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"

_PLAN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,63}")


def plan_to_text(plan: Plan) -> str:
    """The plan as JSON text, one member a line, for people to read too."""
    return json.dumps(plan_to_json(plan), indent=2, ensure_ascii=True) + "\n"


def plan_from_text(text: str) -> Plan:
    """The plan that `text` spells. Raises MalformedObject."""
    try:
        value: Json = json.loads(
            text, object_pairs_hook=_once, parse_float=_no_number, parse_constant=_no_number
        )
    except (ValueError, RecursionError) as error:
        raise MalformedObject(f"the plan is not JSON: {error}") from error
    return plan_from_json(value)


def plan_to_json(plan: Plan) -> dict[str, Json]:
    """The plan as JSON values."""
    size = plan.segment_size
    return {
        "schema_version": PLAN_SCHEMA_VERSION,
        "id": plan.id,
        "cluster": plan.cluster,
        "system": str(plan.system),
        "major": plan.major,
        "segment_size": size,
        "repository": plan.repository,
        "requested": plan.requested,
        "made_at": format_rfc3339(plan.made_at),
        "verdict": plan.verdict.value,
        "timeline": plan.path.timeline,
        "forks": [{"parent": fork.parent, "switch": format_lsn(fork.switch)} for fork in plan.path.forks],
        "first": plan.segment(plan.first).name(size),
        "last": plan.segment(plan.last).name(size),
        "backup": plan.backup,
        "stop": {
            "lsn": format_lsn(plan.stop.lsn),
            "inclusive": plan.stop.inclusive,
            "timeline": plan.stop.timeline,
            "last_commit": event_to_json(plan.stop.last_commit),
            "stop_event": event_to_json(plan.stop.stop_event),
        },
        "keys": list(plan.keys),
        "ledger": plan.ledger,
        "settings": [[name, value] for name, value in plan.settings],
    }


def plan_from_json(value: Json) -> Plan:
    """The inverse of `plan_to_json`. Raises MalformedObject."""
    members = _Members(value, "plan")
    version = members.integer("schema_version")
    if version != PLAN_SCHEMA_VERSION:
        raise MalformedObject(f"the plan has schema version {version}, not {PLAN_SCHEMA_VERSION}")
    size = members.integer("segment_size")
    if not valid_segment_bytes(size):
        raise MalformedObject(f"the plan has segments of {size} bytes")
    path = TimelineHistory(members.integer("timeline"), tuple(_fork(each) for each in members.items("forks")))
    stop = _Members(members.take("stop"), "plan.stop")
    plan = Plan(
        id=members.text("id"),
        cluster=members.text("cluster"),
        system=members.decimal("system"),
        major=members.integer("major"),
        segment_size=SegmentBytes(size),
        repository=members.text("repository"),
        path=path,
        first=members.segment("first", size).number,
        last=(last := members.segment("last", size)).number,
        stop=Stop(
            lsn=stop.lsn("lsn"),
            inclusive=stop.boolean("inclusive"),
            timeline=stop.integer("timeline"),
            last_commit=_event(stop.take("last_commit"), "plan.stop.last_commit"),
            stop_event=_event(stop.take("stop_event"), "plan.stop.stop_event"),
        ),
        backup=members.text("backup"),
        requested=members.text("requested"),
        made_at=members.time("made_at"),
        verdict=Verdict(members.one_of("verdict", [Verdict.REACHABLE.value, Verdict.IDLE.value])),
        keys=tuple(_text(each, "plan.keys") for each in members.items("keys")),
        settings=tuple(_setting(each) for each in members.items("settings")),
        ledger=members.integer("ledger"),
    )
    stop.end()
    members.end()
    _check(plan, last)
    return plan


def _check(plan: Plan, last: Segment) -> None:
    """Refuse values that contradict each other."""
    path = plan.path
    if list(path.path) != sorted(set(path.path)) or path.path[0] < 1:
        raise MalformedObject(f"the plan's timelines {path.path} do not ascend")
    if plan.stop.timeline not in path.path:
        raise MalformedObject(f"the plan stops on timeline {plan.stop.timeline}, off its path")
    if plan.first > plan.last or plan.segment(plan.last) != last:
        raise MalformedObject("the plan's first and last segment do not lie on its path")
    if _PLAN_ID.fullmatch(plan.id) is None:
        raise MalformedObject(f"{plan.id!r} is not a plan id")


# --- members -------------------------------------------------------------------------------------


def event_to_json(event: Event | None) -> Json:
    """An event as JSON; null for None."""
    if event is None:
        return None
    return {
        "kind": event.kind.value,
        "lsn": format_lsn(event.lsn),
        "end": format_lsn(event.end),
        "xid": event.xid,
        "time": format_rfc3339(event.time),
        "gid": event.gid,
    }


def _event(value: Json, what: str) -> Event | None:
    if value is None:
        return None
    members = _Members(value, what)
    event = Event(
        kind=EventKind(members.one_of("kind", [kind.value for kind in EventKind])),
        lsn=members.lsn("lsn"),
        end=members.lsn("end"),
        xid=members.integer("xid"),
        time=CommitTime(members.time("time")),
        gid=None if (gid := members.take("gid")) is None else _text(gid, f"{what}.gid"),
    )
    members.end()
    return event


def _fork(value: Json) -> Fork:
    members = _Members(value, "plan.forks")
    fork = Fork(members.integer("parent"), members.lsn("switch"))
    members.end()
    return fork


def _setting(value: Json) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise MalformedObject("plan.settings: pairs of name and value expected")
    return _text(value[0], "plan.settings"), _text(value[1], "plan.settings")


def _text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise MalformedObject(f"{what}: text expected")
    return value


class _Members:
    """The members of one JSON object, each taken once."""

    def __init__(self, value: Json, what: str) -> None:
        if not isinstance(value, Mapping):
            raise MalformedObject(f"{what}: object expected")
        self._left = dict(value)
        self._what = what

    def take(self, name: str) -> Json:
        if name not in self._left:
            raise MalformedObject(f"{self._what}: member {name!r} is missing")
        return self._left.pop(name)

    def text(self, name: str) -> str:
        return _text(self.take(name), f"{self._what}.{name}")

    def one_of(self, name: str, allowed: Sequence[str]) -> str:
        value = self.text(name)
        if value not in allowed:
            raise MalformedObject(f"{self._what}.{name} is {value!r}, not one of {', '.join(allowed)}")
        return value

    def integer(self, name: str) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
            raise MalformedObject(f"{self._what}.{name}: integer expected")
        return value

    def boolean(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise MalformedObject(f"{self._what}.{name}: true or false expected")
        return value

    def decimal(self, name: str) -> int:
        value = self.text(name)
        if re.fullmatch(r"0|[1-9][0-9]{0,19}", value) is None:
            raise MalformedObject(f"{self._what}.{name}: decimal digits expected")
        return int(value)

    def items(self, name: str) -> Sequence[Json]:
        value = self.take(name)
        if not isinstance(value, list):
            raise MalformedObject(f"{self._what}.{name}: array expected")
        return value

    def lsn(self, name: str) -> Lsn:
        try:
            return parse_lsn(self.text(name))
        except UsageError as error:
            raise MalformedObject(f"{self._what}.{name}: {error.message}") from error

    def time(self, name: str) -> int:
        try:
            return parse_rfc3339(self.text(name))
        except ValueError as error:
            raise MalformedObject(f"{self._what}.{name}: {error}") from error

    def segment(self, name: str, size: int) -> Segment:
        try:
            return Segment.parse(self.text(name), SegmentBytes(size))
        except NotAWalFile as error:
            raise MalformedObject(f"{self._what}.{name}: {error.message}") from error

    def end(self) -> None:
        if self._left:
            raise MalformedObject(f"{self._what}: unknown member {min(self._left)!r}")


def _once(pairs: Iterable[tuple[str, Json]]) -> dict[str, Json]:
    members: dict[str, Json] = {}
    for name, value in pairs:
        if name in members:
            raise MalformedObject(f"the plan has member {name!r} twice")
        members[name] = value
    return members


def _no_number(text: str) -> NoReturn:
    raise MalformedObject(f"the plan holds {text[:20]}, not an integer")
