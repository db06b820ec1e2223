"""`walarchiver verify`: every recorded byte is read again, and what is damaged is named with its reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.gaps import lose_segment
from tests.integration.scene import Json, Scene, Scenes, Told
from tests.kit.chance import RealClock
from tests.kit.postgres import seldom
from walarchiver.assembly import Archive
from walarchiver.core.lsn import parse_lsn
from walarchiver.core.segment import Segment
from walarchiver.errors import StoreUnavailable
from walarchiver.operate.inventory import inventory
from walarchiver.operate.verify import Progress, VerifyRequest, verify
from walarchiver.operate.verifyjournal import AGE_US_MAX, Journal
from walarchiver.ports import ObjectStore


def file_of(scene: Scene, key: str) -> Path:
    """Where a file store keeps an object's bytes."""
    found = [path for path in (scene.stage.folder / "repository").rglob(Path(key).name) if path.is_file()]
    assert len(found) == 1, found
    return found[0]


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(body)


def told(scene: Scene, *words: str, config: Path | None = None) -> Told:
    return scene.call("verify", "--output", "json", *words, config=config)


def damage(answer: Told) -> dict[str, Json]:
    return {one["name"]: one for one in answer.json["damaged"]}


@pytest.mark.usefixtures("major")
@pytest.mark.parametrize("major", [18, *seldom(15)], indirect=True)
def test_an_unharmed_archive_verifies_with_and_without_keys(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.archive_all()
    answer = told(scene)
    assert answer.exit_status == 0, answer.stderr
    archive = scene.open()
    items = list(inventory(archive.catalog, archive.system))
    assert answer.json["items"] == len(items)
    assert answer.json["bytes"] == sum(one.stored_len for item in items for one in item.objects)
    assert answer.json["damaged"] == []
    deep = told(scene, "--deep", config=scene.reader())
    assert deep.exit_status == 0, deep.stderr
    assert deep.json["items"] == len(items)
    keyless = told(scene, "--deep")
    assert keyless.exit_status == 12
    assert "every recorded byte is there" in scene.call("verify").stdout


def test_damage_is_named_with_what_it_affects_and_the_rest_is_read_too(scenes: Scenes) -> None:
    scene = scenes.make()
    (backup,) = scene.json("backup")["backups"]
    last = scene.archive_all()
    gone = scene.archive_all()
    catalog = scene.open().catalog
    segment, missing = catalog.file(last), catalog.file(gone)
    assert segment is not None
    assert missing is not None
    part = catalog.backup_parts(backup["id"])[0]
    flip(file_of(scene, segment.objects[0].key))
    file_of(scene, missing.objects[0].key).unlink()
    flip(file_of(scene, part.object.key))
    for words, config in (((), None), (("--deep",), scene.reader())):
        answer = told(scene, *words, config=config)
        assert answer.exit_status == 15
        found = damage(answer)
        assert found.keys() == {last, gone, f"{backup['id']} part 0"}
        assert found[last]["code"] == "WA-OBJECT-DAMAGED"
        assert found[last]["objects"] == [segment.objects[0].key]
        assert f"from base backup {backup['id']} nothing at or behind" in found[last]["affects"]
        assert found[gone]["code"] == "WA-OBJECT-MISSING"
        assert (
            found[f"{backup['id']} part 0"]["affects"]
            == f"no restore can begin with base backup {backup['id']}"
        )
    text = scene.call("verify").stdout
    assert segment.objects[0].key in text
    (later,) = scene.json("backup")["backups"]
    scene.archive_all()
    assert f"base backup {later['id']} makes moments from" in damage(told(scene))[last]["affects"]


def test_wal_inside_a_backup_and_its_key_object_are_understood(scenes: Scenes) -> None:
    scene = scenes.make()
    (backup,) = scene.json("backup")["backups"]
    scene.archive_all()
    archive = scene.open()
    start = Segment.at(1, parse_lsn(backup["start_lsn"]), archive.segment_size).name(archive.segment_size)
    record = archive.catalog.file(start)
    assert record is not None
    flip(file_of(scene, record.objects[0].key))
    epochs = archive.catalog.names("epoch")
    for path in (scene.stage.folder / "repository").rglob(f"{epochs[0]}.0000.json"):
        path.unlink()
    answer = told(scene)
    assert answer.exit_status == 15
    found = damage(answer)
    assert found[start]["affects"].startswith(f"base backup {backup['id']} cannot be restored at all")
    assert (
        found[f"epoch key {epochs[0]}"]["affects"] == "nothing that was archived with this key can be opened"
    )


def test_missing_wal_is_degraded_and_named(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.archive_all()
    lost = lose_segment(scene)
    scene.archive_all()
    answer = told(scene)
    assert answer.exit_status == 3
    assert answer.json["gaps"] == [{"first": lost, "last": lost}]
    assert answer.json["damaged"] == []
    assert f"WAL is missing from {lost} to {lost}" in scene.call("verify").stdout


def test_a_version_that_hides_the_genuine_one_is_no_damage(scenes: Scenes) -> None:
    scene = scenes.make(store="s3")
    scene.json("backup")
    last = scene.archive_all()
    record = scene.open().catalog.file(last)
    assert record is not None
    key = record.objects[0].key
    s3 = scenes.s3()
    bucket, _, prefix = scene.stage.url.removeprefix("s3://").partition("/")
    place = {"Bucket": bucket, "Key": f"{prefix}/{key}"}
    s3.raw_client().put_object(**place, Body=b"something else")
    assert told(scene).exit_status == 0
    s3.raw_client().delete_object(**place)
    assert told(scene).exit_status == 0
    store = scene.open().repository.store
    for version in list(store.list_versions(key)):
        store.delete_version(key, version_id=version.version_id)
    answer = told(scene)
    assert answer.exit_status == 15
    assert damage(answer)[last]["code"] == "WA-OBJECT-MISSING"


# --- going on ------------------------------------------------------------------------------------


@dataclass
class Failing:
    """A store that is down from some read on."""

    store: ObjectStore
    reads_left: int
    read: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.store.url

    def get(self, key: str, *, version_id: str | None = None, bytes_max: int) -> bytes | None:
        if self.reads_left == 0:
            raise StoreUnavailable("the store is down")
        self.reads_left -= 1
        self.read.append(key)
        return self.store.get(key, version_id=version_id, bytes_max=bytes_max)

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)


def attempt(archive: Archive, path: Path, *, deep: bool = False, restart: bool = False) -> Json:
    """One run on one thread; what it counted."""
    journal = Journal(path, deep=deep, clock=RealClock(), restart=restart)
    seen: list[Progress] = []
    found = verify(
        archive,
        VerifyRequest(
            deep=deep, workers=1, memory=1, journal=journal, clock=RealClock(), progress=seen.append
        ),
    )
    journal.finish()
    return {"items": found.items, "skipped": found.skipped, "damaged": found.damaged}


def test_an_interrupted_run_goes_on_where_it_stopped(scenes: Scenes, tmp_path: Path) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.archive_all()
    archive = scene.open()
    total = len(list(inventory(archive.catalog, archive.system)))
    path = tmp_path / "verify" / "run.journal"
    genuine = archive.repository.store
    failing = Failing(genuine, 4)
    archive.repository.store = failing  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        attempt(archive, path)
    done = len(path.read_text().splitlines()) - 1
    assert 1 <= done <= 4
    again = Failing(genuine, 10_000)
    archive.repository.store = again  # type: ignore[assignment]
    with path.open("a") as file:
        file.write("0123abcd")  # torn by a power cut
    found = attempt(archive, path)
    assert found == {"items": total, "skipped": done, "damaged": []}
    assert not path.exists()
    assert len(again.read) == total - done
    assert attempt(archive, path)["skipped"] == 0


def test_a_journal_of_another_kind_or_too_old_is_not_believed(tmp_path: Path) -> None:
    clock = RealClock()
    path = tmp_path / "run.journal"

    def leave(deep: bool = False) -> None:
        with Journal(path, deep=deep, clock=clock, restart=True) as journal:
            journal.remember("0" * 16)

    leave()
    assert Journal(path, deep=False, clock=clock).done == {"0" * 16}
    assert not Journal(path, deep=True, clock=clock).resumed
    assert not Journal(path, deep=False, clock=clock, restart=True).resumed
    later = RealClock()
    later.now_us = lambda: clock.now_us() + AGE_US_MAX + 1_000_000  # type: ignore[method-assign]
    assert not Journal(path, deep=False, clock=later).resumed
    path.write_text("not a journal\n")
    assert not Journal(path, deep=False, clock=clock).resumed
    with Journal(tmp_path / "file" / "x", deep=False, clock=clock) as journal:
        journal.remember("1" * 16)
    (tmp_path / "taken").write_text("")
    with Journal(tmp_path / "taken" / "x", deep=False, clock=clock) as journal:
        journal.remember("1" * 16)
    assert journal.done == {"1" * 16}
