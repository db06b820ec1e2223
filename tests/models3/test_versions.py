"""What AWS documents of versions, markers and suspended versioning, as tests of the model."""

from __future__ import annotations

import pytest

from tests.kit.models3.app import App
from tests.kit.models3.bodies import Body
from tests.kit.models3.clock import at
from tests.kit.models3.listing import Asked, versions
from tests.kit.models3.refusals import Refusal
from tests.kit.models3.server import ModelOptions, ModelS3


def model(*, versioned: bool = True, bucket: str = "evidence", **options: object) -> App:
    """A model that is never started: state and clock are all these tests need."""
    server = ModelS3(ModelOptions(**options))  # type: ignore[arg-type]
    server.state.make_bucket(bucket, versioned=versioned)
    return App(server, bucket)


def refusal_of(raised: pytest.ExceptionInfo[Refusal]) -> tuple[int, str]:
    return raised.value.status, raised.value.code


def test_a_delete_without_a_version_adds_a_marker_even_for_a_key_that_never_was() -> None:
    """User Guide, "Working with delete markers": a DELETE of any key makes one; they stack."""
    app = model()
    first, second = app.delete("never"), app.delete("never")
    assert first is not None and second is not None
    assert [entry.is_marker for entry in app.history("never")] == [True, True]
    assert first.version_id != second.version_id


def test_a_delete_of_a_version_removes_it_without_a_trace() -> None:
    """User Guide, "Deleting object versions from a versioning-enabled bucket"."""
    app = model()
    kept, gone = app.put("k", b"1"), app.put("k", b"2")
    app.purge_version("k", gone.version_id)
    assert app.history("k") == [kept]
    assert app.current("k") is kept


def test_removing_a_marker_makes_the_version_below_it_current_again() -> None:
    """User Guide, "Removing delete markers to make an older version current"."""
    app = model()
    kept, marker = app.put("k", b"1"), app.delete("k")
    assert marker is not None and app.current("k") is None
    app.purge_version("k", marker.version_id)
    assert app.current("k") is kept


def test_objects_from_before_versioning_have_the_id_null_and_stay() -> None:
    """User Guide, "Adding objects to versioning-enabled buckets"."""
    app = model(versioned=False)
    app.put("k", b"old")
    app.set_versioning("Enabled")
    app.put("k", b"new")
    assert [entry.version_id == "null" for entry in app.history("k")] == [False, True]


def test_without_versioning_a_write_and_a_delete_destroy_what_was_there() -> None:
    """User Guide, "Using versioning in S3 buckets": an unversioned bucket holds one version, `null`."""
    app = model(versioned=False)
    app.put("k", b"1")
    second = app.put("k", b"2")
    assert app.history("k") == [second]
    app.delete("k")
    assert app.history("k") == []


def test_a_write_while_suspended_destroys_the_null_version_and_no_other() -> None:
    """User Guide, "Adding objects to versioning-suspended buckets"."""
    app = model()
    kept = app.put("k", b"kept")
    app.set_versioning("Suspended")
    app.put("k", b"lost")
    last = app.put("k", b"last")
    assert app.history("k") == [last, kept]
    assert last.version_id == "null"


def test_a_delete_while_suspended_puts_a_null_marker_in_place_of_the_null_version() -> None:
    """User Guide, "Deleting objects from versioning-suspended buckets"."""
    app = model()
    kept = app.put("k", b"kept")
    app.set_versioning("Suspended")
    app.put("k", b"lost")
    marker = app.delete("k")
    assert marker is not None and (marker.version_id, marker.is_marker) == ("null", True)
    assert app.history("k") == [marker, kept]


