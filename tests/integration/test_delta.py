"""`walarchiver restore --delta` from end to end: into one directory again, over a chain, after damage."""

from __future__ import annotations

import subprocess
from pathlib import Path

from restore.layout import CONTROL, MARKER
from tests.integration.scene import Scene, Scenes, end
from walarchiver.demo.stage import environment

DIGEST = "SELECT count(*) || ' ' || sum(n) || ' ' || md5(string_agg(pad, ',' ORDER BY n)) FROM t"


def asked(scene: Scene, dsn: str) -> str:
    psql = [str(scene.cluster.bin_dir / "psql"), "-XAt", dsn, "-c", DIGEST]
    return subprocess.run(psql, capture_output=True, text=True, env=environment(), check=True).stdout.strip()


def restored(scene: Scene, into: Path, config: Path, *more: str) -> str:
    """Restore to the latest moment, run, end cleanly; what the table held."""
    told = scene.restore("latest", into, *more, config=config)
    try:
        return asked(scene, told["dsn"])
    finally:
        end(told["pid"], into)


def test_a_directory_is_restored_into_again(scenes: Scenes, pg_folder: Path) -> None:
    scene = scenes.make(18, settings={"summarize_wal": "on"})
    scene.cluster.psql("CREATE TABLE t AS SELECT n, repeat('x', 900) AS pad FROM generate_series(1, 9000) n")
    (full,) = scene.json("backup")["backups"]
    scene.cluster.psql("UPDATE t SET pad = 'y' WHERE n = 7")
    scene.archive_all()
    reader, into = scene.reader(), pg_folder / "again"
    wanted = scene.cluster.psql(DIGEST)
    assert restored(scene, into, reader, "--delta", "--max-rate", "1GiB") == wanted, "there was nothing yet"

    words = scene.restore_words("latest", into)
    refused = scene.call(*words, config=reader)
    assert refused.error["code"] == "WA-TARGET-DIR"
    assert "--delta" in refused.error["hint"]
    misspelt = scene.call(*words, "--delta", "--tablespace", "16385=/elsewhere", config=reader)
    assert "has no tablespace 16385" in misspelt.error["message"]
    before = {path: path.lstat().st_mtime_ns for path in into.rglob("*")}
    told = scene.json(*words[:-6], "--delta", "--dry-run", *words[-6:], config=reader)
    found = told["delta"]
    assert found["kept_bytes"] > 0.8 * (found["kept_bytes"] + found["written_bytes"])
    assert found["removed_files"] > 0, "the WAL of the recovery that ran"
    assert {path: path.lstat().st_mtime_ns for path in into.rglob("*")} == before

    scene.cluster.psql("UPDATE t SET pad = 'z' WHERE n % 100 = 0")
    (one,) = scene.json("backup", "--incremental")["backups"]
    scene.cluster.psql("DELETE FROM t WHERE n = 8")
    scene.archive_all()
    assert scene.json("plan", "--at", "latest", config=reader)["base_backup"]["id"] == one["id"]

    # A member's part is gone: nothing that starts is left, and once it is back the same command goes on.
    key = next(
        part.object.key for part in scene.open().catalog.backup_parts(full["id"]) if part.role == "tar"
    )
    lost = scene.stage.folder / "repository" / key
    lost.rename(pg_folder / "lost")
    failed = scene.call(*words, "--delta", config=reader)
    assert failed.error["code"] == "WA-OBJECT-MISSING", failed.stderr
    assert f"{into} is unfinished" in failed.error["hint"]
    assert (into / MARKER).exists()
    assert not (into / CONTROL).exists()
    (pg_folder / "lost").rename(lost)
    assert restored(scene, into, reader, "--delta") == scene.cluster.psql(DIGEST)
