"""Where an inventory lies: in a bucket, or copied into a folder.

Rules:
- In a bucket the files are found by the keys of the manifest; in a folder by their last names, beside the
  manifest or in a `data` folder beside the manifest's own, as in the bucket.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from walarchiver.errors import ConfigError, UsageError
from walarchiver.evidence.inventory import FILE_BYTES_MAX, MANIFEST_BYTES_MAX, InventoryFile
from walarchiver.ports import Clock, ObjectStore, Random
from walarchiver.storage import S3Options, open_store

_HINT = "Name the manifest.json of an inventory that has its data files with it."


class InventoryPlace:
    """One inventory."""

    def __init__(self, url: str, options: S3Options, clock: Clock, random: Random) -> None:
        """`url` is that of manifest.json. Raises ConfigError, StoreDenied."""
        parts = urlsplit(url)
        self._url = url
        self._path = unquote(parts.path)
        self._store: ObjectStore | None = None
        if parts.scheme == "s3" and parts.netloc:
            self._store = open_store(f"s3://{parts.netloc}", s3=options, clock=clock, random=random)
        elif parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            raise ConfigError(f"{url!r} is neither s3://BUCKET/…/manifest.json nor file:///…/manifest.json")

    def manifest(self) -> bytes:
        """Raises UsageError, Store…."""
        if self._store is not None:
            return self._got(self._store, self._path.strip("/"), MANIFEST_BYTES_MAX)
        return self._read(Path(self._path))

    def fetch(self, one: InventoryFile) -> bytes:
        """The content of one file. Raises UsageError, Store…."""
        if self._store is not None:
            return self._got(self._store, one.key, FILE_BYTES_MAX)
        folder, name = Path(self._path).parent, Path(one.key).name
        beside = folder / name
        return self._read(beside if beside.exists() else folder.parent / "data" / name)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _got(self, store: ObjectStore, key: str, bytes_max: int) -> bytes:
        body = store.get(key, bytes_max=bytes_max)
        if body is None:
            raise UsageError(f"{key} is not in {store.url}", hint=_HINT)
        return body

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as failure:
            raise UsageError(f"{path}: {failure.strerror}", hint=_HINT) from failure
