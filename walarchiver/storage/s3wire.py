"""HTTP/1.1 to one host over connections that stay open: what a request of `s3direct.py` needs, no more.

Rules:
- A connection serves one request at a time and is kept only after its whole answer was read. One that
  the server closed meanwhile is noticed before it is used; when it dies under a request before an answer
  has begun, that request goes out once more at once, on a new connection.
- Kept connections are used last in, first out, and not after `IDLE_MAX_S`: firewalls forget them. After
  a failure none is trusted any more. Their number is bounded by whoever bounds the requests in flight.
- TLS is always verified, against the same authorities as botocore's connections.
- Connecting, and each wait for the server, has a limit; sending a body has one that grows with it.
- A small body leaves with its headers in one piece, a large one from the caller's buffer, uncopied.
- Failures are NotReached with the server's address and what happened; answers of any status are answers.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from walarchiver.ports import Clock

IDLE_MAX_S = 20.0
SLOWEST_BODY_BYTES_PER_S = 32 * 1024

_TOGETHER_BYTES_MAX = 64 * 1024
_SEND_BYTES = 1 << 20
_DRAIN_BYTES_MAX = 64 * 1024

Buffer = bytes | bytearray | memoryview


class NotReached(OSError):
    """No usable answer came: refused, reset, timed out, or not HTTP."""


class _NoAnswer(NotReached):
    """A kept connection ended before an answer had begun."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a server listens."""

    tls: bool
    host: str
    port: int

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Limits of a connection, in seconds."""

    connect_s: float
    wait_s: float


class _Connection:
    """An open socket, and when it was last used."""

    def __init__(self, sock: socket.socket, *, reused: bool = False) -> None:
        self.sock = sock
        self.reused = reused
        self.idle_since_s = 0.0

    def is_dead(self) -> bool:
        """Whether the server closed it (or said something unasked, which is no better)."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        self.sock.close()


class Answer:
    """A status, headers, and a body that is read once; closed by `with`."""

    def __init__(self, wire: Wire, connection: _Connection, response: http.client.HTTPResponse) -> None:
        self._wire = wire
        self._connection: _Connection | None = connection
        self._response = response
        self.status = response.status
        self.reason = response.reason

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    def readinto(self, view: memoryview) -> int:
        """As many bytes of the body as fit; fewer only at its end. Raises NotReached."""
        try:
            return self._response.readinto(view)
        except (OSError, http.client.HTTPException) as failure:
            raise self._wire.not_reached(failure) from failure

    def start(self) -> bytes:
        """The first bytes of the body, as a refusal's words. Raises NotReached."""
        try:
            return self._response.read(_DRAIN_BYTES_MAX)
        except (OSError, http.client.HTTPException) as failure:
            raise self._wire.not_reached(failure) from failure

    def whole(self, bytes_max: int) -> bytes:
        """All of the body. Raises NotReached when it was cut short, or is longer than allowed."""
        try:
            words = self._response.read(bytes_max)
        except (OSError, http.client.HTTPException) as failure:
            raise self._wire.not_reached(failure) from failure
        if self._response.length or len(words) == bytes_max:
            raise self._wire.not_reached(OSError(f"an answer that did not end well after {len(words)} bytes"))
        return words

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Keep the connection if the whole answer was read, else end it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        response = self._response
        # A body that was cut short is closed too, but then something is missing of its length.
        if response.isclosed() and not response.length and not response.will_close:
            self._wire.keep(connection)
        else:
            connection.close()
        response.close()


