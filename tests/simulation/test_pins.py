"""Pins: a moment of the bucket in the repository, copied by content, verified after lifecycle was there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from tests.kit.chance import RealClock
from tests.kit.evidencescene import Scene
from tests.kit.faultystore import Fault
from tests.kit.models3.entries import LifecycleRule
from tests.kit.models3.faults import LoseAnswer, Reset
from tests.simulation.world import SYSTEM, World
from walarchiver.bucketpins import State, danger_of
from walarchiver.clock import SystemRandom
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.pinning import PinnedVersion
from walarchiver.core.version import StoreMs
from walarchiver.errors import BucketNotVersioned, StoreUnavailable, WalarchiverError
from walarchiver.evidence.contentcopies import ContentCopies, copy_name
from walarchiver.evidence.copymemory import CopyMemory
from walarchiver.evidence.pincheck import Found, PinCheck, PinReport
from walarchiver.evidence.pinrestore import Fate, PinRestore
from walarchiver.evidence.pins import Pinned, read_pin, write_pin
from walarchiver.evidence.shipping import Watched
from walarchiver.format.records import PinRecord
from walarchiver.storage.evidence import S3EvidenceBucket
from walarchiver.storage.options import S3Location

WEEKLY = timedelta(weeks=52)
PIN = "20261122T143206Z-1f2e3d4c"


@dataclass
class Pins:
    """The scene's bucket, a backup bucket beside it, and a repository."""

    scene: Scene
    backup: S3EvidenceBucket
    stack: ExitStack
    world: World = field(default_factory=World)
    read_bytes: int = 0

    def copied(self, moment: int) -> Iterator[PinnedVersion]:
        """With a copy of each."""
        with closing(CopyMemory(self.scene.folder / "memory")) as memory:
            copies = ContentCopies(self.scene.bucket, self.backup, memory, threads=2)
            yield from copies.copied_versions(self.versions(moment))
            self.read_bytes = copies.copied.read

    def versions(self, moment: int) -> Iterator[PinnedVersion]:
        return State(self.scene.side.index, StoreMs(moment), self.scene.bucket.prefix).versions()

    def pin(self, versions: Iterator[PinnedVersion], *, kept_in: str = "", **options: int) -> PinRecord:
        process = self.world.began()
        pinned = Pinned(
            pin=PIN,
            backup="20261122T140000Z-00000001",
            timeline=2,
            lsn=Lsn(0x3000148),
            time=CommitTime(1_795_357_926_000_000),
            cutoff=StoreMs(1_795_357_926_000),
            kept_in=kept_in,
            reason="weekly",
        )
        return write_pin(
            pinned,
            Watched(self.scene.bucket.name, self.scene.bucket.prefix),
            versions,
            depositor=process.depositor,
            ledger=process.ledger,
            folder=self.scene.folder,
            **options,
        )

    def opened(self) -> list[PinnedVersion]:
        """What another machine reads with the repository and one custodian's key."""
        reader = self.world.process(write=False, identities=[self.world.identity()])
        reader.ledger.refresh()
        (record,) = reader.catalog.pins()
        return list(read_pin(reader.repository, SYSTEM, record, folder=self.scene.folder))

    def verified(self, *, backup: bool = True, deep: bool = False) -> PinReport:
        check = PinCheck(self.scene.bucket, self.backup if backup else None, deep=deep, threads=2)
        return check.run(self.opened())

    def open(self, name: str, prefix: str = "") -> S3EvidenceBucket:
        bucket = S3EvidenceBucket(
            S3Location(name, prefix), self.scene.evidence.options, RealClock(), SystemRandom()
        )
        self.stack.callback(bucket.close)
        return bucket

    def contents(self) -> dict[str, bytes]:
        """What the backup bucket holds."""
        app = self.scene.model.state.bucket("kept")
        found = {}
        for key in app.keys:
            (one,) = app.history(key)
            found[key.removeprefix(self.backup.prefix)] = b"".join(one.body.chunks())
        return found


