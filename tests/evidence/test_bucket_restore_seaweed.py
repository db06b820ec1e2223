"""Bucket restores on a real server, SeaweedFS, in real time: each mode, and a writer that goes on."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from restore.bucketjournal import Outcome, results_in
from restore.core.bucketactions import Kind, Undelete
from tests.kit.bucketscene import BucketScene, KeptPieces, Side, actions_in
from tests.kit.chance import RealClock
from tests.kit.s3 import S3Server
from walarchiver.clock import SystemClock, SystemRandom
from walarchiver.core.version import EntryKind
from walarchiver.evidence.openindex import open_index
from walarchiver.storage import S3Location
from walarchiver.storage.evidence import S3EvidenceBucket
from walarchiver.storage.evidencecopy import CopyLimits

WAIT_S = 20


@dataclass
class World:
    """A prefix of the server's versioned bucket, the application's client, and the scene."""

    bucket: S3EvidenceBucket
    raw: Any
    scene: BucketScene = field(repr=False)

    @property
    def prefix(self) -> str:
        return self.bucket.prefix

    def put(self, name: str, body: bytes, **more: Any) -> str:
        reply = self.raw.put_object(Bucket=self.bucket.name, Key=self.prefix + name, Body=body, **more)
        return str(reply["VersionId"])

    def delete(self, name: str) -> None:
        self.raw.delete_object(Bucket=self.bucket.name, Key=self.prefix + name)

    def content(self, name: str, *, below: str = "") -> bytes:
        reply = self.raw.get_object(Bucket=self.bucket.name, Key=below + self.prefix + name)
        return bytes(reply["Body"].read())

    def versions(self, name: str) -> set[str]:
        return {
            entry.version_id
            for entry in self.bucket.entries_of(self.prefix + name)
            if entry.kind is EntryKind.VERSION
        }

    def quiet_moment(self) -> int:
        """An instant of the store's clock with nothing in its second nor in the one before; it is past."""
        moment = self._wait_until(self.bucket.date() + 2000)
        self._wait_until(moment + 1000)
        return moment

    def _wait_until(self, at: int) -> int:
        clock = SystemClock()
        until_s = clock.monotonic_s() + WAIT_S
        while (now := self.bucket.date()) < at:
            assert clock.monotonic_s() < until_s, "the store's clock stands still"
            threading.Event().wait(0.1)
        return now


