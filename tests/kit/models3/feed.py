"""Event messages for every change, as a queue that S3 notifies holds them.

Source: User Guide, "Event message structure": keys are URL-encoded with `+`, `sequencer` orders the events of
one key (compare right-padded with zeros), delivery is at least once and in no order.
Rules:
- Every change makes one message; `drop`, `repeat` and `shuffle` are how a test spoils the delivery.
"""

from __future__ import annotations

import hashlib
import json
from random import Random
from urllib.parse import quote_plus, unquote_plus

from tests.kit.models3.clock import rfc3339
from tests.kit.models3.state import Happened

Message = dict[str, object]


class Feed:
    """The messages that were not received yet, in the order of the changes."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.happened: list[Happened] = []

    def tell(self, change: Happened) -> None:
        self.happened.append(change)
        body = json.dumps({"Records": [_record(change)]})
        number = len(self.happened)
        self.messages.append(
            {
                "MessageId": f"00000000-0000-4000-8000-{number:012x}",
                "ReceiptHandle": f"receipt-{number}",
                "MD5OfBody": hashlib.md5(body.encode()).hexdigest(),
                "Body": body,
                "Attributes": {"SentTimestamp": str(change.at_ms), "ApproximateReceiveCount": "1"},
            }
        )

    def bodies(self) -> list[str]:
        """The messages' texts, as `Records` JSON."""
        return [str(message["Body"]) for message in self.messages]

    def take(self, count: int = 10) -> list[Message]:
        """Receive and forget the first `count`."""
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken

    def drop(self, key: str | None = None) -> int:
        """Lose the messages of a key, or all; returns how many."""
        before = len(self.messages)
        self.messages = [one for one in self.messages if key is not None and key_of(one) != key]
        return before - len(self.messages)

    def repeat(self) -> None:
        """Deliver everything once more, at the end."""
        again = [{**one, "ReceiptHandle": f"{one['ReceiptHandle']}-again"} for one in self.messages]
        self.messages = self.messages + again

    def shuffle(self, seed: int) -> None:
        """Deliver in another order, decided by the seed."""
        Random(seed).shuffle(self.messages)


def key_of(message: Message) -> str:
    """The key as it stands in the message, decoded."""
    record = json.loads(str(message["Body"]))["Records"][0]
    return unquote_plus(record["s3"]["object"]["key"])


def _record(change: Happened) -> dict[str, object]:
    thing: dict[str, object] = {
        "key": quote_plus(change.key, safe="/"),
        "versionId": change.version_id,
        "sequencer": f"{0x0061000000000000 + change.order:016X}",
    }
    if change.name.startswith("ObjectCreated"):
        thing |= {"size": change.size, "eTag": change.etag}
    return {
        "eventVersion": "2.3",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": rfc3339(change.at_ms),
        "eventName": change.name,
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "model",
            "bucket": {"name": change.bucket, "arn": f"arn:aws:s3:::{change.bucket}"},
            "object": thing,
        },
    }
