"""Lifecycle, carried out when a test asks for it: `purge`.

Source: User Guide, "Lifecycle configuration elements", "How S3 Lifecycle interacts with other bucket
configurations".
Rules:
- A noncurrent version goes when `NoncurrentDays` have passed since its successor was written, rounded up to
  the next midnight UTC, and at least `NewerNoncurrentVersions` newer noncurrent ones are there.
- Expiration of a current version in a versioned bucket adds a marker; without versions it removes. Noncurrent
  delete markers go like noncurrent versions. A marker that is the last entry of its key goes where
  `ExpiredObjectDeleteMarker` is set.
- What Object Lock holds stays.
"""

from __future__ import annotations

from tests.kit.models3.clock import DAY_MS, next_midnight
from tests.kit.models3.entries import Bucket, LifecycleRule, Stored
from tests.kit.models3.state import State


def purge(state: State, name: str) -> list[Stored]:
    """Do everything that is due by the clock; returns what was removed for ever."""
    bucket = state.bucket(name)
    removed: list[Stored] = []
    for rule in bucket.lifecycle:
        if rule.enabled:
            _expire(state, bucket, rule, removed)
            _remove_noncurrent(state, bucket, rule, removed)
            _remove_lone_markers(state, bucket, rule, removed)
            _abort_uploads(state, bucket, rule)
    return removed


def _due(since_ms: int, days: int) -> int:
    return next_midnight(since_ms + days * DAY_MS)


def _fits(rule: LifecycleRule, entry: Stored) -> bool:
    tags = entry.props.tags
    size = entry.body.size
    return (
        entry.key.startswith(rule.prefix)
        and all(tags.get(name) == value for name, value in rule.tags.items())
        and (rule.size_over is None or size > rule.size_over)
        and (rule.size_under is None or size < rule.size_under)
    )


def _expire(state: State, bucket: Bucket, rule: LifecycleRule, removed: list[Stored]) -> None:
    if rule.expire_days is None:
        return
    for key in list(bucket.keys):
        current = bucket.current(key)
        if current is None or not _fits(rule, current):
            continue
        if state.clock.now_ms < _due(current.modified_ms, rule.expire_days):
            continue
        if bucket.versioning == "Off":
            _remove(state, bucket, current, removed)
        else:
            marker = Stored(key, "", state.next_order(), state.clock.now_ms, is_marker=True)
            if bucket.versioning == "Suspended" and current.version_id == "null":
                removed.append(current)
            state.keep(bucket, marker, "LifecycleExpiration:DeleteMarkerCreated")


def _remove_noncurrent(state: State, bucket: Bucket, rule: LifecycleRule, removed: list[Stored]) -> None:
    if rule.noncurrent_days is None:
        return
    for key in list(bucket.keys):
        history = bucket.history(key)
        noncurrent = list(zip(history[1:], history, strict=False))
        for newer_ones, (entry, successor) in enumerate(noncurrent):
            kept = newer_ones < (rule.newer_noncurrent or 0)
            late = state.clock.now_ms >= _due(successor.modified_ms, rule.noncurrent_days)
            if late and not kept and _fits(rule, entry):
                _remove(state, bucket, entry, removed)


def _remove_lone_markers(state: State, bucket: Bucket, rule: LifecycleRule, removed: list[Stored]) -> None:
    if not rule.expired_marker:
        return
    for key in list(bucket.keys):
        history = bucket.history(key)
        if len(history) == 1 and history[0].is_marker and key.startswith(rule.prefix):
            _remove(state, bucket, history[0], removed)


def _abort_uploads(state: State, bucket: Bucket, rule: LifecycleRule) -> None:
    if rule.abort_upload_days is None:
        return
    for upload in list(bucket.uploads.values()):
        due = _due(upload.started_ms, rule.abort_upload_days)
        if upload.key.startswith(rule.prefix) and state.clock.now_ms >= due:
            del bucket.uploads[upload.upload_id]


def _remove(state: State, bucket: Bucket, entry: Stored, removed: list[Stored]) -> None:
    if state.is_locked(entry):
        return
    bucket.remove(entry)
    removed.append(entry)
    state.tell("LifecycleExpiration:Delete", bucket, entry)
