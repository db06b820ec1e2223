"""Amazon S3 Inventory as the beginning of an index: what a store wrote down of itself, instead of a listing.

Source: Amazon S3 User Guide, "Amazon S3 Inventory", "Inventory lists" (manifest.json, fileSchema, CSV with
names in URL encoding, Parquet without).
Rules:
- An inventory is a rolling snapshot: recent objects may be missing, and deleted ones still be there. So it is
  taken over into an empty index only, for the time at which it was begun, and it is no `scan`: nothing is
  vouched for before a complete scan was made. That scan then finds the index nearly right, and what was
  removed for ever in between is known as removed.
- The order within one second is not in it; of such entries the one called the latest comes first.
- Files are compared with the length and MD5 of the manifest, and read by DuckDB, which sorts on disk.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from walarchiver.bucketports import EvidenceBucket, Ingested, VersionIndex
from walarchiver.core.version import NULL_VERSION, Entry, EntryKind, StoreMs
from walarchiver.errors import MalformedObject, ObjectDamaged, UsageError
from walarchiver.evidence.sharding import below
from walarchiver.storage.evidencelisting import decoded, instant_ms

MANIFEST_BYTES_MAX = 64 << 20
FILE_BYTES_MAX = 4 << 30
_FETCH = 10_000
_NEEDED = ("key", "version_id", "is_latest", "is_delete_marker", "size", "last_modified_date", "e_tag")
_CSV_NAMES = {
    "Key": "key",
    "VersionId": "version_id",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size",
    "LastModifiedDate": "last_modified_date",
    "ETag": "e_tag",
    "StorageClass": "storage_class",
}
_HINT = "Set the inventory up for all versions, with size, last modified date and ETag, as CSV or Parquet."


@dataclass(frozen=True, slots=True)
class InventoryFile:
    """One of the files that an inventory consists of."""

    key: str
    size: int
    md5: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an inventory's manifest.json says."""

    bucket: str
    begun: StoreMs
    is_parquet: bool
    columns: tuple[str, ...]
    files: tuple[InventoryFile, ...]


def parse_manifest(body: bytes) -> Manifest:
    """Raises MalformedObject, or UsageError for an inventory that cannot be used."""
    try:
        found = json.loads(body)
        manifest = Manifest(
            bucket=str(found["sourceBucket"]),
            begun=StoreMs(int(found["creationTimestamp"])),
            is_parquet=found["fileFormat"] == "Parquet",
            columns=_columns(str(found["fileSchema"]), str(found["fileFormat"])),
            files=tuple(
                InventoryFile(str(one["key"]), int(one["size"]), str(one["MD5checksum"]))
                for one in found["files"]
            ),
        )
    except (ValueError, TypeError, KeyError) as fault:
        raise MalformedObject(f"this is no manifest of an inventory: {fault}") from fault
    missing = [name for name in _NEEDED if name not in manifest.columns]
    if missing:
        raise UsageError(f"the inventory has no {', '.join(missing)}", hint=_HINT)
    return manifest


def take_over(
    manifest: Manifest,
    fetch: Callable[[InventoryFile], bytes],
    bucket: EvidenceBucket,
    index: VersionIndex,
    *,
    folder: Path,
) -> Ingested:
    """Begin an empty index with an inventory; its files lie in `folder` meanwhile.

    Raises UsageError for another bucket's, or when the index is not empty; ObjectDamaged, MalformedObject.
    """
    if manifest.bucket != bucket.name:
        raise UsageError(f"the inventory is of {manifest.bucket!r}, not of {bucket.name!r}")
    if any(seen.kind == "scan" for seen in index.observations()):
        raise UsageError(
            "the index knows a complete listing already",
            hint="An inventory is only a beginning: scan instead.",
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix="inventory-") as place:
        paths = [_fetched(one, fetch, Path(place) / str(n)) for n, one in enumerate(manifest.files)]
        entries = _entries(manifest, paths, bucket.prefix, Path(place))
        return index.ingest(below(bucket.prefix), entries, asked=manifest.begun)


