"""`walarchiver bucket pin`: a moment of a real server and of a bucket with rules, kept and looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.scene import Scene, Scenes, until
from tests.kit.models3.app import App
from tests.kit.models3.entries import LifecycleRule
from tests.kit.models3.fixtures import MakeModel
from walarchiver.clock import SystemClock
from walarchiver.core.moment import format_rfc3339
from walarchiver.demo.stage import Evidence, read_root

QUERY = "SELECT datname FROM pg_database"


class Application:
    """A bucket on the model, whose clock goes as the database server's does; and a backup bucket."""

    def __init__(self, scene: Scene, app: App) -> None:
        self.scene, self.app = scene, app
        app.set_lifecycle(LifecycleRule("clean", noncurrent_days=30))

    def second_later(self) -> str:
        """A moment with nothing in its second or the one before."""

        def now() -> int:
            return int(
                self.scene.cluster.psql("SELECT (extract(epoch FROM clock_timestamp())*1000000)::bigint")
            )

        began = now()
        until(lambda: now() >= began + 3_000_000, "a second without events")
        return format_rfc3339(began + 1_600_000)

    def pinner(self) -> Path:
        """The configuration of a host that may read and write: plans open WAL, pins are signed."""
        config = self.scene.reader()
        key = f'signing_key = "{self.scene.stage.keys / "writer.key"}"'
        config.write_text(config.read_text().replace("identity =", f"{key}\nidentity ="))
        return config

    def without(self, config: Path, key: str) -> Path:
        """A configuration without one key."""
        lines = config.read_text().splitlines()
        changed = config.with_name(f"{config.stem}-without-{key}.toml")
        changed.write_text("\n".join(line for line in lines if not line.startswith(f"{key} =")) + "\n")
        return changed


@pytest.fixture
def application(scenes: Scenes, make_model_s3: MakeModel) -> Application:
    model = make_model_s3(running=True)
    model.clock.now_ms = SystemClock().now_us() // 1000
    app = model.app("evidence")
    model.app("kept")
    scene = scenes.make(serve=False)
    settings = {
        "endpoint": f'"{model.endpoint}"',
        "credentials_file": f'"{model.credentials_file()}"',
        "scan": '"0s"',
        "copies": '"s3://kept/weekly"',
    }
    scene.stage.evidence = Evidence("s3://evidence", QUERY, settings)
    scene.stage.write_config(root=read_root(scene.stage.keys))
    scene.stage.serve()
    return Application(scene, app)


@pytest.mark.nightly
def test_a_weekly_pin_is_whole_from_the_backup_bucket_after_the_rule_was_there(
    application: Application,
) -> None:
    """[scenario 24]"""
    scene, app, own = application.scene, application.app, application.pinner()
    scene.json("bucket", "scan", config=own)
    app.put("case/1", b"first")
    app.put("case/2", b"second")
    app.put("case/3", b"first")
    scene.json("backup")
    at = application.second_later()
    app.put("case/1", b"changed")
    app.delete("case/2")
    scene.archive_all()
    pin = ("bucket", "pin", "--at", at, "--reason", "end of the week", "--keep", "52w")

    refused = scene.call(*pin, "--output", "json", config=application.without(own, "copies"))
    assert (refused.exit_status, refused.error["code"]) == (1, "WA-PIN-NOT-KEPT")
    assert "'clean'" in refused.error["message"]
    assert scene.json("bucket", "pins", config=own)["pins"] == []

    made = scene.json(*pin, config=own)
    assert (made["objects"], made["bytes"], made["copied"], made["gone"]) == (3, 16, 2, 0)
    assert made["kept_in"] == "s3://kept/weekly"
    again = scene.json(*pin, config=own)
    assert (again["copied"], again["read"]) == (0, 0)
    listed = scene.json("bucket", "pins", config=own)["pins"]
    assert [one["id"] for one in listed] == [made["id"], again["id"]]
    assert listed[0]["base_backup"] == scene.json("backups")["backups"][0]["id"]

    app.server.clock.step(days=40)
    assert len(app.run_lifecycle()) == 2
    reader = scene.reader()
    told = scene.json("bucket", "pin", "--verify", made["id"], "--deep", config=reader)
    assert (told["found"]["copy"], told["lost"]) == (3, [])
    app.server.app("new")
    words = ("bucket", "restore", "--pin", made["id"], "--into", "new/then")
    assert scene.json(*words, config=reader)["keys"]["copied"] == 3  # a dry run
    assert scene.json(*words, "--apply", config=reader)["bytes"] == 16
    (only,) = app.server.state.bucket("new").history("then/case/2")
    assert b"".join(only.body.chunks()) == b"second"
    alone = scene.call(
        *("bucket", "pin", "--verify", made["id"], "--output", "json"),
        config=application.without(reader, "copies"),
    )
    assert alone.exit_status == 15
    assert [(one["key"], one["found"]) for one in alone.json["lost"]] == [
        ("case/1", "missing"),
        ("case/2", "missing"),
        ("case/3", "copy_lost"),
    ]


@pytest.mark.nightly
def test_only_what_the_index_vouches_for_is_pinned_and_without_copies_where_the_rules_keep_it(
    application: Application,
) -> None:
    scene, app, own = application.scene, application.app, application.pinner()
    app.put("case/1", b"first")
    scene.json("backup")
    early = application.second_later()
    scene.json("bucket", "scan", config=own)  # the first one: what was removed before is not known
    at = application.second_later()
    scene.archive_all()
    told = scene.call("bucket", "pin", "--at", early, "--reason", "too early", "--output", "json", config=own)
    assert (told.exit_status, told.error["code"]) == (13, "WA-BUCKET-WINDOW")
    assert scene.json("bucket", "pins", config=own)["pins"] == []

    made = scene.json("bucket", "pin", "--at", at, "--reason", "a release", "--keep", "10d", config=own)
    assert (made["kept_in"], made["copied"], made["objects"]) == (None, 0, 1)
    told = scene.call("bucket", "pin", "--verify", made["id"], config=scene.reader())
    assert told.exit_status == 0, told.stderr
    assert "there in the watched bucket" in told.stdout
    (version,) = app.history("case/1")
    app.purge_version("case/1", version.version_id)
    told = scene.call("bucket", "pin", "--verify", made["id"], config=scene.reader())
    assert told.exit_status == 15
    assert "missing: case/1" in told.stdout
