"""Many small blocking calls at once, answered in order, with a bound on what is under way.

Rules: at most `window` items are taken ahead of the answer that is handed out next; a failure reaches the
caller at its place in the order, and what had begun before is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def answered(
    work: Callable[[Item], Answer], items: Iterable[Item], *, threads: int, window: int | None = None
) -> Iterator[Answer]:
    """`work` of each item, in the order of the items, by so many threads."""
    ahead = window if window is not None else threads * 4
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="bucket") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
