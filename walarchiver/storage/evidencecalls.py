"""Requests to the evidence bucket: one client, bounded, asked again while that may help.

Rules:
- Only our own errors come out. What may pass is asked again inside the budget of `retry.py`.
- A request that makes the store copy much may be answered late: it has a longer time limit.
- A listing's page is handed over as the bytes that came: botocore would sort versions and delete markers
  into two lists, and their order is what a history is made of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast

from walarchiver.core.version import StoreMs
from walarchiver.errors import StoreMisbehaves, StoreUnavailable
from walarchiver.ports import Clock, Random
from walarchiver.storage.botocoreerrors import LIBRARY_ERRORS
from walarchiver.storage.options import S3Location, S3Options
from walarchiver.storage.retry import Retrier
from walarchiver.storage.s3answers import explained
from walarchiver.storage.s3client import Reply, S3Calls, connected

Answer = TypeVar("Answer")

PATIENT_FROM_BYTES = 32 << 20
PATIENT_S = 900.0
"""A store that copies 5 GB at 6 MB/s is still waited for."""
_RAW = "WalarchiverBody"
_LISTINGS = ("ListObjectVersions", "ListObjectsV2")


class BucketCalls:
    """The client of one bucket and the way it is asked. Thread-safe."""

    def __init__(self, location: S3Location, options: S3Options, clock: Clock, random: Random) -> None:
        """Raises ConfigError for contradictory options, StoreDenied when there are no usable credentials."""
        self.location = location
        self.options = options
        self.clock = clock
        self.unsorted = False
        """Whether ListObjectsV2 was seen out of the order of bytes."""
        self._closing = threading.Event()
        self._retrier = Retrier(options.retry, clock, random, self._closing.wait, options.notice)
        self._slots = threading.BoundedSemaphore(options.pool_size)
        self.client: S3Calls = connected(options, clock)
        self._patient: S3Calls | None = None
        self._lock = threading.Lock()
        events = cast("Any", self.client.meta).events
        for listing in _LISTINGS:
            events.register_first(f"before-parse.s3.{listing}", _keep_body)

    def client_for(self, size: int) -> S3Calls:
        """The client for a request after which the store itself moves so many bytes before it answers."""
        if size < PATIENT_FROM_BYTES:
            return self.client
        with self._lock:
            if self._patient is None:
                limit_s = max(PATIENT_S, self.options.read_timeout_s)
                self._patient = connected(replace(self.options, read_timeout_s=limit_s), self.clock)
            return self._patient

    def asked(self, what: str, step: Callable[[], Answer]) -> Answer:
        """What `step` answers, asked again while that may help. Raises our own errors only."""
        return self.repeated(what, lambda: self.once(what, step))

    def repeated(self, what: str, step: Callable[[], Answer]) -> Answer:
        """What `step`, which asks with `once` itself, answers; repeated while it raises StoreUnavailable."""
        return self._retrier.run(f"{what} in {self.location.url}", step)

    def once(self, what: str, step: Callable[[], Answer]) -> Answer:
        """What `step` answers, asked once. Raises our own errors only."""
        where = f"{what} in {self.location.url}"
        with self._slot(where):
            try:
                return step()
            except LIBRARY_ERRORS as failure:
                raise explained(where, failure) from failure

    def request(self, key: str, version_id: str | None = None, **more: object) -> dict[str, object]:
        """The parameters that name an object, or a version of it."""
        named: dict[str, object] = {"Bucket": self.location.bucket, "Key": key, **more}
        if version_id is not None:
            named["VersionId"] = version_id
        return named

    def close(self) -> None:
        self._closing.set()
        self.client.close()
        with self._lock:
            if self._patient is not None:
                self._patient.close()

    @contextmanager
    def _slot(self, where: str) -> Iterator[None]:
        if self._closing.is_set():
            raise StoreUnavailable(f"{where}: the store was closed")
        if not self._slots.acquire(timeout=self.options.retry.budget_s):
            raise StoreUnavailable(f"{where}: all {self.options.pool_size} connections stayed busy")
        try:
            yield
        finally:
            self._slots.release()


def listing_body(reply: Reply) -> bytes:
    """The bytes of a listing's page."""
    body = reply.get(_RAW)
    assert isinstance(body, bytes), "a listing that succeeded"
    return body


def date_ms(reply: Reply) -> StoreMs | None:
    """The answer's Date header; None when there is none that can be read."""
    text = headers_of(reply).get("date")
    try:
        return None if text is None else StoreMs(int(parsedate_to_datetime(text).timestamp()) * 1000)
    except ValueError:
        return None


def needed_date_ms(reply: Reply, where: str) -> StoreMs:
    """The answer's Date header. Raises StoreMisbehaves."""
    found = date_ms(reply)
    if found is None:
        raise StoreMisbehaves(f"{where} does not say its time")
    return found


def headers_of(reply: Reply) -> dict[str, str]:
    """The answer's headers, by lower-case name."""
    meta = reply.get("ResponseMetadata")
    found = meta.get("HTTPHeaders") if isinstance(meta, dict) else None
    return {str(name).lower(): str(value) for name, value in (found or {}).items()}


def _keep_body(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Take the page away from botocore's own parser, unless it is an error told under status 200."""
    body = response_dict["body"]
    if response_dict["status_code"] == 200 and b"<Error" not in body[:512]:
        customized_response_dict[_RAW] = body
        response_dict["body"] = b"<Page/>"
