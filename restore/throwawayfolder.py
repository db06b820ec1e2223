"""The folders that throwaway instances live in: made, marked, locked, and removed, also after a crash.

Rules:
- A folder is private (0700) and belongs to the user its server runs as. Its marker names who made it (process
  and boot id), and its maker holds a lock on the marker for as long as it lives: the kernel lets go of it
  however the maker ends, so a marker that can be locked is an abandoned one.
- Only folders that have our name and our marker are ever removed; the marker goes last, so that an
  interrupted removal is gone on with.
- A server is ended only when it is provably the folder's own: a `postgres` process of the data directory's
  owner whose working directory is that data directory.
- Making and looking happen under a lock on the folder above, so nobody sees a folder half made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import select
import shutil
import signal
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from walarchiver.errors import Locked, ThrowawayFailed, UsageError
from walarchiver.postgres.process import RunAs

MARKER = "throwaway.json"
DATA = "data"
"""Name of the data directory inside a throwaway's folder."""

_NAME = re.compile(r"(?:peek|rescue|check)-[0-9a-f]{8}")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MARKER_BYTES_MAX = 1 << 16
_LOCK_TRIES = 100
_LOCK_REST_S = 0.1
_END_WAIT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Abandoned:
    """What was found and removed."""

    folder: Path
    about: Mapping[str, object]
    """The marker's members; empty when it was not readable."""
    ended: tuple[int, ...]
    """Processes of its server that still ran."""

    @property
    def line(self) -> str:
        """For people."""
        known = ", ".join(
            f"{name} {self.about[name]}" for name in ("pid", "made", "at") if name in self.about
        )
        servers = f"; its server (pid {self.ended[0]}) was ended" if self.ended else ""
        return f"removed {self.folder}, which an interrupted command left ({known}){servers}"


def default_root(state: Path) -> Path:
    """Where throwaways live unless told: beside the state folder as root, whose servers run as another
    user and may not enter it; else inside."""
    return state.with_name(f"{state.name}.throwaway") if os.geteuid() == 0 else state / "throwaway"


@contextmanager
def throwaway_folder(
    root: Path, purpose: str, token: str, owner: RunAs | None, about: Mapping[str, str]
) -> Iterator[Path]:
    """A new private folder below `root`, gone when the caller is done, however that ends.

    `token`: 8 hex digits. Raises UsageError when it cannot be made there, Locked, ThrowawayFailed.
    """
    folder = root / f"{purpose}-{token}"
    assert _NAME.fullmatch(folder.name), folder
    try:
        root.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        if owner is not None and os.geteuid() == 0:
            _check_reachable(root, owner)
        with _looking(root):
            folder.mkdir(mode=0o700)
            marker = _mark(folder, about)
    except OSError as error:
        raise UsageError(
            f"no folder for a throwaway instance can be made in {root}: {error.strerror or error}",
            hint="Name a place with --workdir.",
        ) from error
    try:
        if owner is not None and os.geteuid() == 0:
            os.chown(folder, owner.uid, owner.gid)
        yield folder
    finally:
        with contextlib.closing(marker):
            _remove(folder)


def remove_abandoned(root: Path) -> tuple[Abandoned, ...]:
    """End and remove what dead commands left below `root`; what others use or own is left alone.

    Raises Locked, ThrowawayFailed.
    """
    if not root.is_dir():
        return ()
    try:
        with _looking(root):
            named = [each for each in sorted(root.iterdir()) if _NAME.fullmatch(each.name)]
            claimed = ((each, _claim(each)) for each in named if not each.is_symlink())
            found = [(each, marker) for each, marker in claimed if marker is not None]
    except PermissionError:
        return ()  # another user's: his own command cleans it
    removed: list[Abandoned] = []
    failures: list[ThrowawayFailed] = []
    for folder, marker in found:
        with contextlib.closing(marker):
            try:
                ended = end_servers(folder / DATA)
                _remove(folder)
            except ThrowawayFailed as failure:  # the others are removed all the same
                failures.append(failure)
            else:
                removed.append(Abandoned(folder, marker.about(), ended))
    if failures:
        raise failures[0]
    return tuple(removed)


