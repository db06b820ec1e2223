"""Keys in use: who is trusted changes while PostgreSQL archives; and no secret is in the clear."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.integration.scene import PATIENCE_S, Json, Scene, Scenes, Told, until
from tests.kit.postgres import as_server_user
from walarchiver.format.header import MAGIC
from walarchiver.keys.keyfile import read_key_file
from walarchiver.keys.printable import printable_form
from walarchiver.storage.credentials import parse_keys_file


def keys(scene: Scene, *words: str, exits: int = 0) -> Json:
    """A `keys` command; its JSON."""
    told = scene.call("keys", *words, "--output", "json")
    assert told.exit_status == exits, told.stderr
    return told.json if told.stdout else {}


def signing(scene: Scene) -> list[str]:
    return [
        "--root-key",
        str(scene.stage.keys / "root.key"),
        "--sign-key",
        str(scene.stage.keys / "admin.key"),
    ]


def opened(scene: Scene, key: Path, *, exits: int = 0) -> tuple[int, int]:
    """Of how many epoch keys a custodian's file opens how many."""
    told = keys(scene, "test", "--all", "--identity", str(key), exits=exits)
    (cluster,) = told["clusters"]
    (custodian,) = [one for one in cluster["custodians"] if one["at_hand"]]
    return custodian["opened"], len(cluster["tried"])


