"""Base backups out of the ordinary: from a standby, with configuration outside the data directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.scene import Scenes, end
from tests.kit.postgres import as_server_user, seldom
from tests.matrix.hosts import caught_up, rows, said, say, standby_of


@pytest.mark.parametrize("major", [14, 17])
def test_a_backup_from_a_standby_restores(scenes: Scenes, major: int) -> None:
    primary = scenes.make(major, settings={"full_page_writes": "on"})
    primary.cluster.psql("CREATE TABLE said (text text)")
    standby = standby_of(scenes, primary)
    say(primary, "before")
    caught_up(primary, standby)
    told = standby.call("backup", "--wait", "0", "--output", "json")
    assert told.exit_status == 3, told.stderr  # its WAL comes from the primary, later
    (backup,) = told.json["backups"]
    assert (backup["source"], backup["timeline"]) == ("standby", 1)
    say(primary, "after")
    primary.archive_all()
    config = primary.reader()
    found, restored = rows(primary, "latest", config=config)
    assert found == ["before", "after"]
    assert restored["timeline"] == 2


@pytest.mark.parametrize("major", [18, *seldom(15)])
def test_configuration_outside_the_data_directory_comes_along(scenes: Scenes, major: int) -> None:
    folder = scenes.folder / "etc"
    files = {
        folder / "pg_hba.conf": "local all all trust\nlocal replication all trust\n",
        folder / "pg_ident.conf": "# nobody\n",
        folder / "extra.conf": "work_mem = '7MB'\n",
    }
    folder.mkdir()
    for path, content in files.items():
        path.write_text(content)
    hba, ident, extra = map(str, files)
    scene = scenes.make(major, settings={"hba_file": hba, "ident_file": ident, "include_if_exists": extra})
    for path in files:
        as_server_user(scene.cluster, path)
    scene.cluster.psql("CREATE TABLE said (text text)")
    assert scene.cluster.psql("SHOW work_mem") == "7MB"
    scene.json("backup")
    say(scene, "x")
    scene.archive_all()
    archive = scene.open()
    (record,) = archive.catalog.backups()
    assert "config" in {part.role for part in archive.catalog.backup_parts(record.backup)}
    secret = b"local replication"
    ledger = scene.stage.folder / "repository" / "v1" / "c" / archive.system / "ledger"
    assert not any(secret in path.read_bytes() for path in ledger.iterdir())

    for path in files:  # another host
        path.unlink()
    into = scene.stage.folder / "r"
    told = scene.restore("latest", into, config=scene.reader())
    assert said(told["dsn"]) == ["x"]
    end(told["pid"], into)
    copies = into.with_name("r.walarchiver") / "configuration"
    assert copies.stat().st_mode & 0o077 == 0
    for path, content in files.items():
        assert (copies / Path(*path.parts[1:])).read_text() == content
        assert not path.exists()
