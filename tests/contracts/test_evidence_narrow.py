"""Narrow places of the evidence adapter: late writes, equal contents, pages that answer something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.modelled import app_of, model_of
from tests.contracts.test_evidence_bucket import all_entries
from tests.kit.evidence import Evidence
from tests.kit.models3 import faults
from tests.kit.models3.wire import Reply
from walarchiver.bucketports import Expected, KeyRange
from walarchiver.errors import StoreMisbehaves, StoreUnavailable
from walarchiver.storage import evidencecalls
from walarchiver.storage.evidencepages import is_behind


def test_a_first_try_that_lands_while_we_repeat_is_ours_and_is_not_written_twice(modelled: Evidence) -> None:
    modelled.put("k", b"before")
    seen = modelled.listed("k")[0].etag
    model = model_of(modelled)
    model.faults.script(faults.Reset(), operation="PutObject")
    landed: list[str | None] = []

    def land() -> None:
        landed.append(app_of(modelled).put(modelled.key("k"), b"ours").version_id)

    model.faults.script(faults.Meanwhile(land), operation="PutObject")
    made = modelled.open().put(modelled.key("k"), b"ours", expected=Expected(seen))
    assert [made.version_id] == landed
    assert len(modelled.listed("k")) == 2


def test_an_older_version_with_our_content_is_not_taken_for_ours(modelled: Evidence) -> None:
    modelled.put("k", b"the same")
    (older,) = modelled.listed("k")
    model = model_of(modelled)
    model.clock.step(seconds=60)
    model.faults.script(faults.Reset(), operation="PutObject")
    made = modelled.open().put(modelled.key("k"), b"the same", expected=Expected(older.etag))
    after = modelled.listed("k")
    assert [entry.version_id for entry in after] == [made.version_id, older.version_id]


def test_a_store_that_copies_for_long_is_waited_for_and_asked_once(
    modelled: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than for any other answer: asking again would make it copy again."""
    monkeypatch.setattr(evidencecalls, "PATIENT_FROM_BYTES", 3)
    bucket = modelled.open(replace(modelled.options, read_timeout_s=0.2))
    key, model = modelled.key("k"), model_of(modelled)
    made = modelled.put("k", b"four")
    answered = threading.Event()
    model.faults.script(faults.Hold(answered), operation="CopyObject")
    timer = threading.Timer(1.0, answered.set)
    timer.start()
    to = modelled.key("copied")
    bucket.copy(bucket, key, made, to=to, size=4, expected=Expected(None))
    timer.join()
    assert model.log.count("CopyObject") == 1
    assert len(modelled.listed("copied")) == 1


def _changed(change: Callable[[bytes], bytes]) -> faults.Change:
    def changed(reply: Reply) -> Reply:
        assert isinstance(reply.body, bytes)
        body = change(reply.body)
        assert body != reply.body
        return replace(reply, body=body)

    return faults.Change(changed)


def test_a_page_for_another_marker_is_asked_again_and_not_believed(modelled: Evidence) -> None:
    for number in range(6):
        modelled.put(f"k{number}")
    model = model_of(modelled)
    other = _changed(lambda body: body.replace(b"k1</KeyMarker>", b"k0</KeyMarker>"))
    model.faults.script(other, operation="ListObjectVersions", after=1)
    assert len(all_entries(modelled.open(), page=2)) == 6
    model.faults.script(other, operation="ListObjectVersions", after=1, times=None)
    with pytest.raises(StoreUnavailable, match="another page"):
        all_entries(modelled.open(), page=2)


def test_a_page_that_says_one_version_twice_is_not_believed(modelled: Evidence) -> None:
    first, second = modelled.put("k"), modelled.put("k")
    twice = _changed(lambda body: body.replace(first.encode(), second.encode()))
    model_of(modelled).faults.script(twice, operation="ListObjectVersions")
    with pytest.raises(StoreMisbehaves, match="twice"):
        all_entries(modelled.open())


names = st.text(st.sampled_from("ab/-."), min_size=1, max_size=6)


@given(key=names, last=names, later=names)
def test_a_listing_ends_early_only_when_no_walk_by_folders_could_bring_a_key_of_the_range(
    key: str, last: str, later: str
) -> None:
    """`later` comes behind `key` in such a walk, which goes by names part by part."""
    keys = KeyRange("", last)
    if is_behind(key, keys, 0):
        assert key > last
        if later.split("/") > key.split("/"):
            assert later not in keys
