"""Lookahead: archives what PostgreSQL has marked ready, before it asks, so that no core idles in a backlog.

Rules:
- PostgreSQL asks for one file at a time, so this is all the parallelism there is. It begins only when
  PostgreSQL asks for something, and never begins more than `window` files ahead of what it has asked for.
- Nothing is acknowledged by it: the answer to PostgreSQL's own call is made by that call (`archiver.py`),
  which joins the work if it is about the same unchanged file, or finds it in the ledger.
- It is recorded in PostgreSQL's order, so that the ledger never shows a hole that is none (`ledgerorder.py`).
- A failure is told quietly and forgotten. After one, ahead or of a call, nothing is begun until a call has
  succeeded: what is behind it could not be recorded. A file that is refused is not tried again before
  PostgreSQL asks for it, and until then, or until its mark is gone, nothing is begun either.
- A file is begun only while its mark is there. Listings of the marks are off the loop and far between.
- With no backlog it costs one listing of marks now and then.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from walarchiver.archiver import Archived
from walarchiver.core.ahead import READY, next_names, ready_names
from walarchiver.core.segment import SegmentBytes
from walarchiver.errors import Refused, WalarchiverError
from walarchiver.log import get_log
from walarchiver.ports import Clock

log = get_log("ahead")

SENT_MORE = 2
"""Bodies that are on their way to one store at once, besides one per worker."""
WINDOW_MORE = SENT_MORE + 6
"""Files begun ahead, besides two per worker: those wait for the ledger, and hold no memory."""
AT_ONCE = 3
"""In a backlog nothing is begun before there is room for so many: their marks are looked at together."""
LIST_INTERVAL_S = 0.25
NAMES_MAX = 512
"""Names kept of one listing: a backlog of any length is listed once for so many files."""

Begin = Callable[[str, frozenset[str]], Awaitable[Sequence[Archived]]]


@dataclass(slots=True)
class Marked:
    """What one listing of archive_status showed."""

    names: deque[str] = field(default_factory=deque)
    """The first ones in PostgreSQL's order, as far as they were not handed out."""
    waiting: int = 0
    """How many there were in all."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A call of PostgreSQL, and the work that was begun before it came."""

    work: asyncio.Task[Sequence[Archived]] | None

    def told(self, archived: Sequence[Archived]) -> list[Archived]:
        """What became of the file, for each repository: what was newly archived ahead of the call is new
        for the call, too."""
        work = self.work
        if work is None or not work.done() or work.cancelled() or work.exception() is not None:
            return list(archived)
        before = work.result()
        if len(before) != len(archived):
            return list(archived)
        return [
            one if one.fresh else replace(one, fresh=was.fresh)
            for one, was in zip(archived, before, strict=True)
        ]


