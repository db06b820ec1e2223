"""The answer of `plan --output json`: every decision, reachable or not, as one JSON document.

Rules: `schema_version` rises when a member changes its meaning; members are only ever added. LSNs
as PostgreSQL prints them, instants RFC 3339 UTC, segments by file name, null for "does not apply".
"""

from __future__ import annotations

from restore.core.estimate import Estimate, estimate_document
from restore.core.model import Decision, View
from restore.core.planfile import Json, event_to_json
from restore.core.recoveryconf import Settings
from restore.core.when import Understood, describe_target
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import CommitTime, format_rfc3339

DOCUMENT_SCHEMA_VERSION = 1


def plan_document(
    decision: Decision,
    view: View,
    *,
    requested: Understood,
    settings: Settings = (),
    keys: tuple[str, ...] = (),
    plan_id: str | None = None,
    duration: Estimate | None = None,
) -> dict[str, Json]:
    """The document of a decision. `settings`, `keys` and `plan_id` are those of its plan, if any."""
    size = view.segment_size
    return {
        "schema_version": DOCUMENT_SCHEMA_VERSION,
        "cluster": view.cluster,
        "system": str(view.system),
        "plan": plan_id,
        "verdict": decision.verdict.value,
        "reason": decision.reason,
        "explained": list(decision.explained),
        "requested": {
            "target": describe_target(requested.target),
            "utc": requested.utc,
            "local": requested.local,
        },
        "stop": _stop(decision),
        "timeline": {
            "target": decision.path.timeline,
            "forks": [
                {"parent": fork.parent, "switch": format_lsn(fork.switch)} for fork in decision.path.forks
            ],
        },
        "base_backup": _base_backup(decision),
        "wal": _wal(decision, view),
        "superseded": [
            {"name": change.name, "old": change.old, "new": change.new, "reason": change.reason}
            for change in view.superseded_on(decision.path, decision.wal)
        ],
        "settings": dict(settings),
        "horizon": _time(decision.horizon),
        "nearest": {"before": _time(decision.nearest.before), "after": _time(decision.nearest.after)},
        "missing": [segment.name(size) for segment in decision.missing],
        "candidates": [
            {"name": point.name, "lsn": format_lsn(point.end), "time": _time(point.time)}
            for point in decision.candidates
        ],
        "disputed": _disputed(decision),
        "ahead": _ahead(decision),
        "prepared": [event_to_json(event) for event in decision.prepared_open],
        "undone": {
            "commits": None if decision.stop is None else decision.undone_commits,
            "object_versions": None,
            "segments_not_looked_at": decision.unseen_segments,
        },
        "duration": estimate_document(duration),
        "bucket": None,
        "keys": list(keys),
    }


def _stop(decision: Decision) -> Json:
    stop = decision.stop
    if stop is None:
        return None
    commit = stop.last_commit
    return {
        "lsn": format_lsn(stop.lsn),
        "inclusive": stop.inclusive,
        "timeline": stop.timeline,
        "xid": None if commit is None else commit.xid,
        "commit_time": None if commit is None else _time(commit.time),
        "commit_lsn": None if commit is None else format_lsn(commit.lsn),
        "event": event_to_json(stop.stop_event),
    }


def _wal(decision: Decision, view: View) -> Json:
    need = decision.wal
    if need is None:
        return None
    return {
        "first": need.first.name(view.segment_size),
        "last": need.last.name(view.segment_size),
        "count": need.count,
        "bytes": need.bytes,
    }


def _disputed(decision: Decision) -> Json:
    disputed = decision.disputed
    if disputed is None:
        return None
    return {
        "first": format_lsn(disputed.first),
        "last": format_lsn(disputed.last),
        "events": disputed.events,
        "backward_us": disputed.backward_us,
    }


def _ahead(decision: Decision) -> Json:
    ahead = decision.ahead
    return None if ahead is None else {"first": format_lsn(ahead.first), "newest": _time(ahead.newest)}


def _base_backup(decision: Decision) -> Json:
    backup = decision.backup
    if backup is None:
        return None
    return {
        "id": backup.id,
        "timeline": backup.timeline,
        "start_lsn": format_lsn(backup.start_lsn),
        "stop_lsn": format_lsn(backup.stop_lsn),
        "stop_time": _time(backup.stop_time),
        "bytes": backup.raw,
        "stored_bytes": backup.stored,
        "chain": [*(one.id for one in backup.below), backup.id],
        "chain_bytes": backup.raw_in_all,
        "chain_stored_bytes": backup.stored_in_all,
    }


def _time(time: CommitTime | None) -> str | None:
    return None if time is None else format_rfc3339(time)
