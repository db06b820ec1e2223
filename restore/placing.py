"""Placing: a plan's files into its directory, ready to start, or an earlier copy made what the plan says.

Rules:
- Gathered first: the backup with all that it builds on, what is there already, the room. Nothing is written
  before all of that holds. A failure afterwards leaves a directory that PostgreSQL does not start on.
- Every byte that is written is proven by the sealed stream and the part's recorded digest, and each file by
  PostgreSQL's own manifest; what a delta keeps, by the backup's digest of it.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from restore.combine import Chain, Link
from restore.core.plan import Plan
from restore.core.recoveryconf import render_settings
from restore.delta import (
    Survey,
    check_delta_target,
    check_unchanged,
    close_folders,
    make_ready,
    survey,
)
from restore.dirlock import locked
from restore.diskspace import check_room, unwritable
from restore.layers import Layer, digests_of, layers_of, part_bytes
from restore.layout import Layout, lay_out
from restore.pacing import Pace
from restore.partsource import Source
from restore.pipeline import Progress, Task, tasks_of, unpack_all
from restore.unpack import Unpacker
from restore.workplace import Workplace
from walarchiver.errors import DeltaDoubtful, RestoreFailed, UsageError
from walarchiver.postgres.process import RunAs


@dataclass(frozen=True, slots=True)
class Options:
    """How files are placed."""

    owner: RunAs | None
    tablespaces: Mapping[int, Path]
    workers: int
    comments: tuple[str, ...] = ()
    check_space: bool = True
    delta: bool = False
    """Whether an earlier copy in the directory is used."""
    pace: Pace | None = None
    progress: Callable[[Progress], None] = lambda _progress: None


@dataclass(frozen=True, slots=True)
class DeltaReport:
    """What a delta restore does, in bytes of files; `fetched` are stored bytes."""

    kept_files: int
    kept_bytes: int
    written_files: int
    written_bytes: int
    removed_files: int
    removed_bytes: int
    fetched_parts: int
    fetched_bytes: int


class Placement:
    """One restore's files: gathered when made, then carried out, or only reported."""

    def __init__(self, archive: Source, plan: Plan, place: Workplace, options: Options) -> None:
        """Writes nothing.

        Raises TargetDirectoryInUse and what is below it, UsageError, BackupChainBroken, ObjectDamaged, ….
        """
        self._archive, self._plan, self._place, self._options = archive, plan, place, options
        layers = layers_of(archive, plan.backup)
        self._layers, tip = layers, layers[-1]
        places = {
            fact.oid: options.tablespaces.get(fact.oid, place.tablespaces / str(fact.oid))
            for fact in tip.record.tablespaces
            if fact.path is not None
        }
        if unknown := sorted(options.tablespaces.keys() - places.keys()):
            raise UsageError(
                f"base backup {plan.backup} has no tablespace {', '.join(map(str, unknown))}",
                hint=f"Nothing was written. It has these: {', '.join(map(str, places)) or 'none'}.",
            )
        self._survey: Survey | None = None
        layout = lay_out(tip.index, place.target, places)
        try:
            if options.delta:
                self._survey = self._compared(layout)
        except OSError as error:
            raise DeltaDoubtful(f"{error.filename} cannot be compared: {error.strerror}") from error
        if self._survey is None:
            place.check_unused()
        self._chain = None if len(layers) == 1 else _chain_of(layers, place, places)
        self._unpacker = Unpacker(
            tip.index,
            place.target,
            places,
            manifest=tip.manifest,
            chain=self._chain,
            differing=None if self._survey is None else self._survey.differing,
            owner=options.owner,
            system=str(plan.system),
            layout=layout,
        )

    def _compared(self, layout: Layout) -> Survey | None:
        """What is there; None where nothing is. Raises OSError, and what `check_delta_target` does."""
        catalog, tip = self._archive.catalog, self._layers[-1]
        is_copy = check_delta_target(
            layout,
            system=self._plan.system,
            major=self._plan.major,
            socket_path=self._place.socket,
            archived=lambda name: catalog.file(name) is not None,
        )
        if not is_copy:
            return None
        digests = digests_of(self._archive, tip)
        return survey(layout, tip.manifest, digests, workers=self._options.workers)

    @property
    def tasks(self) -> list[Task]:
        """What is fetched, in order."""
        writers = (*(() if self._chain is None else self._chain.writers), self._unpacker.writer)
        return [
            task
            for layer, writer in zip(self._layers, writers, strict=True)
            for task in tasks_of(layer.record.backup, layer.parts, writer)
        ]

    @property
    def report(self) -> DeltaReport | None:
        """What is kept and what is not; None where there is no earlier copy."""
        if (found := self._survey) is None:
            return None
        tasks = self.tasks
        return DeltaReport(
            kept_files=found.kept_files,
            kept_bytes=found.kept_bytes,
            written_files=found.written_files,
            written_bytes=found.written_bytes,
            removed_files=len(found.extra),
            removed_bytes=found.extra_bytes,
            fetched_parts=len(tasks),
            fetched_bytes=sum(task.part.object.stored_len for task in tasks),
        )

    def carry_out(self) -> None:
        """Make the directory ready to start: files, settings, signal file, plan beside it.

        Raises TargetDirectoryInUse, TargetDiskFull, TargetLocked before anything is written; ObjectDamaged,
        RestoreFailed, TargetDiskFull, Store… when it has to be given up.
        """
        options, place = self._options, self._place
        if options.check_space:
            check_room(self._room())
        try:
            with nullcontext() if self._survey is None else locked(place.target):
                self._prepare()
                with locked(place.target) if self._survey is None else nullcontext():
                    self._write()
        except OSError as error:
            raise unwritable(place.target, error) from error

    def _room(self) -> dict[Path, int]:
        room = dict(self._unpacker.room) if self._survey is None else dict(self._survey.growth)
        for folder, count in ({} if self._chain is None else self._chain.room).items():
            room[folder] = room.get(folder, 0) + count
        return {folder: max(0, count) for folder, count in room.items()}

    def _prepare(self) -> None:
        unpacker, owner = self._unpacker, self._options.owner
        if self._survey is None:
            unpacker.prepare()
            self._place.make(owner)
        else:
            check_unchanged(unpacker.layout, self._survey)
            for folder in unpacker.layout.roots:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                unpacker.close_to_others(folder)
            close_folders(unpacker.layout)
            unpacker.mark()
            make_ready(unpacker.layout, self._survey)
            unpacker.make_folders()
            self._place.make_again(owner)
        if self._chain is not None:
            self._chain.prepare()

    def _write(self) -> None:
        options, place, tip = self._options, self._place, self._layers[-1]
        unpack_all(
            self._archive,
            self.tasks,
            workers=options.workers,
            pace=options.pace,
            progress=options.progress,
        )
        self._unpacker.finish(tip.manifest_bytes, workers=options.workers)
        configuration = part_bytes(self._archive, tip.record.backup, tip.parts, "config")
        _unpack_configuration(configuration, place, options.owner)
        _write_settings(self._plan, place, options.owner, options.comments)
        place.write_plan(self._plan)
        self._unpacker.publish()


