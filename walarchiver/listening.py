"""The Unix socket: who may connect, how it comes into being, and how a connection is kept in bounds.

Rules:
- The caller's user, told by the kernel (SO_PEERCRED), is checked before one byte is read; who is not
  permitted gets a fixed 403 and cannot hold a connection.
- A whole request must arrive within `request_s`, and a connection may rest for `idle_s`; then it is
  cut. So a slow or hostile caller holds a place for seconds, never for ever.
- A socket file that nobody answers on is replaced, by rename; one that answers is left alone (Locked). A lock
  file beside it keeps two servers that start together apart.
- A socket that the service manager passed is never removed: who calls between two servers waits in its queue.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from walarchiver.errors import ConfigError, Locked

_PATH_BYTES_MAX = 107
"""sun_path of unix(7) is 108 bytes with its closing zero."""
_TURNS_TO_REGISTER = 5
"""Turns of the event loop after which an accepted connection has surely become a `Connection`."""
_FORBIDDEN_BODY = (
    b'{"error": {"code": "WA-PEER", "message": "this user may not call here", "hint": "The hook must run as '
    b"the owner of the data directory, as root, as the server's own user, or as one of `users`.\"}}\n"
)
_BUSY_BODY = (
    b'{"error": {"code": "WA-BUSY", "message": "too many callers at once", '
    b'"hint": "PostgreSQL asks again by itself; raise `connections` in [server] if this is no accident."}}\n'
)


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as the kernel knows it."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class PeerRule:
    """Which users may call: root, our own user, those named, and the owners of these folders."""

    users: frozenset[int]
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, users: Iterable[str], folders: Iterable[Path]) -> PeerRule:
        """From user names or numbers. Raises ConfigError for a name that this host does not know."""
        numbers = {0, os.geteuid()}
        for user in users:
            try:
                numbers.add(int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid)
            except KeyError:
                raise ConfigError(f"server.users: this host has no user {user!r}") from None
        return cls(frozenset(numbers), tuple(folders))

    def permits(self, uid: int) -> bool:
        """Folders are looked at anew each time: a data directory may appear after the server."""
        return uid in self.users or uid in self._owners()

    @property
    def socket_mode(self) -> int:
        """Others get through the file's own permissions only when some of them are permitted at all."""
        others = (self.users | self._owners()) - {0, os.geteuid()}
        return 0o666 if others or self.folders else 0o660

    def _owners(self) -> set[int]:
        owners: set[int] = set()
        for folder in self.folders:
            try:
                owners.add(folder.stat().st_uid)
            except OSError:
                continue  # no folder, no owner
        return owners


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A listening Unix socket that the service manager owns: callers wait in it while no server runs."""

    socket: socket.socket

    outlives_us: ClassVar[bool] = True

    def close(self) -> None:
        """Give up our share; the file and the queue of callers stay."""
        self.socket.close()


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A bound, listening Unix socket; `close` takes its file away."""

    path: Path
    socket: socket.socket
    lock: int
    inode: int

    outlives_us: ClassVar[bool] = False

    def close(self) -> None:
        """Stop listening. A file that another server has put there since stays."""
        self.socket.close()
        try:
            if self.path.lstat().st_ino == self.inode:
                self.path.unlink()
        except FileNotFoundError:
            pass
        finally:
            os.close(self.lock)


def listen_on(path: Path, *, mode: int, backlog: int) -> ListeningSocket:
    """Make the socket file with these permissions and listen.

    Raises Locked when another server answers there, ConfigError when the place cannot be used.
    """
    fresh = path.with_name(path.name + "~")
    if len(os.fsencode(fresh)) > _PATH_BYTES_MAX:
        raise ConfigError(f"server.socket: {path} is longer than a socket's path may be")
    try:
        path.parent.mkdir(mode=0o755 if mode & 0o007 else 0o750, parents=True, exist_ok=True)
        lock = _take_lock(path)
    except OSError as error:
        raise ConfigError(f"server.socket: cannot use {path.parent}: {error.strerror}") from error
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _refuse_living(path)
        fresh.unlink(missing_ok=True)
        listening.bind(os.fspath(fresh))
        fresh.chmod(mode)
        listening.listen(backlog)
        listening.setblocking(False)
        inode = fresh.lstat().st_ino
        fresh.rename(path)
    except OSError as error:
        listening.close()
        os.close(lock)
        raise ConfigError(f"server.socket: cannot listen on {path}: {error.strerror}") from error
    except (Locked, ConfigError):
        listening.close()
        os.close(lock)
        raise
    return ListeningSocket(path, listening, lock, inode)


