"""The application that uses the bucket: what tests let it do, at times they choose, without HTTP."""

from __future__ import annotations

from typing import Any

from tests.kit.models3.bodies import Body
from tests.kit.models3.clock import at
from tests.kit.models3.entries import LifecycleRule, Properties, Stored, Upload
from tests.kit.models3.purging import purge
from tests.kit.models3.server import ModelS3


class App:
    """Writes to one bucket of a model server. `when` sets the server's clock before (RFC 3339)."""

    def __init__(self, server: ModelS3, bucket: str) -> None:
        self.server = server
        self.bucket = bucket

    def put(self, key: str, content: bytes | Body = b"", when: str | None = None, **props: Any) -> Stored:
        self._go_to(when)
        body = content if isinstance(content, Body) else Body.of(content)
        return self.server.state.put(self.bucket, key, body, Properties(**props))

    def delete(self, key: str, when: str | None = None) -> Stored | None:
        self._go_to(when)
        return self.server.state.delete(self.bucket, key)

    def purge_version(self, key: str, version_id: str, when: str | None = None) -> Stored | None:
        """Remove one version or marker for ever."""
        self._go_to(when)
        return self.server.state.delete_version(self.bucket, key, version_id)

    def start_upload(self, key: str, when: str | None = None, **props: Any) -> Upload:
        self._go_to(when)
        return self.server.uploads.start(self.bucket, key, Properties(**props))

    def finish_upload(self, upload: Upload, *contents: bytes | Body, when: str | None = None) -> Stored:
        self._go_to(when)
        listed = []
        for number, content in enumerate(contents, start=1):
            body = content if isinstance(content, Body) else Body.of(content)
            part = self.server.uploads.add_part(self.bucket, upload.key, upload.upload_id, number, body)
            listed.append((number, part.etag))
        return self.server.uploads.complete(self.bucket, upload.key, upload.upload_id, listed)

    def set_versioning(self, status: str, when: str | None = None) -> None:
        self._go_to(when)
        self.server.state.set_versioning(self.bucket, status)

    def set_lifecycle(self, *rules: LifecycleRule) -> None:
        self.server.state.bucket(self.bucket).lifecycle = list(rules)

    def run_lifecycle(self, when: str | None = None) -> list[Stored]:
        self._go_to(when)
        return purge(self.server.state, self.bucket)

    def history(self, key: str) -> list[Stored]:
        """Newest first."""
        return self.server.state.bucket(self.bucket).history(key)

    def current(self, key: str) -> Stored | None:
        return self.server.state.bucket(self.bucket).current(key)

    def current_keys(self) -> list[str]:
        bucket = self.server.state.bucket(self.bucket)
        return [key for key in bucket.keys if bucket.current(key) is not None]

    def entry_count(self) -> int:
        """Versions and markers of all keys."""
        return sum(len(history) for history in self.server.state.bucket(self.bucket).entries.values())

    def _go_to(self, when: str | None) -> None:
        if when is not None:
            self.server.clock.now_ms = at(when)