@pytest.fixture
def pins(model_scene: Scene) -> Iterator[Pins]:
    with ExitStack() as stack:
        model_scene.model.app("kept")
        backup = S3EvidenceBucket(
            S3Location("kept", "here/"), model_scene.evidence.options, RealClock(), SystemRandom()
        )
        stack.callback(backup.close)
        yield Pins(model_scene, backup, stack)


def lay_out(scene: Scene) -> StoreMs:
    """Three keys with two contents at a moment; then one is overwritten, one deleted, one comes."""
    scene.scan()
    scene.evidence.put("a", b"one")
    scene.evidence.put("b", b"two", ContentType="text/x-evidence")
    scene.evidence.put("ü c", b"one")
    moment = scene.moment()
    scene.evidence.put("a", b"newer")
    scene.evidence.delete("b")
    scene.evidence.put("later", b"later")
    scene.moment()
    scene.scan()
    return moment


def expire(scene: Scene, days: int = 40) -> int:
    """So many days later a rule of 30 days is carried out; the number of versions removed."""
    scene.app.set_lifecycle(LifecycleRule("clean", noncurrent_days=30))
    scene.model.clock.step(days=days)
    return len(scene.app.run_lifecycle())


def name_of(content: bytes) -> str:
    return copy_name(hashlib.sha256(content).hexdigest())


def test_a_pin_comes_back_with_every_version_of_its_moment(pins: Pins) -> None:
    moment = lay_out(pins.scene)
    record = pins.pin(pins.versions(moment), part_rows=2)
    assert (record.objects, record.bytes, [part.rows for part in record.parts]) == (3, 9, [2, 1])
    want = [(pins.scene.key(name), size) for name, size in (("a", 3), ("b", 3), ("ü c", 3))]
    assert [(one.key, one.size) for one in pins.opened()] == want
    ids = pins.scene.ids_as_of(moment)
    assert {one.key: one.version_id for one in pins.opened()} == {
        pins.scene.key(k): v for k, v in ids.items()
    }
    assert pins.verified(deep=True).counts[Found.VERSION] == 3


