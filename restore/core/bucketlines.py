"""The lines of a plan file: a header, one action a line, an end with the sums and the hash of all before it.

Rules:
- Each line is canonical JSON (docs/format.md, section 1); `action_line` and `parse_action` are inverses.
- Reading is strict: the executor obeys these lines, so a damaged one must not be half understood
  (MalformedObject).
- Instants are RFC 3339 UTC; those of the store are whole milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from restore.core.bucketactions import Action, Kind, Marker, Options, Seen, Source, Undelete
from restore.core.bucketstate import Flag, Loss
from walarchiver.core.moment import format_rfc3339
from walarchiver.core.version import FOREVER, StoreMs
from walarchiver.errors import MalformedObject
from walarchiver.format.canonical import JsonValue, canonical_json, parse_canonical
from walarchiver.format.fields import Fields

PLAN_FORMAT = 1
_KINDS = frozenset(kind.value for kind in Kind)
_FLAGS = frozenset(flag.value for flag in Flag)
_UNDELETES = frozenset(way.value for way in Undelete)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanHeader:
    """What a plan was made for, and on what it rests."""

    id: str
    states: str
    """URL of the bucket whose past is wanted."""
    source: str
    """URL of the bucket that is read; the same one unless there is a second bucket."""
    target: str
    """URL of the bucket that is written; the same one when restoring in place."""
    to_prefix: str
    """Put before every key; empty: names stay."""
    prefix: str
    """Only keys below it are looked at."""
    moment: StoreMs
    requested: str
    """What was asked, in the words that were understood."""
    options: Options
    made_at: int
    """Microseconds since 1970 on this host's clock."""
    scanned: StoreMs
    """The newest complete listing that the state of the source rests on; the store's clock."""
    verdict: str
    """Of the window, at the moment."""
    causes: tuple[str, ...] = ()
    """Why the verdict is not `complete`, for people."""

    @property
    def in_place(self) -> bool:
        """Whether the keys that are written are those whose past is wanted."""
        return self.target == self.states and not self.to_prefix

    @property
    def reads_own_bucket(self) -> bool:
        """Whether the bytes come from the bucket whose past is wanted."""
        return self.source == self.states


@dataclass(frozen=True, slots=True)
class PlanEnd:
    """The last line of a plan."""

    actions: int
    unchanged: int
    """Keys that hold what they should, which have no line."""
    sha256: str
    """Of all lines before this one."""


def store_time(ms: StoreMs) -> str:
    """An instant of the store's clock; `never` for one that has not come."""
    return "never" if ms == FOREVER else format_rfc3339(ms * 1000)


# --- writing -------------------------------------------------------------------------------------------


def header_line(header: PlanHeader) -> bytes:
    return _line(
        {
            "causes": list(header.causes),
            "format": PLAN_FORMAT,
            "id": header.id,
            "made_at": format_rfc3339(header.made_at),
            "moment": header.moment,
            "options": {
                "accept_uncertain": header.options.accept_uncertain,
                "delete_newer": header.options.delete_newer,
                "missing_only": header.options.missing_only,
                "undelete": header.options.undelete.value,
            },
            "prefix": header.prefix,
            "requested": header.requested,
            "scanned": header.scanned,
            "source": header.source,
            "states": header.states,
            "target": header.target,
            "to_prefix": header.to_prefix,
            "verdict": header.verdict,
        }
    )


def end_line(end: PlanEnd) -> bytes:
    return _line({"actions": end.actions, "sha256": end.sha256, "unchanged": end.unchanged})


def action_line(action: Action) -> bytes:
    return _line(action_members(action))


def action_members(action: Action) -> dict[str, JsonValue]:
    """The action as JSON values; members that say nothing are left out."""
    members: dict[str, JsonValue] = {"kind": action.kind.value, "key": action.key, "why": action.why}
    if action.to != action.key:
        members["to"] = action.to
    if action.flags:
        members["flags"] = [flag.value for flag in action.flags]
    if action.source is not None:
        source = action.source
        members["source"] = {
            "class": source.storage_class,
            "etag": source.etag,
            "modified": source.modified,
            "size": source.size,
            "version": source.version_id,
        }
    if action.seen is not None:
        seen = action.seen
        members["seen"] = {"etag": seen.etag, "marker": seen.marker, "version": seen.version_id}
    if action.markers:
        members["markers"] = [[marker.version_id, marker.modified] for marker in action.markers]
    if action.loss is not None:
        members["loss"] = loss_members(action.loss)
    return members


def loss_members(loss: Loss) -> dict[str, JsonValue]:
    return {
        "cause": loss.cause,
        "existed_from": loss.existed_from,
        "existed_until": loss.existed_until,
        "purged_after": loss.purged_after,
        "purged_by": loss.purged_by,
        "version": loss.version_id,
    }


