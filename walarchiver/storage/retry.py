"""Asking again: how long to wait, and when to stop.

Rules:
- Before try n + 1 the pause is drawn evenly from 0 to min(longest pause, first pause x 2^(n-1))
  ("full jitter"), so many hosts that failed together do not come back together.
- No new try begins once the budget is used up, nor a pause that would outlast it. A try in
  progress is not cut off: each has its own time limits. So a call lasts at most the budget plus
  one try.
- Only StoreUnavailable is asked again. Every other answer is an answer.
- A store that has not answered once yet may get a smaller budget: a person waits, and a wrong address
  or a stopped store does not pass. Once it has answered, an outage is worth the whole budget.
- Who waits is told: after `NOTICE_AFTER_S` of asking in vain, and then at most every `NOTICE_EVERY_S`,
  however many calls ask at once. A store that takes the question and says nothing is told of too, until
  it has answered once: later a long silence may be a long answer.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from walarchiver.errors import StoreUnavailable
from walarchiver.ports import Clock, Random

Answer = TypeVar("Answer")

NOTICE_AFTER_S = 2.0
NOTICE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patiently a store is asked; all in seconds."""

    budget_s: float = 60.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    first_budget_s: float | None = None
    """The budget until the store has answered once; None: the same."""

    def pause_bound_s(self, failures: int) -> float:
        """The longest pause after that many failed tries (1 or more)."""
        doublings = min(failures - 1, 30)
        return float(min(self.longest_pause_s, self.first_pause_s * 2**doublings))


INTERACTIVE = RetryPolicy(first_budget_s=15.0)
"""For commands that a person waits for."""


class Retrier:
    """Runs one step again and again until it answers or the budget is gone."""

    def __init__(
        self,
        policy: RetryPolicy,
        clock: Clock,
        random: Random,
        wait: Callable[[float], bool],
        notice: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """`wait(seconds)` sleeps, and returns True when the store is being closed. `notice` gets a line
        for whoever waits."""
        self._policy = policy
        self._clock = clock
        self._random = random
        self._wait = wait
        self._notice = notice
        self._answered = policy.first_budget_s is None
        self._noticed_s: float | None = None
        self._lock = threading.Lock()

    def run(self, what: str, step: Callable[[], Answer]) -> Answer:
        """What `step` returns. Raises StoreUnavailable, with the last failure, once the budget is used up."""
        with self._waited_for(what):
            return self._run(what, step)

    def _run(self, what: str, step: Callable[[], Answer]) -> Answer:
        began = self._clock.monotonic_s()
        failures = 0
        while True:
            try:
                answer = step()
            except StoreUnavailable as failure:
                failures += 1
                last = failure
            except BaseException:
                self._answered = True
                raise
            else:
                self._answered = True
                return answer
            pause_s = self._random.uniform(0.0, self._policy.pause_bound_s(failures))
            used_s = self._clock.monotonic_s() - began
            if used_s + pause_s >= self._budget_s():
                tries = "1 try" if failures == 1 else f"{failures} tries"
                raise StoreUnavailable(f"{last.message} (gave up after {tries} in {used_s:.1f} s)") from last
            if used_s + pause_s >= NOTICE_AFTER_S:
                self._tell(f"{last.message}; asking again, for up to {self._budget_s():.0f} s")
            if self._wait(pause_s):
                raise StoreUnavailable(f"{what}: the store was closed while asking again") from last

    def _budget_s(self) -> float:
        first_s = self._policy.first_budget_s
        return self._policy.budget_s if self._answered or first_s is None else first_s

    @contextlib.contextmanager
    def _waited_for(self, what: str) -> Iterator[None]:
        if self._answered:
            yield
            return
        timer = threading.Timer(
            NOTICE_AFTER_S, self._tell, (f"{what}: the store has not answered yet; asking again",)
        )
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _tell(self, line: str) -> None:
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._noticed_s is not None and now_s - self._noticed_s < NOTICE_EVERY_S:
                return
            self._noticed_s = now_s
        self._notice(line)
