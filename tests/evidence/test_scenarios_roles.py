"""Scenarios: what each set of credentials may do, on a model that enforces deploy/policies as shipped.

SeaweedFS does not know the condition on `s3:if-none-match`; what else it enforces has tests in
tests/contracts/test_policies.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.chance import RealClock
from tests.kit.models3.fixtures import MakeModel, TestedModel
from tests.kit.models3.policy import DocumentRole, Role
from tests.simulation.world import World, name_of, segment_bytes, wal_file
from walarchiver.clock import SystemRandom
from walarchiver.errors import SegmentConflict, StoreDenied
from walarchiver.storage import S3Location
from walarchiver.storage.probe import probe_create_once
from walarchiver.storage.s3 import S3Store

POLICIES = Path(__file__).parents[2] / "deploy" / "policies"


@dataclass
class Backups:
    """The repository of the shipped policies: s3://backups/walarchiver."""

    model: TestedModel
    opened: ExitStack

    def store(self, access_key: str) -> S3Store:
        store = S3Store(
            S3Location.parse("s3://backups/walarchiver"),
            self.model.options(access_key),
            RealClock(),
            SystemRandom(),
        )
        self.opened.callback(store.close)
        return store

    def keys(self) -> list[str]:
        return [version.key for version in self.store("ADMIN").list_versions("")]


@pytest.fixture
def backups(make_model_s3: MakeModel) -> Iterator[Backups]:
    shipped = [
        DocumentRole.of(role.upper(), (POLICIES / f"{role}.json").read_text())
        for role in ("writer", "reader")
    ]
    model = make_model_s3(running=True, roles=[Role("ADMIN"), *shipped])
    model.app("backups")
    with ExitStack() as stack:
        yield Backups(model, stack)


def _world(backups: Backups) -> World:
    return World(plain_store=backups.store("ADMIN"))


def test_the_archiver_archives_and_reads_back_nothing_it_sealed(backups: Backups, tmp_path: Path) -> None:
    """[scenario 19]"""
    world = _world(backups)
    world.began()
    backups.model.log.mark()
    process = world.process(store=backups.store("WRITER"))
    names = [name_of(number) for number in (1, 2, 3)]
    process.archive(*(wal_file(tmp_path, name) for name in names))
    used = backups.model.log.of("PutObject", "GetObject", "DeleteObject")
    assert {one.access_key for one in used} == {"WRITER"}
    assert not [one for one in backups.model.log.body_reads() if "/wal/" in one.key and one.status == 200]
    reader = world.process(store=backups.store("READER"), identities=[world.identity()], write=False)
    reader.ledger.refresh()
    assert [reader.plain(name) for name in names] == [segment_bytes(name) for name in names]


def test_the_archiver_cannot_remove_hide_or_replace_anything_nor_read_a_body(
    backups: Backups, tmp_path: Path
) -> None:
    """[scenario 19]"""
    world = _world(backups)
    world.began()
    world.process(store=backups.store("WRITER")).archive(wal_file(tmp_path, name_of(1)))
    writer, raw = backups.store("WRITER"), backups.model.raw_client("WRITER")
    before = sorted(backups.keys())
    for version in list(writer.list_versions("")):
        with pytest.raises(StoreDenied):
            writer.delete_version(version.key, version_id=version.version_id)
        key = f"walarchiver/{version.key}"
        for refused in (
            lambda key=key: raw.delete_object(Bucket="backups", Key=key),
            lambda key=key: raw.put_object(Bucket="backups", Key=key, Body=b"another"),
            lambda key=key: raw.copy_object(
                Bucket="backups", Key=key, CopySource={"Bucket": "backups", "Key": key}
            ),
        ):
            with pytest.raises(raw.exceptions.ClientError) as raised:
                refused()
            assert raised.value.response["Error"]["Code"] == "AccessDenied"
        if "/wal/" in version.key:
            with pytest.raises(StoreDenied):
                writer.get(version.key, bytes_max=1 << 30)
    for configure in (
        lambda: raw.put_bucket_versioning(Bucket="backups", VersioningConfiguration={"Status": "Suspended"}),
        lambda: raw.put_bucket_lifecycle_configuration(
            Bucket="backups", LifecycleConfiguration={"Rules": []}
        ),
    ):
        with pytest.raises(raw.exceptions.ClientError):
            configure()
    assert sorted(backups.keys()) == before


def test_the_reader_changes_nothing(backups: Backups, tmp_path: Path) -> None:
    """[scenario 19]"""
    world = _world(backups)
    world.began()
    reader = backups.store("READER")
    before = sorted(backups.keys())
    with pytest.raises(StoreDenied):
        reader.put_new("v1/c/new", b"x")
    for version in list(reader.list_versions("")):
        reader.get(version.key, bytes_max=1 << 30)
        with pytest.raises(StoreDenied):
            reader.delete_version(version.key, version_id=version.version_id)
    assert sorted(backups.keys()) == before


def test_of_forty_writers_with_two_contents_one_is_recorded_and_the_others_are_refused(
    backups: Backups, tmp_path: Path
) -> None:
    """[scenario 20]"""
    world = _world(backups)
    world.began()
    name = name_of(7)
    paths = [wal_file(tmp_path / str(seed), name, seed=seed) for seed in (0, 1)]
    outcomes: list[tuple[int, str]] = []

    async def archive(writer: int) -> None:
        process = world.process(store=backups.store("WRITER"))
        try:
            async with process.archiving(threads=2) as archiver:
                await archiver.archive(name, paths[writer % 2])
            outcomes.append((writer % 2, "archived"))
        except SegmentConflict:
            outcomes.append((writer % 2, "refused"))

    async def all_of_them() -> None:
        for start in range(0, 40, 8):
            async with asyncio.TaskGroup() as group:
                for writer in range(start, start + 8):
                    group.create_task(archive(writer))

    asyncio.run(all_of_them())
    reader = world.process(store=backups.store("READER"), identities=[world.identity()], write=False)
    reader.ledger.refresh()
    recorded = reader.plain(name)
    first = [paths[0].read_bytes(), paths[1].read_bytes()].index(recorded)
    assert sorted(outcomes) == sorted([(first, "archived")] * 20 + [(1 - first, "refused")] * 20)


def test_a_store_that_ignores_conditions_is_found_out(make_model_s3: MakeModel, backups: Backups) -> None:
    """[scenario 21]"""
    careless = make_model_s3(ignores_conditions=True)
    careless.app("backups")
    for model, holds in ((careless, False), (backups.model, True)):
        store = Backups(model, backups.opened).store("ADMIN")
        store.put_new("v1/REPO", b"the record")
        assert probe_create_once(store, "v1/REPO", b"the record").create_once is holds