def test_reading_a_marker_by_its_id_is_not_allowed_and_says_what_it_is() -> None:
    """API Reference, GetObject: 405, x-amz-delete-marker: true; without the id 404 with the same header."""
    app = model()
    app.put("k", b"1")
    marker = app.delete("k")
    assert marker is not None
    with pytest.raises(Refusal) as raised:
        app.server.state.look("evidence", "k", marker.version_id)
    assert refusal_of(raised) == (405, "MethodNotAllowed")
    assert raised.value.headers["x-amz-delete-marker"] == "true"
    with pytest.raises(Refusal) as raised:
        app.server.state.look("evidence", "k")
    assert refusal_of(raised) == (404, "NoSuchKey")
    assert raised.value.headers["x-amz-delete-marker"] == "true"


def test_a_version_that_does_not_exist_differs_from_one_that_cannot_exist() -> None:
    """API Reference, "Error responses": NoSuchVersion 404, InvalidArgument 400."""
    app = model()
    gone = app.put("k", b"1")
    app.purge_version("k", gone.version_id)
    with pytest.raises(Refusal) as raised:
        app.server.state.look("evidence", "k", gone.version_id)
    assert refusal_of(raised) == (404, "NoSuchVersion")
    with pytest.raises(Refusal) as raised:
        app.server.state.look("evidence", "k", "nonsense")
    assert refusal_of(raised) == (400, "InvalidArgument")


def test_listed_times_are_whole_seconds_unless_the_server_gives_more() -> None:
    """API Reference, "ListObjectVersions": examples; AWS never lists a fraction."""
    for whole, expected in ((True, "2026-03-02T10:00:00Z"), (False, "2026-03-02T10:00:00.930Z")):
        app = model(whole_seconds=whole)
        entry = app.put("k", b"", "2026-03-02T10:00:00.930Z")
        assert app.server.state.shown_ms(entry) == at(expected)


def test_entries_of_one_second_are_listed_in_their_order_newest_first() -> None:
    """API Reference, "ListObjectVersions": versions in the order they were stored, most recent first."""
    app = model()
    made = [app.put("k", b"1"), app.delete("k"), app.put("k", b"2"), app.put("k", b"3"), app.delete("k")]
    page = versions(app.server.state.bucket("evidence"), Asked())
    assert page.entries == made[::-1]
    assert len({app.server.state.shown_ms(entry) for entry in page.entries}) == 1


def test_version_ids_do_not_sort_by_time() -> None:
    """User Guide, "How S3 Versioning works": ids are opaque."""
    app = model()
    ids = [app.put("k", b"").version_id for _ in range(20)]
    assert len(set(ids)) == 20
    assert ids not in (sorted(ids), sorted(ids, reverse=True))


def test_a_replica_keeps_the_id_and_the_time_of_its_source() -> None:
    """User Guide, "What does Amazon S3 replicate?": version id and creation time are the source's."""
    app = model()
    original = app.put("k", b"1")
    app.server.state.make_bucket("replica", versioned=True)
    app.server.clock.step(hours=5)
    arrived = app.server.state.replicate(("evidence", "k", original.version_id), "replica")
    assert (arrived.version_id, arrived.modified_ms) == (original.version_id, original.modified_ms)


def test_metadata_and_keys_have_limits() -> None:
    """User Guide, "Working with object metadata": 2 KB; "Naming Amazon S3 objects": 1024 bytes of UTF-8."""
    app = model()
    with pytest.raises(Refusal) as raised:
        app.put("k", b"", metadata={"m": "x" * 2048})
    assert refusal_of(raised) == (400, "MetadataTooLarge")
    with pytest.raises(Refusal) as raised:
        app.put("ü" * 513, b"")
    assert refusal_of(raised) == (400, "KeyTooLongError")


def test_long_runs_of_zeros_are_sliced_and_joined_like_bytes() -> None:
    body = Body.joined(iter([Body.of(b"ab"), Body.zeros(3), Body.of(b"cd")]))
    plain = b"ab\0\0\0cd"
    assert body.content() == plain
    for first in range(7):
        for last in range(first, 7):
            assert body.slice(first, last).content() == plain[first : last + 1]