def test_custodians_come_and_go_while_postgresql_archives_and_no_data_moves(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.archive_all()
    folder = scene.stage.keys
    carol = folder / "carol.key"
    made = keys(scene, "new", "--role", "custodian", "--name", "carol", "--out", str(carol))
    assert made["files"] == [str(carol), f"{carol}.pub"]
    told = keys(scene, "recipient", "add", f"{carol}.pub", *signing(scene))
    assert (told["keyring"], [chain["code"] for chain in told["chains"]]) == (2, [None])
    scene.archive_all()  # the server was not told, and not started again
    assert opened(scene, carol, exits=12) == (1, 2)
    admin = ["--admin-key", str(folder / "admin.key")]
    bodies = sealed_bodies(scene)
    would = keys(scene, "rotate", *admin, "--identity", str(folder / "custodian-ann.key"), "--dry-run")
    assert would["clusters"][0]["written"] == 1
    told = keys(scene, "rotate", *admin, "--identity", str(folder / "custodian-ann.key"))
    assert (told["clusters"][0]["written"], told["clusters"][0]["opened"]) == (1, 1)
    assert opened(scene, carol) == (2, 2)

    dry = keys(scene, "recipient", "remove", "bob", *signing(scene), "--dry-run")
    assert {one["name"] for one in dry["members"] if one["role"] == "custodian"} == {"ann", "carol"}
    keys(scene, "recipient", "remove", "bob", *signing(scene))
    scene.archive_all()
    keys(scene, "rotate", *admin, "--identity", str(carol))
    bob = folder / "custodian-bob.key"
    assert opened(scene, bob, exits=12) == (0, 3)
    assert opened(scene, carol) == (3, 3)
    assert sealed_bodies(scene).items() >= bodies.items()
    assert scene.counted("failed_count") == 0
    scene.prove_archived()  # by ann
    config = scene.reader(custodian="bob")
    assert scene.call("verify", "--deep", config=config).exit_status == 12
    assert scene.call("verify", "--deep", config=scene.reader()).exit_status == 0


def sealed_bodies(scene: Scene) -> dict[str, bytes]:
    folder = scene.stage.folder / "repository"
    return {str(path): path.read_bytes() for path in folder.glob("v1/c/*/wal/*/*/*")}


def test_a_removed_writer_refuses_aloud_and_goes_on_without_a_restart_once_it_is_back(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.archive_all()
    folder = scene.stage.keys
    keys(scene, "new", "--role", "writer", "--name", "other", "--out", str(folder / "other.key"))
    keys(scene, "member", "add", str(folder / "other.key.pub"), *signing(scene))
    keys(scene, "member", "remove", "writer", *signing(scene))
    entries = len(list((scene.stage.folder / "repository").glob("v1/c/*/ledger/*")))
    name = scene.switch()
    until(lambda: scene.counted("failed_count") > 1, "the refusal told to PostgreSQL")
    scene.logged("WA-REVOKED")
    assert scene.waiting(name), "nothing is acknowledged"
    assert len(list((scene.stage.folder / "repository").glob("v1/c/*/ledger/*"))) == entries
    assert scene.call("doctor").exit_status == 1

    public = scene.call("keys", "export-public", str(folder / "writer.key"))
    assert public.exit_status == 0
    (folder / "writer.pub").write_text(public.stdout)
    keys(scene, "member", "add", str(folder / "writer.pub"), *signing(scene))
    # PostgreSQL's archiver sleeps a minute after three failures, unless a segment wakes it.
    until(lambda: scene.switch() and scene.archived(name), f"{name} archived, without a restart")
    until(lambda: not scene.waiting(), "everything archived")
    scene.prove_archived()
    assert scene.json("ledger", "verify", "--cluster", "main")["void"] == []


def test_an_admin_replaces_an_archived_file_and_the_first_content_is_refused(scenes: Scenes) -> None:
    scene = scenes.make(settings={"wal_keep_size": "64MB"})
    scene.json("backup")
    name = scene.archive_all()
    original = scene.cluster.data_dir / "pg_wal" / name
    content = bytearray(original.read_bytes())
    content[-1] ^= 1  # behind the switch, where no page says anything
    other = scene.stage.folder / name
    other.write_bytes(content)
    words = ["ledger", "supersede", name, "--file", str(other), "--reason", "a trial"]
    shown = scene.json(*words)
    assert (shown["applied"], shown["old"]["bytes"]) == (False, len(content))
    before = opened_file(scene, name)
    assert before == original.read_bytes()
    assert scene.call(*words, "--apply").exit_status == 2, "an admin's key is needed"
    writer = scene.call(*words, "--apply", "--admin-key", str(scene.stage.keys / "writer.key"))
    assert writer.exit_status == 2
    assert opened_file(scene, name) == before
    admin = ["--admin-key", str(scene.stage.keys / "admin.key")]
    assert scene.json(*words, "--apply", *admin)["applied"]
    assert opened_file(scene, name) == bytes(content)
    pushed = subprocess.run(
        [str(scene.stage.hook), "--socket", str(scene.stage.socket), "push", str(original)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert pushed.returncode == 1
    assert "replaced by an administrator (a trial)" in pushed.stderr
    scene.archive_all()
    plan = scene.json("plan", "--at", "latest", config=scene.reader())
    (change,) = plan["superseded"]
    assert (change["name"], change["new"]) == (name, shown["new"]["digest"])


def opened_file(scene: Scene, name: str) -> bytes:
    archive = scene.open()
    record = archive.catalog.file(name)
    assert record is not None
    return b"".join(archive.repository.plain_file(archive.system, record))


# --- nothing secret in the clear -------------------------------------------------------------------

PLANTED = {
    "password of the dsn": "Plant-Dsn-8f3a1c",
    "password in pg_hba.conf": "Plant-Hba-77b2e0",
    "password in postgresql.conf": "Plant-Conf-19d5aa",
    "row of a table": "Plant-Row-5c0e42",
    "password of a role": "Plant-Role-e1f9b3",
}


def planted_scene(scenes: Scenes) -> Scene:
    """Real servers with a secret in every place that has one."""
    folder = scenes.folder / "etc"
    folder.mkdir()
    hba, extra = folder / "pg_hba.conf", folder / "extra.conf"
    hba.write_text(
        f"# {PLANTED['password in pg_hba.conf']}\nlocal all all trust\nlocal replication all trust\n"
    )
    extra.write_text(
        f"primary_conninfo = 'host=elsewhere password={PLANTED['password in postgresql.conf']}'\n"
    )
    scene = scenes.make(
        store="s3", settings={"hba_file": str(hba), "include_if_exists": str(extra)}, serve=False
    )
    for path in (hba, extra):
        as_server_user(scene.cluster, path)
    scene.cluster.restart()
    config, dsn, word = scene.stage.config, scene.cluster.dsn(), PLANTED["password of the dsn"]
    plain = config.read_text()
    config.write_text(plain.replace(dsn, f"{dsn} password={word}"))
    refused = scene.call("config", "validate")
    assert refused.exit_status == 2
    assert word not in refused.stdout + refused.stderr
    passfile = scene.stage.keys / "pgpass"
    passfile.write_text(f"*:*:*:*:{word}\n")
    passfile.chmod(0o600)
    config.write_text(plain.replace(dsn, f"{dsn} passfile={passfile}"))
    scene.stage.serve()
    scene.cluster.psql(
        f"CREATE TABLE kept AS SELECT '{PLANTED['row of a table']}' AS word; "
        f"CREATE ROLE someone PASSWORD '{PLANTED['password of a role']}'"
    )
    return scene


def secrets_of_run(scene: Scene) -> dict[str, list[bytes]]:
    """Everything that must not be readable, in each of its spellings."""
    found = {what: [word.encode()] for what, word in PLANTED.items()}
    for path in scene.stage.keys.glob("*.key"):
        key = read_key_file(path)
        lines = [line.split(":", 1)[1].strip() for line in printable_form(key).splitlines() if ":" in line]
        private = [line for number, line in enumerate(lines) if number in range(5, 8)]
        spelled = [key.secret, key.secret.hex().encode(), *(line.encode() for line in private)]
        found[f"secret in {path.name}"] = spelled
    assert scene.stage.credentials_file is not None
    pair = parse_keys_file(scene.stage.credentials_file.read_bytes(), scene.stage.credentials_file)
    found["secret access key"] = [pair.secret_access_key.encode()]
    archive = scene.open()
    for epoch in archive.catalog.epochs():
        key_bytes = archive.repository.epoch_key(archive.system, epoch)
        found[f"epoch key {epoch}"] = [key_bytes, key_bytes.hex().encode()]
    return found


def told_by(scene: Scene, bundle: Path) -> Iterator[tuple[str, bytes]]:
    """What commands print, and the daemon logs."""
    ann = str(scene.stage.keys / "custodian-ann.key")
    admin = str(scene.stage.keys / "admin.key")
    commands: list[tuple[str, ...]] = [
        *(("status",), ("check",), ("config", "show"), ("keys", "list"), ("verify",)),
        ("keys", "rotate", "--admin-key", admin, "--identity", ann),
        ("doctor", "--bundle", str(bundle), "--log", str(scene.stage.log_path)),
    ]
    for number, words in enumerate(commands):
        told: Told = scene.call(*words, "--output", ("text", "json")[number % 2])
        assert told.exit_status in (0, 1, 3), f"{words}: {told.stderr}"
        yield " ".join(words), (told.stdout + told.stderr).encode()
    plan = scene.call("plan", "--at", "latest", config=scene.reader())
    assert plan.exit_status == 0, plan.stderr
    yield "plan", (plan.stdout + plan.stderr).encode()
    with tarfile.open(bundle) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            yield f"bundle {member.name}", file.read()
    yield "daemon's log", scene.stage.log_path.read_bytes()
    for path in (scene.stage.folder / "state").rglob("*"):
        if path.is_file():
            yield f"state {path.name}", path.read_bytes()


def test_nothing_secret_is_in_the_clear(scenes: Scenes) -> None:
    scene = planted_scene(scenes)
    scene.archive_all()
    scene.json("backup")
    scene.archive_all()
    archive = scene.open()
    (record,) = archive.catalog.backups()
    inside = b"".join(
        b"".join(archive.repository.plain_part(archive.system, record.backup, part))
        for part in archive.catalog.backup_parts(record.backup)
    )
    for what in ("password in pg_hba.conf", "password in postgresql.conf", "row of a table"):
        assert PLANTED[what].encode() in inside, f"{what} is not even in the backup: this proves nothing"

    seen: dict[str, bytes] = {}
    clear = set()
    for where, content in told_by(scene, scene.stage.folder / "bundle.tar.gz"):
        seen[f"{where} ({len(seen)})"] = content
    store = archive.repository.store
    for version in store.list_versions("v1/"):
        body = store.get(version.key, version_id=version.version_id, bytes_max=1 << 30)
        assert body is not None
        seen[version.key] = body
        if not body.startswith(MAGIC):
            clear.add(version.key.split("/")[1])
    assert clear == {"REPO", "c", "keyring", "reader"}, "each kind of clear object was looked at"
    secrets = secrets_of_run(scene)
    assert len(secrets) >= len(PLANTED) + 6
    found = [
        f"{what} in {where}"
        for what, spellings in secrets.items()
        for where, content in seen.items()
        if any(spelling in content for spelling in spellings)
    ]
    assert not found, json.dumps(found, indent=1)
