"""Restoring: carries out a plan — download, open, unpack, verify, settings — and runs it to its target.

Rules:
- Nothing is written before the target is known to be unused and the backup's parts are known to be
  the recorded ones. A failure leaves a directory that PostgreSQL does not start on.
- Every byte is checked three times: stored hash, sealed stream and plain digest per part, then each
  file against PostgreSQL's own backup manifest.
- Archiving is forced off on the copy. A run to the target counts only when the stop point that
  PostgreSQL reports is the planned one and the last commit is there; else it failed.
"""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from blake3 import blake3

from restore.core.plan import Plan
from restore.core.recoveryconf import render_settings
from restore.diskspace import check_room, unwritable
from restore.instance import Instance, Outcome, Reached
from restore.unpack import Unpacker
from restore.workplace import Workplace
from walarchiver.assembly import Archive
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import format_postgres, micros
from walarchiver.errors import ObjectDamaged, RestoreFailed
from walarchiver.format.codec import parts_sha256
from walarchiver.format.records import BackupPart, BackupRecord
from walarchiver.postgres.backupindex import parse_index
from walarchiver.postgres.process import RunAs

SMALL_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class Progress:
    """How far unpacking is, in plain bytes."""

    done: int
    total: int


def backup_of(archive: Archive, backup: str) -> tuple[BackupRecord, list[BackupPart]]:
    """A finished backup and its parts, proven complete. Raises ObjectDamaged."""
    record = next((one for one in archive.catalog.backups() if one.backup == backup), None)
    parts = archive.catalog.backup_parts(backup)
    if record is None or len(parts) != record.parts or parts_sha256(parts) != record.parts_sha256:
        raise ObjectDamaged(
            f"the ledger's parts of base backup {backup} are not those that it was closed with"
        )
    return record, parts


def part_bytes(archive: Archive, backup: str, parts: Sequence[BackupPart], role: str) -> bytes:
    """The whole content of a small role (manifest, index, config), verified part by part."""
    content = bytearray()
    for part in parts:
        if part.role == role:
            for chunk in checked_part(archive, backup, part):
                content += chunk
            if len(content) > SMALL_BYTES_MAX:
                raise ObjectDamaged(f"the {role} of base backup {backup} is larger than anything it can be")
    return bytes(content)


def checked_part(archive: Archive, backup: str, part: BackupPart) -> Sequence[bytes]:
    """The plain bytes of a part. Raises ObjectDamaged unless digest and length are the recorded ones."""
    hasher = blake3()
    chunks = []
    length = 0
    for chunk in archive.repository.plain_part(archive.system, backup, part):
        hasher.update(chunk)
        length += len(chunk)
        chunks.append(chunk)
    if (length, hasher.hexdigest()) != (part.raw, part.digest):
        raise ObjectDamaged(f"part {part.n} of base backup {backup} opens to other bytes than were recorded")
    return chunks


def place_files(
    archive: Archive,
    plan: Plan,
    place: Workplace,
    *,
    owner: RunAs | None,
    tablespaces: Mapping[int, Path],
    workers: int,
    comments: tuple[str, ...],
    check_space: bool = True,
    progress: Callable[[Progress], None] = lambda _progress: None,
) -> None:
    """Make the target directory ready to start: files, settings, signal file, plan beside it.

    Raises TargetDirectoryInUse, UsageError, TargetDiskFull before anything is written; ObjectDamaged,
    RestoreFailed, TargetDiskFull, Store… when it has to be given up.
    """
    record, parts = backup_of(archive, plan.backup)
    index = parse_index(part_bytes(archive, plan.backup, parts, "index"))
    manifest = part_bytes(archive, plan.backup, parts, "manifest")
    places = {
        fact.oid: tablespaces.get(fact.oid, place.tablespaces / str(fact.oid))
        for fact in record.tablespaces
        if fact.path is not None
    }
    unpacker = Unpacker(index, place.target, places, owner=owner)
    place.check_unused()
    if check_space:
        check_room(unpacker.room)
    try:
        unpacker.prepare()
        place.make(owner)
        _unpack(archive, plan.backup, parts, unpacker, workers, progress)
        unpacker.finish(manifest, workers=workers)
        _unpack_configuration(part_bytes(archive, plan.backup, parts, "config"), place, owner)
        _write_settings(plan, place, owner, comments)
        place.write_plan(plan)
        unpacker.publish()
    except OSError as error:
        raise unwritable(place.target, error) from error


