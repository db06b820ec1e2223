"""`walarchiver find`: what the test did to tables is what is found, and its targets bring it back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from restore.core.findings import LOSSES
from restore.core.when import parse_when
from restore.finding import Question, find
from restore.planning import Question as PlanQuestion
from restore.planning import ask, view_of
from tests.integration.gaps import lose_segment
from tests.integration.scene import PATIENCE_S, Json, Scene, Scenes, instant, until
from walarchiver.cli.findtext import Shown
from walarchiver.cli.main import main
from walarchiver.core.lsn import format_lsn
from walarchiver.demo.stage import environment

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
def test_each_loss_is_told_apart_with_its_target(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
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
        """As the command does, in this process: starting it a dozen times takes a minute."""
        question = Question(LOSSES, instant(start), instant(end), table=table)
        answer = find(archive, view, question, dsn=cluster.dsn(), workers=1)
        assert answer.doubts == []
        return json.loads(json.dumps(Shown(archive, view, question, answer, None, 0.0).members()))

    archive = scene.open(reader)
    view = view_of(archive.catalog, archive.cluster, archive.ledger.state().next_seq)

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

    question = Question(LOSSES, instant(start), instant(end), table="packed")
    side_by_side = find(archive, view, question, dsn=cluster.dsn(), workers=2)
    assert [one.transaction.xid for one in side_by_side.findings] == [gone]

    erased = only("erased")
    told = scene.call("find", "--table", "erased", "--from", start, "--to", end, config=reader)
    assert told.exit_status == 0, told.stdout + told.stderr
    assert f"--at {erased['at']}" in told.stdout
    assert f"--at {erased['at_lsn']}" in told.stdout
    for at in (erased["at"], erased["at_lsn"]):
        understood = parse_when(at, now_us=instant(end), timezone=None)
        decision = ask(archive.repository, archive.catalog, view, PlanQuestion(understood.target))
        assert decision.stop is not None
        assert (format_lsn(decision.stop.lsn), decision.stop.inclusive) == (erased["lsn"], False)


def with_dsn(scene: Scene) -> Path:
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
    start = now(scene)
    scene.archive_all()
    for table in ("nowhere", "a.b.c"):
        told = scene.call(
            "find", "--table", table, "--from", start, "--output", "json", config=scene.reader()
        )
        assert (told.exit_status, told.error["code"]) == (2, "WA-TABLE-NOT-LISTED")
        assert told.error["hint"]


def test_what_cannot_be_read_is_refused_with_its_code(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.cluster.psql("CREATE TABLE t(i int); INSERT INTO t SELECT generate_series(1, 10)")
    scene.json("backup")
    start = now(scene)
    did(scene, "DELETE FROM t WHERE i = 1")
    name = scene.archive_all()
    reader = scene.reader()

    def refused(*words: str, config: Path = reader) -> tuple[int, str]:
        told = scene.call("find", "--table", "t", "--from", start, *words, "--output", "json", config=config)
        assert told.stdout == ""
        assert told.error["hint"]
        return told.exit_status, told.error["code"]

    keyless = scene.reader()
    keyless.write_text(re.sub('(identity = ".*)"', r'\1.gone"', keyless.read_text()))
    assert refused(config=keyless) == (12, "WA-KEY-MISSING")
    assert refused("--timeline", "9") == (13, "WA-UNREACHABLE")
    (stored,) = (scene.stage.folder / "repository").rglob(f"*{name}*")
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-40] + bytes(40))
    assert refused() == (15, "WA-OBJECT-DAMAGED")
    stored.unlink()
    assert refused()[1] == "WA-OBJECT-MISSING"

    os.mkfifo(stored)  # a store that does not answer
    words = scene.stage.command("find", "--table", "t", "--from", start, config=reader)
    program = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        pipe = until(lambda: opened_by_a_reader(stored), "the segment asked for")
        program.send_signal(signal.SIGINT)
        _out, errors = program.communicate(timeout=PATIENCE_S)
        assert pipe is not None
        os.close(pipe)
    finally:
        program.kill()
    assert program.returncode == 130, errors
    assert "error[WA-INTERRUPTED]" in errors


def opened_by_a_reader(pipe: Path) -> int | None:
    """The pipe's writing end, once somebody reads."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@pytest.mark.parametrize(
    "words",
    [
        ("--table", "t", "--from", "1 hour ago", "--kind", "delete,vanish"),
        ("--table", "t", "--from", "1 hour ago", "--kind", ","),
        ("--relation", "1/2", "--from", "1 hour ago"),
        ("--table", "t", "--from", "1 hour ago", "--to", "2001-01-01T00:00:00Z"),
        ("--table", "t", "--from", "lsn:0/1"),
        ("--table", "t", "--from", "1 hour ago", "--limit", "0"),
        ("--table", "t", "--relation", "1/2/3", "--from", "1 hour ago"),
        ("--from", "1 hour ago"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "walarchiver.toml"
    config.write_text('[repository.main]\nurl = "file:///nowhere"\nroot = "x"\n[cluster.main]\n')
    assert main(["find", *words, "--config", str(config), "--output", "json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "WA-USAGE"
    assert error["hint"]
