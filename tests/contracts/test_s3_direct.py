"""Connections of our own: kept ones that died, answers that come early, and what is left to botocore."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path as FilePath

import pytest

from tests.contracts.test_s3_faults import BODY, Path
from tests.contracts.test_s3_faults import path as path
from tests.kit import faultproxy as fp
from tests.kit.chance import RealClock, SeededRandom
from tests.kit.faultproxy import FaultProxy, s3_error
from tests.kit.s3 import S3Server
from walarchiver.embedded.certificate import loopback_certificate
from walarchiver.errors import KeyTaken, StoreDenied, StoreUnavailable
from walarchiver.storage import S3Location
from walarchiver.storage.credentials import PlatformRole
from walarchiver.storage.retry import RetryPolicy
from walarchiver.storage.s3 import S3Store
from walarchiver.storage.s3wire import IDLE_MAX_S, NotReached, Origin, Wire, WireLimits

ONCE = RetryPolicy(budget_s=0.0)
LARGE = BODY * 400  # 4 MB: more than one piece, more than the kernel takes at once
FIVE = WireLimits(connect_s=5.0, wait_s=5.0)


def opened(path: Path) -> S3Store:
    """A store that asks once only, with a kept connection."""
    store = path.store(retry=ONCE)
    store.put_new("v1/first", BODY)
    return store


# --- connections that are kept ----------------------------------------------------------------------


def test_one_connection_serves_one_request_after_the_other(s3_server: S3Server) -> None:
    with counting_front(s3_server.endpoint) as (endpoint, taken):
        store = s3_server.open(s3_server.store_url(), s3_server.options(endpoint=endpoint))
        for number in range(5):
            store.put_new(f"v1/{number}", BODY)
            assert store.get(f"v1/{number}", bytes_max=len(BODY)) == BODY
            assert store.get_range(f"v1/{number}", start=1, length=3) == BODY[1:4]
            assert store.get(f"v1/absent-{number}", bytes_max=1) is None
        store.close()
    assert len(taken) == 1


def test_a_kept_connection_that_dies_under_a_request_is_not_a_failed_try(path: Path) -> None:
    store = opened(path)
    path.proxy.inject(fp.ResetBefore(), method="PUT")
    assert store.put_new("v1/second", LARGE).version_id is not None
    path.proxy.inject(fp.ResetBefore(), method="GET")
    assert store.get("v1/second", bytes_max=len(LARGE)) == LARGE
    assert [seen.method for seen in path.proxy.log] == ["PUT", "PUT", "PUT", "GET", "GET"]
    path.proxy.inject(fp.ResetAfter(), method="PUT")
    with pytest.raises(KeyTaken):
        store.put_new("v1/third", BODY)
    assert path.direct.get("v1/third", bytes_max=len(BODY)) == BODY


def test_a_new_connection_that_dies_is_a_failed_try(path: Path) -> None:
    path.proxy.inject(fp.ResetBefore(), times=2)
    store = path.store(retry=ONCE)
    with pytest.raises(StoreUnavailable, match="1 try"):
        store.get("v1/a", bytes_max=1)
    store.close()
    assert len(path.proxy.log) == 1


def test_a_slow_answer_is_waited_for_once(path: Path) -> None:
    """A request that may be under way is not repeated beside itself."""
    path.proxy.inject(fp.Answer(200, b"", (("ETag", '"e"'),)))  # at once, however busy this machine is
    path.proxy.inject(fp.Hang())
    store = path.store(retry=ONCE, read_timeout_s=1.0)
    store.put_new("v1/first", BODY)
    with pytest.raises(StoreUnavailable, match="said nothing for 1 s"):
        store.put_new("v1/second", BODY)
    store.close()
    assert len(path.proxy.log) == 2


class SettableClock(RealClock):
    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


def test_a_connection_idle_for_long_and_one_that_was_closed_are_not_used(s3_server: S3Server) -> None:
    clock = SettableClock()
    with counting_front(s3_server.endpoint) as (endpoint, taken):
        host, _, port = endpoint.rpartition("/")[2].rpartition(":")
        wire = Wire(Origin(False, host, int(port)), FIVE, None, clock)

        def ask() -> None:
            with wire.ask("GET", "/", {"host": host}) as answer:
                answer.start()

        ask()
        ask()
        assert len(taken) == 1
        clock.ahead_s += IDLE_MAX_S + 1
        ask()
        assert len(taken) == 2
        taken[-1].shutdown(socket.SHUT_RDWR)
        ask()
        assert len(taken) == 3
        wire.close()


def test_a_connection_whose_answer_was_cut_short_is_not_kept(path: Path) -> None:
    path.proxy.inject(fp.CutBody(10))
    host, _, port = path.proxy.endpoint.rpartition("/")[2].rpartition(":")
    wire = Wire(Origin(False, host, int(port)), FIVE, None, RealClock())
    for expected, kept in ((10, 0), (1000, 1)):
        with wire.ask("GET", "/", {"host": f"{host}:{port}"}) as answer, memoryview(bytearray(1000)) as room:
            length = int(answer.header("content-length") or 0)
            assert answer.readinto(room) == min(expected, length)
            assert answer.readinto(room) == 0
        assert len(wire._idle) == kept
    wire.close()


# --- answers ----------------------------------------------------------------------------------------


def test_a_refusal_before_the_body_was_read_is_still_heard(s3_server: S3Server) -> None:
    refusal = b"<Error><Code>AccessDenied</Code><Message>not &quot;you&quot;</Message></Error>"
    head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(refusal)}\r\n\r\n"

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(1000)
            connection.sendall(head.encode() + refusal)

    with serving(answer) as endpoint:
        store = s3_server.open("s3://bucket/x", s3_server.options(endpoint=endpoint, retry=ONCE))
        with pytest.raises(StoreDenied, match=r'403 AccessDenied \(not "you"\)'):
            store.put_new("v1/a", LARGE)
        store.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nETag",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n",
    ],
    ids=["nothing", "other protocol", "cut head", "no length"],
)
def test_what_is_not_a_whole_answer_is_none(s3_server: S3Server, said: bytes) -> None:
    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(said)

    with serving(answer) as endpoint:
        store = s3_server.open("s3://bucket/x", s3_server.options(endpoint=endpoint, retry=ONCE))
        with pytest.raises(StoreUnavailable):
            store.get("v1/a", bytes_max=1000)
        store.close()


def test_a_body_larger_than_the_kernel_buffers_goes_both_ways_over_tls(
    s3_server: S3Server, tmp_path: FilePath
) -> None:
    certificate = loopback_certificate(tmp_path, RealClock())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.ca_file, certificate.key_file)
    with FaultProxy(s3_server.endpoint, tls=context) as proxy:
        store = s3_server.open(
            s3_server.store_url(), s3_server.options(endpoint=proxy.endpoint, ca_file=certificate.ca_file)
        )
        version_id = store.put_new("v1/large", memoryview(bytearray(LARGE))).version_id
        assert store.get("v1/large", version_id=version_id, bytes_max=len(LARGE)) == LARGE
        proxy.inject(fp.CutBody(len(LARGE) - 1))
        assert store.get_range("v1/large", start=7, length=len(LARGE)) == LARGE[7:]
        store.close()


def test_a_ca_file_that_holds_no_certificate_is_said(s3_server: S3Server, tmp_path: FilePath) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate\n")
    options = s3_server.options(endpoint="https://127.0.0.1:9", ca_file=tmp_path / "ca.pem")
    store = s3_server.open("s3://bucket/x", options)
    with pytest.raises(StoreDenied, match=r"ca\.pem cannot be used"):
        store.put_new("v1/a", b"x")
    store.close()


def test_nobody_there_is_said_with_the_address() -> None:
    wire = Wire(Origin(False, "127.0.0.1", 9), FIVE, None, RealClock())
    with pytest.raises(NotReached, match=r"http://127\.0\.0\.1:9: Connection refused"):
        wire.ask("GET", "/", {})


# --- which way --------------------------------------------------------------------------------------


def test_over_plain_http_to_another_host_the_signature_covers_the_body(path: Path) -> None:
    endpoint = path.proxy.endpoint.replace(
        "127.0.0.1", "0.0.0.0"
    )  # this host, under a name that is not loopback
    store = path.store(endpoint=endpoint, allow_http=True)
    store.put_new("v1/a", BODY)
    assert store.body_path.endswith("their bytes part of the signature")
    assert path.store().body_path.endswith("their bytes left out of the signature")
    store.close()
    (put,) = path.proxy.log
    assert put.headers["x-amz-content-sha256"] == put.body_sha256
    path.store().put_new("v1/b", BODY)
    assert path.proxy.log[-1].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


def test_a_bucket_of_another_region_is_found_and_remembered(path: Path) -> None:
    malformed = (
        b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>expecting 'eu-west-1'</Message>"
        b"<Region>eu-west-1</Region></Error>"
    )
    path.proxy.inject(fp.Answer(400, malformed), times=2)
    store = path.store()
    store.put_new("v1/a", BODY)
    assert store.get("v1/a", bytes_max=len(BODY)) == BODY
    regions = [seen.headers["authorization"].split("/")[2] for seen in path.proxy.log]
    assert regions == ["us-east-1", "us-east-1", "eu-west-1", "eu-west-1"]
    assert [seen.headers["user-agent"] == "walarchiver" for seen in path.proxy.log] == [
        True,
        False,
        False,
        True,
    ]
    store.close()


def test_a_listing_finds_a_bucket_of_another_region(path: Path) -> None:
    elsewhere = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"
    path.proxy.inject(fp.Answer(400, elsewhere), times=2)
    store = path.store()
    assert list(store.list_versions("v1/")) == []
    store.put_new("v1/a", BODY)
    assert [one.key for one in store.list_keys("v1/")] == ["v1/a"]
    regions = [seen.headers["authorization"].split("/")[2] for seen in path.proxy.log]
    assert regions == ["us-east-1", "us-east-1", "eu-west-1", "eu-west-1", "eu-west-1"]
    store.close()


def test_a_page_of_a_listing_that_is_cut_short_is_none(path: Path) -> None:
    path.direct.put_new("v1/a", BODY)
    for keep in (0, 100):
        path.proxy.inject(fp.CutBody(keep), method="GET")
        store = path.store(retry=ONCE)
        with pytest.raises(StoreUnavailable, match=f"did not end well after {keep} bytes"):
            list(store.list_keys("v1/"))
        assert [one.key for one in store.list_keys("v1/")] == ["v1/a"]
        store.close()


def test_a_redirect_is_never_followed_to_another_host(path: Path) -> None:
    with FaultProxy(path.server.endpoint) as elsewhere:
        moved = (("Location", f"{elsewhere.endpoint}/bucket/v1/a"),)
        for body, words in (
            (b"", "status 301"),
            (s3_error(301, "PermanentRedirect").body, "PermanentRedirect"),
        ):
            path.proxy.inject(fp.Answer(301, body, moved), times=2)
            store = path.store(retry=ONCE)
            with pytest.raises(StoreDenied, match=words) as caught:
                store.get("v1/a", bytes_max=1)
            assert "`region`" in caught.value.next_step
            with pytest.raises(StoreDenied, match=words):
                store.put_new("v1/a", BODY)
            store.close()
        assert elsewhere.log == []


def test_behind_a_proxy_of_the_environment_bodies_go_through_botocore(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", path.proxy.endpoint)
    endpoint = path.server.endpoint.replace("127.0.0.1", "0.0.0.0")
    store = path.store(endpoint=endpoint, allow_http=True)
    store.put_new("v1/a", BODY)
    assert store.get("v1/a", bytes_max=len(BODY)) == BODY
    assert store.get_range("v1/a", start=1, length=2) == BODY[1:3]
    for listing in (store.list_keys("v1/"), store.list_versions("v1/")):
        assert [(one.key, one.size) for one in listing] == [("v1/a", len(BODY))]
    assert "through botocore" in store.body_path
    assert "names a proxy" in store.body_path
    store.close()
    assert [seen.path.partition("/t/")[0].startswith(endpoint) for seen in path.proxy.log] == [True] * 5
    direct = path.store()
    direct.put_new("v1/b", BODY)
    assert "straight to" in direct.body_path, "loopback is never asked for through a proxy"
    direct.close()


def test_the_keys_of_a_platform_role_sign(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: FilePath
) -> None:
    keys = s3_server.keys()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_access_key)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    options = replace(s3_server.options(), credentials=PlatformRole())
    store = S3Store(S3Location.parse(s3_server.store_url()), options, RealClock(), SeededRandom())
    store.put_new("v1/a", BODY)
    assert store.get("v1/a", bytes_max=len(BODY)) == BODY
    store.close()


def test_a_platform_s_key_that_cannot_be_one_is_refused_unshown(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret\r\nx-injected: 1")
    store = s3_server.open("s3://bucket/x", replace(s3_server.options(), credentials=PlatformRole()))
    with pytest.raises(StoreDenied, match="characters that no key has") as caught:
        store.put_new("v1/a", BODY)
    assert "secret" not in caught.value.message
    store.close()


# --- servers ----------------------------------------------------------------------------------------


@contextmanager
def serving(answer: object) -> Iterator[str]:
    """A server on loopback that hands each connection to `answer`, until it is left."""
    assert callable(answer)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                answer(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def counting_front(upstream: str) -> Iterator[tuple[str, list[socket.socket]]]:
    """Passes bytes to and fro; the list has a socket for each connection that was made."""
    host, _, port = upstream.rpartition("/")[2].rpartition(":")
    taken: list[socket.socket] = []
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def answer(connection: socket.socket) -> None:
        behind = socket.create_connection((host, int(port)))
        taken.append(connection)
        open_sockets.extend((connection, behind))
        for pair in ((connection, behind), (behind, connection)):
            threads.append(threading.Thread(target=pass_on, args=pair))
            threads[-1].start()

    try:
        with serving(answer) as endpoint:
            yield endpoint, taken
    finally:
        for each in open_sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for each in open_sockets:
            each.close()
