"""The server's edge: HTTP/1.1 on the Unix socket and, for metrics and health only, on TCP.

Rules:
- Parse, call, render; what a request means is the handlers' business (the root builds them).
- `Walarchiver-Exit: 0` is sent only after the handler returned; the hook trusts nothing else. An
  error carries 1 for push, and for fetch 200 unless the handler raised ProvenAbsent.
- Every request has a deadline. Nothing a caller sends, or fails to send, delays another caller.
- A push goes on when its caller vanishes (PostgreSQL asks again and finds it done). A fetch is cancelled:
  the file it would place is no longer wanted there.
- While draining, push and fetch are refused with ShuttingDown; what is in progress may end.
- An exception nobody foresaw is logged with its traceback, answered with 500, and never with success.
The protocol is written down in docs/api.md.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from walarchiver.errors import (
    CallerGone,
    DeadlineExceeded,
    Locked,
    NotPermitted,
    NotReachable,
    ProvenAbsent,
    Refused,
    ShuttingDown,
    Transient,
    UnknownCluster,
    Untrusted,
    UsageError,
    WalarchiverError,
)
from walarchiver.httpcomplaints import HttpComplaints
from walarchiver.listening import Connection, ConnectionLimits, Connections, Peer, PeerRule, place_at
from walarchiver.log import get_log
from walarchiver.metrics import CONTENT_TYPE, Metrics
from walarchiver.ports import Clock
from walarchiver.requestbody import members_of, path_of
from walarchiver.settings_kinds import Address

API_VERSION: Final = 1
EXIT_HEADER: Final = "Walarchiver-Exit"
_BODY_BYTES_MAX = 64 * 1024
_NAME_BYTES_MAX = 255
_LAST_WORDS_S = 0.2
"""For requests that were cut at the end of the drain; aiohttp waits for it twice."""

_log = get_log("api")
_Route = Callable[[web.BaseRequest, Connection], Awaitable[web.Response]]


class Handlers(Protocol):
    """What the root puts behind the socket. Only walarchiver.errors should escape."""

    async def push(self, cluster: str | None, path: str, peer: Peer, /) -> None:
        """Return when the WAL file at `path` (absolute) is durable and in the ledger."""
        ...

    async def fetch(self, cluster: str | None, plan: str | None, name: str, path: str, peer: Peer, /) -> None:
        """Return when the file is at `path`. Raises ProvenAbsent only for the proven end."""
        ...

    async def status(self) -> Mapping[str, object]:
        """What `walarchiver status --output json` shows."""
        ...

    async def horizon(self, cluster: str | None, /) -> Mapping[str, object]:
        """Record now how far the archive is proven, because somebody is about to plan."""
        ...

    def not_ready(self) -> str | None:
        """Why archiving cannot work just now; None when it can."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """Bounds for requests, in seconds, and for connections."""

    push_s: float = 110.0
    fetch_s: float = 590.0
    question_s: float = 30.0
    """status, plan, health, metrics"""
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


@dataclass(frozen=True, slots=True)
class _Failure:
    status: int
    error: WalarchiverError


class Api:
    """Answers requests; `serve_api` connects it to sockets."""

    def __init__(
        self, handlers: Handlers, *, metrics: Metrics, clock: Clock, limits: ApiLimits, peers: PeerRule
    ) -> None:
        self._handlers = handlers
        self._metrics = metrics
        self.clock = clock
        self._limits = limits
        self.peers = peers
        self.connections = Connections(limits.connections, peers.permits)
        self.draining = False
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._routes: dict[tuple[str, str], _Route] = {
            ("POST", "/v1/push"): self._push,
            ("POST", "/v1/fetch"): self._fetch,
            ("POST", "/v1/horizon"): self._horizon,
            ("GET", "/v1/status"): self._status,
            ("GET", "/livez"): self._livez,
            ("GET", "/readyz"): self._readyz,
            ("GET", "/metrics"): self._render_metrics,
        }

    def drain(self) -> None:
        """Take no more pushes and fetches; what is in progress goes on."""
        self.draining = True

    async def finish(self, within_s: float) -> bool:
        """Wait for requests in progress; False when some were still there at the end."""
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request."""
        connection = self.connections.of(request.transport)
        if connection is None:  # cut while the request was on its way
            return web.Response(status=503)
        connection.heard.set()
        self._busy += 1
        self._idle.clear()
        try:
            return await self._routed(request, connection)
        except Exception as error:  # noqa: BLE001  the edge reports a bug, never goes on as if done
            _log.bug("unforeseen error", error, method=request.method, path=request.path)
            self._metrics.bugs.inc()
            failure = WalarchiverError(f"unforeseen {type(error).__name__}; the log has the details")
            return self._failed(request, _Failure(500, failure))
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()
            connection.expect_within(self._limits.connections.idle_s)

    async def _routed(self, request: web.BaseRequest, connection: Connection) -> web.Response:
        route = self._routes.get((request.method, request.path))
        local = connection.peer is not None
        if route is None or (request.path.startswith("/v1/") and not local):
            known = {path for _method, path in self._routes if local or not path.startswith("/v1/")}
            status = 405 if request.path in known else 404
            unknown = UsageError(f"no {request.method} {request.path[:200]} here")
            return self._failed(request, _Failure(status, unknown))
        try:
            return await route(request, connection)
        except WalarchiverError as error:
            return self._failed(request, _Failure(_status_of(error), error))

    async def _push(self, request: web.BaseRequest, connection: Connection) -> web.Response:
        body = await self._body(request, connection, required=("path",), optional=("cluster",))
        path, cluster = path_of(body["path"]), body["cluster"]
        self._refuse_while_draining()
        work = self._handlers.push(cluster, path, _known(connection))
        await self._timed("push", cluster, self._limits.push_s, work)
        return self._done()

    async def _fetch(self, request: web.BaseRequest, connection: Connection) -> web.Response:
        body = await self._body(request, connection, required=("name", "path"), optional=("cluster", "plan"))
        name, path, cluster = body["name"] or "", path_of(body["path"]), body["cluster"]
        if not 0 < len(name.encode()) <= _NAME_BYTES_MAX or "/" in name or "\0" in name:
            raise UsageError(f"name {name[:100]!r} is not a file name")
        self._refuse_while_draining()
        work = self._handlers.fetch(cluster, body["plan"], name, path, _known(connection))
        await self._timed("fetch", cluster, self._limits.fetch_s, _unless_lost(work, connection.lost))
        return self._done()

    async def _horizon(self, request: web.BaseRequest, connection: Connection) -> web.Response:
        body = await self._body(request, connection, required=(), optional=("cluster",))
        return await self._asked(self._handlers.horizon(body["cluster"]))

    async def _status(self, _request: web.BaseRequest, _connection: Connection) -> web.Response:
        return await self._asked(self._handlers.status())

    async def _livez(self, _request: web.BaseRequest, _connection: Connection) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.BaseRequest, _connection: Connection) -> web.Response:
        reason = "draining" if self.draining else self._handlers.not_ready()
        return web.Response(status=503, text=f"{reason}\n") if reason else web.Response(text="ok\n")

    async def _render_metrics(self, _request: web.BaseRequest, _connection: Connection) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _asked(self, work: Awaitable[Mapping[str, object]]) -> web.Response:
        try:
            async with asyncio.timeout(self._limits.question_s):
                found = await work
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {self._limits.question_s:g} s") from None
        return web.json_response(dict(found))

    async def _timed(self, verb: str, cluster: str | None, limit_s: float, work: Awaitable[None]) -> None:
        """Run the handler inside its deadline, and count how it went."""
        began, outcome, label = self.clock.monotonic_s(), "bug", cluster or self._metrics.only_cluster
        try:
            async with asyncio.timeout(limit_s) as deadline:
                await work
            outcome = "done"
        except TimeoutError:
            if not deadline.expired():
                raise  # the handler's own, so a bug
            outcome = DeadlineExceeded.code
            raise DeadlineExceeded(f"{verb} was not done within {limit_s:g} s") from None
        except WalarchiverError as error:
            outcome = error.code  # a name that callers make up is no label: every value is kept for ever
            label = "" if isinstance(error, UnknownCluster) else label
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            counter = self._metrics.pushes if verb == "push" else self._metrics.fetches
            seconds = self._metrics.push_seconds if verb == "push" else self._metrics.fetch_seconds
            counter.labels(cluster=label, outcome=outcome).inc()
            seconds.labels(cluster=label).observe(self.clock.monotonic_s() - began)

    async def _body(
        self,
        request: web.BaseRequest,
        connection: Connection,
        *,
        required: tuple[str, ...],
        optional: tuple[str, ...],
    ) -> dict[str, str | None]:
        """The members of the request's JSON object. Raises UsageError."""
        raw = bytearray()
        async for piece in request.content.iter_any():  # the connection's timer bounds this
            raw += piece
            if len(raw) > _BODY_BYTES_MAX:
                raise UsageError(f"the request is longer than {_BODY_BYTES_MAX} bytes")
        connection.at_work()
        try:
            members = json.loads(raw.decode())
        except (ValueError, RecursionError):
            raise UsageError("the request is not JSON") from None
        if not isinstance(members, dict):
            raise UsageError("the request is not a JSON object")
        return members_of(members, required=required, optional=optional)

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise ShuttingDown("the server is stopping")

    def _done(self) -> web.Response:
        return web.json_response({"done": True}, headers={EXIT_HEADER: "0"})

    def _failed(self, request: web.BaseRequest, failure: _Failure) -> web.Response:
        error = failure.error
        headers = {}
        match request.path:
            case "/v1/push":
                headers[EXIT_HEADER] = "1"
            case "/v1/fetch":
                absent = isinstance(error, ProvenAbsent) and failure.status == 404
                headers[EXIT_HEADER] = "1" if absent else "200"
        body = {"error": {"code": error.code, "message": error.message, "hint": error.next_step}}
        response = web.json_response(body, status=failure.status, headers=headers)
        if failure.status in (400, 500):
            response.force_close()  # what else is on this connection cannot be trusted
        return response


