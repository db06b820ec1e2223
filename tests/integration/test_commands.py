"""status, backups, plan and catalog rebuild against a real repository, as text and as JSON."""

from __future__ import annotations

import shutil

from tests.integration.scene import Scenes
from tests.kit.smalldisk import fill, make_read_only, small_disk
from walarchiver.core.moment import format_rfc3339, parse_rfc3339


def test_commands_tell_the_same_story_as_text_and_as_json(scenes: Scenes) -> None:
    scene = scenes.make(store="s3")
    before = scene.call("status", "--output", "json")
    assert before.exit_status == 3
    assert before.json["latest_restorable"] is None
    assert "walarchiver backup" in before.json["reason"]
    assert "no base backup yet" in scene.call("backups").stdout
    early = scene.call("plan", "--at", "latest", "--output", "json")
    assert early.exit_status == 13
    assert early.json["stop"] is None

    (taken,) = scene.json("backup")["backups"]
    scene.cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 100) AS n")
    last = scene.archive_all()

    (listed,) = scene.json("backups")["backups"]
    assert {**{name: listed.get(name) for name in taken}, "repository": "main"} == taken
    assert listed["bytes"] > listed["stored_bytes"] > 0
    assert taken["id"] in scene.call("backups").stdout

    told = scene.restorable()
    assert told["last_segment"] == last
    assert told["gaps"] == []
    assert told["problems"] == []
    assert told["ledger"]["void"] == []
    assert [one["id"] for one in told["backups"]] == [taken["id"]]
    text = scene.call("status").stdout
    assert told["latest_restorable"][:10] in text
    assert text.index("latest restorable") < text.index("base backups")

    plan = scene.json("plan", "--at", "latest", config=scene.reader())
    assert plan["schema_version"] == 1
    assert plan["verdict"] == "reachable"
    assert {"lsn", "xid", "commit_time", "timeline"} <= plan["stop"].keys()
    assert plan["base_backup"]["id"] == taken["id"]
    assert plan["base_backup"]["start_lsn"] == taken["start_lsn"]
    assert plan["base_backup"]["stop_lsn"] == taken["stop_lsn"]
    assert plan["wal"]["last"] == last
    assert plan["wal"]["bytes"] == plan["wal"]["count"] << 20
    assert plan["settings"]["recovery_target_lsn"] == plan["stop"]["lsn"]
    assert plan["settings"]["recovery_target_timeline"] == "1"
    assert plan["settings"]["archive_mode"] == "off"
    assert plan["undone"]["commits"] == 0
    assert plan["keys"]
    assert {"reason", "requested", "nearest", "bucket"} <= plan.keys()
    as_text = scene.call("plan", "--at", "latest", config=scene.reader())
    assert as_text.exit_status == 0
    assert plan["stop"]["lsn"] in as_text.stdout
    assert taken["id"] in as_text.stdout

    rebuilt = scene.json("catalog", "rebuild")
    assert rebuilt["records"]["backup"] == 1
    assert rebuilt["entries"] == scene.json("status")["ledger"]["entries"]
    assert "made again" in scene.call("catalog", "rebuild").stdout


def test_the_latest_restorable_second_of_status_can_be_planned(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.archive_all()
    told = scene.restorable()
    assert told["latest_restorable"] >= told["earliest_restorable"]
    for at in (told["latest_restorable"], told["earliest_restorable"]):
        plan = scene.call("plan", "--at", at, "--output", "json", config=scene.reader())
        assert plan.exit_status == 0, plan.json["reason"]


def test_losing_the_state_folder_loses_nothing(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.archive_all()
    scene.restorable()
    scene.stage.stop_server()
    told = scene.json("status")
    shutil.rmtree(scene.stage.folder / "state")
    again = scene.json("status")
    assert {**again, "now": None} == {**told, "now": None}
    scene.prove_rebuild()
    scene.stage.serve()
    scene.archive_all()
    scene.prove_archived()


def test_a_state_folder_that_cannot_be_written_blocks_no_command(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.archive_all()
    told = scene.restorable()
    config = scene.reader()
    into = scene.stage.folder / "new"
    commands = (["status"], ["plan", "--at", "latest"], [*scene.restore_words("latest", into), "--dry-run"])
    with small_disk(scene.stage.folder / config.stem, 8 << 20) as state:

        def every_command_warns_and_works(says: str) -> None:
            for words in commands:
                answer = scene.call(*words, "--output", "json", config=config)
                assert answer.exit_status == 0, answer.stderr
                lines = [line for line in answer.stderr.splitlines() if line.startswith("warning: ")]
                assert len(lines) == 1, lines
                line = lines[0]
                assert says in line, answer.stderr
                assert line.endswith("kept in memory, nothing is lost")
            assert scene.json("status", config=config)["latest_restorable"] >= told["latest_restorable"]

        (state / "catalog").mkdir(mode=0o700)
        fill(state)
        every_command_warns_and_works("database or disk is full")
        (state / "ballast").unlink()
        assert "warning" not in scene.call("status", config=config).stderr
        make_read_only(state)
        every_command_warns_and_works("read-only, or no permission")
    assert not into.exists()


def test_a_repository_that_fails_keeps_no_other_from_its_backup(scenes: Scenes) -> None:
    scene = scenes.make()
    several = scene.stage.folder / "several.toml"
    (scene.stage.folder / "empty").mkdir()
    text = scene.stage.config.read_text()
    section = text[text.index("[repository.main]") : text.index("[cluster.main]")]
    section = section.replace("[repository.main]", "[repository.new]")
    section = section.replace(f"{scene.stage.folder}/repository", f"{scene.stage.folder}/empty")
    names = 'repository = ["new", "main"]'
    several.write_text(text.replace('repository = "main"', names) + "\n" + section)
    told = scene.call("backup", "--wait", "0", "--output", "json", config=several)
    assert told.exit_status == 1, told.stderr
    (taken,) = told.json["backups"]
    assert taken["repository"] == "main"
    (failed,) = told.json["failed"]
    assert (failed["repository"], failed["code"]) == ("new", "WA-NO-REPOSITORY")
    assert failed["hint"]
    assert [one["id"] for one in scene.json("backups")["backups"]] == [taken["id"]]
    assert list((scene.stage.folder / "empty").iterdir()) == []
    several.write_text(text.replace("/repository", "/empty"))
    assert scene.call("backup", config=several).exit_status == 10


def test_times_of_status_are_utc_and_ordered(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.archive_all()
    told = scene.restorable()
    earliest, latest = (parse_rfc3339(told[name]) for name in ("earliest_restorable", "latest_restorable"))
    assert earliest <= latest <= parse_rfc3339(told["now"])
    assert format_rfc3339(latest) == told["latest_restorable"]
