"""The query that tells what a database refers to, on a real server."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator

import pytest

from tests.kit.postgres import MAJORS, QUICK, open_folder
from walarchiver.embedded.postgres import MIB, EmbeddedCluster
from walarchiver.errors import ConfigError
from walarchiver.postgres.connection import connected
from walarchiver.postgres.references import ROWS_AT_ONCE, ReferenceRow, read_references

DIGEST = hashlib.sha256(b"body").hexdigest()


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    folder = open_folder("wa-references-")
    cluster = EmbeddedCluster(MAJORS[-1], folder / "pg", settings=QUICK, durable=False)
    try:
        cluster.create(segment_bytes=MIB)
        cluster.start()
        with connected(cluster.dsn()) as connection:
            connection.execute(
                "CREATE TABLE evidence (storage_key text, digest bytea, hex text, bytes bigint)"
            )
            connection.execute(
                "INSERT INTO evidence VALUES ('a/1', decode(%s, 'hex'), upper(%s), 4),"
                " ('ü b+c', NULL, NULL, NULL), (NULL, NULL, NULL, NULL)",
                (DIGEST, DIGEST),
            )
        yield cluster.dsn()
    finally:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_first_column_is_the_key_whatever_its_name(dsn: str) -> None:
    rows = list(read_references(dsn, "SELECT storage_key FROM evidence ORDER BY 1 NULLS LAST"))
    assert [row.key for row in rows] == ["a/1", "ü b+c", None]
    assert rows[0] == ReferenceRow("a/1", None, None, None, None)


@pytest.mark.parametrize("column", ["digest", "hex"])
def test_a_digest_may_be_bytes_or_hex(dsn: str, column: str) -> None:
    rows = list(read_references(dsn, f"SELECT storage_key, {column} AS sha256, bytes AS size FROM evidence"))
    assert rows[0] == ReferenceRow("a/1", None, DIGEST, None, 4)
    assert rows[1] == ReferenceRow("ü b+c", None, None, None, None)


def test_versions_and_etags_are_taken_as_they_are(dsn: str) -> None:
    query = "SELECT 'k', 'v1' AS version_id, '\"abc\"' AS etag"
    assert list(read_references(dsn, query)) == [ReferenceRow("k", "v1", None, '"abc"', None)]


def test_a_column_of_another_name_is_refused(dsn: str) -> None:
    with pytest.raises(ConfigError, match="sha265") as refused:
        list(read_references(dsn, "SELECT storage_key, hex AS sha265 FROM evidence"))
    assert "version_id, sha256, etag, size" in refused.value.next_step


def test_what_is_no_digest_is_refused(dsn: str) -> None:
    with pytest.raises(ConfigError, match="as sha256"):
        list(read_references(dsn, "SELECT 'k', 'feedcafe' AS sha256"))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT nothing FROM evidence",
        "DELETE FROM evidence RETURNING storage_key",
        "SELECT storage_key FROM evidence; DROP TABLE evidence",
        "DROP TABLE evidence",
    ],
)
def test_a_query_that_is_not_one_harmless_select_is_refused_and_changes_nothing(dsn: str, query: str) -> None:
    with pytest.raises(ConfigError, match="references"):
        list(read_references(dsn, query))
    with connected(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM evidence").fetchone() == (3,)


def test_a_function_that_writes_is_refused_by_the_server(dsn: str) -> None:
    with connected(dsn) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION sneaky() RETURNS text LANGUAGE sql AS"
            " $$ DELETE FROM evidence RETURNING storage_key $$"
        )
    with pytest.raises(ConfigError):
        list(read_references(dsn, "SELECT sneaky()"))
    with connected(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM evidence").fetchone() == (3,)


def test_a_long_answer_comes_whole(dsn: str) -> None:
    count = 2 * ROWS_AT_ONCE + 1
    rows = read_references(dsn, f"SELECT 'k' || n FROM generate_series(1, {count}) n")
    assert sum(1 for _ in rows) == count


def test_a_key_of_bytes_is_its_text(dsn: str) -> None:
    query = "SELECT convert_to(storage_key, 'UTF8') FROM evidence ORDER BY 1 NULLS LAST"
    assert [row.key for row in read_references(dsn, query)] == ["a/1", "ü b+c", None]
    with pytest.raises(ConfigError, match="as key"):
        list(read_references(dsn, "SELECT '\\xff'::bytea"))


@pytest.mark.parametrize("size", ["'abc'", "'NaN'::numeric", "1.5::float8", "-1", "'{}'::json"])
def test_what_is_no_size_is_refused(dsn: str, size: str) -> None:
    with pytest.raises(ConfigError, match="as size"):
        list(read_references(dsn, f"SELECT 'k', {size} AS size"))


@pytest.mark.parametrize("size", ["4", "4.0", "'4'", "4::bigint"])
def test_a_size_is_a_whole_number_of_any_type(dsn: str, size: str) -> None:
    assert list(read_references(dsn, f"SELECT 'k', {size} AS size")) == [
        ReferenceRow("k", None, None, None, 4)
    ]


def test_a_column_that_comes_twice_is_refused(dsn: str) -> None:
    with pytest.raises(ConfigError, match="size, size"):
        list(read_references(dsn, "SELECT 'k', 1 AS size, 2 AS size"))


def test_a_query_that_fails_on_the_data_is_no_outage_of_the_database(dsn: str) -> None:
    with pytest.raises(ConfigError, match="division by zero"):
        list(read_references(dsn, "SELECT 'k', 1 / (count(*) - count(*)) AS size FROM evidence"))
