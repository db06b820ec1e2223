"""Every operation of the S3 store against every way a request can go wrong (real server, bad network)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from tests.kit import faultproxy as fp
from tests.kit.faultproxy import FaultProxy, s3_error
from tests.kit.s3 import S3Server
from walarchiver.errors import KeyTaken, StoreDenied, StoreMisbehaves, StoreUnavailable
from walarchiver.storage.options import ChecksumMode, S3Options
from walarchiver.storage.retry import RetryPolicy
from walarchiver.storage.s3 import S3Store

BODY = bytes(range(256)) * 40
PATIENT = RetryPolicy(budget_s=30.0, first_pause_s=0.001, longest_pause_s=0.005)
IMPATIENT = RetryPolicy(budget_s=0.05, first_pause_s=0.001, longest_pause_s=0.005)

NO_BUCKET = s3_error(404, "NoSuchBucket")
FORBIDDEN = s3_error(403, "AccessDenied")
SLOW_DOWN = s3_error(503, "SlowDown")
BROKEN = s3_error(500, "InternalError")
PROXY_404 = fp.Answer(404, b"<html><body>no such page</body></html>", (("Content-Type", "text/html"),))


@dataclass(frozen=True, slots=True)
class Path:
    """A store whose requests go through the proxy, and one that goes straight to the server."""

    proxy: FaultProxy
    url: str
    options: S3Options
    server: S3Server
    direct: S3Store

    def store(self, **changes: object) -> S3Store:
        return self.server.open(self.url, replace(self.options, **changes))  # type: ignore[arg-type]


def timeout_for(fault: object) -> float:
    """Short only where the request must run into it: a busy machine can take long to answer the next one."""
    return 2.0 if isinstance(fault, fp.Hang | fp.HangAfter | fp.StallBody) else 20.0


def times_of(fault: object) -> int:
    """How often it happens: once, where it costs the whole timeout."""
    return 1 if isinstance(fault, fp.Hang) else 2


@pytest.fixture
def path(s3_server: S3Server) -> Iterator[Path]:
    url = s3_server.store_url(versioned=True)
    direct = s3_server.open(url)
    with FaultProxy(s3_server.endpoint) as proxy:
        options = s3_server.options(endpoint=proxy.endpoint, retry=PATIENT, read_timeout_s=20.0)
        yield Path(proxy, url, options, s3_server, direct)
    direct.close()


OPERATIONS: dict[str, Callable[[S3Store], object]] = {
    "put_new": lambda store: store.put_new("v1/new", BODY),
    "get": lambda store: store.get("v1/there", bytes_max=1 << 20),
    "get absent": lambda store: store.get("v1/absent", bytes_max=1 << 20),
    "get_range": lambda store: store.get_range("v1/there", start=2, length=5),
    "list_keys": lambda store: [found.key for found in store.list_keys("v1/t")],
    "list_versions": lambda store: [found.key for found in store.list_versions("v1/t")],
    "delete_version": lambda store: store.delete_version("v1/absent", version_id="null"),
}
EXPECTED = {
    "get": BODY,
    "get absent": None,
    "get_range": BODY[2:7],
    "list_keys": ["v1/there"],
    "list_versions": ["v1/there"],
    "delete_version": None,
}
every_operation = pytest.mark.parametrize("operation", list(OPERATIONS))


# --- an outcome that is open --------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [fp.ResetAfter(), fp.AnswerAfter(500), fp.AnswerAfter(503), fp.HangAfter(), fp.AnswerAfter(200, b"")],
    ids=["reset", "500", "503", "timeout", "200-without-etag"],
)
def test_a_put_that_landed_unseen_is_sent_again_and_reported_as_taken(path: Path, fault: fp.Fault) -> None:
    path.proxy.inject(fault, method="PUT")
    with pytest.raises(KeyTaken, match="v1/new"):
        path.store(read_timeout_s=timeout_for(fault)).put_new("v1/new", BODY)
    assert path.direct.get("v1/new", bytes_max=1 << 20) == BODY
    assert len(list(path.direct.list_versions("v1/new"))) == 1
    first, second = path.proxy.log[:2]
    assert first.body_sha256 == second.body_sha256
    assert first.headers["if-none-match"] == second.headers["if-none-match"] == "*"


@pytest.mark.parametrize(
    "fault",
    [
        fp.ResetBefore(),
        fp.Hang(),
        BROKEN,
        SLOW_DOWN,
        fp.Answer(502, b"<html>bad gateway</html>"),
        fp.Answer(504),
        s3_error(429, "TooManyRequests"),
        s3_error(409, "ConditionalRequestConflict"),
        s3_error(400, "RequestTimeout"),
    ],
    ids=["reset", "hang", "500", "503", "502", "504", "429", "409", "400-timeout"],
)
def test_a_put_that_never_landed_is_sent_again_and_succeeds(path: Path, fault: fp.Fault) -> None:
    path.proxy.inject(fault, method="PUT", times=times_of(fault))
    receipt = path.store(read_timeout_s=timeout_for(fault)).put_new("v1/new", BODY)
    (found,) = path.direct.list_versions("v1/new")
    assert found.version_id == receipt.version_id
    assert len(path.proxy.log) == times_of(fault) + 1


@pytest.mark.parametrize("mode", [ChecksumMode.WHEN_SUPPORTED, ChecksumMode.WHEN_REQUIRED])
def test_a_body_damaged_on_the_way_in_is_not_stored(path: Path, mode: ChecksumMode) -> None:
    path.proxy.inject(fp.CorruptRequest(), method="PUT")
    path.store(checksum_mode=mode).put_new("v1/new", BODY)
    assert path.direct.get("v1/new", bytes_max=1 << 20) == BODY
    assert len(list(path.direct.list_versions("v1/new"))) == 1
    assert len(path.proxy.log) == 2


# --- an outage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        pytest.param(
            operation,
            fault,
            id=f"{type(fault).__name__}{number}-{operation}",
            marks=[pytest.mark.nightly] if waits and operation not in ("get", "put_new") else [],
        )
        for number, fault in enumerate((SLOW_DOWN, BROKEN, fp.ResetBefore(), fp.Hang(), PROXY_404))
        for waits in (isinstance(fault, fp.Hang),)
        for operation in OPERATIONS
    ],
)
def test_an_outage_inside_the_budget_is_not_seen(path: Path, operation: str, fault: fp.Fault) -> None:
    path.direct.put_new("v1/there", BODY)
    path.proxy.inject(fault, times=times_of(fault))
    answer = OPERATIONS[operation](path.store(read_timeout_s=timeout_for(fault)))
    if operation != "put_new":
        assert answer == EXPECTED[operation]
    assert [seen.fault for seen in path.proxy.log[: times_of(fault)]] == [fault] * times_of(fault)
    assert path.proxy.log[-1].fault is None


@every_operation
@pytest.mark.parametrize(
    "fault",
    [SLOW_DOWN, fp.ResetBefore(), fp.ResetAfter(), PROXY_404, fp.Answer(404), fp.Answer(412)],
    ids=str,
)
def test_an_outage_past_the_budget_is_unavailable_never_an_answer(
    path: Path, operation: str, fault: fp.Fault
) -> None:
    path.direct.put_new("v1/there", BODY)
    path.proxy.inject(fault, times=None)
    with pytest.raises(StoreUnavailable, match="gave up after"):
        OPERATIONS[operation](path.store(retry=IMPATIENT))


@every_operation
def test_a_server_that_is_not_there_is_unavailable(path: Path, operation: str) -> None:
    with pytest.raises(StoreUnavailable):
        OPERATIONS[operation](path.store(retry=IMPATIENT, endpoint="http://127.0.0.1:9"))


# --- a refusal ----------------------------------------------------------------------------------


@every_operation
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (FORBIDDEN, "403 AccessDenied"),
        (s3_error(403, "SignatureDoesNotMatch"), "SignatureDoesNotMatch"),
        (s3_error(403, "RequestTimeTooSkewed"), "RequestTimeTooSkewed"),
        (fp.Answer(401), "401"),
        (NO_BUCKET, "NoSuchBucket"),
    ],
)
def test_a_refusal_is_said_at_once_and_never_taken_for_absence(
    path: Path, operation: str, fault: fp.Fault, words: str
) -> None:
    path.direct.put_new("v1/there", BODY)
    path.proxy.inject(fault, times=None)
    with pytest.raises(StoreDenied, match=words):
        OPERATIONS[operation](path.store())
    assert len(path.proxy.log) == 1


@every_operation
def test_a_bucket_that_does_not_exist_is_not_an_empty_one(s3_server: S3Server, operation: str) -> None:
    with pytest.raises(StoreDenied, match="NoSuchBucket"):
        OPERATIONS[operation](s3_server.open("s3://there-is-no-such-bucket/x"))


def test_a_reader_may_read_but_not_write(s3_server: S3Server) -> None:
    url = s3_server.store_url()
    s3_server.open(url).put_new("v1/there", BODY)
    reader = s3_server.open(url, s3_server.as_reader())
    assert reader.get("v1/there", bytes_max=1 << 20) == BODY
    with pytest.raises(StoreDenied, match="AccessDenied"):
        reader.put_new("v1/new", BODY)
    with pytest.raises(StoreDenied, match="AccessDenied"):
        reader.delete_version("v1/there", version_id=None)


def test_a_store_without_conditional_writes_is_called_that(path: Path) -> None:
    path.proxy.inject(s3_error(501, "NotImplemented"), times=None)
    with pytest.raises(StoreMisbehaves, match="NotImplemented"):
        path.store().put_new("v1/new", BODY)


def test_taken_is_only_what_s3_itself_says(path: Path) -> None:
    path.proxy.inject(fp.Answer(412, b"<html>precondition failed</html>"))
    assert path.store().put_new("v1/new", BODY).version_id is not None


# --- bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, len(BODY) // 2, len(BODY) - 1])
@pytest.mark.parametrize("fault", [fp.CutBody, fp.StallBody])
def test_a_cut_body_is_fetched_again(path: Path, keep: int, fault: type[fp.CutBody | fp.StallBody]) -> None:
    path.direct.put_new("v1/there", BODY)
    path.proxy.inject(fault(keep))
    store = path.store(read_timeout_s=timeout_for(fault(keep)))
    assert store.get("v1/there", bytes_max=len(BODY)) == BODY
    assert len(path.proxy.log) >= 2


def test_a_body_that_is_always_cut_is_never_returned(path: Path) -> None:
    path.direct.put_new("v1/there", BODY)
    path.proxy.inject(fp.CutBody(len(BODY) - 1), times=None)
    store = path.store(retry=IMPATIENT)
    with pytest.raises(StoreUnavailable, match=f"{len(BODY) - 1} .*{len(BODY)}"):
        store.get("v1/there", bytes_max=len(BODY))
    path.proxy.heal()
    path.proxy.inject(fp.CutBody(3), times=None)
    with pytest.raises(StoreUnavailable, match=r"3 .*100"):
        store.get_range("v1/there", start=5, length=100)


def test_a_server_that_ignores_ranges_is_called_that(path: Path) -> None:
    path.direct.put_new("v1/there", BODY)

    def whole(response: fp.Response) -> fp.Response:
        headers = tuple(h for h in response.headers if h[0].lower() != "content-range")
        return fp.Response(200, headers, BODY)

    path.proxy.inject(fp.Change(whole), times=2)
    with pytest.raises(StoreMisbehaves, match="another range"):
        path.store().get_range("v1/there", start=5, length=10)
    assert path.store().get_range("v1/there", start=5, length=len(BODY)) == BODY[5:]
