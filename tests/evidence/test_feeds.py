"""Messages in files: taken, done, put aside, and there again when they were not done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.chance import RealClock
from walarchiver.bucketports import FeedMessage
from walarchiver.clock import SystemRandom
from walarchiver.errors import ConfigError, StoreUnavailable
from walarchiver.evidence.feeds import FolderFeed
from walarchiver.evidence.openfeed import open_feed
from walarchiver.storage import S3Options


def everything(feed: FolderFeed) -> list[FeedMessage]:
    found: list[FeedMessage] = []
    while some := feed.take():
        found += some
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "messages"
    place.mkdir()
    (place / "2.jsonl").write_text('{"Body": "three", "MessageId": "3"}\n')
    (place / "1.jsonl").write_text("one\n\n two \n")
    (place / "3.jsonl").write_text("\n")
    (place / "4.part").write_text("not yet\n")
    return place


def test_files_are_read_in_the_order_of_their_names_and_leave_when_all_of_them_is_done(folder: Path) -> None:
    feed = FolderFeed(folder)
    found = everything(feed)
    assert [message.text for message in found] == ["one", "two", "three"]
    assert sorted(path.name for path in folder.glob("*.jsonl")) == ["1.jsonl", "2.jsonl"]
    feed.done(found[:1])
    assert (folder / "1.jsonl").exists()
    feed.done(found[1:])
    assert sorted(path.name for path in folder.iterdir()) == ["4.part", "done"]
    assert sorted(path.name for path in (folder / "done").iterdir()) == ["1.jsonl", "2.jsonl", "3.jsonl"]


def test_what_was_taken_and_not_done_comes_again(folder: Path) -> None:
    first = FolderFeed(folder)
    first.done(everything(first)[:1])
    assert [message.text for message in everything(FolderFeed(folder))] == ["one", "two", "three"]


def test_what_is_put_aside_stands_there_with_its_reason_and_is_done(folder: Path) -> None:
    feed = FolderFeed(folder)
    one, two, _ = everything(feed)
    feed.put_aside(one, "it is not JSON")
    feed.done([two])
    assert json.loads((folder / "aside" / "1.jsonl").read_text()) == {
        "reason": "it is not JSON",
        "Body": "one",
    }
    assert (folder / "done" / "1.jsonl").exists()


def test_a_single_file_is_read_once_and_stays(folder: Path) -> None:
    path = folder / "1.jsonl"
    feed = FolderFeed(path)
    one, two = everything(feed)
    feed.put_aside(one, "no event")
    feed.done([two])
    assert everything(feed) == []
    assert path.read_text() == "one\n\n two \n"
    assert json.loads((folder / "1.jsonl.aside").read_text())["Body"] == "one"


def test_bytes_that_are_no_text_are_a_message_all_the_same(folder: Path) -> None:
    (folder / "0.jsonl").write_bytes(b"\xff\xfe{\n")
    feed = FolderFeed(folder)
    (message,) = feed.take()
    feed.put_aside(message, "it is not JSON")
    assert (folder / "aside" / "0.jsonl").read_text().endswith("\n")


def test_a_folder_that_cannot_be_written_is_told(folder: Path) -> None:
    (folder / "done").write_text("in the way")
    feed = FolderFeed(folder)
    with pytest.raises(StoreUnavailable):
        feed.done(everything(feed))


@pytest.mark.parametrize("url", ["ftp://x/y", "file://host/x", "file:///nowhere/to/be/found", "https://host"])
def test_a_place_that_can_be_no_feed_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        open_feed(url, S3Options(), RealClock(), SystemRandom(), aside=tmp_path / "aside")
