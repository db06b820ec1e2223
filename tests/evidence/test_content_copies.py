"""Copies by content, on every server: made once, found again, told when they are gone."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.kit.evidencescene import Scene
from walarchiver.bucketpins import State
from walarchiver.evidence.contentcopies import ContentCopies
from walarchiver.evidence.copymemory import CopyMemory
from walarchiver.evidence.pincheck import Found, PinCheck
from walarchiver.evidence.pinrestore import Fate, PinRestore
from walarchiver.storage.evidence import S3EvidenceBucket

BIG = bytes(range(256)) * 4096


def beside(scene: Scene, name: str) -> S3EvidenceBucket:
    """A place of its own on the same server."""
    return scene.evidence.open(prefix=f"{scene.evidence.location.prefix.rstrip('/')}-{name}/")


@pytest.mark.parametrize("passing", [False, True], ids=["by the store", "through this host"])
def test_contents_outlive_their_versions_and_are_restored(scene: Scene, passing: bool) -> None:
    names = {"a b+c/ü": b"one", "case-1": b"", "case/1": b"one", "case": BIG}
    ids = {name: scene.evidence.put(name, body) for name, body in names.items()}
    moment = scene.moment()
    scene.scan()
    backup, target = beside(scene, "kept"), beside(scene, "new")
    source = scene.evidence.open(scene.evidence.reader) if passing else scene.bucket
    versions = list(State(scene.side.index, moment, scene.bucket.prefix).versions())
    with closing(CopyMemory(scene.folder / "memory")) as memory:
        copies = ContentCopies(source, backup, memory, threads=2)
        copied = list(copies.copied_versions(versions))
        assert (copies.copied.made, copies.copied.unreadable) == (3, [])
        again = ContentCopies(source, backup, memory)
        assert (list(again.copied_versions(versions)), again.copied.made, again.copied.read) == (copied, 0, 0)
    for name, version in ids.items():
        scene.evidence.purge(name, version)
    whole = PinCheck(scene.bucket, backup, deep=True, threads=2).run(copied)
    assert (whole.counts[Found.COPY], whole.lost) == (4, 0)
    assert PinCheck(scene.bucket, None).run(copied).counts[Found.MISSING] == 4
    restored = PinRestore(scene.bucket, backup, target, target.prefix, threads=2).carry_out(copied)
    assert (restored.keys[Fate.COPIED], restored.bytes) == (4, len(BIG) + 6)
    for name, body in names.items():
        assert current(target, target.prefix + scene.key(name)) == body


def current(bucket: S3EvidenceBucket, key: str) -> bytes:
    (entry,) = bucket.entries_of(key)
    return b"".join(bucket.read(key, entry.version_id))


def test_a_null_version_is_copied_and_nothing_is_remembered_of_it(model_scene: Scene) -> None:
    scene = model_scene
    scene.app.set_versioning("Suspended")
    scene.app.put(scene.key("a"), b"first")
    scene.app.set_versioning("Enabled")
    scene.scan()
    versions = list(State(scene.side.index, scene.moment(), scene.bucket.prefix).versions())
    assert [one.version_id for one in versions] == ["null"]
    with closing(CopyMemory(scene.folder / "memory")) as memory:
        copies = ContentCopies(scene.bucket, beside(scene, "kept"), memory)
        (kept,) = copies.copied_versions(versions)
        assert (bool(kept.copy), copies.copied.read) == (True, 5)
        again = ContentCopies(scene.bucket, beside(scene, "kept"), memory)
        assert list(again.copied_versions(versions)) == [kept]
        assert again.copied.read == 5
        scene.app.set_versioning("Suspended")
        scene.app.put(scene.key("a"), b"later")  # the listed version is no more
        late = ContentCopies(scene.bucket, beside(scene, "kept"), memory)
        assert [one.copy for one in late.copied_versions(versions)] == [""]
        assert len(late.copied.unreadable) == 1


def test_what_cannot_be_read_has_no_copy_and_is_told(model_scene: Scene) -> None:
    scene = model_scene
    scene.app.put(scene.key("cold"), b"cold", storage_class="GLACIER")
    scene.app.put(scene.key("sealed"), b"sealed", encryption="customer")
    scene.app.put(scene.key("there"), b"there")
    scene.scan()
    versions = list(State(scene.side.index, scene.moment(), scene.bucket.prefix).versions())
    with closing(CopyMemory(scene.folder / "memory")) as memory:
        copies = ContentCopies(scene.bucket, beside(scene, "kept"), memory)
        kept = list(copies.copied_versions(versions))
    assert [bool(one.copy) for one in kept] == [False, False, True]
    assert [("archive" in told, "customer" in told) for told in copies.copied.unreadable] == [
        (True, False),
        (False, True),
    ]
    assert PinCheck(scene.bucket, None).run(kept).counts[Found.ARCHIVED] == 1
