"""`walarchiver doctor`: each finding can be seen to hold and to fail, and no bundle carries a secret."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.integration.scene import Json, Scene, Scenes, Told
from tests.kit.postgres import seldom
from tests.kit.s3 import S3Server
from walarchiver.errors import UsageError
from walarchiver.keys.keyfile import read_key_file
from walarchiver.keys.printable import printable_form
from walarchiver.operate.bundle import masked, redacted, secrets_of, write_bundle
from walarchiver.operate.doctor import Examination
from walarchiver.operate.findings import fail
from walarchiver.settings import load_settings, parse_settings


def findings(told: Told, name: str) -> list[Json]:
    return [one for one in told.json["findings"] if one["name"] == name]


def levels(told: Told, name: str) -> set[str]:
    return {one["level"] for one in findings(told, name)}


def doctor(scene: Scene, *words: str, config: Path | None = None) -> Told:
    return scene.call("doctor", "--output", "json", "--quiet", *words, config=config)


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.removeprefix("walarchiver-doctor/")] = file.read().decode()
        return found


@pytest.mark.usefixtures("major")
@pytest.mark.parametrize("major", [18, *seldom(15)], indirect=True)
def test_a_sound_host_has_no_failure_and_every_part_is_looked_at(scenes: Scenes) -> None:
    durable = {"fsync": "on", "full_page_writes": "on"}
    scene = scenes.make(archive_timeout_s=60, settings=durable)
    scene.cluster.configure(durable)
    scene.cluster.reload()
    scene.json("backup")
    scene.archive_all()
    told = doctor(scene)
    assert "fail" not in {one["level"] for one in told.json["findings"]}, told.stdout
    for name in (
        *("database", "archiver", "role", "settings", "clock", "hook", "daemon", "data directory"),
        *(
            "disk state",
            "disk pg_wal",
            "backlog",
            "wal scan",
            "hook program",
            "state",
            "main read",
            "main list",
            "main create once",
        ),
        *("main ledger", "main root", "main writer", "main identity", "main signing_key file"),
    ):
        assert levels(told, name), f"{name} was not looked at"
    for name in ("database", "role", "clock", "hook", "daemon", "main ledger", "main writer"):
        assert levels(told, name) == {"ok"}, findings(told, name)
    assert all(one.get("next_step") for one in told.json["findings"] if one["level"] != "ok")
    text = scene.call("doctor").stdout
    assert "ok    main writer" in text


def test_settings_that_cost_durability_or_archiving_are_named(scenes: Scenes) -> None:
    scene = scenes.make(settings={"max_wal_senders": "0", "archive_mode": "off"})
    told = doctor(scene)
    assert told.exit_status == 1
    said = " | ".join(one["text"] for one in findings(told, "settings"))
    for part in ("fsync is off", "full_page_writes is off", "archive_mode is off", "max_wal_senders is 0"):
        assert part in said
    assert all(one["next_step"] for one in findings(told, "settings") if one["level"] != "ok")


def test_a_role_without_rights_is_told_what_it_lacks(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.cluster.psql("CREATE ROLE watcher LOGIN IN ROLE pg_monitor")
    config = scene.stage.folder / "watcher.toml"
    config.write_text(scene.stage.config.read_text().replace("user=postgres", "user=watcher"))
    told = doctor(scene, config=config)
    assert levels(told, "role") == {"fail", "warn"}
    assert any("GRANT EXECUTE" in one["next_step"] for one in findings(told, "role"))


def test_keys_that_are_open_foreign_or_misplaced_are_found(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.stage.stop_server()
    keys = scene.stage.keys
    (keys / "writer.key").chmod(0o640)
    told = doctor(scene)
    assert levels(told, "main signing_key file") == {"warn"}
    (keys / "writer.key").chmod(0o644)
    told = doctor(scene)
    assert levels(told, "main signing_key file") == {"fail"}
    assert (
        findings(told, "main signing_key file")[0]["next_step"] == f"Run `chmod 600 {keys / 'writer.key'}`."
    )
    (keys / "writer.key").chmod(0o600)

    other = scene.stage.folder / "other"
    text = scene.stage.config.read_text()
    (other / "repository").mkdir(parents=True)
    foreign = scene.stage.folder / "foreign.toml"
    foreign.write_text(text.replace(f"{scene.stage.folder}/repository", f"{other}/repository"))
    made = scene.call(
        "keys",
        "init",
        "--out",
        str(other / "keys"),
        "--custodian",
        "eve",
        "--custodian",
        "mo",
        config=foreign,
    )
    assert made.exit_status == 0, made.stderr
    foreign.write_text(
        text.replace(str(keys / "writer.key"), str(other / "keys" / "writer.key")).replace(
            'root = "', f'identity = "{other}/keys/custodian-eve.key"\nroot = "', 1
        )
    )
    told = doctor(scene, config=foreign)
    assert levels(told, "main writer") == {"fail"}
    assert "is no writer of this cluster" in findings(told, "main writer")[0]["text"]
    assert levels(told, "main identity") == {"warn", "fail"}
    assert {one.get("code") for one in findings(told, "main identity")} == {None, "WA-KEY"}

    reader = doctor(scene, config=scene.reader())
    assert levels(reader, "main identity") == {"ok"}
    assert "opens the newest epoch" in findings(reader, "main identity")[0]["text"]


def test_parts_that_are_away_do_not_hide_the_others(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.stage.stop_server()
    scene.cluster.stop()
    shutil.move(scene.stage.folder / "repository", scene.stage.folder / "elsewhere")
    (scene.stage.folder / "repository").mkdir()
    told = doctor(scene)
    assert told.exit_status == 1
    codes = {one["name"]: one.get("code") for one in told.json["findings"]}
    assert codes["database"] == "WA-DATABASE"
    assert codes["daemon"] == "WA-SERVER"
    assert codes["main ledger"] == "WA-NO-REPOSITORY"
    assert levels(told, "data directory") == {"ok"}
    assert levels(told, "disk pg_wal")


def test_a_bundle_holds_settings_findings_versions_and_log_but_no_secret(
    scenes: Scenes, s3_server: S3Server
) -> None:
    scene = scenes.make(store="s3")
    scene.json("backup")
    keys = scene.stage.keys
    credentials = scene.stage.folder / "s3.toml"
    shutil.copy(s3_server.credentials_file, credentials)
    credentials.chmod(0o600)
    config = scene.stage.folder / "bundle.toml"
    text = scene.stage.config.read_text().replace(str(s3_server.credentials_file), str(credentials))
    text = text.replace('root = "', f'identity = "{keys}/custodian-ann.key"\nroot = "', 1)
    text = text.replace("[cluster.main]", '[repository.spare]\nurl = "s3://spare"\n'
                        'credentials_command = ["/bin/echo", "--pin", "9137", "hunter2-hunter2"]\n'
                        "[cluster.main]")  # fmt: skip
    config.write_text(text)
    pair = s3_server.keys()
    secrets = {
        pair.access_key_id,
        pair.secret_access_key,
        "hunter2-hunter2",
        "9137",
        "swordfish",
        "opensesame",
    }
    for name in ("writer", "custodian-ann"):
        key = read_key_file(keys / f"{name}.key")
        secrets |= {key.secret.hex(), *(line.strip() for line in printable_form(key).splitlines())}
    log = scene.stage.folder / "daemon.log"
    ours = "\n".join(sorted(secrets - {"9137", "swordfish", "opensesame"}))
    log.write_text(
        f"time=1 event=serving\n{ours}\npassword=swordfish\nurl=postgresql://u:opensesame@db/x\nlast line\n"
    )
    scene.cluster.configure(
        {"archive_command": f"PGPASSWORD=swordfish {scene.stage.archive_settings()['archive_command']}"}
    )
    scene.cluster.reload()
    bundle = scene.stage.folder / "bundle.tar.gz"
    told = doctor(scene, "--bundle", str(bundle), "--log", str(log), config=config)
    assert told.json["bundle"]["path"] == str(bundle), told.stderr
    assert bundle.stat().st_mode & 0o777 == 0o600
    files = unpacked(bundle)
    assert set(told.json["bundle"]["files"]) == files.keys()
    assert files.keys() == {
        *("findings.txt", "findings.json", "settings.toml", "versions.json"),
        *("postgresql-settings.json", "log.txt"),
    }
    for name, content in files.items():
        for secret in secrets:
            assert secret not in content, f"{secret} is in {name}"
    assert {one["name"] for one in json.loads(files["findings.json"])} >= {"database", "main writer"}
    assert json.loads(files["versions.json"]).keys() >= {"python", "postgresql", "platform"}
    assert "[repository.main]" in files["settings.toml"]
    assert json.loads(files["postgresql-settings.json"])["archive_mode"] == "on"
    assert "event=serving" in files["log.txt"]
    assert "last line" in files["log.txt"]
    again = doctor(scene, "--bundle", str(bundle), config=config)
    assert again.exit_status == 2
    assert again.error["message"] == f"{bundle} exists already"


# --- masking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "password=s3cret-word",
        "PGPASSWORD='s3cret-word' x",
        'secret_access_key = "s3cret-word"',
        "--token=s3cret-word",
        '{"session_token": "s3cret-word"}',
        "https://user:s3cret-word@host/path",
        "Password: s3cret-word",
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    assert "s3cret-word" not in masked(text)
    assert "***" in masked(text)


def test_ordinary_text_is_left_alone() -> None:
    text = "archive_command walarchiver-hook push %p; host=db1 key_file=/etc/x tokenless"
    assert masked(text) == text


def test_longer_secrets_go_first_and_quoting_does_not_hide_one() -> None:
    assert redacted("abcdefgh", {"abcd", "abcdefgh"}) == "***"
    assert redacted(json.dumps('a"b\\cd'), {'a"b\\cd'}) == '"***"'


def test_secret_files_of_unknown_form_are_masked_by_their_words(tmp_path: Path) -> None:
    (tmp_path / "master").write_text("# a comment\n0123456789abcdef0123456789abcdef\n")
    (tmp_path / "s3.toml").write_text('broken = "toml\nsecret_access_key = "verysecretindeed"\n')
    settings = parse_settings(
        f'[repository.main]\nurl = "s3://b"\nmaster_key_file = "{tmp_path}/master"\n'
        f'credentials_file = "{tmp_path}/s3.toml"\nsigning_key = "{tmp_path}/none"\n',
        source=tmp_path / "x.toml",
    )
    found = secrets_of(settings)
    assert {"0123456789abcdef0123456789abcdef", "verysecretindeed"} <= found


def test_a_bundle_without_log_or_server_is_written_and_a_bad_place_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text(f'[repository.main]\nurl = "file://{tmp_path}"\n[cluster.main]\n')
    settings = load_settings(config)
    examination = Examination([fail("disk", "full", "Make room.")])
    with pytest.raises(UsageError):
        write_bundle(tmp_path / "no" / "b.tgz", settings, examination, log=None, now_s=0)
    with pytest.raises(UsageError):
        write_bundle(tmp_path / "b.tgz", settings, examination, log=tmp_path / "none", now_s=0)
    assert not os.path.exists(tmp_path / "b.tgz")
    write_bundle(tmp_path / "b.tgz", settings, examination, log=None, now_s=0)
    files = unpacked(tmp_path / "b.tgz")
    assert "next: Make room." in files["findings.txt"]
