"""An ObjectStore that fails as it is told: before or after the effect, by operation and name.

`Fault`s are scripted; `chance` fails at random from a seed; a `Gate` holds calls back until it is
opened, so that two callers meet where a test wants them to, without a clock. Every call that
reached the store behind is in `events`, in order.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from walarchiver.errors import StoreUnavailable, WalarchiverError
from walarchiver.ports import ObjectStore, PutReceipt, StoredVersion

WAIT_S = 20.0
"""Nothing in a test waits longer; it fails instead."""


def unavailable() -> WalarchiverError:
    return StoreUnavailable("the store answers 503")


@dataclass
class Fault:
    """Fails calls of `operation` on names that begin with `prefix`, `times` times after `skip`."""

    operation: str
    prefix: str
    after: bool = False
    """The effect happens, the answer is lost."""
    late: bool = False
    """For `put_new`: the effect happens when the test calls `land_late`."""
    times: int = 1
    skip: int = 0
    error: Callable[[], WalarchiverError] = unavailable


@dataclass
class Gate:
    """Holds calls back: `reached` is set when one arrives, `open` lets them through."""

    operation: str
    prefix: str
    _reached: threading.Event = field(default_factory=threading.Event)
    _open: threading.Event = field(default_factory=threading.Event)

    def wait_reached(self) -> None:
        assert self._reached.wait(WAIT_S), f"no {self.operation} of {self.prefix} came"

    @property
    def reached(self) -> bool:
        return self._reached.is_set()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        self._reached.set()
        assert self._open.wait(WAIT_S), f"the gate at {self.operation} {self.prefix} was never opened"


@dataclass(frozen=True)
class Event:
    """A call that took effect."""

    operation: str
    key: str


class FaultyStore:
    """`store` with faults. Thread-safe."""

    def __init__(self, store: ObjectStore, *, seed: int | None = None, rate: float = 0.0) -> None:
        """With a seed, each call fails with probability `rate`, half of them after the effect."""
        self.store = store
        self.events: list[Event] = []
        self._faults: list[Fault] = []
        self._gates: list[Gate] = []
        self._late: list[tuple[str, bytes]] = []
        self._chance = random.Random(seed)
        self.rate = rate if seed is not None else 0.0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.store.url

    def fail(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def hold(self, operation: str, prefix: str) -> Gate:
        """Hold back every such call until the gate is opened."""
        gate = Gate(operation, prefix)
        with self._lock:
            self._gates.append(gate)
        return gate

    def land_late(self) -> None:
        """Let the creates that were held back arrive now."""
        late, self._late = self._late, []
        for key, body in late:
            try:
                self.store.put_new(key, body)
            except WalarchiverError:
                continue
            self._note("put_new", key)

    def puts(self) -> list[str]:
        """Names created so far, in order."""
        with self._lock:
            return [event.key for event in self.events if event.operation == "put_new"]

    # --- ObjectStore ---------------------------------------------------------------------------

    def put_new(self, key: str, body: bytes | bytearray | memoryview) -> PutReceipt:
        fault = self._before("put_new", key)
        if fault is not None and fault.late:
            self._late.append((key, bytes(body)))
            raise fault.error()
        receipt = self.store.put_new(key, body)
        self._after("put_new", key, fault)
        return receipt

    def get(self, key: str, *, version_id: str | None = None, bytes_max: int) -> bytes | None:
        fault = self._before("get", key)
        body = self.store.get(key, version_id=version_id, bytes_max=bytes_max)
        self._after("get", key, fault)
        return body

    def get_range(self, key: str, *, start: int, length: int, version_id: str | None = None) -> bytes | None:
        fault = self._before("get_range", key)
        body = self.store.get_range(key, start=start, length=length, version_id=version_id)
        self._after("get_range", key, fault)
        return body

    def list_keys(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        fault = self._before("list_keys", prefix)
        yield from self.store.list_keys(prefix, start_after=start_after)
        self._after("list_keys", prefix, fault)

    def list_versions(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        fault = self._before("list_versions", prefix)
        yield from self.store.list_versions(prefix, start_after=start_after)
        self._after("list_versions", prefix, fault)

    def delete_version(self, key: str, *, version_id: str | None) -> None:
        self.store.delete_version(key, version_id=version_id)

    def close(self) -> None:
        self.store.close()

    # --- faults --------------------------------------------------------------------------------

    def _before(self, operation: str, key: str) -> Fault | None:
        """Fails before the effect, or returns the fault that fails after it."""
        with self._lock:
            gates = [g for g in self._gates if g.operation == operation and key.startswith(g.prefix)]
            fault = self._due(operation, key)
        for gate in gates:
            gate.pass_through()
        if fault is not None and not fault.after and not fault.late:
            raise fault.error()
        return fault

    def _due(self, operation: str, key: str) -> Fault | None:
        for fault in self._faults:
            if fault.operation == operation and key.startswith(fault.prefix) and fault.times:
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        if self.rate and self._chance.random() < self.rate:
            return Fault(operation, key, after=self._chance.random() < 0.5)
        return None

    def _after(self, operation: str, key: str, fault: Fault | None) -> None:
        self._note(operation, key)
        if fault is not None:
            raise fault.error()

    def _note(self, operation: str, key: str) -> None:
        with self._lock:
            self.events.append(Event(operation, key))
