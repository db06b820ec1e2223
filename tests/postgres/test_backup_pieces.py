"""backup_label, tablespace_map and the index part: text in, values out, and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core.lsn import Lsn
from walarchiver.errors import MalformedObject
from walarchiver.postgres.backupindex import (
    BackupIndex,
    StreamIndex,
    TablespaceStream,
    index_bytes,
    parse_index,
)
from walarchiver.postgres.backuplabel import BackupLabel, parse_tablespace_map, tablespace_map_content
from walarchiver.postgres.tarstream import MemberKind, TarMember

LABEL = """START WAL LOCATION: 16/B3000028 (file 0000000A00000016000000B3)
CHECKPOINT LOCATION: 16/B3000060
BACKUP METHOD: streamed
BACKUP FROM: standby
START TIME: 2026-11-22 14:32:06 UTC
LABEL: a label
START TIMELINE: 10
"""

paths = st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text)
sizes = st.integers(0, 2**50)
members = st.one_of(
    st.builds(TarMember, paths, st.just(MemberKind.FILE), sizes, st.integers(0, 0o777), sizes),
    st.builds(TarMember, paths, st.just(MemberKind.DIRECTORY), st.just(0), st.integers(0, 0o777), sizes),
    st.builds(TarMember, paths, st.just(MemberKind.SYMLINK), st.just(0), st.integers(0, 0o777), sizes, paths),
)
streams = st.builds(
    StreamIndex,
    st.builds(TablespaceStream, st.integers(0, 99), st.integers(0, 2**32 - 1), st.none() | paths),
    sizes,
    st.lists(members, max_size=5).map(tuple),
)


@given(st.lists(streams, max_size=4).map(tuple).map(BackupIndex))
def test_an_index_survives_its_bytes(index: BackupIndex) -> None:
    assert parse_index(index_bytes(index)) == index


def test_a_path_that_is_not_utf8_survives_the_index() -> None:
    member = TarMember(b"base/\xff".decode("utf-8", "surrogateescape"), MemberKind.FILE, 1, 0o600, 0)
    index = BackupIndex((StreamIndex(TablespaceStream(0, 0, None), 1024, (member,)),))
    assert parse_index(index_bytes(index)) == index


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        '{"v":1}',
        '{"v":2,"streams":[]}',
        '{"v":1,"streams":[{"number":0,"oid":0,"path":null,"size":1,"members":[["a","x",1,2]]}]}',
        '{"v":1,"streams":[{"number":0,"oid":0,"path":null,"size":1,"members":[["a","f",1,2,-1]]}]}',
    ],
)
def test_an_index_that_makes_no_sense_is_refused(document: str) -> None:
    with pytest.raises(MalformedObject):
        parse_index(document.encode())


def test_an_index_is_compact() -> None:
    member = TarMember("base/1/1259", MemberKind.FILE, 8192, 0o600, 512)
    index = BackupIndex((StreamIndex(TablespaceStream(0, 0, None), 1024, (member,)),))
    assert json.loads(index_bytes(index))["streams"][0]["members"] == [["base/1/1259", "f", 384, 512, 8192]]


def test_a_backup_label_tells_where_recovery_begins() -> None:
    assert BackupLabel.parse(LABEL) == BackupLabel(Lsn(0x16B3000028), Lsn(0x16B3000060), 10, True)


@pytest.mark.parametrize(
    "line", ["START WAL LOCATION", "CHECKPOINT LOCATION", "BACKUP FROM", "START TIMELINE"]
)
def test_a_backup_label_without_a_needed_line_is_refused(line: str) -> None:
    text = "\n".join(row for row in LABEL.splitlines() if not row.startswith(line))
    with pytest.raises(MalformedObject):
        BackupLabel.parse(text)


@given(st.dictionaries(st.integers(1, 2**32 - 1), paths.map(lambda path: "/" + path), max_size=5))
def test_tablespace_locations_survive_the_map_file(locations: dict[int, str]) -> None:
    assert parse_tablespace_map(tablespace_map_content(locations)) == locations


def test_a_tablespace_map_line_without_a_location_is_refused() -> None:
    with pytest.raises(MalformedObject):
        parse_tablespace_map(b"16384\n")
