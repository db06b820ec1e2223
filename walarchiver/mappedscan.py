"""Scans a segment that is too large to be kept in memory: a program of its own maps the file and walks it.

Rules:
- Who cuts off a mapped file ends the process that reads it (SIGBUS). That must not be the server.
- What is mapped counts only if it has the digest of what was archived.
- Pages that were passed are given back, so the program needs little memory whatever the size.
- The next file counts only if it completes the last record, checksum included.
"""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from blake3 import blake3

from walarchiver.core.commits import scan_segment
from walarchiver.core.scan import Ending, SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.walpage import read_first_page
from walarchiver.core.walreader import Buffer
from walarchiver.errors import CorruptSegment
from walarchiver.format.canonical import canonical_json, parse_canonical
from walarchiver.format.codec import record_from_json, record_to_json
from walarchiver.format.scans import ScanRecord, scan_record

SECONDS_MAX = 120
"""A gigabyte takes a few; where only a plain walk goes on, it may take too long for who waits."""
_DIGEST_BYTES = 16 << 20
_OPEN, _NOTHING = b"open", b"nothing"


@dataclass(frozen=True, slots=True)
class Job:
    """What to scan: the open file `fd` of segment `name`, whose content has `digest`."""

    fd: int
    name: str
    size: int
    digest: str
    following: str
    """Path of the next file, which may not be there."""
    following_bytes: int
    """How much of it is looked at."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`record` None: the last record goes on in a file that does not hold it yet (`waits`), or the scan has
    no spelling."""

    record: ScanRecord | None
    waits: bool


def scan_apart(job: Job) -> Answer:
    """Have another process scan. Blocks; whatever it raises means that there is no scan."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "walarchiver.mappedscan"],
        input=json.dumps(asdict(job)).encode(),
        capture_output=True,
        timeout=SECONDS_MAX,
        check=False,
        pass_fds=(job.fd,),
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"the scanning process ended with {done.returncode}: {' '.join(said)}")
    if done.stdout in (_OPEN, _NOTHING):
        return Answer(None, waits=done.stdout == _OPEN)
    record = record_from_json(parse_canonical(done.stdout))
    assert isinstance(record, ScanRecord)
    return Answer(record, waits=False)


def following(path: Path, address: int, system: int, bytes_max: int) -> bytes | None:
    """The first bytes of the file behind a segment, if it begins at that address and is no recycled one."""
    try:
        with path.open("rb") as file:
            found = file.read(bytes_max)
        identity = read_first_page(found, name=path.name)
    except (OSError, CorruptSegment):
        return None
    return found if (identity.address, identity.system) == (address, system) else None


# --- the process -----------------------------------------------------------------------------------


def _answer(job: Job) -> bytes:
    """Raises ValueError, OSError."""
    size = SegmentBytes(job.size)
    segment = Segment.parse(job.name, size)
    pages = mmap.mmap(job.fd, size, prot=mmap.PROT_READ)
    view, release = memoryview(pages), _releasing(pages)
    hasher = blake3()
    for low in range(0, size, _DIGEST_BYTES):
        high = min(low + _DIGEST_BYTES, size)
        hasher.update(view[low:high])
        release(low, high)
    if hasher.hexdigest() != job.digest:
        raise ValueError("the file is not what was archived")
    scan = _scan(segment, {segment.number: view}, size, release)
    if scan.ending is Ending.OPEN:
        behind = following(Path(job.following), segment.end(size), scan.system, job.following_bytes)
        if behind is not None:
            files: dict[int, Buffer] = {segment.number: view, segment.number + 1: behind}
            whole = _scan(segment, files, size, release)
            scan = whole if whole.ending is Ending.WHOLE else scan
    if scan.ending is Ending.OPEN:
        return _OPEN
    record = scan_record(scan, name=job.name, digest=job.digest)
    return _NOTHING if record is None else canonical_json(record_to_json(record))


def _scan(
    segment: Segment, files: dict[int, Buffer], size: SegmentBytes, release: Callable[[int, int], None]
) -> SegmentScan:
    return scan_segment(segment, files.get, segment_size=size, keep_events=False, seen=release)[0]


def _releasing(pages: mmap.mmap) -> Callable[[int, int], None]:
    """Gives memory of a range back; it is read from the file again, should somebody look."""

    def release(low: int, high: int) -> None:
        low, high = (bound - bound % mmap.PAGESIZE for bound in (low, high))
        if high > low:
            pages.madvise(mmap.MADV_DONTNEED, low, high - low)

    return release


def main() -> None:
    """Read a job from standard input and write the answer."""
    job = Job(**json.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(_answer(job))


if __name__ == "__main__":
    main()