def _columns(schema: str, file_format: str) -> tuple[str, ...]:
    if file_format == "CSV":
        return tuple(_CSV_NAMES.get(name.strip(), f"other_{n}") for n, name in enumerate(schema.split(",")))
    if file_format == "Parquet":
        return tuple(re.findall(r"(?:required|optional)\s+\w+\s+(\w+)", schema))
    raise UsageError(f"the inventory's format is {file_format[:20]!r}", hint=_HINT)


def _fetched(one: InventoryFile, fetch: Callable[[InventoryFile], bytes], path: Path) -> Path:
    body = fetch(one)
    if len(body) != one.size or hashlib.md5(body, usedforsecurity=False).hexdigest() != one.md5.lower():
        raise ObjectDamaged(f"{one.key} is not what the inventory's manifest says")
    path.write_bytes(body)
    return path


def _entries(manifest: Manifest, paths: list[Path], prefix: str, folder: Path) -> Iterator[Entry]:
    if not paths:
        return
    has_class = "storage_class" in manifest.columns
    names = [*_NEEDED, "storage_class" if has_class else "'' AS storage_class"]
    if manifest.is_parquet:
        names[_NEEDED.index("last_modified_date")] = "epoch_ms(last_modified_date)"
    wanted = ", ".join(names)
    with _reading(folder) as db:
        cursor = db.execute(
            f"SELECT {wanted} FROM {_source(manifest)} "  # noqa: S608  names of columns that we know
            "ORDER BY key, last_modified_date DESC, is_latest DESC",
            [[str(path) for path in paths]],
        )
        while rows := cursor.fetchmany(_FETCH):
            for row in rows:
                entry = _entry(dict(zip((*_NEEDED, "storage_class"), row, strict=True)), manifest)
                if entry.key.startswith(prefix):
                    yield entry


def _source(manifest: Manifest) -> str:
    if manifest.is_parquet:
        return "read_parquet(?)"
    names = ", ".join(f"'{name}': 'VARCHAR'" for name in manifest.columns)
    return (
        "read_csv(?, header=false, auto_detect=false, delim=',', quote='\"', escape='\"', compression='gzip',"
        f" columns={{{names}}})"
    )


@contextmanager
def _reading(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    db = duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "memory_limit": "512MB",
            "temp_directory": str(folder),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    try:
        yield db
    except duckdb.Error as cause:
        raise MalformedObject(f"the inventory cannot be read: {str(cause).splitlines()[0]}") from cause
    finally:
        db.close()


def _entry(row: Mapping[str, object], manifest: Manifest) -> Entry:
    is_marker = _truth(row["is_delete_marker"])
    key = _text(row["key"])
    modified = _instant(row["last_modified_date"])
    if not key or modified is None:
        raise MalformedObject("a line of the inventory has no key or no time")
    try:
        key = key if manifest.is_parquet else decoded(key)
        size = 0 if is_marker else int(str(row["size"] or 0))
    except ValueError as fault:
        raise MalformedObject(f"a line of the inventory has {fault}") from fault
    return Entry(
        key=key,
        version_id=_text(row["version_id"]) or NULL_VERSION,
        kind=EntryKind.MARKER if is_marker else EntryKind.VERSION,
        modified=modified,
        size=size,
        etag="" if is_marker else _text(row["e_tag"]).strip('"'),
        storage_class="" if is_marker else _text(row["storage_class"]),
        is_latest=_truth(row["is_latest"]),
    )


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else "" if value is None else str(value)


def _truth(value: object) -> bool:
    return str(value).lower() == "true"


def _instant(value: object) -> StoreMs | None:
    """CSV has ISO 8601; of Parquet's timestamp we have milliseconds."""
    return StoreMs(value) if isinstance(value, int) else instant_ms(_text(value))
