"""An HTTP proxy on loopback that misbehaves on demand, to stand between a client and a real server.

    with FaultProxy(server.endpoint) as proxy:
        proxy.inject(ResetAfter(), times=1, method="PUT")
        ...
        assert [seen.method for seen in proxy.log] == ["PUT", "PUT"]

Requests are forwarded byte for byte (signatures stay valid), on one upstream connection each.
Faults are used up in the order they were injected; a request that none fits passes untouched.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_LONGEST_HANG_S = 30.0


@dataclass(frozen=True, slots=True)
class Response:
    """An answer as it goes to the client."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer this at once; the server never hears of the request."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/xml"),)


@dataclass(frozen=True, slots=True)
class AnswerAfter:
    """Let the server do it, then answer this instead."""

    status: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Change:
    """Let the server answer, and change its answer."""

    change: Callable[[Response], Response]


@dataclass(frozen=True, slots=True)
class ResetBefore:
    """Reset the connection; the server never hears of the request."""


@dataclass(frozen=True, slots=True)
class ResetAfter:
    """Let the server do it, then reset the connection without an answer."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer, until the client gives up; the server never hears of the request."""


@dataclass(frozen=True, slots=True)
class HangAfter:
    """Let the server do it, then never answer."""


@dataclass(frozen=True, slots=True)
class CutBody:
    """Announce the whole body, send only its first bytes, and end the connection politely."""

    keep: int


@dataclass(frozen=True, slots=True)
class StallBody:
    """Announce the whole body, send only its first bytes, and then nothing more."""

    keep: int


@dataclass(frozen=True, slots=True)
class CorruptRequest:
    """Flip one bit of the request's body on the way to the server."""


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Hold the request until the event is set, then forward it."""

    event: threading.Event


Fault = (
    Answer
    | AnswerAfter
    | Change
    | ResetBefore
    | ResetAfter
    | Hang
    | HangAfter
    | CutBody
    | StallBody
    | CorruptRequest
    | WaitFor
)


def s3_error(status: int, code: str, message: str = "said the proxy") -> Answer:
    """An answer in the words of S3."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, body.encode())


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the client sent it."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body_sha256: str
    fault: Fault | None


@dataclass
class _Rule:
    fault: Fault
    left: int | None
    method: str | None
    path_contains: str
    header: str | None


class FaultProxy:
    """See the module."""

    def __init__(self, upstream: str, *, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self.upstream = (parts.hostname, parts.port or 80)
        self.log: list[Seen] = []
        self.in_flight_most = 0
        self._in_flight = 0
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self.released = threading.Event()
        self._server = _Server(self, tls)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def inject(
        self,
        fault: Fault,
        *,
        times: int | None = 1,
        method: str | None = None,
        path_contains: str = "",
        header: str | None = None,
    ) -> None:
        """Apply `fault` to the next `times` requests that fit (None: to all, until `heal`)."""
        with self._lock:
            self._rules.append(_Rule(fault, times, method, path_contains, header and header.lower()))

    def heal(self) -> None:
        """Forget the faults that are not used up, and let go of what hangs."""
        with self._lock:
            self._rules.clear()
        self.released.set()
        self.released = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()
        self._server.shutdown()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()

    def fault_for(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Fault | None:
        with self._lock:
            fault = self._next_fault(method, path, headers)
            self.log.append(Seen(method, path, headers, hashlib.sha256(body).hexdigest(), fault))
        return fault

    def entered(self, step: int) -> None:
        with self._lock:
            self._in_flight += step
            self.in_flight_most = max(self.in_flight_most, self._in_flight)

    def _next_fault(self, method: str, path: str, headers: dict[str, str]) -> Fault | None:
        for rule in self._rules:
            fits = rule.method in (None, method) and rule.path_contains in path
            if fits and (rule.header is None or rule.header in headers):
                if rule.left is not None:
                    rule.left -= 1
                    if rule.left == 0:
                        self._rules.remove(rule)
                return rule.fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, tls: ssl.SSLContext | None) -> None:
        self.proxy = proxy
        self.tls = tls
        self.resetting: set[int] = set()
        self.open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self.tls is not None:
            connection.settimeout(5)
            try:
                connection = self.tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                raise
            connection.settimeout(None)
        self.open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        if id(request) in self.resetting:
            self.resetting.discard(id(request))
            request.close()  # with SO_LINGER 0: a reset, where shutdown() would end politely
        else:
            super().shutdown_request(request)

    def end_connections(self) -> None:
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what the tests are about; stay silent."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_any(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = proxy.fault_for(self.command, self.path, headers, body)
        proxy.entered(1)
        try:
            self._carry_out(fault, body)
        finally:
            proxy.entered(-1)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815 - named by the base class

    def _carry_out(self, fault: Fault | None, body: bytes) -> None:
        match fault:
            case None:
                self._send(self._forward(body))
            case Answer(status, text, headers):
                self._send(Response(status, headers, text))
            case AnswerAfter(status, text):
                self._forward(body)
                self._send(Response(status, (), text))
            case Change(change):
                self._send(change(self._forward(body)))
            case ResetBefore():
                self._reset()
            case ResetAfter():
                self._forward(body)
                self._reset()
            case Hang():
                self._hang()
            case HangAfter():
                self._forward(body)
                self._hang()
            case CutBody(keep):
                self._send(self._forward(body), keep=keep)
                self.close_connection = True
            case StallBody(keep):
                self._send(self._forward(body), keep=keep)
                self._hang()
            case CorruptRequest():
                self._send(self._forward(bytes([body[0] ^ 1]) + body[1:]))
            case WaitFor(event):
                event.wait(_LONGEST_HANG_S)
                self._send(self._forward(body))

    def _forward(self, body: bytes) -> Response:
        upstream = http.client.HTTPConnection(*self.server.proxy.upstream, timeout=_LONGEST_HANG_S)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            with upstream.getresponse() as got:
                return Response(got.status, tuple(got.getheaders()), got.read())
        finally:
            upstream.close()

    def _send(self, response: Response, *, keep: int | None = None) -> None:
        lines = [f"HTTP/1.1 {response.status} {http.client.responses.get(response.status, 'Other')}"]
        dropped = {"transfer-encoding", "connection", "content-length"}
        lines += [f"{name}: {value}" for name, value in response.headers if name.lower() not in dropped]
        if self.command != "HEAD" and response.status != 204:
            lines.append(f"Content-Length: {len(response.body)}")
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if self.command != "HEAD":
            self.wfile.write(response.body if keep is None else response.body[:keep])
        self.wfile.flush()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.resetting.add(id(self.request))
        self.close_connection = True

    def _hang(self) -> None:
        """Until the client closes, the proxy is healed, or the longest hang is over."""
        released = self.server.proxy.released
        for _ in range(int(_LONGEST_HANG_S / 0.02)):
            readable, _, _ = select.select([self.connection], [], [], 0.02)
            if readable or released.is_set():
                break
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named by the base class
        """The log is `FaultProxy.log`."""
