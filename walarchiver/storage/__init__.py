"""Object stores behind one port (walarchiver.ports.ObjectStore): S3, a folder, memory."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from walarchiver.errors import ConfigError
from walarchiver.ports import Clock, ObjectStore, Random
from walarchiver.storage.directory import DirectoryStore
from walarchiver.storage.memory import MemoryStore
from walarchiver.storage.options import S3Location, S3Options

__all__ = ["S3Location", "S3Options", "open_store"]


def open_store(url: str, *, s3: S3Options | None, clock: Clock, random: Random) -> ObjectStore:
    """The store at s3://BUCKET/PREFIX (with `s3`), file:///FOLDER or memory: (an empty one).

    The caller closes it. Raises ConfigError when url or options are wrong, StoreDenied when the
    folder or the credentials cannot be used.
    """
    scheme = urlsplit(url).scheme
    if scheme == "s3":
        from walarchiver.storage.s3 import S3Store  # botocore is loaded by those who need it

        return S3Store(S3Location.parse(url), s3 or S3Options(), clock, random)
    if scheme == "file":
        return DirectoryStore(_folder(url), clock, random)
    if url == "memory:":
        return MemoryStore(clock)
    raise ConfigError(f"{url!r} is neither s3://BUCKET/PREFIX nor file:///FOLDER")


def _folder(url: str) -> Path:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not path.is_absolute():
        raise ConfigError(f"{url!r} is not file:///FOLDER with the folder's absolute path")
    return path
