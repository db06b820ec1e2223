"""`walarchiver find`: what the test did to tables is what is found, and its targets bring it back."""

from __future__ import annotations

import pytest

from tests.integration.gaps import lose_segment
from tests.integration.scene import Json, Scene, Scenes

MAKE = """
CREATE TABLE erased(i int PRIMARY KEY, x text); CREATE TABLE dropped(i int PRIMARY KEY, x text);
CREATE TABLE emptied(i int PRIMARY KEY, x text); CREATE TABLE packed(i int PRIMARY KEY, x text);
CREATE TABLE quiet(i int);
CREATE TABLE parted(i int, x text) PARTITION BY RANGE (i);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (50);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (50) TO (1000);
INSERT INTO erased SELECT g, repeat('x', 9) FROM generate_series(1, 100) g;
INSERT INTO dropped SELECT * FROM erased; INSERT INTO emptied SELECT * FROM erased;
INSERT INTO packed SELECT * FROM erased; INSERT INTO parted SELECT * FROM erased;
INSERT INTO quiet VALUES (1);
"""


def now(scene: Scene) -> str:
    return scene.cluster.psql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )


def did(scene: Scene, sql: str) -> int:
    """Do it in one transaction; its id."""
    return int(scene.cluster.psql(f"BEGIN; {sql}; SELECT pg_current_xact_id()::xid; COMMIT").splitlines()[-1])


@pytest.mark.usefixtures("major")
def test_each_loss_is_told_apart_with_its_target(scenes: Scenes) -> None:
    """Scenario 17 of the design: DROP, TRUNCATE, VACUUM FULL and DELETE on four tables."""
    scene = scenes.make()
    cluster = scene.cluster
    cluster.psql(MAKE)
    scene.json("backup")
    start = now(scene)
    deleted = did(scene, "DELETE FROM erased WHERE i <= 7")
    truncated = did(scene, "TRUNCATE emptied; INSERT INTO emptied VALUES (1)")
    dropped = did(scene, "DROP TABLE dropped; CREATE TABLE dropped(other int)")
    cluster.psql("VACUUM FULL packed")
    gone = did(scene, "DELETE FROM packed WHERE i > 90")
    moved = did(scene, "UPDATE parted SET x = 'new' WHERE i BETWEEN 40 AND 59")
    end = now(scene)
    cluster.psql("DELETE FROM erased")  # later than asked
    scene.archive_all()
    reader = with_dsn(scene)

    def found(table: str) -> Json:
        told = scene.call(
            "find", "--table", table, "--from", start, "--to", end, "--output", "json", config=reader
        )
        assert told.exit_status == 0, told.stdout + told.stderr
        return told.json

    def only(table: str) -> Json:
        (one,) = found(table)["transactions"]
        return one

    one = only("public.erased")
    assert (one["xid"], one["kinds"], one["deleted"]) == (deleted, ["delete"], 7)
    assert one["at"] == f"before-xid:{deleted}"
    one = only("emptied")
    assert (one["xid"], one["kinds"], one["inserted"]) == (truncated, ["insert", "truncate"], 1)
    one = only("dropped")
    assert (one["xid"], one["kinds"], one["deleted"]) == (dropped, ["drop"], 0)
    packed = found("packed")
    assert [(t["xid"], t["kinds"], t["deleted"]) for t in packed["transactions"]] == [(gone, ["delete"], 10)]
    assert [change["what"] for change in packed["tables"][0]["changes"]] == ["rewrite"]
    one = only("parted")
    assert (one["xid"], one["updated"], one["deleted"]) == (moved, 20, 0)
    assert [part["updated"] for part in one["parts"]] == [10, 10]
    assert found("quiet")["transactions"] == []

    text = scene.call("find", "--table", "erased", "--from", start, "--to", end, config=reader).stdout
    assert f"--at before-xid:{deleted}" in text
    for at in (only("erased")["at"], only("erased")["at_lsn"]):
        plan = scene.json("plan", "--at", at, config=reader)
        assert plan["verdict"] == "reachable"
        assert plan["stop"]["lsn"] == only("erased")["lsn"]


def with_dsn(scene: Scene) -> object:
    """A reader that may also ask the running server."""
    config = scene.reader()
    config.write_text(config.read_text() + f'dsn = "{scene.cluster.dsn()}"\n')
    return config


def test_a_gap_inside_the_range_is_told_after_what_was_found(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.cluster.psql("CREATE TABLE t(i int); INSERT INTO t SELECT generate_series(1, 10)")
    scene.json("backup")
    start = now(scene)
    deleted = did(scene, "DELETE FROM t WHERE i = 1")
    scene.archive_all()
    lost = lose_segment(scene)
    did(scene, "DELETE FROM t WHERE i = 2")
    scene.archive_all()
    told = scene.call("find", "--table", "t", "--from", start, "--output", "json", config=scene.reader())
    assert told.exit_status == 14
    assert told.error["code"] == "WA-FIND-GAP"
    assert lost in told.error["message"]
    assert [one["xid"] for one in told.json["transactions"]] == [deleted]


def test_what_cannot_be_told_is_said(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.cluster.psql("CREATE TABLE t(i int); INSERT INTO t SELECT generate_series(1, 10)")
    scene.json("backup")
    reader = scene.reader()
    start = now(scene)
    odd = (
        (("--table", "nowhere", "--from", start), "WA-TABLE-NOT-LISTED"),
        (("--table", "a.b.c", "--from", start), "WA-TABLE-NOT-LISTED"),
        (("--table", "t", "--from", start, "--kind", "delete,vanish"), "WA-USAGE"),
        (("--relation", "1/2", "--from", start), "WA-USAGE"),
        (("--table", "t", "--from", start, "--to", "2001-01-01T00:00:00Z"), "WA-USAGE"),
        (("--table", "t", "--from", "lsn:0/1"), "WA-USAGE"),
    )
    for words, code in odd:
        told = scene.call("find", *words, "--output", "json", config=reader)
        assert (told.exit_status, told.error["code"]) == (2, code), words
        assert told.error["hint"]
