"""The model behind HTTP: one thread with an event loop, on a loopback port of its own.

Rules:
- Requests are answered one after another, in the order they came in whole; only held ones wait aside.
- It ends with `stop`: nothing of it stays.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self
from urllib.parse import unquote_plus

from aiohttp import web

from tests.kit.models3 import faults as broken
from tests.kit.models3.answering import Answering
from tests.kit.models3.bodies import Body
from tests.kit.models3.clock import ModelClock, http_date
from tests.kit.models3.faults import Fault, Faults
from tests.kit.models3.feed import Feed
from tests.kit.models3.permissions import Permissions
from tests.kit.models3.policy import Grants
from tests.kit.models3.refusals import Refusal
from tests.kit.models3.requestlog import Logged, RequestLog
from tests.kit.models3.sqs import Queue
from tests.kit.models3.state import State
from tests.kit.models3.uploads import PART_BYTES_MIN, Uploads
from tests.kit.models3.wire import Call, Reply, encoded, error_body, parse_call, refused

_HOLD_S = 30.0
_LISTINGS = ("ListObjectVersions", "ListObjectsV2")


@dataclass(frozen=True)
class ModelOptions:
    """How this server differs from AWS, and who may use it."""

    multipart_time: Literal["initiation", "completion"] = "initiation"
    whole_seconds: bool = True
    part_bytes_min: int = PART_BYTES_MIN
    roles: Sequence[Grants] = ()
    ignores_conditions: bool = False
    """As some servers do: If-Match and If-None-Match of writes mean nothing."""
    start: str = "2026-03-02T10:00:00Z"
    running: bool = False
    """Whether the clock goes on by itself, for clients that compare it with their own."""


class ModelS3:
    """See the module. `with ModelS3() as server:` or start and stop."""

    def __init__(self, options: ModelOptions | None = None) -> None:
        self.given = options or ModelOptions()
        self.clock = ModelClock(self.given.start, running=self.given.running)
        self.feed = Feed()
        self.state = State(
            self.clock,
            multipart_time=self.given.multipart_time,
            whole_seconds=self.given.whole_seconds,
            on_change=self.feed.tell,
        )
        self.queue = Queue(self.feed, self.clock)
        self.uploads = Uploads(self.state, part_bytes_min=self.given.part_bytes_min)
        self.permissions = Permissions(self.given.roles)
        self.faults = Faults()
        self.log = RequestLog()
        self._answering = Answering(self.state, self.uploads, self.permissions)
        self._last_pages: dict[str, Reply] = {}
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="models3")
        self._port = 0
        self._ending = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def queue_url(self) -> str:
        """Where the notifications can be received, as from SQS."""
        return f"{self.endpoint}/000000000000/events"

    def start(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        self._port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(timeout=30)
        return self

    def stop(self) -> None:
        self._ending.set()
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(timeout=30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=30)
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- the event loop's side
    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _listen(self) -> int:
        server = web.Server(self._handle, auto_decompress=False)
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = await request.content.read()
        call = parse_call(request.method, request.raw_path, request.headers.items(), body)
        if Queue.is_for(call):
            return await self._send(request, self.queue.answer(call), keep=None)
        if self.given.ignores_conditions and call.operation not in ("GetObject", "HeadObject"):
            kept = {name: value for name, value in call.headers.items() if not name.startswith("if-")}
            call = replace(call, headers=kept)
        fault = self.faults.take(call)
        logged = self.log.add(call, self.clock.now_ms, type(fault).__name__ if fault else "")
        if isinstance(fault, broken.Hold):
            await self._wait(fault.event)
        reply = self._with_fault(call, fault)
        if isinstance(fault, broken.HoldAnswer):
            await self._wait(fault.event)
        if reply is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        logged.status = reply.status
        return await self._send(
            request, reply, keep=fault.keep if isinstance(fault, broken.CutBody) else None
        )

    def _with_fault(self, call: Call, fault: Fault | None) -> Reply | None:
        """The answer; None when the connection is to be reset."""
        match fault:
            case broken.Refuse(code):
                return refused(Refusal(code, "scripted"), call, "SCRIPTED")
            case broken.RefuseAfter(code):
                self._answer(call)
                return refused(Refusal(code, "scripted"), call, "SCRIPTED")
            case broken.Reset():
                return None
            case broken.LoseAnswer():
                self._answer(call)
                return None
            case broken.ErrorIn200(code, done):
                if done:
                    self._answer(call)
                said = error_body(Refusal(code, "scripted"), call, "SCRIPTED")
                return Reply(200, {"Content-Type": "application/xml"}, said)
            case broken.Meanwhile(act):
                act()
            case broken.Change(change):
                return change(self._answer(call))
            case broken.LosePage() | broken.RepeatPage() | broken.DropKeys() | broken.EndEarly():
                return self._spoiled(call, fault)
        return self._answer(call)

    def _answer(self, call: Call) -> Reply:
        reply = self._answering.answer(call)
        if call.operation in _LISTINGS and reply.status == 200:
            self._last_pages[call.operation] = replace(reply, headers=dict(reply.headers))
        return reply

    def _spoiled(self, call: Call, fault: Fault) -> Reply:
        last = self._last_pages.get(call.operation)
        reply = self._answer(call)
        page = reply.body
        assert isinstance(page, bytes)
        match fault:
            case broken.DropKeys(keys):
                kind = call.query.get("encoding-type", "")
                hidden = frozenset(encoded(key, kind) for key in keys)
                return replace(reply, body=broken.without_keys(page, hidden))
            case broken.EndEarly():
                return replace(reply, body=broken.ended(page))
            case broken.RepeatPage():
                if last is None or not isinstance(last.body, bytes):
                    return reply
                return replace(reply, body=broken.under_markers(last.body, page))
            case _:
                if broken.field_of(page, "IsTruncated") != "true":
                    return reply
                return replace(reply, body=broken.under_markers(self._page_behind(call, page), page))

    def _page_behind(self, call: Call, page: bytes) -> bytes:
        further = dict(call.query)
        if call.operation == "ListObjectVersions":
            marker = broken.field_of(page, "NextKeyMarker")
            further["key-marker"] = unquote_plus(marker) if call.query.get("encoding-type") else marker
            further["version-id-marker"] = broken.field_of(page, "NextVersionIdMarker")
        else:
            further["continuation-token"] = broken.field_of(page, "NextContinuationToken")
        behind = self._answer(replace(call, query=further)).body
        assert isinstance(behind, bytes)
        return behind

    async def _wait(self, event: threading.Event) -> None:
        until = self._loop.time() + _HOLD_S
        while not event.is_set() and not self._ending.is_set() and self._loop.time() < until:
            await asyncio.sleep(0.005)

    async def _send(self, request: web.BaseRequest, reply: Reply, *, keep: int | None) -> web.StreamResponse:
        headers = {"Server": "models3", **reply.headers, "Date": http_date(self.clock.now_ms)}
        if keep is None and isinstance(reply.body, bytes):
            response = web.Response(status=reply.status, headers=headers, body=reply.body or None)
            if reply.status in (204, 304):
                response.headers.pop("Content-Type", None)
            return response
        body = Body.of(reply.body) if isinstance(reply.body, bytes) else reply.body
        streamed = web.StreamResponse(status=reply.status, headers=headers)
        streamed.content_length = body.size
        await streamed.prepare(request)
        sent = body if keep is None else body.slice(0, keep - 1)
        for chunk in sent.chunks():
            await streamed.write(chunk)
        if keep is not None:
            assert request.transport is not None
            request.transport.close()
        return streamed

    def logged(self) -> list[Logged]:
        """All requests since the last mark."""
        return list(self.log)
