"""Scenarios: what a database refers to, looked up in the bucket as of the same moment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest

import restore.joint
from restore.core.jointtext import CONSISTENT, INCONSISTENT, JointReport
from restore.core.references import Guard, Reference, Standing
from restore.joint import Compared, compare
from tests.kit.evidencescene import Scene
from walarchiver.cli.restorebucket import overrides_of
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
    scene.evidence.put("k", b"later")
    scene.evidence.delete("k")
    gone = scene.evidence.put("gone", b"1")
    scene.evidence.put("gone", b"2")
    scene.evidence.purge("gone", gone)
    moment = scene.moment()
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


def test_of_several_references_to_a_key_what_was_current_stays(model_scene: Scene) -> None:
    """A table of all versions of a document must not put an old one on top."""
    old = model_scene.evidence.put("k", b"old")
    model_scene.moment()
    new = model_scene.evidence.put("k", b"new")
    for name in ("twice", "thrice"):
        first = model_scene.evidence.put(name, b"first")
        model_scene.moment()
        second = model_scene.evidence.put(name, b"second")
        model_scene.evidence.delete(name)
        model_scene.named |= {f"{name} first": first, f"{name} second": second}
    moment = model_scene.moment()
    model_scene.scan()
    references = [Reference(model_scene.key("k"), version_id=each) for each in (old, new)]
    for name, order in (("twice", ("first", "second")), ("thrice", ("second", "first"))):
        ids = [model_scene.named[f"{name} {which}"] for which in order]
        references += [Reference(model_scene.key(name), version_id=each) for each in ids]
    report, _ = _compare(model_scene, moment, references)
    assert report.verdict == CONSISTENT
    wants = overrides_of(report, accept_older=False)
    chosen = {key: want.row.entry.version_id for key, want in wants.items() if want.row is not None}
    assert chosen == {
        model_scene.key(name): model_scene.named[f"{name} second"] for name in ("twice", "thrice")
    }


def test_many_references_that_stand_well_crowd_out_no_other(
    model_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore.joint, "LISTED_MAX", 2)
    references = [
        Reference(model_scene.key(f"plain{n}"), version_id=model_scene.evidence.put(f"plain{n}", b"1"))
        for n in range(3)
    ]
    for n in range(3):
        version = model_scene.evidence.put(f"deleted{n}", b"1")
        model_scene.evidence.delete(f"deleted{n}")
        references.append(Reference(model_scene.key(f"deleted{n}"), version_id=version))
    references.append(Reference(model_scene.key("lost")))
    moment = model_scene.moment()
    model_scene.scan()
    report, found = _compare(model_scene, moment, references)
    assert found == {"lost": Standing.LOST, "deleted0": Standing.EXACT, "deleted1": Standing.EXACT}
    assert (report.listed_all, report.unlisted_near) == (False, 1)


def test_bytes_are_read_although_the_database_names_the_version(model_scene: Scene) -> None:
    version = model_scene.evidence.put("k", b"12345")
    moment = model_scene.moment()
    model_scene.scan()
    for body, standing in ((b"12345", None), (b"54321", Standing.LOST)):
        digest = hashlib.sha256(body).hexdigest()
        references = [Reference(model_scene.key("k"), version_id=version, sha256=digest)]
        report, found = _compare(model_scene, moment, references, deep=True)
        assert (report.read_objects, found.get("k")) == (1, standing)


def test_a_version_removed_since_the_listing_does_not_pass_for_one_that_cannot_be_read(
    model_scene: Scene,
) -> None:
    version = model_scene.evidence.put("k", b"1")
    model_scene.evidence.put("k2", b"1")
    moment = model_scene.moment()
    model_scene.scan()
    model_scene.evidence.purge("k", version)
    digest = hashlib.sha256(b"1").hexdigest()
    references = [Reference(model_scene.key(name), sha256=digest) for name in ("k", "k2")]
    report, found = _compare(model_scene, moment, references, deep=True)
    assert found == {"k": Standing.LOST}
    assert report.verdict == INCONSISTENT


def test_a_key_outside_of_what_is_watched_is_not_said_to_have_never_been(model_scene: Scene) -> None:
    moment = model_scene.moment()
    model_scene.scan()
    report, _ = _compare(model_scene, moment, [Reference("elsewhere")])
    assert report.verdict == INCONSISTENT
    assert "outside of" in report.findings[0].reason
