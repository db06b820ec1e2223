"""Messages of an SQS queue (botocore), for the notifications of a bucket.

Source: Amazon SQS API, ReceiveMessage, DeleteMessageBatch, GetQueueAttributes.
Rules:
- What was received and not deleted comes again after the time for which it is hidden.
- What is no notification goes into a file here before it leaves the queue.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from walarchiver.bucketports import FeedMessage
from walarchiver.errors import ConfigError, StoreMisbehaves, StoreUnavailable
from walarchiver.ports import Clock, Random
from walarchiver.storage.botocoreerrors import LIBRARY_ERRORS
from walarchiver.storage.options import S3Options
from walarchiver.storage.retry import Retrier
from walarchiver.storage.s3answers import explained
from walarchiver.storage.s3client import Reply, connected_to

_HIDDEN_S = 900
_WAIT_S = 2
_AT_ONCE = 10
_HOST_REGION = re.compile(r"sqs[.-]([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")


class SqsCalls(Protocol):
    """The requests we make."""

    def receive_message(self, **request: object) -> Reply: ...
    def delete_message_batch(self, **request: object) -> Reply: ...
    def get_queue_attributes(self, **request: object) -> Reply: ...
    def close(self) -> None: ...


class SqsFeed:
    """One queue. Not for several threads at once."""

    def __init__(self, url: str, options: S3Options, clock: Clock, random: Random, *, aside: Path) -> None:
        """`options` say how credentials, CA and retries are; `aside` is a file for what is no notification.

        Raises ConfigError, StoreDenied.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.strip("/"):
            raise ConfigError(f"{url!r} is not the URL of an SQS queue")
        region = _HOST_REGION.fullmatch(parts.hostname)
        self._url = url
        self._aside = aside
        self._closing = threading.Event()
        self._retrier = Retrier(options.retry, clock, random, self._closing.wait, options.notice)
        self._client: SqsCalls = connected_to(
            "sqs",
            options,
            clock,
            endpoint=f"{parts.scheme}://{parts.netloc}",
            region=region[1] if region else options.region,
        )

    @property
    def name(self) -> str:
        return self._url

    def take(self) -> tuple[FeedMessage, ...]:
        reply = self._asked(
            "receive messages",
            self._client.receive_message,
            MaxNumberOfMessages=_AT_ONCE,
            WaitTimeSeconds=_WAIT_S,
            VisibilityTimeout=_HIDDEN_S,
        )
        found = reply.get("Messages")
        return tuple(
            FeedMessage(str(one["ReceiptHandle"]), str(one.get("Body", "")))
            for one in (found if isinstance(found, list) else [])
        )

    def done(self, messages: Iterable[FeedMessage]) -> None:
        waiting = [message.handle for message in messages]
        for start in range(0, len(waiting), _AT_ONCE):
            entries = [
                {"Id": str(number), "ReceiptHandle": handle}
                for number, handle in enumerate(waiting[start : start + _AT_ONCE])
            ]
            # One that could not be deleted comes again, and the listing of its key says the same again.
            self._asked("delete messages", self._client.delete_message_batch, Entries=entries)

    def put_aside(self, message: FeedMessage, reason: str) -> None:
        try:
            self._aside.parent.mkdir(parents=True, exist_ok=True)
            with self._aside.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps({"reason": reason, "Body": message.text}) + "\n")
        except OSError as failure:
            raise StoreUnavailable(f"{self._aside}: {failure.strerror}") from failure
        self.done([message])

    def kept_ms(self) -> int | None:
        reply = self._asked(
            "ask for the queue's settings",
            self._client.get_queue_attributes,
            AttributeNames=["MessageRetentionPeriod"],
        )
        found = reply.get("Attributes")
        text = found.get("MessageRetentionPeriod") if isinstance(found, Mapping) else None
        if not isinstance(text, str) or not text.isdecimal():
            raise StoreMisbehaves(f"{self._url} does not say how long it keeps messages")
        return int(text) * 1000

    def close(self) -> None:
        self._closing.set()
        self._client.close()

    def _asked(self, what: str, call: object, **request: object) -> Reply:
        where = f"{what} of {self._url}"

        def attempt() -> Reply:
            assert callable(call)
            try:
                reply: Reply = call(QueueUrl=self._url, **request)
            except LIBRARY_ERRORS as failure:
                raise explained(where, failure) from failure
            return reply

        return self._retrier.run(where, attempt)
