"""What AWS documents of conditional writes, copies and deletes, as tests of the model."""

from __future__ import annotations

import pytest

from tests.kit.models3.bodies import Body
from tests.kit.models3.entries import Properties
from tests.kit.models3.refusals import Refusal
from tests.kit.models3.state import Conditions
from tests.models3.test_versions import model, refusal_of

ABSENT = Conditions(if_none_match="*")


def test_if_none_match_finds_only_current_versions() -> None:
    """User Guide, "How to prevent object overwrites with conditional writes": a marker counts as absent."""
    app = model()
    state = app.server.state
    state.put("evidence", "k", Body.of(b"1"), conditions=ABSENT)
    with pytest.raises(Refusal) as raised:
        state.put("evidence", "k", Body.of(b"2"), conditions=ABSENT)
    assert refusal_of(raised) == (412, "PreconditionFailed")
    app.delete("k")
    state.put("evidence", "k", Body.of(b"3"), conditions=ABSENT)
    assert len(app.history("k")) == 3


def test_if_match_needs_the_current_etag_and_a_current_version() -> None:
    """User Guide, ibid.: another ETag 412; no current version, or a marker, 404."""
    app = model()
    state = app.server.state
    first = app.put("k", b"1")
    second = state.put("evidence", "k", Body.of(b"2"), conditions=Conditions(if_match=first.etag))
    with pytest.raises(Refusal) as raised:
        state.put("evidence", "k", Body.of(b"3"), conditions=Conditions(if_match=first.etag))
    assert refusal_of(raised) == (412, "PreconditionFailed")
    app.delete("k")
    with pytest.raises(Refusal) as raised:
        state.put("evidence", "k", Body.of(b"3"), conditions=Conditions(if_match=second.etag))
    assert refusal_of(raised) == (404, "NoSuchKey")


def test_a_copy_observes_conditions_on_its_destination() -> None:
    """API Reference, CopyObject: If-Match and If-None-Match speak of the destination."""
    app = model()
    state = app.server.state
    old = app.put("k", b"old")
    current = app.put("k", b"current")
    source = ("evidence", "k", old.version_id)
    with pytest.raises(Refusal) as raised:
        state.copy(source, ("evidence", "k"), conditions=ABSENT)
    assert refusal_of(raised) == (412, "PreconditionFailed")
    copied = state.copy(source, ("evidence", "k"), conditions=Conditions(if_match=current.etag))
    assert app.history("k") == [copied, current, old]
    assert (copied.etag, copied.version_id != old.version_id) == (old.etag, True)


def test_a_conditional_delete_speaks_of_the_current_version() -> None:
    """User Guide, "How to perform conditional deletes"."""
    app = model()
    state = app.server.state
    old, current = app.put("k", b"old"), app.put("k", b"new")
    with pytest.raises(Refusal) as raised:
        state.delete("evidence", "k", if_match=old.etag)
    assert refusal_of(raised) == (412, "PreconditionFailed")
    assert state.delete("evidence", "k", if_match=current.etag) is not None
    with pytest.raises(Refusal):
        state.delete("evidence", "k", if_match="*")
    assert len(app.history("k")) == 3


def test_a_copy_takes_metadata_and_tags_along_but_not_the_storage_class() -> None:
    """API Reference, CopyObject: metadata and tagging directives default to COPY; the class to STANDARD."""
    app = model()
    headers = {"Content-Type": "image/png", "Cache-Control": "no-store"}
    old = app.put(
        "k", b"1", headers=headers, metadata={"m": "1"}, tags={"t": "x"}, storage_class="GLACIER_IR"
    )
    state = app.server.state
    made = state.copy(("evidence", "k", old.version_id), ("evidence", "to"))
    assert (made.props.headers, made.props.metadata, made.props.tags) == (headers, {"m": "1"}, {"t": "x"})
    assert made.props.storage_class == "STANDARD"
    replaced = state.copy(
        ("evidence", "k", None),
        ("evidence", "to"),
        Properties(tags={"new": "1"}),
        replaces_metadata=True,
        replaces_tags=True,
    )
    assert (replaced.props.metadata, replaced.props.tags) == ({}, {"new": "1"})


