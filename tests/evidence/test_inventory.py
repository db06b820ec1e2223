"""An index that begins with an inventory, as S3 writes it, equals one that was listed."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote_plus

import duckdb
import pytest

from tests.kit.chance import RealClock
from tests.kit.evidencescene import Scene
from walarchiver.bucketports import Ingested, KeyRange, Observation, VersionIndex
from walarchiver.clock import SystemRandom
from walarchiver.core.bucketfacts import scan_text
from walarchiver.core.version import Entry, EntryKind, StoreMs
from walarchiver.errors import ConfigError, MalformedObject, ObjectDamaged, UsageError
from walarchiver.evidence.inventory import parse_manifest, take_over
from walarchiver.evidence.inventoryplace import InventoryPlace
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.scanning import Scan
from walarchiver.storage import S3Options

CSV_SCHEMA = (
    "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass,"
    " IsMultipartUploaded"
)
PARQUET_SCHEMA = (
    "message s3.inventory {  required binary bucket (STRING);  required binary key (STRING);"
    "  optional binary version_id (STRING);  optional boolean is_latest;  optional boolean is_delete_marker;"
    "  optional int64 size;  optional int64 last_modified_date (TIMESTAMP(MILLIS,true));"
    "  optional binary e_tag (STRING);  optional binary storage_class (STRING);}"
)
Write = Callable[[list[Entry], Path], Path]


def _manifest(folder: Path, data: list[Path], *, schema: str, kind: str, bucket: str, begun: int) -> Path:
    path = folder / "2026-03-02T00-00Z" / "manifest.json"
    path.parent.mkdir()
    files = [
        {
            "key": f"inventory/evidence/all/data/{one.name}",
            "size": one.stat().st_size,
            "MD5checksum": hashlib.md5(one.read_bytes()).hexdigest(),
        }
        for one in data
    ]
    told = {
        "sourceBucket": bucket,
        "destinationBucket": "arn:aws:s3:::inventory",
        "version": "2016-11-30",
        "creationTimestamp": str(begun),
        "fileFormat": kind,
        "fileSchema": schema,
        "files": files,
    }
    path.write_text(json.dumps(told))
    return path


def _time(entry: Entry) -> str:
    return datetime.fromtimestamp(entry.modified / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def as_csv(entries: list[Entry], folder: Path, bucket: str = "evidence", begun: int = 1) -> Path:
    """In two files, in an order of S3's own."""
    data = folder / "data"
    data.mkdir()
    mixed = sorted(entries, key=lambda entry: hashlib.md5(entry.version_id.encode()).digest())
    paths = []
    for number in range(2):
        text = io.StringIO()
        lines = csv.writer(text, quoting=csv.QUOTE_ALL)
        for one in mixed[number::2]:
            is_marker = one.kind is EntryKind.MARKER
            key, size = quote_plus(one.key, safe="/"), "" if is_marker else one.size
            truths = (str(one.is_latest).lower(), str(is_marker).lower())
            facts = (size, _time(one), one.etag, one.storage_class, "")
            lines.writerow((bucket, key, one.version_id, *truths, *facts))
        paths.append(data / f"{number}.csv.gz")
        paths[-1].write_bytes(gzip.compress(text.getvalue().encode()))
    return _manifest(folder, paths, schema=CSV_SCHEMA, kind="CSV", bucket=bucket, begun=begun)


def as_parquet(entries: list[Entry], folder: Path, bucket: str = "evidence", begun: int = 1) -> Path:
    data = folder / "data"
    data.mkdir()
    path = data / "0.parquet"
    db = duckdb.connect()
    with closing(db):
        db.execute(
            "CREATE TABLE t (bucket VARCHAR, key VARCHAR, version_id VARCHAR, is_latest BOOLEAN,"
            " is_delete_marker BOOLEAN, size BIGINT, last_modified_date TIMESTAMPTZ, e_tag VARCHAR,"
            " storage_class VARCHAR)"
        )
        for one in reversed(entries):
            is_marker = one.kind is EntryKind.MARKER
            facts = (None if is_marker else one.size, _time(one), one.etag or None, one.storage_class or None)
            db.execute(
                "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?::TIMESTAMPTZ, ?, ?)",
                [bucket, one.key, one.version_id, one.is_latest, is_marker, *facts],
            )
        db.execute(f"COPY t TO '{path}' (FORMAT parquet)")
    return _manifest(folder, [path], schema=PARQUET_SCHEMA, kind="Parquet", bucket=bucket, begun=begun)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[VersionIndex]:
    with closing(open_index(tmp_path / "begun.sqlite")) as opened:
        yield opened


