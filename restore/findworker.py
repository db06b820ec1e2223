"""One stretch of WAL, walked in a process of its own: the interpreter decodes on one core only.

Rules:
- The process gets paths of plain segments that its parent has verified, and no key, store or configuration.
- Ctrl-C is for the parent to answer.
"""

from __future__ import annotations

import mmap
import signal
from dataclasses import dataclass
from pathlib import Path

from walarchiver.core.segment import SegmentBytes
from walarchiver.core.stretch import Stretch, walk_stretch
from walarchiver.core.touch import Watch


@dataclass(frozen=True, slots=True)
class Job:
    """Segments first..last, and the files of these and of what follows them, as far as given."""

    first: int
    last: int
    files: tuple[Path, ...]
    segment_size: SegmentBytes
    watch: Watch


def quiet() -> None:
    """Leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def work(job: Job) -> Stretch:
    """Walk it. Raises OSError when a file is gone."""
    opened: dict[int, mmap.mmap] = {}
    try:

        def pages(number: int) -> memoryview | None:
            if not 0 <= number - job.first < len(job.files):
                return None
            if number not in opened:
                with job.files[number - job.first].open("rb") as file:
                    opened[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return memoryview(opened[number])

        return walk_stretch(job.first, job.last, pages, segment_size=job.segment_size, watch=job.watch)
    finally:
        opened.clear()  # mappings end with their last view