def place_at(
    path: Path, *, mode: int, backlog: int, passed: socket.socket | None
) -> ListeningSocket | PassedSocket:
    """The socket that was passed for `path`, or one of our own. Raises as `listen_on`."""
    return listen_on(path, mode=mode, backlog=backlog) if passed is None else PassedSocket(passed)


def _take_lock(path: Path) -> int:
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Locked(f"another walarchiver server holds {path}.lock") from None
    return lock


def _refuse_living(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"server.socket: {path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            raise Locked(f"{path} is in use ({error.strerror})") from error
    raise Locked(f"a server answers on {path} already")


def peer_of(transport: asyncio.BaseTransport) -> Peer | None:
    """Who is at the other end of a Unix socket; None for anything else (TCP)."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return Peer(*struct.unpack("3i", raw))


@dataclass(slots=True)
class ConnectionLimits:
    """Bounds for callers."""

    connections_max: int = 64
    request_s: float = 5.0
    idle_s: float = 15.0


class Connections:
    """The open connections of one server."""

    def __init__(self, limits: ConnectionLimits, permits: Callable[[int], bool]) -> None:
        self.limits = limits
        self.permits = permits
        self.open: dict[asyncio.BaseTransport, Connection] = {}

    def of(self, transport: asyncio.BaseTransport | None) -> Connection | None:
        return None if transport is None else self.open.get(transport)

    async def last_call(self, servers: Iterable[asyncio.Server]) -> None:
        """Accept nobody else; return when each connection accepted so far has sent a request or is gone.

        Who was accepted cannot go back into the queue. Their timers bound this: a connection without a
        request is cut after `request_s`.
        """
        for server in servers:
            server.close()
        for _ in range(_TURNS_TO_REGISTER):
            await asyncio.sleep(0)
        for connection in list(self.open.values()):
            await connection.heard.wait()


class Connection(asyncio.Protocol):
    """One connection: passes everything on to the HTTP protocol, within the bounds."""

    def __init__(self, http: asyncio.Protocol, connections: Connections) -> None:
        self.peer: Peer | None = None
        self.heard = asyncio.Event()
        """A request came (set by the one who answers it), or none ever will."""
        self.lost = asyncio.get_running_loop().create_future()
        self._http = http
        self._all = connections
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.peer = peer_of(transport)
        if self.peer is not None and not self._all.permits(self.peer.uid):
            _answer_and_close(transport, b"403 Forbidden", _FORBIDDEN_BODY)
            return
        if len(self._all.open) >= self._all.limits.connections_max:
            _answer_and_close(transport, b"503 Service Unavailable", _BUSY_BODY)
            return
        self._transport = transport
        self._all.open[transport] = self
        self.expect_within(self._all.limits.request_s)
        self._http.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._http.data_received(data)

    def eof_received(self) -> bool | None:
        if self._transport is not None:
            self._http.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.set()
        if not self.lost.done():
            self.lost.set_result(None)
        if self._transport is not None:
            self.at_work()
            del self._all.open[self._transport]
            self._http.connection_lost(exc)
            self._transport = None

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def at_work(self) -> None:
        """A request is being answered: the request's own deadline holds."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expect_within(self, seconds: float) -> None:
        """Cut the connection unless something happens by then."""
        self.at_work()
        if self._transport is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._transport.abort)


def _answer_and_close(transport: asyncio.Transport, status: bytes, body: bytes) -> None:
    """No Walarchiver-Exit header: the hook then gives its verb's own failure."""
    transport.write(
        b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
        % (status, len(body), body)
    )
    transport.close()