def _chain_of(layers: Sequence[Layer], place: Workplace, tablespaces: Mapping[int, Path]) -> Chain:
    links = [
        Link(one.record.backup, one.record.timeline, one.record.start_lsn, one.index, one.manifest)
        for one in layers
    ]
    block_bytes = layers[-1].record.facts.block_size
    return Chain(links, place.target, tablespaces, place.increments, block_bytes=block_bytes)


def _unpack_configuration(content: bytes, place: Workplace, owner: RunAs | None) -> None:
    """Lay the configuration that was outside the data directory beside it, for its owner to use.

    Never back to where it came from: that may be another cluster's by now. Raises RestoreFailed.
    """
    if not content:
        return
    try:
        place.configuration.mkdir(mode=0o700, exist_ok=True)
        lay_out_configuration(content, place.configuration)
    except tarfile.TarError as error:
        raise RestoreFailed(f"the backup's configuration files cannot be laid out: {error}") from error
    if owner is not None and os.geteuid() == 0:
        owner.take(place.configuration)


def lay_out_configuration(content: bytes, folder: Path) -> None:
    """Write each file of a tar below `folder`, closed to others. Raises RestoreFailed, OSError, TarError.

    By hand, and plain files only: early releases of Python 3.11 have no `extractall(filter=...)`.
    """
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for entry in tar:
            name = PurePosixPath(entry.name)
            source = tar.extractfile(entry) if entry.isreg() else None
            if source is None or name.is_absolute() or ".." in name.parts:
                raise RestoreFailed(
                    f"the backup's configuration files hold {entry.name!r}, which is no file's name"
                )
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                out.write(source.read())


def _write_settings(plan: Plan, place: Workplace, owner: RunAs | None, comments: tuple[str, ...]) -> None:
    """Append to postgresql.auto.conf, where the last line wins, and leave recovery.signal."""
    settings = render_settings(plan.settings, comments=comments)
    for name, text in (("postgresql.auto.conf", settings), ("recovery.signal", "")):
        with open(opened_to_append(place.target / name), "a", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fchmod(out.fileno(), 0o600)
            if owner is not None and os.geteuid() == 0:
                os.fchown(out.fileno(), owner.uid, owner.gid)
            os.fsync(out.fileno())


def opened_to_append(path: Path) -> int:
    """A descriptor of a file that is its owner's already: of no other that he made it a link to."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
