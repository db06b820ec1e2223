"""`walarchiver backup --incremental` from end to end: what it builds on, what it says, and back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.integration.scene import Scenes, end
from walarchiver.demo.stage import environment

DIGEST = "SELECT count(*) || ' ' || sum(n) || ' ' || md5(string_agg(pad, ',' ORDER BY n)) FROM t"


def test_a_chain_is_taken_listed_planned_and_ends_by_a_full_backup(scenes: Scenes, pg_folder: Path) -> None:
    scene = scenes.make(18, settings={"summarize_wal": "on"})
    config = scene.stage.config
    config.write_text(config.read_text() + "\n[cluster.main.backup]\nchain = 2\n")
    scene.cluster.psql("CREATE TABLE t AS SELECT n, repeat('x', 90) AS pad FROM generate_series(1, 9000) n")
    scene.cluster.psql("VACUUM FREEZE t")
    nothing = scene.call("backup", "--incremental", "--output", "json")
    assert nothing.error["code"] == "WA-BACKUP-INCREMENTAL"
    (full,) = scene.json("backup", "--incremental", "auto")["backups"]
    assert (full["method"], full["prior"]) == ("full", None)
    would = scene.json("backup", "--incremental", "--dry-run")
    assert would["would_take"] == [{"repository": "main", "prior": full["id"]}]

    scene.cluster.psql("UPDATE t SET pad = 'y' WHERE n % 1000 = 0")
    told = scene.call("backup", "--incremental", "--max-rate", "1GiB", "--output", "json")
    assert told.exit_status == 0, told.stderr
    (one,) = told.json["backups"]
    assert (one["method"], one["prior"]) == ("incremental", full["id"])
    assert f"an incremental backup on {full['id']}, number 2 of its chain" in told.stderr
    assert one["bytes"] < full["bytes"]

    wanted = scene.cluster.psql(DIGEST)
    scene.archive_all()
    listed = scene.json("backups")["backups"]
    assert [each["chain"] for each in listed] == [[full["id"]], [full["id"], one["id"]]]
    assert all(each["restorable"] and each["page_checksums"] for each in listed)
    assert f"builds on {full['id']}, 2 in its chain" in scene.call("backups").stdout
    assert "1 incremental since the last full one" in scene.call("status").stdout

    reader = scene.reader()
    plan = scene.json("plan", "--at", "latest", config=reader)
    assert plan["base_backup"]["id"] == one["id"]
    assert plan["base_backup"]["chain"] == [full["id"], one["id"]]
    assert plan["base_backup"]["chain_bytes"] == full["bytes"] + one["bytes"]
    shown = " ".join(scene.call("plan", "--at", "latest", config=reader).stdout.split())
    assert f"builds on {full['id']}: " in shown
    target = pg_folder / "again"
    again = scene.restore("latest", target, config=reader)
    try:
        psql = [str(scene.cluster.bin_dir / "psql"), "-XAt", again["dsn"], "-c", DIGEST]
        shown = subprocess.run(psql, capture_output=True, text=True, env=environment(), check=True).stdout
        assert shown.strip() == wanted
    finally:
        end(again["pid"], target)

    longest = scene.call("backup", "--incremental", "--dry-run", "--output", "json")
    assert longest.json["would_take"][0]["prior"] is None
    assert "has 2 of 2 members" in scene.call("backup", "--incremental", "--dry-run").stdout
    config.write_text(config.read_text().replace("chain = 2", "chain = 3"))
    shutil.rmtree(scene.stage.folder / "state" / "manifests")
    blind = scene.call("backup", "--incremental", "--output", "json")
    assert blind.error["code"] == "WA-BACKUP-INCREMENTAL"
    assert "is not kept on this host" in blind.error["message"]
