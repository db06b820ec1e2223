"""The queue that the bucket's notifications lie in, as SQS answers for it.

Source: Amazon SQS API Reference, ReceiveMessage, DeleteMessageBatch, GetQueueAttributes (AWS JSON protocol).
Rules:
- A received message is hidden for its time on the model's clock, and comes again unless it was deleted.
- What is older than the retention period is gone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tests.kit.models3.clock import ModelClock
from tests.kit.models3.feed import Feed
from tests.kit.models3.wire import Call, Reply

TARGET = "AmazonSQS."
FOUR_DAYS_S = 345_600


@dataclass
class Queue:
    """See the module; the messages are those of `feed`."""

    feed: Feed
    clock: ModelClock
    kept_s: int = FOUR_DAYS_S
    _hidden_until: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def is_for(call: Call) -> bool:
        return (call.header("x-amz-target") or "").startswith(TARGET)

    def answer(self, call: Call) -> Reply:
        """What SQS says."""
        asked = json.loads(call.body)
        match (call.header("x-amz-target") or "").removeprefix(TARGET):
            case "ReceiveMessage":
                told = self._receive(asked)
            case "DeleteMessageBatch":
                told = self._delete(asked)
            case "GetQueueAttributes":
                told = {"Attributes": {"MessageRetentionPeriod": str(self.kept_s)}}
            case other:
                told = {"__type": "com.amazonaws.sqs#UnsupportedOperation", "message": other}
                return Reply(400, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(told).encode())
        return Reply(200, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(told).encode())

    def _receive(self, asked: dict[str, int]) -> dict[str, object]:
        now = self.clock.now_ms
        self.feed.messages = [one for one in self.feed.messages if now < _sent(one) + self.kept_s * 1000]
        waiting = [one for one in self.feed.messages if self._hidden_until.get(_handle(one), 0) <= now]
        taken = waiting[: asked.get("MaxNumberOfMessages", 1)]
        for message in taken:
            self._hidden_until[_handle(message)] = now + asked.get("VisibilityTimeout", 30) * 1000
        return {"Messages": taken} if taken else {}

    def _delete(self, asked: dict[str, list[dict[str, str]]]) -> dict[str, object]:
        done = {entry["ReceiptHandle"] for entry in asked["Entries"]}
        self.feed.messages = [one for one in self.feed.messages if _handle(one) not in done]
        return {"Successful": [{"Id": entry["Id"]} for entry in asked["Entries"]], "Failed": []}


def _handle(message: dict[str, object]) -> str:
    return str(message["ReceiptHandle"])


def _sent(message: dict[str, object]) -> int:
    attributes = message["Attributes"]
    assert isinstance(attributes, dict)
    return int(attributes["SentTimestamp"])