@pytest.fixture
def world(s3_server: S3Server, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        prefix = f"t/{SystemRandom().token(6).hex()}/"
        location = S3Location(s3_server.shared_bucket(versioned=True), prefix)
        limits = CopyLimits(whole_max=100_000, part=5 * 1024**2)
        bucket = S3EvidenceBucket(location, s3_server.options(), RealClock(), SystemRandom(), limits=limits)
        stack.callback(bucket.close)
        index = open_index(tmp_path / "index.sqlite")
        stack.callback(index.close)
        scene = BucketScene(Side(bucket, index), tmp_path, stack)
        yield World(bucket, s3_server.raw_client(), scene)


def test_in_place_with_tags_and_metadata_then_into_another_prefix(world: World, s3_server: S3Server) -> None:
    said = {"ContentType": "image/jpeg", "Metadata": {"case": "7"}, "Tagging": "kind=photo"}
    world.put("kept", b"kept")
    world.raw.put_object(Bucket=world.bucket.name, Key=world.prefix + "folder/", Body=b"")
    world.put("changed/ä b+c", b"old", **said)
    world.put("large", b"l" * 200_000, **said)
    world.put("deleted", b"deleted")
    world.scene.own.scan()
    moment = world.quiet_moment()
    world.put("changed/ä b+c", b"new")
    world.put("large", b"new")
    world.delete("deleted")
    world.put("later", b"later")
    before = {name: world.versions(name) for name in ("kept", "changed/ä b+c", "large", "deleted", "later")}

    plan = world.scene.plan(moment, delete_newer=True)
    kinds = {key.removeprefix(world.prefix): action.kind for key, action in actions_in(plan).items()}
    assert kinds == {
        "changed/ä b+c": Kind.COPY,
        "large": Kind.COPY,
        "deleted": Kind.COPY,
        "later": Kind.MARK_DELETED,
    }
    report = world.scene.carry_out(plan)
    assert report.outcomes == {Outcome.DONE: 4}
    assert (report.verified, report.faults) == (4, [])
    assert all(before[name] <= world.versions(name) for name in before), "no version is destroyed"
    for name, body in (("changed/ä b+c", b"old"), ("large", b"l" * 200_000), ("deleted", b"deleted")):
        assert world.content(name) == body
    for name in ("changed/ä b+c", "large"):
        head = world.raw.head_object(Bucket=world.bucket.name, Key=world.prefix + name)
        assert (head["ContentType"], head["Metadata"]) == ("image/jpeg", {"case": "7"})
        tags = world.raw.get_object_tagging(Bucket=world.bucket.name, Key=world.prefix + name)
        assert tags["TagSet"] == [{"Key": "kind", "Value": "photo"}]
    counts = {name: len(world.bucket.entries_of(world.prefix + name)) for name in before}
    journal = plan.path.with_name("journal.jsonl")
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    again = world.scene.carry_out(plan)
    assert again.outcomes == {Outcome.UNCHANGED: 4}
    assert counts == {name: len(world.bucket.entries_of(world.prefix + name)) for name in before}

    below = f"back/{SystemRandom().token(4).hex()}/"
    other = S3EvidenceBucket(
        replace(S3Location.parse(world.bucket.url), prefix=below),
        s3_server.options(),
        RealClock(),
        SystemRandom(),
    )
    world.scene.opened.callback(other.close)
    world.scene.target = world.scene.side(other, "other")
    report = world.scene.carry_out(world.scene.plan(moment, to_prefix=below))
    assert report.outcomes == {Outcome.DONE: 4, Outcome.FAILED: 1}
    assert "its listing shows no change" in report.unsettled[0].why, "this server cannot copy `folder/`"
    assert world.content("changed/ä b+c", below=below) == b"old"
    again = world.scene.carry_out(world.scene.plan(moment, to_prefix=below))
    assert again.outcomes == {Outcome.FAILED: 1}


def test_undeleting_by_removing_markers_and_missing_only(world: World) -> None:
    for name in ("a", "b", "c"):
        world.put(name, name.encode())
    world.scene.own.scan()
    moment = world.quiet_moment()
    world.delete("a")
    world.delete("a")
    world.delete("b")
    world.put("c", b"newer")
    world.scene.sink = sink = KeptPieces()
    before = world.versions("a")
    report = world.scene.carry_out(world.scene.plan(moment, undelete=Undelete.MARKERS, missing_only=True))
    assert report.outcomes == {Outcome.DONE: 2}
    assert [entry.version_id for entry in world.bucket.entries_of(world.prefix + "a")] == list(before)
    assert (world.content("b"), world.content("c")) == (b"b", b"newer")
    assert b"".join(sink.pieces.values()).count(b'"remove_markers":[') == 2


def test_a_writer_that_goes_on_never_loses_a_version_and_is_told_of(world: World) -> None:
    names = [f"{number:02}" for number in range(12)]
    for name in names:
        world.put(name, b"old " + name.encode())
    world.scene.own.scan()
    moment = world.quiet_moment()
    for name in names:
        world.put(name, b"new " + name.encode())
    plan = world.scene.plan(moment)
    written: dict[str, set[str]] = {name: set() for name in names}
    stop = threading.Event()

    def write() -> None:
        for turn, name in enumerate(itertools.cycle(names[:4])):
            if stop.is_set():
                return
            written[name].add(world.put(name, b"theirs %d" % turn))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        report = world.scene.carry_out(plan)
    finally:
        stop.set()
        writer.join()
    assert report.count(Outcome.DONE, Outcome.CONTENDED) == len(names)
    for name in names:
        assert written[name] <= world.versions(name)
    for name in names[4:]:
        assert world.content(name) == b"old " + name.encode()
    unseen = {fault.key for fault in report.faults if fault.theirs} | {one.to for one in report.replanned}
    assert report.faults_found == report.by_others
    for result in results_in(plan.path.with_name("journal.jsonl")):
        if result.outcome is Outcome.DONE and result.to not in unseen:
            ids = [entry.version_id for entry in world.bucket.entries_of(result.to)]
            assert ids[ids.index(result.version_id) + 1] == result.replaced, "who wrote in between is told of"
