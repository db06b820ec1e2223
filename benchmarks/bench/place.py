"""Where a benchmark plays: one folder, an S3 server over TLS on loopback, and a bucket in it.

Rules:
- Everything lies below one new folder that is removed at the end, whatever happens.
- Every run of a client gets a work folder and a prefix of its own.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from walarchiver.clock import SystemClock, SystemRandom
from walarchiver.demo.stage import Stage
from walarchiver.embedded.binaries import weed_binary
from walarchiver.embedded.seaweed import SeaweedServer
from walarchiver.storage import open_store

BUCKET = "bench"
REGION = "us-east-1"


@dataclass(slots=True)
class Place:
    """A folder and a store."""

    folder: Path
    server: SeaweedServer
    hook: Path
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def work(self, label: str) -> Path:
        """A new, empty folder; its name is a fresh prefix too, and short, for sockets lie in it."""
        folder = self.folder / f"{label}{next(self._numbers)}"
        folder.mkdir()
        folder.chmod(0o755)
        return folder

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    @property
    def port(self) -> int:
        return urlsplit(self.endpoint).port or 443

    @property
    def ca_file(self) -> Path:
        found = self.server.ca_file
        assert found is not None
        return found

    @property
    def store_pid(self) -> int:
        pid = self.server.pid
        assert pid is not None
        return pid

    def secrets(self) -> tuple[str, str]:
        """Access key and secret key of who may do everything."""
        told = tomllib.loads(self.server.credentials_file.read_text())
        return told["access_key_id"], told["secret_access_key"]

    def stored(self, prefix: str) -> tuple[int, int]:
        """Bytes and number of objects below a prefix."""
        store = open_store(
            f"s3://{BUCKET}", s3=self.server.options(), clock=SystemClock(), random=SystemRandom()
        )
        try:
            sizes = [one.size for one in store.list_keys(f"{prefix}/")]
        finally:
            store.close()
        return sum(sizes), len(sizes)


@contextmanager
def opened(parent: Path | None) -> Iterator[Place]:
    """A place, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="wab-", dir=parent))
    folder.chmod(0o755)
    try:
        with SeaweedServer(weed_binary(), folder / "s3", SystemClock(), SystemRandom(), tls=True) as server:
            server.make_bucket(BUCKET, versioned=False)
            stage = Stage(folder, "file:///unused")
            stage.install_hook()
            yield Place(folder, server, stage.hook)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
