"""Make whole files of a chain of incremental backups, while they are unpacked.

Rules:
- Of an earlier member only what is needed is fetched: the last whole copy of each file that the newest
  backup has an increment of, straight to its place, and the increments since, into a folder beside the
  target. So the peak on disk is the cluster and its increments, never a copy of each member.
- Every file that was fetched is checked against the manifest of its own member before anything is combined,
  and every member's backup_label must name the one before it.
- Increments are applied from the oldest to the newest; lengths and zeros are as pg_combinebackup makes them.
- The combined backup_label says nothing of increments. There is no backup_manifest: those that there are
  name files which the directory does not have.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from restore.core.increment import (
    HEADER_BYTES,
    PREFIX,
    Increment,
    Run,
    header_bytes,
    is_page,
    parse_counts,
    parse_increment,
)
from restore.filesums import FileSums, check_contents
from restore.layout import Layout, lay_out
from restore.manifest import BackupManifest, check_same_files
from restore.streamwriter import Range, StreamWriter, write_all
from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.errors import MalformedObject, RestoreFailed
from walarchiver.postgres.backupindex import BackupIndex

LABEL = "backup_label"
_COPY_BYTES = 1 << 20
_INCREMENT = re.compile(re.escape(PREFIX) + r"[0-9]+(_[a-z]+)?(\.[0-9]+)?")
"""What PostgreSQL calls the files of relations; anybody may have put other files there."""
_FROM_LSN = re.compile(rb"^INCREMENTAL FROM LSN: (\S+)$", re.MULTILINE)
_FROM_TIMELINE = re.compile(rb"^INCREMENTAL FROM TLI: (\S+)$", re.MULTILINE)
_FROM_ANY = re.compile(rb"^INCREMENTAL FROM [^\n]*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    """A file to be made: its last whole copy is written to `path`, these increments are applied to it."""

    name: str
    path: Path
    increments: tuple[Path, ...]
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class Link:
    """One member of a chain, as far as combining is concerned."""

    backup: str
    timeline: int
    start_lsn: Lsn
    index: BackupIndex
    manifest: BackupManifest


@dataclass
class _Member:
    """What is wanted of an earlier member."""

    link: Link
    layout: Layout
    wanted: dict[int, list[Range]] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)

    def want(self, name: str, path: Path) -> None:
        place = self.layout.files[name]
        self.paths[name] = path
        one = Range(place.member.data_offset, place.member.size, path, name)
        self.wanted.setdefault(place.stream, []).append(one)


class Chain:
    """The earlier members of an incremental backup, and how all become one directory."""

    def __init__(
        self,
        links: Sequence[Link],
        target: Path,
        tablespaces: Mapping[int, Path],
        spool: Path,
        *,
        block_bytes: int,
    ) -> None:
        """`links`: oldest first, the backup itself last. `spool`: a folder that is ours.

        Raises RestoreFailed when a file has no whole copy in the chain, and what `lay_out` raises.
        """
        self._links = links
        self._spool = spool
        self._block_bytes = block_bytes
        self._target = target
        tip = lay_out(links[-1].index, target, tablespaces)
        self._members = [_Member(one, self._laid_out(one.index, target, tablespaces)) for one in links[:-1]]
        self._labels: list[Path] = []
        self.spooled: dict[str, Path] = {}
        """Where the increments of the newest backup are written, by their name."""
        self._rebuilt: list[_Rebuilt] = []
        for name, place in tip.files.items():
            if (final := final_name(name)) is not None:
                if final in tip.files:
                    raise MalformedObject(f"{final!r} comes both whole and as an increment")
                path = place.path.with_name(place.path.name.removeprefix(PREFIX))
                self._rebuilt.append(self._sources(name, final, path))
        for number, member in enumerate(self._members[1:], 1):
            self._labels.append(spool / f"{number}-label")
            member.want(LABEL, self._labels[-1])
        self.writers = tuple(
            StreamWriter(target, one.layout.sizes, one.wanted, FileSums(one.link.manifest.files))
            for one in self._members
        )
        """Of the earlier members, oldest first."""

    @property
    def room(self) -> dict[Path, int]:
        """Bytes that the earlier members take, in the folders where they go."""
        needed: dict[Path, int] = {}
        for member in self._members:
            for name, path in member.paths.items():
                folder = self._spool if path.parent == self._spool else path.parent
                needed[folder] = needed.get(folder, 0) + member.layout.files[name].member.size
        return needed

    def prepare(self) -> None:
        """Make the folder for increments; what an interrupted restore left there goes. Raises OSError."""
        shutil.rmtree(self._spool, ignore_errors=True)
        self._spool.mkdir(mode=0o700, parents=True)

    def combine(self, workers: int) -> dict[str, Path]:
        """Once every part was applied: check what came, and make the files.

        Where each is, by its name. Raises RestoreFailed, MalformedObject, OSError.
        """
        for member, writer in zip(self._members, self.writers, strict=True):
            writer.check_complete()
            files = {name: member.link.manifest.files.get(name) for name in member.paths}
            listed = BackupManifest(2, {name: one for name, one in files.items() if one is not None})
            for name, path in member.paths.items():
                if not member.layout.files[name].member.size:
                    path.touch()
            check_same_files(listed, {name: path.stat().st_size for name, path in member.paths.items()})
            assert writer.sums is not None
            check_contents(listed, member.paths, member.paths, writer.sums, workers)
        self._check_labels()
        with ThreadPoolExecutor(workers, thread_name_prefix="combine") as pool:
            list(pool.map(self._rebuild, self._rebuilt))
        shutil.rmtree(self._spool)
        return {one.name: one.path for one in self._rebuilt}

    # --- planning --------------------------------------------------------------------------------

    def _laid_out(self, index: BackupIndex, target: Path, tablespaces: Mapping[int, Path]) -> Layout:
        """An earlier member's; tablespaces that are gone since need no place, as nothing of them is taken."""
        gone = {one.stream.oid: self._spool / "gone" / str(one.stream.oid) for one in index.streams}
        return lay_out(index, target, {**gone, **tablespaces})

    def _sources(self, name: str, final: str, path: Path) -> _Rebuilt:
        increments = [self._spool / f"{len(self._links) - 1}-{len(self._rebuilt)}"]
        self.spooled[name] = increments[0]
        for number in range(len(self._members) - 1, -1, -1):
            member = self._members[number]
            if final in member.layout.files:
                member.want(final, path)
                return _Rebuilt(final, path, tuple(reversed(increments)))
            if name not in member.layout.files:
                break
            increments.append(self._spool / f"{number}-{len(self._rebuilt)}")
            member.want(name, increments[-1])
        chain = ", ".join(link.backup for link in self._links)
        raise RestoreFailed(f"the chain {chain} has increments of {final}, but no whole copy before them")

    # --- combining -------------------------------------------------------------------------------

    def _check_labels(self) -> None:
        """Whether each incremental member began where its predecessor did; the newest one's is made plain."""
        tip = self._target / LABEL
        for number, path in enumerate([*self._labels, tip], 1):
            text, prior = path.read_bytes(), self._links[number - 1]
            lsn, timeline = _FROM_LSN.search(text), _FROM_TIMELINE.search(text)
            wanted = (format_lsn(prior.start_lsn).encode(), str(prior.timeline).encode())
            if lsn is None or timeline is None or (lsn[1], timeline[1]) != wanted:
                link = self._links[number]
                raise RestoreFailed(
                    f"base backup {link.backup} does not build on {prior.backup} at "
                    f"{format_lsn(prior.start_lsn)}, timeline {prior.timeline}, by its own backup_label"
                )
        tip.write_bytes(_FROM_ANY.sub(b"", tip.read_bytes()))

    def _rebuild(self, one: _Rebuilt) -> None:
        increments = [read_increment(path, self._block_bytes) for path in one.increments]
        newest = increments[-1]
        handle = os.open(one.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            whole = os.fstat(handle).st_size // self._block_bytes
            os.ftruncate(handle, min(whole, newest.truncation) * self._block_bytes)
            os.ftruncate(handle, newest.result_blocks * self._block_bytes)
            for path, increment in zip(one.increments, increments, strict=True):
                below = None if increment is newest else newest.truncation
                self._apply(handle, path, increment, below)
        finally:
            os.close(handle)
        for path in one.increments:
            path.unlink()

    def _apply(self, handle: int, path: Path, increment: Increment, below: int | None) -> None:
        with path.open("rb", buffering=0) as source:
            for run in increment.runs(below):
                self._copy(handle, source.fileno(), run, path)

    def _copy(self, handle: int, source: int, run: Run, path: Path) -> None:
        size = self._block_bytes
        for done in range(0, run.count * size, _COPY_BYTES):
            length = min(_COPY_BYTES, run.count * size - done)
            piece = os.pread(source, length, run.offset + done)
            if len(piece) != length or not is_page(piece[:size]) or not is_page(piece[-size:]):
                raise RestoreFailed(
                    f"what the increment {path.name} has for block {run.block + done // size} is no page"
                )
            write_all(handle, run.block * size + done, memoryview(piece))


def read_increment(path: Path, block_bytes: int) -> Increment:
    """Raises MalformedObject when it is none, or not whole."""
    with path.open("rb", buffering=0) as source:
        head = source.read(HEADER_BYTES) or b""
        count, _ = parse_counts(head)
        head += os.pread(source.fileno(), header_bytes(count, block_bytes) - HEADER_BYTES, HEADER_BYTES)
        found = parse_increment(head, block_bytes)
        if os.fstat(source.fileno()).st_size != found.size:
            raise MalformedObject(f"an increment of {count} blocks has another size than {found.size} bytes")
    return found


def final_name(name: str) -> str | None:
    """The relation's file that an increment stands for; None for other files."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.removeprefix(PREFIX)}" if _INCREMENT.fullmatch(last) else None
