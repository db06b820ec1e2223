"""Every operation of the S3 store against every way a request can go wrong (real server, bad network)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    """Short only where the request must run into it: a busy machine can take long to answer."""
    return 0.5 if isinstance(fault, fp.Hang | fp.HangAfter | fp.StallBody) else 20.0


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
    path.proxy.inject(fault, method="PUT", times=2)
    receipt = path.store(read_timeout_s=timeout_for(fault)).put_new("v1/new", BODY)
    (found,) = path.direct.list_versions("v1/new")
    assert found.version_id == receipt.version_id
    assert len(path.proxy.log) == 3


@pytest.mark.parametrize("mode", [ChecksumMode.WHEN_SUPPORTED, ChecksumMode.WHEN_REQUIRED])
def test_a_body_damaged_on_the_way_in_is_not_stored(path: Path, mode: ChecksumMode) -> None:
    path.proxy.inject(fp.CorruptRequest(), method="PUT")
    path.store(checksum_mode=mode).put_new("v1/new", BODY)
    assert path.direct.get("v1/new", bytes_max=1 << 20) == BODY
    assert len(list(path.direct.list_versions("v1/new"))) == 1
    assert len(path.proxy.log) == 2


# --- an outage ----------------------------------------------------------------------------------


@every_operation
@pytest.mark.parametrize(
    "fault", [SLOW_DOWN, BROKEN, fp.ResetBefore(), fp.Hang(), PROXY_404], ids=lambda f: type(f).__name__
)
def test_an_outage_inside_the_budget_is_not_seen(path: Path, operation: str, fault: fp.Fault) -> None:
    path.direct.put_new("v1/there", BODY)
    path.proxy.inject(fault, times=2)
    answer = OPERATIONS[operation](path.store(read_timeout_s=timeout_for(fault)))
    if operation != "put_new":
        assert answer == EXPECTED[operation]
    assert [seen.fault for seen in path.proxy.log[:2]] == [fault, fault]
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


# --- listings -----------------------------------------------------------------------------------


def filled(path: Path, count: int) -> list[str]:
    names = [f"v1/l/{number:04x}" for number in range(count)]
    for name in names:
        path.direct.put_new(name, b"x")
    return names


def listed(store: S3Store, *, versions: bool) -> list[str]:
    entries = store.list_versions("v1/l/") if versions else store.list_keys("v1/l/")
    return [found.key for found in entries]


both_listings = pytest.mark.parametrize("versions", [False, True], ids=["keys", "versions"])


@both_listings
def test_a_listing_survives_faults_between_its_pages(path: Path, versions: bool) -> None:
    names = filled(path, 10)
    store = path.store(list_page_keys=3)
    entries = store.list_versions("v1/l/") if versions else store.list_keys("v1/l/")
    found = [next(entries).key]
    path.proxy.inject(SLOW_DOWN)
    path.proxy.inject(fp.ResetAfter())
    path.proxy.inject(fp.CutBody(200))
    path.proxy.inject(fp.CutBody(0))
    assert found + [entry.key for entry in entries] == names
    assert len(path.proxy.log) == 8


@both_listings
def test_a_listing_that_fails_in_the_middle_does_not_end_early(path: Path, versions: bool) -> None:
    filled(path, 5)
    store = path.store(list_page_keys=2, retry=IMPATIENT)
    entries = store.list_versions("v1/l/") if versions else store.list_keys("v1/l/")
    next(entries)
    path.proxy.inject(SLOW_DOWN, times=None)
    with pytest.raises(StoreUnavailable):
        list(entries)


@both_listings
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>welcome to the hotel</body></html>",
        b"<ListBucketResult><Name>another</Name><IsTruncated>false</IsTruncated></ListBucketResult>",
    ],
    ids=["nothing", "a-web-page", "another-bucket"],
)
def test_what_is_not_a_listing_of_the_bucket_is_not_an_empty_listing(
    path: Path, versions: bool, body: bytes
) -> None:
    path.proxy.inject(fp.Answer(200, body), times=None)
    with pytest.raises(StoreUnavailable):
        listed(path.store(retry=IMPATIENT), versions=versions)


def page(path: Path, root: str, inner: str, *, more: str = "") -> fp.Answer:
    bucket = path.url.split("/")[2]
    truncated = "true" if more else "false"
    body = (
        f'<?xml version="1.0"?><{root}><Name>{bucket}</Name><EncodingType>url</EncodingType>'
        f"<IsTruncated>{truncated}</IsTruncated>{more}{inner}</{root}>"
    )
    return fp.Answer(200, body.encode())


def entry(path: Path, key: str, *, tag: str = "Version", latest: bool = True, second: int = 0) -> str:
    prefix = "/".join(path.url.split("/")[3:])
    return (
        f"<{tag}><Key>{prefix}/{key}</Key><VersionId>{tag[0]}{second}</VersionId><Size>1</Size>"
        f"<IsLatest>{str(latest).lower()}</IsLatest>"
        f"<LastModified>2026-11-22T12:00:{second:02}.000Z</LastModified></{tag}>"
    )


def test_a_page_without_versions_does_not_end_the_listing(path: Path) -> None:
    root = "ListVersionsResult"
    markers = entry(path, "v1/a", tag="DeleteMarker")
    path.proxy.inject(page(path, root, markers, more="<NextKeyMarker>k1</NextKeyMarker>"))
    path.proxy.inject(page(path, root, "", more="<NextKeyMarker>k2</NextKeyMarker>"))
    path.proxy.inject(page(path, root, entry(path, "v1/b")))
    found = list(path.store().list_versions("v1/"))
    assert [(each.key, each.is_delete_marker) for each in found] == [("v1/a", True), ("v1/b", False)]
    assert ["key-marker" in seen.path for seen in path.proxy.log] == [False, True, True]


def test_versions_and_markers_of_a_page_are_one_listing_newest_first(path: Path) -> None:
    inner = (
        entry(path, "v1/a", latest=False, second=1)
        + entry(path, "v1/a", latest=False, second=3)
        + entry(path, "v1/b", latest=False, second=1)
        + entry(path, "v1/c", second=2)
        + entry(path, "v1/a", tag="DeleteMarker", second=4)
        + entry(path, "v1/b", tag="DeleteMarker", second=2)
    )
    path.proxy.inject(page(path, "ListVersionsResult", inner))
    found = [(each.key, each.version_id, each.is_latest) for each in path.store().list_versions("v1/")]
    assert found == [
        ("v1/a", "D4", True),
        ("v1/a", "V3", False),
        ("v1/a", "V1", False),
        ("v1/b", "D2", True),
        ("v1/b", "V1", False),
        ("v1/c", "V2", True),
    ]


def test_url_encoded_keys_are_decoded_before_they_are_compared(path: Path) -> None:
    inner = "".join(entry(path, key, tag="Contents") for key in ("v1/a%2Bb", "v1/a%3Db", "v1/a%40b"))
    path.proxy.inject(page(path, "ListBucketResult", inner))
    found = path.store().list_keys("v1/", start_after="v1/a+b")
    assert [each.key for each in found] == ["v1/a=b", "v1/a@b"]


def test_a_server_that_ignores_where_to_start_is_put_right(path: Path) -> None:
    inner = "".join(entry(path, key, tag="Contents") for key in ("v1/a", "v1/b", "v1/c"))
    path.proxy.inject(page(path, "ListBucketResult", inner))
    assert [each.key for each in path.store().list_keys("v1/", start_after="v1/b")] == ["v1/c"]
    inner = "".join(entry(path, key) for key in ("v1/a", "v1/b", "v1/c"))
    path.proxy.inject(page(path, "ListVersionsResult", inner))
    assert [each.key for each in path.store().list_versions("v1/", start_after="v1/b")] == ["v1/c"]


@both_listings
def test_a_listing_out_of_order_cannot_be_trusted(path: Path, versions: bool) -> None:
    root, tag = ("ListVersionsResult", "Version") if versions else ("ListBucketResult", "Contents")
    more = "<NextKeyMarker>k</NextKeyMarker><NextContinuationToken>k</NextContinuationToken>"
    path.proxy.inject(page(path, root, entry(path, "v1/l/b", tag=tag), more=more))
    path.proxy.inject(page(path, root, entry(path, "v1/l/a", tag=tag)))
    with pytest.raises(StoreMisbehaves, match="after"):
        listed(path.store(), versions=versions)


@both_listings
def test_a_page_that_promises_more_without_saying_where_is_not_the_end(path: Path, versions: bool) -> None:
    root = "ListVersionsResult" if versions else "ListBucketResult"
    path.proxy.inject(page(path, root, "", more="<Prefix></Prefix>"))
    with pytest.raises(StoreMisbehaves, match="not where"):
        listed(path.store(), versions=versions)


# --- checksums ----------------------------------------------------------------------------------


def crc_headers(path: Path) -> list[bool]:
    return ["x-amz-checksum-crc32" in seen.headers for seen in path.proxy.log]


@pytest.mark.parametrize("answer", [s3_error(400, "InvalidArgument"), s3_error(501, "NotImplemented")])
def test_a_store_that_refuses_crc_gets_md5_from_then_on(path: Path, answer: fp.Answer) -> None:
    path.proxy.inject(answer, times=None, header="x-amz-checksum-crc32")
    store = path.store()
    store.put_new("v1/a", BODY)
    store.put_new("v1/b", BODY)
    assert crc_headers(path) == [True, False, False]
    assert ["content-md5" in seen.headers for seen in path.proxy.log] == [False, True, True]
    assert path.direct.get("v1/b", bytes_max=1 << 20) == BODY


def test_a_store_that_took_a_checksum_once_keeps_getting_them(path: Path) -> None:
    store = path.store()
    store.put_new("v1/a", BODY)
    path.proxy.inject(s3_error(400, "InvalidArgument"))
    with pytest.raises(StoreDenied, match="InvalidArgument"):
        store.put_new("v1/b", BODY)
    store.put_new("v1/c", BODY)
    assert crc_headers(path) == [True, True, True]


def test_the_checksum_mode_can_be_fixed(path: Path) -> None:
    path.store(checksum_mode=ChecksumMode.WHEN_REQUIRED).put_new("v1/a", BODY)
    path.proxy.inject(s3_error(400, "InvalidArgument"))
    with pytest.raises(StoreDenied, match="InvalidArgument"):
        path.store(checksum_mode=ChecksumMode.WHEN_SUPPORTED).put_new("v1/b", BODY)
    assert crc_headers(path) == [False, True]


# --- bounds -------------------------------------------------------------------------------------


def test_no_more_requests_are_in_flight_than_the_pool_has_connections(path: Path) -> None:
    gate = threading.Event()
    path.proxy.inject(fp.WaitFor(gate), times=2)
    path.direct.put_new("v1/there", BODY)
    store = path.store(pool_size=2, read_timeout_s=20.0)
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(store.get, "v1/there", bytes_max=1 << 20) for _ in range(8)]
        while len(path.proxy.log) < 2:
            threading.Event().wait(0.01)
        gate.set()
        assert [read.result() for read in reads] == [BODY] * 8
    assert path.proxy.in_flight_most == 2


def test_a_closed_store_stops_asking(path: Path) -> None:
    path.proxy.inject(SLOW_DOWN, times=None)
    store = path.store(retry=RetryPolicy(budget_s=600.0, first_pause_s=300.0, longest_pause_s=300.0))
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(store.get, "v1/there", bytes_max=1)
        while not path.proxy.log:
            threading.Event().wait(0.01)
        store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            read.result()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.put_new("v1/new", b"")
