"""S3 listings, checksums and bounds under faults."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import botocore.compat
import pytest

from tests.contracts.test_s3_faults import BODY, IMPATIENT, SLOW_DOWN, Path
from tests.contracts.test_s3_faults import path as path
from tests.kit import faultproxy as fp
from tests.kit.faultproxy import s3_error
from walarchiver.errors import StoreDenied, StoreMisbehaves, StoreUnavailable
from walarchiver.storage.options import ChecksumMode
from walarchiver.storage.retry import RetryPolicy
from walarchiver.storage.s3 import S3Store
from walarchiver.storage.s3bodies import crc_of
from walarchiver.storage.s3pages import read_page

CRC_HEADER = crc_of(b"").header


def filled(path: Path, count: int) -> list[str]:
    names = [f"v1/l/{number:04x}" for number in range(count)]
    for name in names:
        path.direct.put_new(name, b"x")
    return names


def listed(store: S3Store, *, versions: bool) -> list[str]:
    entries = store.list_versions("v1/l/") if versions else store.list_keys("v1/l/")
    return [found.key for found in entries]


both_listings = pytest.mark.parametrize("versions", [False, True], ids=["keys", "versions"])


def test_names_with_blanks_and_pluses_are_read_as_botocore_reads_them() -> None:
    """AWS and others write a blank as a plus; a stranger's, read wrong, would seem to break the order."""
    page = read_page(
        b"<ListVersionsResult><EncodingType>url</EncodingType><NextKeyMarker>v1/a+%2B</NextKeyMarker>"
        b"<Version><Key>v1/a+b%2Bc%20d</Key></Version></ListVersionsResult>"
    )
    assert page == {"NextKeyMarker": "v1/a +", "Versions": [{"Key": "v1/a b+c d"}]}
    assert page["NextKeyMarker"] == botocore.compat.unquote_str("v1/a+%2B")


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


def crc_headers(path: Path) -> list[bool]:
    return [CRC_HEADER in seen.headers for seen in path.proxy.log]


@pytest.mark.parametrize("answer", [s3_error(400, "InvalidArgument"), s3_error(501, "NotImplemented")])
def test_a_store_that_refuses_crc_gets_md5_from_then_on(path: Path, answer: fp.Answer) -> None:
    path.proxy.inject(answer, times=None, header=CRC_HEADER)
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