def test_long_keys_make_shorter_parts(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walarchiver.evidence.pins.PART_TEXT_MAX", 10_000)
    keys = [f"{n:04}{'ü' * 480}" for n in range(20)]
    record = pins.pin(PinnedVersion(key, "v", 1, "", StoreMs(0), "STANDARD") for key in keys)
    assert [part.rows for part in record.parts] == [8, 8, 4]
    assert [one.key for one in pins.opened()] == keys


def test_an_empty_moment_can_be_kept(pins: Pins) -> None:
    assert pins.pin(iter(())).parts == ()
    assert pins.opened() == []
    assert pins.verified().versions == 0


def test_a_weekly_pin_outlives_the_rule_only_with_copies(pins: Pins) -> None:
    """[scenario 24]"""
    moment = lay_out(pins.scene)
    pins.scene.app.set_lifecycle(LifecycleRule("clean", noncurrent_days=30))
    danger = danger_of(pins.scene.bucket, pins.backup, cutoff=moment, keep=WEEKLY)
    assert [("clean" in told) for told in danger.versions] == [True]
    assert danger.copies == ()
    pins.pin(pins.copied(moment), kept_in=pins.backup.url)
    assert pins.verified().counts[Found.COPY] == 3
    assert expire(pins.scene) > 0
    there = pins.verified(deep=True)
    assert (there.lost, there.counts[Found.COPY], there.listed) == (0, 3, [])
    alone = pins.verified(backup=False)
    assert {one.version.key for one in alone.listed if one.found is Found.MISSING} == {
        pins.scene.key("a"),
        pins.scene.key("b"),
    }
    assert alone.lost == 2


def test_without_copies_the_missing_list_names_what_the_rule_took(pins: Pins) -> None:
    """[scenario 24]"""
    moment = lay_out(pins.scene)
    pins.pin(pins.versions(moment))
    assert pins.verified().lost == 0
    assert expire(pins.scene, days=20) == 0
    assert pins.verified().lost == 0
    assert expire(pins.scene, days=20) > 0
    report = pins.verified()
    assert [one.version.key for one in report.listed] == [pins.scene.key("a"), pins.scene.key("b")]
    assert report.counts[Found.VERSION] == 1


def test_each_content_is_copied_once_with_its_metadata_and_read_once(pins: Pins) -> None:
    moment = lay_out(pins.scene)
    copied = list(pins.copied(moment))
    assert [one.copy for one in copied] == [name_of(b"one"), name_of(b"two"), name_of(b"one")]
    assert pins.contents() == {name_of(b"one"): b"one", name_of(b"two"): b"two"}
    (two,) = pins.scene.model.state.bucket("kept").history("here/" + name_of(b"two"))
    assert two.props.headers["Content-Type"] == "text/x-evidence"
    pins.scene.model.log.mark()
    assert list(pins.copied(moment)) == copied
    assert pins.read_bytes == 0
    assert pins.scene.model.log.writes() == []
    assert pins.scene.model.log.body_reads() == []


def test_copying_that_was_broken_off_goes_on_where_it_was(pins: Pins) -> None:
    moment = lay_out(pins.scene)
    pins.scene.model.faults.script(Reset(), operation="CopyObject", times=None, after=1)
    with pytest.raises(StoreUnavailable):
        list(pins.copied(moment))
    assert len(pins.contents()) == 1
    pins.scene.model.faults.heal()
    assert {one.copy for one in pins.copied(moment)} == {name_of(b"one"), name_of(b"two")}
    assert pins.contents() == {name_of(b"one"): b"one", name_of(b"two"): b"two"}


def test_a_copy_whose_answer_was_lost_is_there_once(pins: Pins) -> None:
    moment = lay_out(pins.scene)
    pins.scene.model.faults.script(LoseAnswer(), operation="CopyObject", times=2)
    assert len(list(pins.copied(moment))) == 3
    assert set(pins.contents()) == {name_of(b"one"), name_of(b"two")}


def test_a_host_that_forgot_everything_reads_again_and_writes_nothing_twice(pins: Pins) -> None:
    moment = lay_out(pins.scene)
    list(pins.copied(moment))
    for file in pins.scene.folder.glob("memory*"):
        file.unlink()
    pins.scene.model.log.mark()
    assert [one.copy for one in pins.copied(moment)][1] == name_of(b"two")
    assert pins.read_bytes == 9
    assert pins.scene.model.log.writes() == []


def test_a_version_that_is_gone_before_it_is_copied_has_no_copy_and_is_told(pins: Pins) -> None:
    moment = lay_out(pins.scene)
    expire(pins.scene)
    with closing(CopyMemory(pins.scene.folder / "memory")) as memory:
        copies = ContentCopies(pins.scene.bucket, pins.backup, memory)
        copied = list(copies.copied_versions(pins.versions(moment)))
    assert [one.copy for one in copied] == ["", "", name_of(b"one")]
    assert len(copies.copied.unreadable) == 2


def test_a_copy_with_other_bytes_is_found_by_reading(pins: Pins) -> None:
    moment = lay_out(pins.scene)
    pins.pin(pins.copied(moment), kept_in=pins.backup.url)
    kept = pins.scene.model.state.bucket("kept")
    (true,) = kept.history("here/" + name_of(b"two"))
    kept.remove(true)
    pins.backup.put("here/" + name_of(b"two"), b"owt")
    assert pins.verified().counts[Found.COPY] == 3
    (wrong,) = pins.verified(deep=True).listed
    assert (wrong.version.key, wrong.found) == (pins.scene.key("b"), Found.COPY_LOST)
    expire(pins.scene)
    assert [one.version.key for one in pins.verified(deep=True).listed] == [pins.scene.key("b")]
    assert pins.verified(deep=True).lost == 1


def test_what_somebody_put_on_top_of_a_copy_does_not_hide_it(pins: Pins) -> None:
    moment = lay_out(pins.scene)
    pins.pin(pins.copied(moment), kept_in=pins.backup.url)
    pins.scene.model.state.delete("kept", "here/" + name_of(b"two"))
    pins.backup.put("here/" + name_of(b"one"), b"two")
    assert pins.verified(deep=True).counts[Found.COPY] == 3


def test_a_pin_is_restored_from_copies_where_nothing_is_and_a_second_time_writes_nothing(pins: Pins) -> None:
    """[scenario 24]"""
    moment = lay_out(pins.scene)
    pins.pin(pins.copied(moment), kept_in=pins.backup.url)
    expire(pins.scene)
    pins.scene.model.app("new").put(f"old/{pins.scene.key('b')}", b"somebody's")
    target = pins.open("new", "old/")
    job = PinRestore(pins.scene.bucket, pins.backup, target, "old/", threads=2)
    pins.scene.model.log.mark()
    looked = job.look(pins.opened())
    assert (looked.keys[Fate.COPIED], looked.keys[Fate.OTHER]) == (2, 1)
    assert pins.scene.model.log.writes() == []
    assert job.carry_out(pins.opened()) == looked
    assert looked.listed == [(Fate.OTHER, pins.scene.key("b"))]
    for name, content in (("a", b"one"), ("ü c", b"one"), ("b", b"somebody's")):
        (only,) = pins.scene.model.state.bucket("new").history(f"old/{pins.scene.key(name)}")
        assert b"".join(only.body.chunks()) == content
    pins.scene.model.log.mark()
    assert job.carry_out(pins.opened()).keys[Fate.THERE] == 2
    assert pins.scene.model.log.writes() == []


def test_without_copies_what_the_rule_took_is_lost_and_the_rest_is_restored(pins: Pins) -> None:
    moment = lay_out(pins.scene)
    pins.pin(pins.versions(moment))
    expire(pins.scene)
    pins.scene.model.app("new")
    job = PinRestore(pins.scene.bucket, None, pins.open("new"), "", threads=2)
    done = job.carry_out(pins.opened())
    assert (done.keys[Fate.COPIED], done.keys[Fate.LOST]) == (1, 2)
    pins.scene.model.app("flat", versioned=False)
    with pytest.raises(BucketNotVersioned):
        PinRestore(pins.scene.bucket, None, pins.open("flat"), "").carry_out(pins.opened())


def test_a_backup_bucket_that_expires_objects_is_no_place_for_copies(pins: Pins) -> None:
    moment = lay_out(pins.scene)
    pins.scene.model.state.bucket("kept").lifecycle = [LifecycleRule("tidy", expire_days=90)]
    danger = danger_of(pins.scene.bucket, pins.backup, cutoff=moment, keep=WEEKLY)
    assert danger.versions == ()
    assert len(danger.copies) == 1


@pytest.mark.parametrize("place", [f"v1/c/{SYSTEM}/pin/", f"v1/c/{SYSTEM}/ledger/"])
def test_a_pin_is_recorded_whole_or_not_at_all(pins: Pins, place: str) -> None:
    moment = lay_out(pins.scene)
    pins.world.began()
    pins.world.store.fail(Fault("put_new", place))
    with pytest.raises(StoreUnavailable):
        pins.pin(pins.versions(moment))
    assert list(pins.world.began().catalog.pins()) == []
    pins.pin(pins.versions(moment))
    assert len(pins.opened()) == 3


def test_a_part_with_other_bytes_is_refused(pins: Pins) -> None:
    pins.pin(pins.versions(lay_out(pins.scene)))
    (key,) = pins.world.keys("/pin/")
    body = bytearray(pins.world.memory.get(key, bytes_max=1 << 20) or b"")
    body[-20] ^= 1
    pins.world.replace(key, bytes(body))
    with pytest.raises(WalarchiverError, match="bytes"):
        pins.opened()
