"""Scenarios: what a database refers to, looked up in the bucket as of the same moment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest

from restore.core.jointtext import CONSISTENT, INCONSISTENT, JointReport
from restore.core.references import Guard, Reference, Standing
from restore.joint import Compared, compare
from tests.kit.evidencescene import Scene
from walarchiver.core.version import StoreMs

GUARD = Guard.of(skew_low_ms=0, skew_high_ms=0, app_lag_ms=0)


def _compare(
    scene: Scene,
    moment: StoreMs,
    references: Iterable[Reference],
    *,
    guard: Guard = GUARD,
    deep: bool = False,
) -> tuple[JointReport, dict[str, Standing]]:
    compared = Compared(scene.side.index, scene.bucket, moment, guard, deep=deep)
    report = compare(compared, references)
    found = {finding.reference.key: finding.standing for finding in report.findings}
    return report, {key.removeprefix(scene.evidence.location.prefix): found[key] for key in found}


def test_three_present_one_deleted_and_one_that_never_was_are_told_apart(scene: Scene) -> None:
    """[scenario 10]"""
    for name in ("one", "two", "three", "deleted", "unreferenced"):
        scene.evidence.put(name, name.encode())
    scene.moment()
    scene.evidence.delete("deleted")
    moment = scene.moment()
    scene.scan()
    names = ("one", "two", "three", "deleted", "never")
    report, found = _compare(scene, moment, [Reference(scene.key(name)) for name in names])
    assert report.verdict == INCONSISTENT
    assert report.tally.standings[Standing.MATCH] == 3
    assert found == {"deleted": Standing.OLDER, "never": Standing.LOST}
    assert list(report.orphans) == [scene.key("unreferenced")]
    report, _ = _compare(scene, moment, [Reference(scene.key(name)) for name in names[:3]])
    assert report.verdict == CONSISTENT


def test_what_the_application_did_just_before_or_after_its_commit_is_found_within_the_guard(
    scene: Scene,
) -> None:
    """[scenario 10] An object stored late, one deleted early, one overwritten early: by content."""
    first, second = b"first", b"second"
    scene.evidence.put("early_delete", first)
    scene.evidence.put("mismatch", first)
    scene.moment()
    scene.evidence.delete("early_delete")
    scene.evidence.put("mismatch", second)
    moment = scene.moment()
    scene.evidence.put("late", first)
    scene.moment()
    scene.scan()
    etag = hashlib.md5(first).hexdigest()
    names = ("early_delete", "mismatch", "late")
    references = [Reference(scene.key(name), etag=etag, size=len(first)) for name in names]
    wide = Guard.of(skew_low_ms=0, skew_high_ms=0, app_lag_ms=60_000)
    report, found = _compare(scene, moment, references, guard=wide)
    assert report.verdict == CONSISTENT
    assert found == {name: Standing(name) for name in names}
    narrow, _ = _compare(scene, moment, references, guard=Guard(0, 0))
    assert narrow.verdict == INCONSISTENT


def test_a_version_that_the_database_names_is_found_though_the_key_was_overwritten(scene: Scene) -> None:
    """[scenario 11]"""
    named = scene.evidence.put("k", b"named")
    moment = scene.moment()
    scene.evidence.put("k", b"later")
    scene.evidence.delete("k")
    gone = scene.evidence.put("gone", b"1")
    scene.evidence.put("gone", b"2")
    scene.evidence.purge("gone", gone)
    scene.moment()
    scene.scan()
    references = [
        Reference(scene.key("k"), version_id=named),
        Reference(scene.key("gone"), version_id=gone),
    ]
    report, found = _compare(scene, moment, references)
    assert found == {"k": Standing.EXACT, "gone": Standing.LOST}
    assert report.verdict == INCONSISTENT
    exact = next(finding for finding in report.findings if finding.standing is Standing.EXACT)
    plan = scene.restores.plan(moment, wants=[exact.want])
    scene.restores.carry_out(plan)
    assert scene.content("k") == b"named"


@pytest.mark.parametrize("deep", [False, True])
def test_a_digest_is_proven_by_reading_the_bytes(model_scene: Scene, deep: bool) -> None:
    """[scenario 10] Other bytes of the same size: only `--deep` can tell."""
    model_scene.evidence.put("right", b"12345")
    model_scene.evidence.put("wrong", b"54321")
    moment = model_scene.moment()
    model_scene.scan()
    digest = hashlib.sha256(b"12345").hexdigest()
    references = [Reference(model_scene.key(name), sha256=digest, size=5) for name in ("right", "wrong")]
    model_scene.model.log.mark()
    report, found = _compare(model_scene, moment, references, deep=deep)
    assert (report.verdict == CONSISTENT) is not deep
    assert report.tally.unproven == (0 if deep else 2)
    assert bool(model_scene.model.log.body_reads()) is deep
    assert ("wrong" in found) is deep


def test_a_reference_that_the_listing_missed_is_asked_for_by_itself_before_it_counts_as_lost(
    model_scene: Scene,
) -> None:
    """[scenario 10] It was stored after the last listing began."""
    model_scene.scan()
    model_scene.evidence.put("new", b"1")
    moment = model_scene.moment()
    report, _ = _compare(model_scene, moment, [Reference(model_scene.key("new"))])
    assert report.verdict == CONSISTENT
    assert report.tally.standings[Standing.MATCH] == 1
