"""The server edge: right answers, hard bounds, and callers that misbehave."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hook.conftest import InstalledHook
from tests.kit.chance import SteppingClock
from tests.kit.ports import free_port
from walarchiver.api import Api, ApiLimits, serve_api
from walarchiver.clock import SystemClock
from walarchiver.errors import (
    FetchInDoubt,
    Locked,
    ProvenAbsent,
    SegmentConflict,
    StoreUnavailable,
    Transient,
    UnknownCluster,
    WalarchiverError,
)
from walarchiver.httpcomplaints import PAUSE_S, HttpComplaints
from walarchiver.listening import Peer, PeerRule
from walarchiver.log import configure_logging, get_log
from walarchiver.metrics import Metrics
from walarchiver.settings_kinds import Address

NAME = "000000010000000000000001"


@dataclass
class FakeHandlers:
    """Does what the test says."""

    error: Exception | None = None
    hang: asyncio.Event | None = None
    calls: list[tuple[object, ...]] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str | None = None

    async def push(self, cluster: str | None, path: str, peer: Peer) -> None:
        self.calls.append(("push", cluster, path, peer.uid))
        await self._outcome()

    async def fetch(self, cluster: str | None, plan: str | None, name: str, path: str, peer: Peer) -> None:
        self.calls.append(("fetch", cluster, plan, name, path))
        await self._outcome()
        Path(path).write_bytes(b"wal")

    async def status(self) -> Mapping[str, object]:
        await self._outcome()
        return {"schema_version": 1}

    async def horizon(self, cluster: str | None) -> Mapping[str, object]:
        return {"cluster": cluster}

    def not_ready(self) -> str | None:
        return self.reason

    async def _outcome(self) -> None:
        self.started.set()
        if self.hang is not None:
            try:
                await self.hang.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.error is not None:
            raise self.error


@dataclass
class Running:
    api: Api
    handlers: FakeHandlers
    path: Path
    metrics: Metrics


EVERYBODY = PeerRule(frozenset({os.geteuid()}), ())


@asynccontextmanager
async def running(
    folder: Path,
    handlers: FakeHandlers,
    *,
    limits: ApiLimits | None = None,
    peers: PeerRule = EVERYBODY,
    listen: Address | None = None,
    drain_s: float = 5,
    only_cluster: str = "",
) -> AsyncIterator[Running]:
    metrics = Metrics("test", only_cluster=only_cluster)
    api = Api(handlers, metrics=metrics, clock=SystemClock(), limits=limits or ApiLimits(), peers=peers)
    async with serve_api(api, socket_path=folder / "s", listen=listen, drain_s=drain_s):
        yield Running(api, handlers, folder / "s", metrics)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.body)["error"]
        return found


async def exchange(path: Path | Address, raw: bytes) -> Answer:
    """Send these bytes and read until the server closes or the announced body is there."""
    if isinstance(path, Address):
        reader, writer = await asyncio.open_connection(path.host, path.port)
    else:
        reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(raw)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(first.split()[1]), headers, body)
    finally:
        writer.close()
        await writer.wait_closed()


def post(route: str, members: object) -> bytes:
    body = members if isinstance(members, bytes) else json.dumps(members).encode()
    return f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def get(route: str) -> bytes:
    return f"GET {route} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


PUSH = post("/v1/push", {"path": "/d/pg_wal/x"})
FETCH = post("/v1/fetch", {"name": NAME, "path": "/d/pg_wal/RECOVERYXLOG"})


async def run_hook(hook: InstalledHook, *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        hook.launcher,
        *words,
        cwd=hook.cwd,
        env={"PATH": "/usr/bin:/bin", **hook.environment},
        stderr=asyncio.subprocess.PIPE,
    )
    _out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, err.decode()


OUTCOMES: list[tuple[Exception | None, int, int]] = [
    (None, 0, 0),
    (ProvenAbsent("past the end"), 1, 1),
    (FetchInDoubt("the store is away"), 1, 200),
    (StoreUnavailable("500"), 1, 200),
    (SegmentConflict("other bytes"), 1, 200),
    (ValueError("a bug"), 1, 200),
    (TimeoutError("a bug"), 1, 200),
]


@pytest.mark.parametrize(("error", "push", "fetch"), OUTCOMES, ids=lambda value: type(value).__name__)
def test_the_hook_gets_the_status_that_postgresql_needs(
    hook: InstalledHook, tmp_path: Path, error: Exception | None, push: int, fetch: int
) -> None:
    async def story() -> None:
        async with running(tmp_path, FakeHandlers(error=error)) as server:
            assert (await run_hook(hook, "--cluster", "shop", "push", f"pg_wal/{NAME}"))[0] == push
            status, err = await run_hook(hook, "fetch", "--plan", "p", NAME, "pg_wal/RECOVERYXLOG")
            assert status == fetch
            if isinstance(error, WalarchiverError) and not isinstance(error, ProvenAbsent):
                assert error.code in err and error.message in err
            assert server.handlers.calls == [
                ("push", "shop", f"{hook.cwd}/pg_wal/{NAME}", os.geteuid()),
                ("fetch", None, "p", NAME, f"{hook.cwd}/pg_wal/RECOVERYXLOG"),
            ]

    asyncio.run(story())


BAD_REQUESTS = {
    "no JSON": b"path=/x",
    "not UTF-8": b'{"path": "/\xff"}',
    "no object": b"[]",
    "nothing": b"",
    "a deep nest": b"[" * 60000,
    "no path": b"{}",
    "a relative path": b'{"path": "pg_wal/x"}',
    "a number": b'{"path": 1}',
    "null": b'{"path": null}',
    "a zero byte": b'{"path": "/x\\u0000"}',
    "half a surrogate": b'{"path": "/x\\ud800"}',
    "a long path": json.dumps({"path": "/" + "x" * 5000}).encode(),
    "an unknown member": b'{"path": "/x", "plan": "p"}',
    "too long": b'{"path": "/' + b"x" * 70000 + b'"}',
}


@pytest.mark.parametrize("body", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_malformed_request_reaches_no_handler(tmp_path: Path, body: bytes) -> None:
    async def story() -> None:
        async with running(tmp_path, FakeHandlers()) as server:
            answer = await exchange(server.path, post("/v1/push", body))
            assert (answer.status, answer.headers["walarchiver-exit"]) == (400, "1")
            assert answer.error["code"] == "WA-USAGE"
            assert server.handlers.calls == []

    asyncio.run(story())


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 300, "\0"])
def test_fetch_takes_only_file_names(tmp_path: Path, name: str) -> None:
    async def story() -> None:
        async with running(tmp_path, FakeHandlers()) as server:
            answer = await exchange(server.path, post("/v1/fetch", {"name": name, "path": "/x"}))
            assert (answer.status, answer.headers["walarchiver-exit"]) == (400, "200")
            assert answer.error["code"] == "WA-USAGE"
            assert server.handlers.calls == []

    asyncio.run(story())


def test_unknown_routes_and_methods_are_named(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path, FakeHandlers()) as server:
            assert (await exchange(server.path, get("/v2/push"))).status == 404
            assert (await exchange(server.path, get("/v1/push"))).status == 405
            assert (await exchange(server.path, post("/livez", {}))).status == 405

    asyncio.run(story())


def test_questions_are_answered(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path, FakeHandlers()) as server:
            assert (await exchange(server.path, get("/livez"))).body == b"ok\n"
            assert json.loads((await exchange(server.path, get("/v1/status"))).body) == {"schema_version": 1}
            horizon = await exchange(server.path, post("/v1/horizon", {"cluster": "c"}))
            assert json.loads(horizon.body) == {"cluster": "c"}
            server.handlers.reason = "the store is away"
            ready = await exchange(server.path, get("/readyz"))
            assert (ready.status, ready.body) == (503, b"the store is away\n")
            await exchange(server.path, PUSH)
            metrics = (await exchange(server.path, get("/metrics"))).body.decode()
            assert 'walarchiver_pushes_total{cluster="",outcome="done"} 1.0' in metrics

    asyncio.run(story())


def test_a_push_that_names_no_cluster_counts_for_the_only_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path, FakeHandlers(), only_cluster="main") as server:
            await exchange(server.path, PUSH)
            await exchange(server.path, post("/v1/push", {"path": "/d/pg_wal/x", "cluster": "main"}))
            metrics = (await exchange(server.path, get("/metrics"))).body.decode()
            assert 'walarchiver_pushes_total{cluster="main",outcome="done"} 2.0' in metrics
            assert 'walarchiver_push_seconds_count{cluster="main"} 2.0' in metrics
            assert 'cluster=""' not in metrics

    asyncio.run(story())


def test_a_cluster_name_that_a_caller_makes_up_becomes_no_label(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path, FakeHandlers(error=UnknownCluster("no such cluster"))) as server:
            for number in range(3):
                request = post("/v1/push", {"path": "/d/pg_wal/x", "cluster": f"made-up-{number}"})
                assert (await exchange(server.path, request)).headers["walarchiver-exit"] == "1"
            metrics = (await exchange(server.path, get("/metrics"))).body.decode()
            assert "made-up" not in metrics
            assert 'walarchiver_pushes_total{cluster="",outcome="WA-CLUSTER"} 3.0' in metrics

    asyncio.run(story())


def test_tcp_shows_health_and_metrics_and_nothing_else(tmp_path: Path) -> None:
    async def story() -> None:
        address = Address("127.0.0.1", free_port())
        async with running(tmp_path, FakeHandlers(), listen=address) as server:
            assert (await exchange(address, get("/livez"))).status == 200
            assert (await exchange(address, get("/metrics"))).status == 200
            for raw in (PUSH, FETCH, get("/v1/status"), post("/v1/horizon", {})):
                assert (await exchange(address, raw)).status == 404
            assert server.handlers.calls == []

    asyncio.run(story())


def test_a_port_that_another_program_has_is_named(tmp_path: Path) -> None:
    async def story(taken: socket.socket) -> None:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(Locked, match=rf"port {address.port}, is in use") as told:
            async with running(tmp_path, FakeHandlers(), listen=address):
                pass
        assert "another port" in told.value.next_step
        with pytest.raises(Transient, match="cannot be had"):
            async with running(tmp_path, FakeHandlers(), listen=Address("192.0.2.1", address.port)):
                pass

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asyncio.run(story(taken))


MALFORMED = (
    b"\x00\x01\x02 garbage\r\n\r\n",
    b"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
    b"POST /v1/push HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
    b"POST /v1/push HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
)


def test_bytes_that_are_no_request_make_one_warning_and_no_traceback(tmp_path: Path) -> None:
    out = io.StringIO()
    root = logging.getLogger("walarchiver")
    before = (list(root.handlers), root.level, root.propagate)
    configure_logging(SystemClock(), stream=out)
    handlers = FakeHandlers()

    async def story() -> None:
        async with running(tmp_path, handlers) as server:
            for raw in MALFORMED:
                answer = await exchange(server.path, raw)
                assert answer.status in (400, 431)
                assert "walarchiver-exit" not in answer.headers
            answer = await exchange(server.path, post("/v1/push", {"path": "/w"}))
            assert answer.headers["walarchiver-exit"] == "0"

    try:
        with warnings_of("aiohttp") as library:
            asyncio.run(story())
    finally:
        root.handlers[:], root.level, root.propagate = before
    said = [line for line in out.getvalue().splitlines() if "malformed request" in line]
    assert len(said) == 1, out.getvalue()
    assert "level=warning part=api" in said[0]
    assert "Traceback" not in out.getvalue()
    assert library == []
    assert [call[0] for call in handlers.calls] == ["push"]


@contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """What a library logs by itself."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger(name).removeHandler(handler)


def test_the_next_warning_tells_how_many_were_left_out_and_bugs_are_never_left_out() -> None:
    out = io.StringIO()
    clock = SteppingClock()
    root = logging.getLogger("walarchiver")
    before = (list(root.handlers), root.level, root.propagate)
    configure_logging(clock, stream=out)
    try:
        complaints = HttpComplaints(get_log("api"), clock, ValueError)
        for wait_s in (0.0, 1.0, 1.0, PAUSE_S):
            clock.advance(wait_s)
            for error in (ValueError("no\nHTTP " + "x" * 10_000), KeyError("a bug")):
                try:
                    raise error
                except (ValueError, KeyError):
                    complaints.logger.exception("Error handling request")
    finally:
        root.handlers[:], root.level, root.propagate = before
    lines = out.getvalue().splitlines()
    malformed = [line for line in lines if "malformed request" in line]
    assert [line.rpartition("left_out=")[2] for line in malformed] == ["0", "2"]
    assert all(len(line) < 500 for line in malformed)
    assert sum("KeyError" in line for line in lines) == 4