class Wire:
    """The connections to one server; thread-safe."""

    def __init__(
        self, origin: Origin, limits: WireLimits, context: ssl.SSLContext | None, clock: Clock
    ) -> None:
        """`context` exactly for an origin with TLS."""
        self._origin = origin
        self._limits = limits
        self._context = context
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._closed = False
        # Whoever forgets `close` leaves no open sockets behind.
        weakref.finalize(self, _close_all, self._idle)

    @property
    def origin(self) -> Origin:
        return self._origin

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: Buffer = b"") -> Answer:
        """Send one request and return its answer, the body unread. Raises NotReached."""
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join((*lines, "", "")).encode("ascii")
        kept = self._kept()
        if kept is not None:
            with contextlib.suppress(_NoAnswer):
                return self._over(kept, method, head, body)
        return self._over(self._dialled(), method, head, body)

    def keep(self, connection: _Connection) -> None:
        """Take a connection back whose answer was read to its end."""
        connection.reused = True
        connection.idle_since_s = self._clock.monotonic_s()
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """End what is idle; connections in use end with their request."""
        with self._lock:
            self._closed = True
        self._forget()

    def not_reached(self, failure: Exception) -> NotReached:
        """The failure, told with the server's address; connections kept so far are not trusted any more."""
        self._forget()
        if isinstance(failure, TimeoutError):
            return NotReached(f"{self._origin.url} said nothing for {self._limits.wait_s:g} s")
        words = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure)
        return NotReached(f"{self._origin.url}: {words or type(failure).__name__}")

    def _forget(self) -> None:
        with self._lock:
            idle = self._idle[:]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _kept(self) -> _Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            age_s = self._clock.monotonic_s() - connection.idle_since_s
            if age_s <= IDLE_MAX_S and not connection.is_dead():
                return connection
            connection.close()

    def _dialled(self) -> _Connection:
        """A new connection. Raises NotReached, and SSLCertVerificationError as it is."""
        origin, limit_s = self._origin, self._limits.connect_s
        sock: socket.socket | None = None
        try:
            sock = socket.create_connection((origin.host, origin.port), limit_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_hostname=origin.host)
            sock.settimeout(self._limits.wait_s)
        except OSError as failure:
            if sock is not None:
                sock.close()
            if isinstance(failure, ssl.SSLCertVerificationError):
                raise
            if isinstance(failure, TimeoutError):
                raise NotReached(f"{origin.url} could not be connected to in {limit_s:g} s") from failure
            raise self.not_reached(failure) from failure
        return _Connection(sock)

    def _over(self, connection: _Connection, method: str, head: bytes, body: Buffer) -> Answer:
        try:
            cut = self._send(connection.sock, head, body)
            response = http.client.HTTPResponse(connection.sock, method=method)
            try:
                response.begin()
                if cut is not None and response.status < 400:
                    raise cut  # it cannot have accepted what it did not read
            except BaseException:
                response.close()
                raise
            if cut is not None:
                response.will_close = True
            return Answer(self, connection, response)
        except (OSError, http.client.HTTPException) as failure:
            connection.close()
            told = self.not_reached(failure)
            if connection.reused and isinstance(failure, ConnectionError | ssl.SSLEOFError):
                raise _NoAnswer(*told.args) from failure
            raise told from failure
        except BaseException:
            connection.close()
            raise

    def _send(self, sock: socket.socket, head: bytes, body: Buffer) -> OSError | None:
        """Send it all; a connection that breaks meanwhile is returned, as it may still hold an answer."""
        try:
            with memoryview(body).cast("B") as view:
                if len(view) <= _TOGETHER_BYTES_MAX:
                    sock.sendall(head + view if len(view) else head)
                    return None
                sock.sendall(head)
                self._send_large(sock, view)
        except (ConnectionError, ssl.SSLEOFError) as failure:
            return failure
        return None

    def _send_large(self, sock: socket.socket, view: memoryview) -> None:
        limit_s = self._limits.wait_s + len(view) / SLOWEST_BODY_BYTES_PER_S
        began_s = self._clock.monotonic_s()
        for start in range(0, len(view), _SEND_BYTES):
            if self._clock.monotonic_s() - began_s > limit_s:
                raise NotReached(f"took {start} of {len(view)} bytes in {limit_s:.1f} s")
            with view[start : start + _SEND_BYTES] as piece:
                sock.sendall(piece)


def _close_all(connections: list[_Connection]) -> None:
    for connection in connections:
        connection.close()