def _unpack(
    archive: Archive,
    backup: str,
    parts: Sequence[BackupPart],
    unpacker: Unpacker,
    workers: int,
    progress: Callable[[Progress], None],
) -> None:
    """Download, open and write the tar parts side by side; the first failure ends it."""
    lock = threading.Lock()
    done = 0
    failed = threading.Event()

    def work(part: BackupPart) -> None:
        nonlocal done
        if failed.is_set():
            return
        try:
            offset = part.offset
            for chunk in checked_part(archive, backup, part):
                unpacker.apply(part.stream, offset, chunk)
                offset += len(chunk)
        except BaseException:
            failed.set()
            raise
        with lock:
            done += part.raw
            progress(Progress(done, unpacker.bytes_total))

    with ThreadPoolExecutor(workers + 2, thread_name_prefix="unpack") as pool:
        try:
            for future in [pool.submit(work, part) for part in parts if part.role == "tar"]:
                future.result()
        except BaseException:  # Ctrl-C too: else the pool would first unpack all that is left
            failed.set()
            raise


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
    auto = place.target / "postgresql.auto.conf"
    with auto.open("a", encoding="utf-8") as out:
        out.write(render_settings(plan.settings, comments=comments))
        out.flush()
        os.fsync(out.fileno())
    signal_file = place.target / "recovery.signal"
    with signal_file.open("wb") as out_signal:
        os.fsync(out_signal.fileno())
    for path in (auto, signal_file):
        path.chmod(0o600)
        if owner is not None and os.geteuid() == 0:
            os.chown(path, owner.uid, owner.gid)


def judge(plan: Plan, reached: Reached, instance: Instance) -> None:
    """Whether recovery ended where the plan says. Raises RestoreFailed with both places."""
    stop, log = plan.stop, reached.log
    where = f"{'after' if stop.inclusive else 'before'} {format_lsn(stop.lsn)} on timeline {stop.timeline}"
    if reached.outcome is Outcome.STOPPED:
        raise RestoreFailed(
            f"PostgreSQL stopped during recovery: {log.fatal or 'it does not say why'}",
            hint=f"Its log is {instance.log_path}; once the cause is gone, start it again: it goes on.",
        )
    if log.stop_lsn != stop.lsn or log.inclusive != stop.inclusive:
        found = log.stop or "the archive ended first"
        raise RestoreFailed(f"recovery was to stop {where}, but: {found}")
    if reached.history is not None and reached.history.parent != stop.timeline:
        raise RestoreFailed(f"recovery was to stop {where}, but it left timeline {reached.history.parent}")
    if log.redo_done != stop.lsn:
        # The line names the record that met the target, replayed (inclusive) or only read.
        met = "no record" if log.redo_done is None else format_lsn(log.redo_done)
        raise RestoreFailed(f"recovery was to stop {where}, but {met} met the target")
    wanted = stop.last_commit
    if wanted is None or log.last_commit is None or (stop.inclusive and wanted.lsn == stop.lsn):
        return  # after an inclusive stop at a commit the log still shows the transaction before it
    if log_time_us(log.last_commit) < wanted.time:
        raise RestoreFailed(
            f"the last transaction replayed is of {log.last_commit}, "
            f"but transaction {wanted.xid} of {format_postgres(wanted.time)} belongs to the state asked for"
        )


def log_time_us(text: str) -> int:
    """A time as the server's log prints it (`2026-11-22 14:32:06.5+00`), microseconds since 1970."""
    try:
        return micros(datetime.fromisoformat(text.strip()))
    except ValueError as error:
        raise RestoreFailed(f"the server's log shows a time that cannot be read: {text!r}") from error
