"""The tar reader agrees with Python's tarfile, however the stream is cut, and refuses the rest."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.errors import MalformedObject
from walarchiver.postgres.tarstream import BLOCK, MemberKind, TarReader, parse_header

names = st.text("abcXYZ0189._-", min_size=1, max_size=20).filter(lambda name: name.strip(".") == name)
contents = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([511, 512, 513, 1024, 5000]).map(lambda length: b"\xa5" * length),
)
entries = st.dictionaries(names, st.one_of(st.none(), names, contents), max_size=8)


def tar_of(tree: dict[str, bytes | str | None]) -> bytes:
    """None: a directory; text: a symbolic link to it; bytes: a file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in tree.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o640
            if content is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def read(stream: bytes, cuts: list[int], keep: tuple[str, ...] = ()) -> TarReader:
    reader = TarReader(keep)
    at = 0
    for cut in cuts:
        reader.feed(stream[at : at + cut])
        at += cut
    reader.feed(memoryview(stream)[at:])
    reader.finish()
    return reader


@given(entries, st.lists(st.integers(0, 700), max_size=60))
def test_members_lie_where_tarfile_finds_them(tree: dict[str, bytes | str | None], cuts: list[int]) -> None:
    stream = tar_of(tree)
    reader = read(stream, cuts, keep=tuple(tree))
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        expected = [
            (one.name, one.size, one.offset, one.offset_data, one.linkname, one.mode)
            for one in tar.getmembers()
        ]
    assert [
        (one.path, one.size, one.header_offset, one.data_offset, one.linkname, one.mode)
        for one in reader.members
    ] == expected
    assert reader.size == len(stream)
    files = {name: content for name, content in tree.items() if isinstance(content, bytes)}
    assert {name: bytes(content) for name, content in reader.kept.items()} == files
    for member in reader.members:
        if member.kind is MemberKind.FILE:
            assert stream[member.data_offset : member.data_offset + member.size] == files[member.path]


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 123_456_789_012_345])
def test_a_size_beyond_eight_gigabytes_is_read_in_base_256(size: int) -> None:
    entry = tarfile.TarInfo("base/1/2")
    entry.size = size
    header = entry.tobuf(tarfile.GNU_FORMAT)
    member = parse_header(header, 0)
    assert member is not None
    assert member.size == size


def test_a_missing_end_marker_is_no_fault() -> None:
    stream = tar_of({"a": b"12345"})[: 2 * BLOCK]
    assert [member.path for member in read(stream, []).members] == ["a"]


@given(st.integers(0, BLOCK - 1), st.integers(1, 255))
def test_a_damaged_header_is_refused(place: int, flip: int) -> None:
    stream = bytearray(tar_of({"base/1/1259": b"x" * 100}))
    stream[place] ^= flip
    with pytest.raises(MalformedObject):
        read(bytes(stream), [])


@pytest.mark.parametrize("length", [100, BLOCK, BLOCK + 3, 2 * BLOCK - 1])
def test_a_stream_that_stops_inside_a_member_is_refused(length: int) -> None:
    with pytest.raises(MalformedObject, match="ends in the middle"):
        read(tar_of({"a": b"12345"})[:length], [])


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(MalformedObject, match="goes on after its end"):
        read(tar_of({"a": b"1"}) + b"\1", [])


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.XHDTYPE])
def test_kinds_that_postgresql_never_sends_are_refused(kind: bytes) -> None:
    entry = tarfile.TarInfo("a")
    entry.type = kind
    with pytest.raises(MalformedObject, match="has type"):
        parse_header(entry.tobuf(tarfile.USTAR_FORMAT), 0)
