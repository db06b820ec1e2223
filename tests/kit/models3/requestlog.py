"""Every request that the server got, and questions about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.kit.models3.wire import READS_BODIES, WRITES, Call


@dataclass
class Logged:
    """One request and how it was answered."""

    number: int
    at_ms: int
    call: Call = field(repr=False)
    operation: str = ""
    bucket: str = ""
    key: str = ""
    version_id: str | None = None
    access_key: str = ""
    status: int = 0
    """0: no answer was sent."""
    fault: str = ""

    @property
    def writes(self) -> bool:
        """Whether it is one that changes something, were it carried out or not."""
        return self.operation in WRITES

    @property
    def reads_body(self) -> bool:
        return self.operation in READS_BODIES


class RequestLog:
    """The requests in the order they came; `mark` starts a new stretch."""

    def __init__(self) -> None:
        self.all: list[Logged] = []
        self._marked = 0

    def __iter__(self) -> Iterator[Logged]:
        """Those since the last mark."""
        return iter(self.all[self._marked :])

    def mark(self) -> None:
        """Forget, for the questions below, what came before."""
        self._marked = len(self.all)

    def add(self, call: Call, at_ms: int, fault: str) -> Logged:
        logged = Logged(
            len(self.all),
            at_ms,
            call,
            call.operation,
            call.bucket,
            call.key,
            call.version_id,
            call.access_key,
            fault=fault,
        )
        self.all.append(logged)
        return logged

    def of(self, *operations: str) -> list[Logged]:
        return [one for one in self if one.operation in operations]

    def count(self, operation: str) -> int:
        return len(self.of(operation))

    def writes(self) -> list[Logged]:
        """Requests that change something, refused ones included."""
        return [one for one in self if one.writes]

    def body_reads(self) -> list[Logged]:
        return [one for one in self if one.reads_body]

    def refused(self) -> list[Logged]:
        return [one for one in self if one.status in (401, 403)]

    def lines(self) -> list[str]:
        """One line each, for messages of failed tests."""
        return [f"{one.status} {one.operation} {one.bucket}/{one.key} {one.version_id or ''}" for one in self]
