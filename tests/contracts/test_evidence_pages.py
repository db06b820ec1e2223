"""What a page of a listing says, byte by byte: documents as servers send them, and as they should not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core.version import EntryKind
from walarchiver.errors import StoreMisbehaves
from walarchiver.storage.evidencelisting import PAGE_BYTES_MAX, decoded, instant_ms, parse_page

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
TIME = "<LastModified>2026-03-02T10:00:00.000Z</LastModified>"


def version(key: str, version_id: str, *, latest: bool = False, time: str = TIME) -> str:
    return (
        f"<Version><Key>{key}</Key><VersionId>{version_id}</VersionId><IsLatest>{str(latest).lower()}</IsLatest>"
        f"{time}<ETag>&quot;abc-2&quot;</ETag><Size>7</Size><Owner><ID>me</ID><DisplayName>x</DisplayName></Owner>"
        "<StorageClass>STANDARD</StorageClass></Version>"
    )


def marker(key: str, version_id: str, *, latest: bool = False) -> str:
    return (
        f"<DeleteMarker><Key>{key}</Key><VersionId>{version_id}</VersionId>"
        f"<IsLatest>{str(latest).lower()}</IsLatest>{TIME}</DeleteMarker>"
    )


def page(*items: str, top: str = "<EncodingType>url</EncodingType>", truncated: str = "false") -> bytes:
    return (
        f"{HEAD}<ListVersionsResult {SPACE}><Name>evidence</Name><Prefix></Prefix><KeyMarker></KeyMarker>"
        f"<IsTruncated>{truncated}</IsTruncated>{top}{''.join(items)}</ListVersionsResult>"
    ).encode()


def test_versions_and_markers_stay_in_the_order_of_the_document() -> None:
    found = parse_page(
        page(
            version("a", "3", latest=True), marker("a", "2"), version("a", "1"), marker("b", "1", latest=True)
        ),
        "s3://evidence",
    )
    assert [(one.key, one.version_id, one.kind, one.is_latest) for one in found.entries] == [
        ("a", "3", EntryKind.VERSION, True),
        ("a", "2", EntryKind.MARKER, False),
        ("a", "1", EntryKind.VERSION, False),
        ("b", "1", EntryKind.MARKER, True),
    ]
    first, second = found.entries[:2]
    assert (first.etag, first.size, first.storage_class, first.modified) == (
        "abc-2",
        7,
        "STANDARD",
        1772445600000,
    )
    assert (second.etag, second.size, second.storage_class) == ("", 0, "")
    assert not found.truncated


def test_names_are_decoded_where_the_page_says_that_they_are_encoded_and_nowhere_else() -> None:
    top = "<NextKeyMarker>a+b%2Bc%2F%C3%BC</NextKeyMarker><NextVersionIdMarker>1</NextVersionIdMarker>"
    encoded = parse_page(
        page(version("a+b%2Bc%2F%C3%BC", "1"), top="<EncodingType>url</EncodingType>" + top), ""
    )
    plain = parse_page(page(version("a+b%2B&amp;&#10;", "1"), top=top), "")
    assert (encoded.entries[0].key, encoded.next_key) == ("a b+c/ü", "a b+c/ü")
    assert (plain.entries[0].key, plain.next_key) == ("a+b%2B&\n", "a+b%2Bc%2F%C3%BC")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-03-02T10:00:00.000Z", 1772445600000),
        ("2026-03-02T10:00:00Z", 1772445600000),
        ("2026-03-02T10:00:00.9Z", 1772445600900),
        ("2026-03-02T10:00:00.999999999Z", 1772445600999),
        ("2026-03-02T10:00:00.123+00:00", 1772445600123),
        ("2026-03-02T10:00:00", None),
        ("2026-03-02T10:00:00+01:00", None),
        ("2026-02-30T10:00:00Z", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_times_are_read_to_the_millisecond_rounded_down(text: str, ms: int | None) -> None:
    assert instant_ms(text) == ms


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_every_name_survives_its_encoding(name: str) -> None:
    from urllib.parse import quote, quote_plus

    assert decoded(quote_plus(name)) == name
    assert decoded(quote(name)) == name


BOMB = (
    HEAD + '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><ListVersionsResult>&c;</ListVersionsResult>'
)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html><body>busy</body></html>", id="a page of a proxy"),
        pytest.param(page()[:-9], id="cut off"),
        pytest.param(page() + page(), id="twice"),
        pytest.param(page(truncated="perhaps"), id="neither truncated nor not"),
        pytest.param(page().replace(b"<Name>evidence</Name>", b""), id="of no bucket"),
        pytest.param(BOMB.encode(), id="entities that explode"),
        pytest.param(
            b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><ListVersionsResult/>', id="a foreign document type"
        ),
        pytest.param(page("<a>" * 20 + "</a>" * 20), id="nested deeply"),
        pytest.param(page(version("", "1")), id="no key"),
        pytest.param(page(version("a", "")), id="no version id"),
        pytest.param(page(version("a", "1", time="")), id="no time"),
        pytest.param(page(version("a", "1").replace("<Size>7", "<Size>-7")), id="a negative size"),
        pytest.param(page(version("a", "1").replace("<Size>7", "<Size>٧")), id="digits of another script"),
        pytest.param(page(version("a", "1").replace("false", "maybe")), id="latest or not"),
        pytest.param(page(version("%FF", "1")), id="a name that is no UTF-8"),
        pytest.param(page("<CommonPrefixes></CommonPrefixes>"), id="a folder without a name"),
        pytest.param(b"<a>" + b" " * PAGE_BYTES_MAX + b"</a>", id="too long"),
        pytest.param(b'<?xml version="1.0" encoding="utf-7"?><a/>', id="an encoding nobody knows"),
    ],
)
def test_a_document_that_is_no_page_is_not_believed(body: bytes) -> None:
    with pytest.raises(StoreMisbehaves):
        parse_page(body, "s3://evidence")


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_page_or_an_error_of_ours(body: bytes) -> None:
    with pytest.raises(StoreMisbehaves):
        parse_page(body, "s3://evidence")