def end_servers(data_dir: Path) -> tuple[int, ...]:
    """End every server process that works in `data_dir`; their ids, the postmaster first.

    Raises ThrowawayFailed when one outlives SIGKILL.
    """
    handles: dict[int, int] = {}
    try:
        for pid in _processes(data_dir):
            with contextlib.suppress(ProcessLookupError):
                handles[pid] = os.pidfd_open(pid)
                if not _is_ours(pid, data_dir):  # asked again, now that the number cannot be another's
                    os.close(handles.pop(pid))
        main = _postmaster(data_dir)
        order = tuple(sorted(handles, key=lambda pid: (pid != main, pid)))
        if main in handles:
            _send(handles[main], signal.SIGQUIT)
            _wait(handles.values())
        for handle in handles.values():
            _send(handle, signal.SIGKILL)
        if not _wait(handles.values()):
            raise ThrowawayFailed(f"server processes {order} in {data_dir} do not end")
        return order
    finally:
        for handle in handles.values():
            os.close(handle)


# --- markers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Marker:
    """An open, locked marker."""

    handle: int
    text: str

    def about(self) -> dict[str, object]:
        try:
            members = json.loads(self.text)
        except ValueError:
            return {}
        return members if isinstance(members, dict) else {}

    def close(self) -> None:
        os.close(self.handle)


def _mark(folder: Path, about: Mapping[str, str]) -> _Marker:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(folder / MARKER, flags, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    boot = _BOOT_ID.read_text("ascii").strip()
    text = json.dumps({"pid": os.getpid(), "boot": boot, **about}, indent=2) + "\n"
    os.write(handle, text.encode())
    os.fsync(handle)
    return _Marker(handle, text)


def _claim(folder: Path) -> _Marker | None:
    """The marker of an abandoned folder, locked by us now; None when it is in use or not ours to touch."""
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(folder / MARKER, flags)
    except FileNotFoundError:
        with contextlib.suppress(OSError):  # made, and the maker died before it marked it: empty
            folder.rmdir()
        return None
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BlockingIOError
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _Marker(handle, os.read(handle, _MARKER_BYTES_MAX).decode("utf-8", "replace"))
    except BlockingIOError:
        os.close(handle)
        return None


@contextmanager
def _looking(root: Path) -> Iterator[None]:
    """One at a time makes or looks for folders below `root`. Raises Locked."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    rest = threading.Event()
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                rest.wait(_LOCK_REST_S)
        else:
            raise Locked(f"{root} stays locked by another command", hint="Name another place with --workdir.")
        yield
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    """Raises ThrowawayFailed."""
    rest = threading.Event()
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            _remove_once(folder)
            return
        except OSError as error:  # a thread of an interrupted restore may still write its last part
            if error.errno != errno.ENOTEMPTY or not tries_left:
                raise ThrowawayFailed(f"{folder} could not be removed: {error}") from error
            rest.wait(_LOCK_REST_S)


def _remove_once(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.name != MARKER:
                os.unlink(entry.path)
    (folder / MARKER).unlink(missing_ok=True)
    folder.rmdir()


def _check_reachable(root: Path, owner: RunAs) -> None:
    """Whether the server's user can walk to `root`. Raises UsageError."""
    for place in (root.resolve(), *root.resolve().parents):
        state = place.stat()
        bit = stat.S_IXOTH
        if state.st_uid == owner.uid:
            bit = stat.S_IXUSR
        elif state.st_gid == owner.gid:
            bit = stat.S_IXGRP
        if not state.st_mode & bit:
            raise UsageError(
                f"{place} is closed to user {owner.uid}, whom PostgreSQL must run as",
                hint="Name a place that this user can reach with --workdir.",
            )


# --- processes -----------------------------------------------------------------------------------


def _processes(data_dir: Path) -> list[int]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return [pid for pid in pids if _is_ours(pid, data_dir)]


def _is_ours(pid: int, data_dir: Path) -> bool:
    """Whether this is a server process that works in `data_dir` as its owner."""
    try:
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
        return (
            program == "postgres"
            and os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(data_dir)
            and os.stat(f"/proc/{pid}").st_uid == data_dir.stat().st_uid
        )
    except OSError:
        return False


def _postmaster(data_dir: Path) -> int | None:
    try:
        return int((data_dir / "postmaster.pid").read_text("utf-8").splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None


def _send(handle: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


def _wait(handles: Iterable[int]) -> bool:
    """Whether all of these have ended within the bound."""
    for handle in handles:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(_END_WAIT_MS):
            return False
    return True
