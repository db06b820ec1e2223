"""The `digests` part: pieces of files, wherever the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.errors import MalformedObject
from walarchiver.postgres.backupindex import BackupIndex, StreamIndex, TablespaceStream
from walarchiver.postgres.filedigests import (
    DIGEST_CHUNK_BYTES,
    Pieces,
    parse_digests,
    piece_count,
    piece_digest,
)
from walarchiver.postgres.tarstream import BLOCK, MemberKind, TarMember

MIB = 1 << 20
PART = 8 * MIB
SIZES = [0, 1, BLOCK, MIB, DIGEST_CHUNK_BYTES - 1, DIGEST_CHUNK_BYTES, DIGEST_CHUNK_BYTES + 1, 21 * MIB]


def members_of(sizes: list[int]) -> list[TarMember]:
    found: list[TarMember] = []
    at = 0
    for number, size in enumerate(sizes):
        found.append(TarMember(f"file{number}", MemberKind.FILE, size, 0o600, at))
        at += BLOCK + -(-size // BLOCK) * BLOCK
    return found


@given(st.lists(st.sampled_from(SIZES), max_size=12), st.integers(0, 2))
def test_parts_tear_no_piece_and_all_pieces_come_once(sizes: list[int], ahead: int) -> None:
    """`ahead`: how many headers behind the cut the reader of the stream has seen already."""
    members = members_of(sizes)
    end = (
        members[-1].data_offset + -(-members[-1].size // BLOCK) * BLOCK + 2 * BLOCK if members else 2 * BLOCK
    )
    seen: list[TarMember] = []
    pieces = Pieces(seen)
    given_out: list[tuple[int, int]] = []
    start = 0
    while start < end:
        full = min(start + PART, end)
        seen[:] = members[: sum(member.data_offset <= full for member in members) + ahead]
        stop = full if full == end else pieces.cut(full)
        assert start < stop <= full
        for offset, length in pieces.before(stop):
            assert start <= offset
            assert offset + length <= stop
            given_out.append((offset, length))
        start = stop
    assert given_out == [
        (member.data_offset + at, min(DIGEST_CHUNK_BYTES, member.size - at))
        for member in members
        for at in range(0, member.size, DIGEST_CHUNK_BYTES)
    ]


def index_of(*streams: list[TarMember]) -> BackupIndex:
    return BackupIndex(
        tuple(
            StreamIndex(TablespaceStream(number, 0, None), 1 << 30, tuple(members))
            for number, members in enumerate(streams)
        )
    )


def test_digests_are_found_again_by_file() -> None:
    folder = TarMember("folder", MemberKind.DIRECTORY, 0, 0o700, 0)
    index = index_of([folder, *members_of([0, 3])], members_of([DIGEST_CHUNK_BYTES + 1]))
    parts = [piece_digest(b"abc"), piece_digest(b"d" * DIGEST_CHUNK_BYTES), piece_digest(b"e")]
    found = parse_digests(b"".join(parts), index)
    assert found.of(0, "file0") == b""
    assert found.of(0, "file1") == parts[0]
    assert found.of(1, "file0") == parts[1] + parts[2]
    assert piece_count(DIGEST_CHUNK_BYTES + 1) == 2
    with pytest.raises(MalformedObject, match="no digests of 'folder'"):
        found.of(0, "folder")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_digests_that_do_not_fit_the_index_are_refused(length: int) -> None:
    with pytest.raises(MalformedObject, match=f"have {length} bytes, its index asks for 32"):
        parse_digests(bytes(length), index_of(members_of([3])))
