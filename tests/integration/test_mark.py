"""`walarchiver mark`: a named moment can be planned to once it is archived."""

from __future__ import annotations

import pytest

from tests.integration.scene import Scenes
from tests.kit.postgres import seldom
from walarchiver.core.lsn import parse_lsn


@pytest.mark.usefixtures("major")
@pytest.mark.parametrize("major", [18, *seldom(15)], indirect=True)
def test_a_mark_that_was_waited_for_is_what_a_plan_stops_at(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    before = scene.cluster.psql("SELECT pg_current_wal_insert_lsn()")
    told = scene.json("mark", "before migration: 1", "--wait")
    after = scene.cluster.psql("SELECT pg_current_wal_insert_lsn()")
    assert parse_lsn(before) < parse_lsn(told["lsn"]) <= parse_lsn(after)
    assert told["usable"] is True
    assert told["archived"] == {"main": True}
    assert scene.open().catalog.file(told["segment"]) is not None
    plan = scene.json("plan", "--at", "name:before migration: 1", config=scene.reader())
    assert plan["verdict"] == "reachable"
    # PostgreSQL tells where the mark's record ends, a plan where it begins.
    assert parse_lsn(before) <= parse_lsn(plan["stop"]["lsn"]) < parse_lsn(told["lsn"])


def test_a_mark_that_is_not_archived_says_so(scenes: Scenes) -> None:
    scene = scenes.make()
    told = scene.json("mark", "early")
    assert told["usable"] is None
    text = scene.call("mark", "again").stdout
    assert "once 0000" in text
    assert "--wait" in text
    scene.json("backup")
    scene.stage.stop_server()
    late = scene.call("mark", "late", "--wait", "0.5", "--output", "json")
    assert late.exit_status == 3
    assert late.json["archived"] == {"main": False}
    assert "not usable yet" in scene.call("mark", "later", "--wait", "0").stdout


def test_odd_names_are_refused_and_leave_no_mark(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.cluster.stop()  # so a mark that was tried would fail in another way
    for name in ("", " ", "x" * 64, "é" * 32, " lead", "trail ", "two\nlines", "tab\there"):
        told = scene.call("mark", name, "--output", "json")
        assert told.exit_status == 2, name
        assert told.error["code"] == "WA-USAGE"
        assert told.error["hint"]
    scene.cluster.start()
    assert scene.json("mark", "é" * 31)["name"] == "é" * 31


def test_a_role_without_the_right_is_told_the_grant(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.cluster.psql("CREATE ROLE archivist LOGIN REPLICATION IN ROLE pg_monitor")
    config = scene.stage.folder / "archivist.toml"
    config.write_text(scene.stage.config.read_text().replace("user=postgres", "user=archivist"))
    told = scene.call("mark", "x", "--output", "json", config=config)
    assert told.exit_status == 1
    assert told.error["hint"].endswith(
        'GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO "archivist".'
    )
    scene.cluster.psql("GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO archivist")
    assert scene.json("mark", "x", config=config)["name"] == "x"