class Lookahead:
    """Works ahead for one cluster. Lives in the server's event loop."""

    def __init__(self, begin: Begin, *, marks: Path, executor: Executor, clock: Clock, workers: int) -> None:
        """`begin` archives the file of that name in pg_wal, and records it no earlier than the other names;
        what it is given is in the order of the calls. `marks` is the folder archive_status."""
        self.window = 2 * workers + WINDOW_MORE
        self.begun = 0
        """Files begun ahead of PostgreSQL's asking, so far."""
        self._begin = begin
        self._marks = marks
        self._executor = executor
        self._clock = clock
        self._marked = Marked()
        self._list_from_s = float("-inf")
        self._ahead: dict[str, asyncio.Task[Sequence[Archived]]] = {}
        self._asked: Counter[str] = Counter()
        self._looking: asyncio.Task[None] | None = None
        self._refused: set[str] = set()
        self._halted = False
        self._stopped = False

    @property
    def under_way(self) -> int:
        """Files begun ahead that are not done yet."""
        return sum(not task.done() for task in self._ahead.values())

    @contextmanager
    def asked(self, name: str, size: SegmentBytes) -> Iterator[Ask]:
        """PostgreSQL asks for this file, from entry to exit; meanwhile others may be begun."""
        ask = Ask(self._ahead.pop(name, None))
        self._refused.discard(name)
        self._asked[name] += 1
        self.look(size)
        try:
            yield ask
            self._halted = False
        except BaseException:
            self._halt()
            raise
        finally:
            self._asked -= Counter((name,))

    def look(self, size: SegmentBytes) -> None:
        """Begin what there is room for, soon."""
        if self._stopped or self._halted or self._looking is not None:
            return
        if self._marked.names and self.window - len(self._ahead) < AT_ONCE:
            return
        self._looking = asyncio.create_task(self._look(size), name="look ahead")
        self._looking.add_done_callback(self._looked)

    def _looked(self, done: asyncio.Task[None]) -> None:
        self._looking = None
        if not done.cancelled() and (error := done.exception()) is not None:
            log.bug("look-ahead failed", error)

    async def _look(self, size: SegmentBytes) -> None:
        loop = asyncio.get_running_loop()
        if self._refused:
            left = await loop.run_in_executor(self._executor, _still_marked, self._marks, [*self._refused])
            self._refused &= set(left)
            if self._refused:
                return
        room = self.window - len(self._ahead)
        if len(self._marked.names) < max(1, room) and self._clock.monotonic_s() >= self._list_from_s:
            began_s = self._clock.monotonic_s()
            self._marked = await loop.run_in_executor(self._executor, _listed, self._marks, size)
            took_s = self._clock.monotonic_s() - began_s
            self._list_from_s = began_s + max(LIST_INTERVAL_S, 20 * took_s)
            self._forget_unmarked(set(self._marked.names))
            room = self.window - len(self._ahead)
        names = self._next(room)
        if not names:
            return
        for name in await loop.run_in_executor(self._executor, _still_marked, self._marks, names):
            if name not in self._asked and name not in self._ahead and not self._stopped and not self._halted:
                self._start(name)

    def _next(self, room: int) -> list[str]:
        """Names to begin, taken from those listed."""
        busy = self._ahead.keys() | self._asked.keys()
        names = next_names(self._marked.names, busy=busy, room=room)
        if names:
            while self._marked.names.popleft() != names[-1]:
                pass
        return names

    def _forget_unmarked(self, marked: set[str]) -> None:
        """What PostgreSQL will not ask for any more takes no room."""
        for name, task in list(self._ahead.items()):
            if name not in marked and task.done():
                del self._ahead[name]

    def _start(self, name: str) -> None:
        self.begun += 1
        under_way = [other for other, task in self._ahead.items() if not task.done()]
        behind = frozenset((*self._asked, *under_way[-1:]))  # the last one is behind those before it
        task = asyncio.create_task(self._work(name, self._begin(name, behind)), name=f"ahead {name}")
        task.add_done_callback(_heard)
        self._ahead[name] = task

    async def _work(self, name: str, begun: Awaitable[Sequence[Archived]]) -> Sequence[Archived]:
        try:
            return await begun
        except WalarchiverError as error:
            log.debug("not archived ahead", file=name, code=error.code, reason=error.message)
            self._failed(name, lasting=isinstance(error, Refused))
            return ()
        except Exception:
            self._failed(name, lasting=True)
            raise

    def _failed(self, name: str, *, lasting: bool) -> None:
        self._halt()
        if self._ahead.get(name) is asyncio.current_task():
            del self._ahead[name]
            if lasting:
                self._refused.add(name)

    def _halt(self) -> None:
        """Begin nothing until PostgreSQL gets on, and then anew, from the first file that is marked."""
        self._halted = True
        self._marked = Marked()

    def stop(self) -> None:
        """Begin nothing more; what was begun may end."""
        self._stopped = True

    async def drain(self) -> None:
        """Wait for what was begun."""
        tasks = [task for task in (*self._ahead.values(), self._looking) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)


def _heard(done: asyncio.Task[Sequence[Archived]]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.bug("look-ahead failed", error)


def _listed(marks: Path, size: SegmentBytes) -> Marked:
    try:
        names = ready_names(os.listdir(marks), size)
    except OSError:
        return Marked()  # PostgreSQL goes on without: so does archiving
    return Marked(deque(names[:NAMES_MAX]), len(names))


def _still_marked(marks: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if (marks / f"{name}{READY}").exists()]
