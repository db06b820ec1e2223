"""Notifications as queues deliver them, and what is none."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.evidence.eventmessages import Happened, NotAnEvent, is_later, parse_message


def record(**changes: Any) -> dict[str, Any]:
    return {
        "eventVersion": "2.3",
        "eventSource": "aws:s3",
        "eventTime": "2026-03-02T10:00:00.123Z",
        "eventName": "ObjectCreated:CompleteMultipartUpload",
        "s3": {
            "bucket": {"name": "evidence"},
            "object": {
                "key": "a+b%2Bc/%C3%BC%26%2525%3F",
                "versionId": "v1",
                "sequencer": "0055AED6DCD90281E5",
            },
        },
    } | changes


EXPECTED = Happened(
    "evidence",
    "a b+c/ü&%25?",
    "v1",
    "ObjectCreated:CompleteMultipartUpload",
    1772445600123,  # type: ignore[arg-type]
    "0055AED6DCD90281E5",
)


def test_a_record_tells_the_decoded_key_the_version_and_the_time_to_the_millisecond() -> None:
    (found,) = parse_message(json.dumps({"Records": [record()]}))
    assert found == EXPECTED
    assert found.ends_upload


def test_one_message_may_tell_of_several_changes() -> None:
    removed = record(eventName="s3:ObjectRemoved:Delete")
    found = parse_message(json.dumps({"Records": [record(), removed]}))
    assert [one.name for one in found] == [EXPECTED.name, "ObjectRemoved:Delete"]
    assert [one.ends_upload for one in found] == [True, False]


def test_a_message_may_have_come_through_a_topic() -> None:
    inner = json.dumps({"Records": [record()]})
    assert parse_message(json.dumps({"Type": "Notification", "Message": inner})) == (EXPECTED,)


def test_the_test_message_tells_of_nothing() -> None:
    message = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "evidence", "RequestId": "5582815E"}
    assert parse_message(json.dumps(message)) == ()


def test_an_event_bridge_message_has_its_key_as_it_is() -> None:
    message = {
        "version": "0",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "time": "2026-03-02T10:00:00Z",
        "detail": {
            "version": "0",
            "bucket": {"name": "evidence"},
            "object": {"key": "a b+c/ü%20", "version-id": "v1", "sequencer": "0055AED6"},
            "reason": "CompleteMultipartUpload",
        },
    }
    (found,) = parse_message(json.dumps(message))
    assert (found.key, found.version_id, found.at) == ("a b+c/ü%20", "v1", 1772445600000)
    assert found.ends_upload


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "not JSON",
        '{"Records": {}}',
        '{"Records": [1]}',
        '{"Records": [{}]}',
        '{"detail": {}}',
        "[" * 100_000,
        " " * (1 << 21),
        json.dumps({"Records": [record(eventTime="yesterday")]}),
        json.dumps({"Records": [record(eventTime="2026-03-02T10:00:00")]}),
        json.dumps({"Records": [record(s3={"bucket": {"name": "b"}, "object": {"key": "k" * 1025}})]}),
        json.dumps({"Records": [record(s3={"bucket": {"name": "b"}, "object": {"key": "%FF"}})]}),
        json.dumps({"Records": [record(s3={"bucket": {"name": "b"}, "object": {}})]}),
        json.dumps(
            {"Records": [record(s3={"bucket": {"name": "b"}, "object": {"key": "k", "sequencer": "xyz"}})]}
        ),
    ],
)
def test_what_is_no_notification_says_so(text: str) -> None:
    with pytest.raises(NotAnEvent):
        parse_message(text)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ("Records", "detail", "s3", "object", "bucket", "key", "Event", "Type", "Message")
                ),
                inner,
            )
        ),
    )
)
def test_whatever_json_comes_is_read_or_is_no_event(found: object) -> None:
    with suppress(NotAnEvent):
        assert all(isinstance(one, Happened) for one in parse_message(json.dumps(found)))


@pytest.mark.parametrize(
    ("one", "other", "later"),
    [
        ("0B", "0A", True),
        ("0A", "0B", False),
        ("0a", "0A", False),
        ("0A", None, None),
        (None, "0A", None),
        ("0A0", "0A", None),
        ("A", "0A", None),
    ],
)
def test_sequencers_of_one_length_order_changes_and_others_say_nothing(
    one: str | None, other: str | None, *, later: bool | None
) -> None:
    assert is_later(one, other) is later