@pytest.fixture
def lived_in(model_scene: Scene) -> list[Entry]:
    """A bucket's entries, and what another prefix has, which is not ours."""
    app = model_scene.app
    for name in ("a", "b c+d/ü&%25?", 'quote"\n,', "z"):
        for _ in range(3):
            app.put(model_scene.key(name), b"x")
            app.server.clock.step(seconds=2)
    app.delete(model_scene.key("a"))
    app.put("elsewhere", b"x")
    return [entry for page in model_scene.evidence.open(prefix="").list_entries(KeyRange()) for entry in page]


def begin(scene: Scene, manifest: Path, index: VersionIndex) -> Ingested:
    place = InventoryPlace(manifest.as_uri(), S3Options(), RealClock(), SystemRandom())
    with closing(place):
        return take_over(
            parse_manifest(place.manifest()), place.fetch, scene.bucket, index, folder=scene.folder
        )


@pytest.mark.parametrize("write", [as_csv, as_parquet])
def test_the_index_is_that_of_a_listing(
    model_scene: Scene, lived_in: list[Entry], index: VersionIndex, write: Write, tmp_path: Path
) -> None:
    done = begin(model_scene, write(lived_in, tmp_path), index)
    assert (done.added, done.gone) == (13, 0)
    ours = {entry.key for entry in lived_in if entry.key != "elsewhere"}
    for key in ours:
        listed = [entry for entry in lived_in if entry.key == key]
        assert [row.placed.entry for row in index.history(key)] == listed
    assert index.history("elsewhere") == ()
    assert not [seen for seen in index.observations() if seen.kind == "scan"], "nothing is vouched for yet"
    scanned = Scan(model_scene.bucket, index).run()
    assert (scanned.added, scanned.gone, scanned.entries) == (0, 0, 13)


def test_what_went_for_ever_after_the_inventory_is_known_as_removed(
    model_scene: Scene, lived_in: list[Entry], index: VersionIndex, tmp_path: Path
) -> None:
    begin(model_scene, as_csv(lived_in, tmp_path), index)
    lost = next(entry for entry in lived_in if entry.key == model_scene.key("z"))
    model_scene.app.purge_version(lost.key, lost.version_id)
    model_scene.moment()
    assert Scan(model_scene.bucket, index).run().gone == 1
    assert [row.is_gone for row in index.history(lost.key)].count(True) == 1


def test_an_inventory_may_lie_in_a_bucket(
    model_scene: Scene, lived_in: list[Entry], index: VersionIndex, tmp_path: Path
) -> None:
    manifest = as_csv(lived_in, tmp_path)
    app = model_scene.model.app("inventory")
    app.put("inventory/evidence/all/2026-03-02T00-00Z/manifest.json", manifest.read_bytes())
    for one in (tmp_path / "data").iterdir():
        app.put(f"inventory/evidence/all/data/{one.name}", one.read_bytes())
    url = "s3://inventory/inventory/evidence/all/2026-03-02T00-00Z/manifest.json"
    with closing(InventoryPlace(url, model_scene.evidence.options, RealClock(), SystemRandom())) as place:
        manifest_read = parse_manifest(place.manifest())
        done = take_over(manifest_read, place.fetch, model_scene.bucket, index, folder=model_scene.folder)
    assert done.added == 13


def test_a_damaged_file_changes_nothing(
    model_scene: Scene, lived_in: list[Entry], index: VersionIndex, tmp_path: Path
) -> None:
    manifest = as_csv(lived_in, tmp_path)
    path = tmp_path / "data" / "1.csv.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ObjectDamaged):
        begin(model_scene, manifest, index)
    assert list(index.entries_there(KeyRange())) == []


def test_an_inventory_of_another_bucket_or_for_an_index_that_was_listed_is_refused(
    model_scene: Scene, lived_in: list[Entry], index: VersionIndex, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="not of 'evidence'"):
        begin(model_scene, as_csv(lived_in, tmp_path / "other", bucket="other"), index)
    index.observe(Observation(StoreMs(1), "scan", scan_text("", keys=1, entries=1)))
    with pytest.raises(UsageError, match="already"):
        begin(model_scene, as_csv(lived_in, tmp_path), index)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"fileFormat": "ORC"}, UsageError),
        ({"fileSchema": "Bucket, Key"}, UsageError),
        ({"files": 5}, MalformedObject),
        ({"files": [{"key": "x"}]}, MalformedObject),
        ({"creationTimestamp": "yesterday"}, MalformedObject),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    change: dict[str, object], fault: type[Exception], tmp_path: Path
) -> None:
    manifest = json.loads(as_csv([], tmp_path).read_bytes()) | change
    with pytest.raises(fault):
        parse_manifest(json.dumps(manifest).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff"])
def test_what_is_no_manifest_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedObject):
        parse_manifest(body)


def test_a_place_without_an_inventory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        InventoryPlace("https://host/manifest.json", S3Options(), RealClock(), SystemRandom())
    place = InventoryPlace((tmp_path / "manifest.json").as_uri(), S3Options(), RealClock(), SystemRandom())
    with pytest.raises(UsageError, match="No such file"):
        place.manifest()