def _line(members: Mapping[str, JsonValue]) -> bytes:
    return canonical_json(members) + b"\n"


# --- reading -------------------------------------------------------------------------------------------


def parse_header(line: bytes) -> PlanHeader:
    """Inverse of `header_line`. Raises MalformedObject."""
    fields = _fields(line, "plan header")
    number = fields.integer("format")
    if number != PLAN_FORMAT:
        raise MalformedObject(f"the plan has format {number}, this release reads {PLAN_FORMAT}")
    chosen = Fields(fields.take("options"), "plan options")
    options = Options(
        missing_only=_boolean(chosen, "missing_only"),
        delete_newer=_boolean(chosen, "delete_newer"),
        undelete=Undelete(chosen.one_of("undelete", _UNDELETES)),
        accept_uncertain=_boolean(chosen, "accept_uncertain"),
    )
    chosen.end()
    header = PlanHeader(
        id=fields.text("id"),
        states=fields.text("states"),
        source=fields.text("source"),
        target=fields.text("target"),
        to_prefix=fields.text("to_prefix"),
        prefix=fields.text("prefix"),
        moment=StoreMs(fields.integer("moment")),
        requested=fields.text("requested"),
        options=options,
        made_at=fields.time_us("made_at"),
        scanned=StoreMs(fields.integer("scanned")),
        verdict=fields.text("verdict"),
        causes=tuple(_texts(fields, "causes")),
    )
    fields.end()
    return header


def parse_end(line: bytes) -> PlanEnd:
    """Inverse of `end_line`. Raises MalformedObject."""
    fields = _fields(line, "plan end")
    end = PlanEnd(fields.integer("actions"), fields.integer("unchanged"), fields.hex("sha256", 32))
    fields.end()
    return end


def parse_action(line: bytes) -> Action:
    """Inverse of `action_line`. Raises MalformedObject."""
    fields = _fields(line, "plan action")
    key = fields.text("key")
    action = Action(
        kind=Kind(fields.one_of("kind", _KINDS)),
        key=key,
        to=fields.text("to") if fields.has("to") else key,
        why=fields.text("why"),
        flags=tuple(map(Flag, _texts(fields, "flags", _FLAGS))) if fields.has("flags") else (),
        source=_source(fields.take("source")) if fields.has("source") else None,
        seen=_seen(fields.take("seen")) if fields.has("seen") else None,
        markers=tuple(map(marker_of, fields.items("markers"))) if fields.has("markers") else (),
        loss=_loss(fields.take("loss")) if fields.has("loss") else None,
    )
    fields.end()
    return action


def _fields(line: bytes, what: str) -> Fields:
    if not line.endswith(b"\n"):
        raise MalformedObject(f"{what}: the line is cut off")
    return Fields(parse_canonical(line[:-1]), what)


def _source(value: JsonValue) -> Source:
    fields = Fields(value, "plan action's source")
    source = Source(
        fields.text("version"),
        fields.integer("size"),
        fields.text("etag"),
        fields.text("class"),
        StoreMs(fields.integer("modified")),
    )
    fields.end()
    return source


def _seen(value: JsonValue) -> Seen:
    fields = Fields(value, "what a plan action saw")
    seen = Seen(fields.text("version"), fields.text("etag"), _boolean(fields, "marker"))
    fields.end()
    return seen


def marker_of(value: JsonValue) -> Marker:
    """The delete marker that `[id, time]` stands for. Raises MalformedObject."""
    match value:
        case [str(version_id), int(modified)] if not isinstance(modified, bool):
            return Marker(version_id, StoreMs(modified))
        case _:
            raise MalformedObject(f"a delete marker is an id and a time, not {str(value)[:80]}")


def _loss(value: JsonValue) -> Loss:
    fields = Fields(value, "a plan's loss")
    loss = Loss(
        fields.text("version"),
        StoreMs(fields.integer("existed_from")),
        StoreMs(fields.integer("existed_until")),
        _moment(fields, "purged_after"),
        _moment(fields, "purged_by"),
        fields.text("cause"),
    )
    fields.end()
    return loss


def _moment(fields: Fields, name: str) -> StoreMs | None:
    value = fields.take(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise fields.fault(name, "an instant or null", value)
    return StoreMs(value)


def _boolean(fields: Fields, name: str) -> bool:
    value = fields.take(name)
    if not isinstance(value, bool):
        raise fields.fault(name, "true or false", value)
    return value


def _texts(fields: Fields, name: str, allowed: frozenset[str] | None = None) -> Sequence[str]:
    found = []
    for value in fields.items(name):
        if not isinstance(value, str) or (allowed is not None and value not in allowed):
            raise fields.fault(name, "a list of known words", value)
        found.append(value)
    return found