def test_what_copy_refuses() -> None:
    """API Reference, CopyObject: markers, archived, customer's keys, above 5 GB, onto itself unchanged."""
    app = model()
    state = app.server.state
    app.put("k", b"1")
    marker = app.delete("k")
    assert marker is not None
    app.put("frozen", b"1", storage_class="GLACIER")
    app.put("secret", b"1", encryption="customer")
    app.put("huge", Body.zeros(5 * 2**30 + 1))
    app.put("same", b"1")
    for key, version_id, code in (
        ("k", marker.version_id, "InvalidRequest"),
        ("k", None, "NoSuchKey"),
        ("frozen", None, "InvalidObjectState"),
        ("secret", None, "InvalidRequest"),
        ("huge", None, "InvalidRequest"),
    ):
        with pytest.raises(Refusal) as raised:
            state.copy(("evidence", key, version_id), ("evidence", "to"))
        assert raised.value.code == code
    with pytest.raises(Refusal):
        state.copy(("evidence", "same", None), ("evidence", "same"))
    assert app.history("to") == []


def test_an_etag_is_the_md5_only_without_a_kms_key() -> None:
    """API Reference, "Object": objects under SSE-KMS have ETags that are no MD5 digest."""
    app = model()
    plain = app.put("a", b"same"), app.put("b", b"same")
    sealed = app.put("c", b"same", encryption="aws:kms"), app.put("d", b"same", encryption="aws:kms")
    assert plain[0].etag == plain[1].etag == "51037a4a37730f52c8732586d3aaa316"
    assert len({plain[0].etag, sealed[0].etag, sealed[1].etag}) == 3


def test_an_archived_version_is_readable_while_a_restored_copy_is_there() -> None:
    """User Guide, "Working with archived objects": 403 InvalidObjectState until RestoreObject is through."""
    app = model()
    state = app.server.state
    entry = app.put("k", b"1", storage_class="DEEP_ARCHIVE")
    with pytest.raises(Refusal) as raised:
        state.readable("evidence", "k", entry.version_id)
    assert refusal_of(raised) == (403, "InvalidObjectState")
    assert state.restore("evidence", "k", entry.version_id, days=2, takes_s=3600)
    with pytest.raises(Refusal):
        state.readable("evidence", "k", entry.version_id)
    with pytest.raises(Refusal) as raised:
        state.restore("evidence", "k", entry.version_id, days=2)
    assert refusal_of(raised) == (409, "RestoreAlreadyInProgress")
    app.server.clock.step(hours=1)
    assert state.readable("evidence", "k", entry.version_id) is entry
    app.server.clock.step(days=2)
    with pytest.raises(Refusal):
        state.readable("evidence", "k", entry.version_id)


def test_object_lock_keeps_versions_but_not_from_markers() -> None:
    """User Guide, "Locking objects with Object Lock": markers hide locked versions all the same."""
    app = model()
    state = app.server.state
    until = app.server.clock.now_ms + 86_400_000
    strict = app.put("strict", b"1", lock_mode="COMPLIANCE", retain_until_ms=until)
    soft = app.put("soft", b"1", lock_mode="GOVERNANCE", retain_until_ms=until)
    held = app.put("held", b"1", legal_hold=True)
    assert app.delete("strict") is not None
    for key, entry, bypass in (("strict", strict, True), ("soft", soft, False), ("held", held, True)):
        with pytest.raises(Refusal) as raised:
            state.delete_version("evidence", key, entry.version_id, bypass=bypass)
        assert refusal_of(raised) == (403, "AccessDenied")
    assert state.delete_version("evidence", "soft", soft.version_id, bypass=True) is soft
    app.server.clock.step(days=1)
    assert state.delete_version("evidence", "strict", strict.version_id) is strict