async def _listen_on_tcp(
    loop: asyncio.AbstractEventLoop, connected: Callable[[], Connection], listen: Address
) -> asyncio.Server:
    """Raises Locked when somebody has the port, Transient when the address cannot be had (yet)."""
    try:
        return await loop.create_server(connected, listen.host, listen.port)
    except OSError as error:
        where = f"`listen` in [server], {listen.host} port {listen.port}"
        if error.errno == errno.EADDRINUSE:
            raise Locked(
                f"{where}, is in use", hint="Choose another port: 9187 is also that of postgres_exporter."
            ) from error
        raise Transient(f"{where}, cannot be had: {error.strerror or error}") from error


@asynccontextmanager
async def serve_api(
    api: Api,
    *,
    socket_path: Path,
    listen: Address | None,
    drain_s: float,
    passed: socket.socket | None = None,
) -> AsyncIterator[None]:
    """Listen from entry to exit; leaving drains: new work is refused, work in progress gets `drain_s`.

    With a `passed` socket new callers are left in its queue for the next server instead of being refused.
    Raises Locked when another server has the socket or the port, ConfigError when a place cannot be used.
    """
    loop = asyncio.get_running_loop()
    http = web.Server(
        api.answer,
        access_log=None,
        logger=HttpComplaints(_log, api.clock, HttpProcessingError).logger,
        auto_decompress=False,
        keepalive_timeout=api.connections.limits.idle_s,
        lingering_time=1.0,
    )

    def connected() -> Connection:
        return Connection(http(), api.connections)

    place = place_at(socket_path, mode=api.peers.socket_mode, backlog=128, passed=passed)
    servers: list[asyncio.Server] = []
    try:
        # Not create_unix_server: from Python 3.13 on that one removes the socket's file when it closes.
        servers.append(await loop.create_server(connected, sock=place.socket))
        if listen is not None:
            servers.append(await _listen_on_tcp(loop, connected, listen))
        yield
    finally:
        if place.outlives_us:
            await api.connections.last_call(servers[:1])
        api.drain()
        finished = await api.finish(drain_s)
        if not finished:
            _log.warning("requests cut at the end of the drain", drain_s=drain_s)
        for server in servers:
            server.close()
        await http.shutdown(_LAST_WORDS_S)
        for connection in list(api.connections.open):
            if isinstance(connection, asyncio.Transport):
                connection.abort()
        place.close()


async def _unless_lost(work: Awaitable[None], lost: asyncio.Future[None]) -> None:
    """Do the work, but cancel it when the caller is gone."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task, lost], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CallerGone("the caller closed the connection")
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _known(connection: Connection) -> Peer:
    assert connection.peer is not None  # only local routes come here
    return connection.peer


def _status_of(error: WalarchiverError) -> int:
    """The HTTP status for people and curl; the hook reads only Walarchiver-Exit beside 200 and 404."""
    match error:
        case ProvenAbsent():
            return 404
        case NotPermitted():
            return 403
        case UsageError():
            return 400
        case Transient():
            return 503
        case Refused():
            return 409
        case NotReachable():
            return 422
        case Untrusted():
            return 502
        case _:
            return 503
