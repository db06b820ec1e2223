"""PostgreSQL archives in containers made one by one; an ordinary machine restores from the store."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.containers.conftest import Engine
from tests.integration.scene import end, until
from tests.kit.postgres import open_folder
from walarchiver.clock import SystemClock
from walarchiver.demo.stage import Stage, read_root
from walarchiver.embedded.binaries import postgres_bin
from walarchiver.errors import StoreDenied, StoreUnavailable
from walarchiver.storage import S3Options
from walarchiver.storage.bucket import create_bucket
from walarchiver.storage.credentials import CredentialsFile

MAJOR = 18
DATA_DIRECTORY = "/var/lib/postgresql/18/docker"
IDENTITIES = {"credentials": [{"accessKey": "test", "secretKey": "test-secret"}], "actions": ["Admin"]}
S3_KEYS = 'access_key_id = "test"\nsecret_access_key = "test-secret"\n'

INSTALL = "cp /from/* /etc/walarchiver/ && chown -R 999:999 /etc/walarchiver && chmod 0600 /etc/walarchiver/*"


@dataclass
class Play:
    """The running containers, and the outside machine's view of the store."""

    stage: Stage
    postgres: PostgresContainer
    daemon: DockerContainer

    def psql(self, sql: str) -> str:
        command = ["psql", "-U", "postgres", "-d", "test", "-XAtc", sql]
        done = self.postgres.exec(command)
        assert done.exit_code == 0, done.output
        return str(done.output.decode()).strip()

    def archive_now(self) -> None:
        self.psql("SELECT pg_logical_emit_message(true, 'test', 'x')")
        name = self.psql("SELECT pg_walfile_name(pg_switch_wal() - 1)")
        last = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"
        try:
            until(lambda: self.psql(last)[:24] >= name, f"{name} archived", patience_s=90)
        except AssertionError:
            logs = [part for one in (self.postgres, self.daemon) for part in one.get_logs()]
            pytest.fail(f"{name} was not archived\n" + b"\n".join(logs).decode()[-8000:])


@pytest.fixture
def folder() -> Iterator[Path]:
    made = open_folder()
    yield made
    subprocess.run(["rm", "-rf", str(made)], check=True)


@pytest.fixture
def volumes(engine: Engine) -> Iterator[dict[str, str]]:
    made = {name: f"wa-test-{name}-{uuid.uuid4().hex[:8]}" for name in ("data", "run", "pgrun", "config")}
    yield made
    for volume in made.values():
        engine.call("volume", "rm", "--force", volume)


@pytest.fixture
def play(
    engine: Engine, image: str, postgres_image: str, folder: Path, volumes: dict[str, str]
) -> Iterator[Play]:
    (folder / "s3.json").write_text(json.dumps({"identities": [{"name": "test", **IDENTITIES}]}))
    (folder / "s3.toml").write_text(S3_KEYS)
    (folder / "s3.toml").chmod(0o600)
    with ExitStack() as started:
        network = started.enter_context(Network())
        s3 = (
            DockerContainer("chrislusf/seaweedfs:latest", entrypoint="weed")
            .with_command(
                "server -dir=/data -ip=127.0.0.1 -ip.bind=0.0.0.0 -master.telemetry=false "
                "-s3 -s3.port=8333 -s3.config=/s3.json"
            )
            .with_volume_mapping(str(folder / "s3.json"), "/s3.json", "ro")
            .with_network(network)
            .with_network_aliases("s3")
            .with_exposed_ports(8333)
        )
        started.enter_context(s3)
        stage = Stage(
            folder / "stage",
            "s3://backups/test",
            endpoint=f"http://{s3.get_container_host_ip()}:{s3.get_exposed_port(8333)}",
            credentials_file=folder / "s3.toml",
        )
        postgres = (
            PostgresContainer(postgres_image, username="postgres", dbname="test", driver=None)
            .with_env("PGDATA", DATA_DIRECTORY)
            .with_volume_mapping(volumes["data"], "/var/lib/postgresql", "rw")
            .with_volume_mapping(volumes["pgrun"], "/var/run/postgresql", "rw")
            .with_volume_mapping(volumes["run"], "/run/walarchiver", "rw")
            .with_command("postgres -c archive_mode=on -c 'archive_command=walarchiver-hook push %p'")
        )
        started.enter_context(postgres)
        make_repository(stage)
        write_daemon_config(stage, folder / "daemon")
        engine.run(
            *("run", "--rm", "--network", "none", "--user", "0:0", "--entrypoint", "sh"),
            *("--volume", f"{volumes['config']}:/etc/walarchiver", "--volume", f"{folder}/daemon:/from:ro"),
            *(image, "-c", INSTALL),
        )
        daemon = (
            DockerContainer(image, read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"])
            .with_volume_mapping(volumes["config"], "/etc/walarchiver", "ro")
            .with_volume_mapping(volumes["run"], "/run/walarchiver", "rw")
            .with_volume_mapping(volumes["pgrun"], "/var/run/postgresql", "rw")
            .with_volume_mapping(volumes["data"], "/var/lib/postgresql", "ro")
            .with_network(network)
        )
        started.enter_context(daemon)
        ask = ["python", "-I", "-S", "/opt/walarchiver/health.py", "/readyz"]
        until(lambda: daemon.exec(ask).exit_code == 0, "a daemon that can archive", patience_s=60)
        yield Play(stage, postgres, daemon)


def make_repository(stage: Stage) -> None:
    """Bucket and repository, once the store answers."""
    assert stage.credentials_file is not None
    options = S3Options(endpoint=stage.endpoint, credentials=CredentialsFile(stage.credentials_file))

    def made() -> bool:
        try:
            create_bucket("backups", options, SystemClock(), versioned=True)
        except (StoreUnavailable, StoreDenied):  # the store is still starting
            return False
        return True

    until(made, "a bucket in the store", patience_s=90)
    stage.make_repository()


def write_daemon_config(stage: Stage, folder: Path) -> None:
    """What the daemon's container reads from /etc/walarchiver."""
    folder.mkdir()
    (folder / "s3.toml").write_text(S3_KEYS)
    (folder / "writer.key").write_bytes((stage.keys / "writer.key").read_bytes())
    (folder / "walarchiver.toml").write_text(
        f'[repository.main]\nurl = "{stage.url}"\nendpoint = "http://s3:8333"\nallow_http = true\n'
        'region = "us-east-1"\ncredentials_file = "/etc/walarchiver/s3.toml"\n'
        f'root = "{read_root(stage.keys)}"\nsigning_key = "/etc/walarchiver/writer.key"\n'
        '[cluster.main]\ndsn = "host=/var/run/postgresql user=postgres dbname=test"\n'
        f'data_directory = "{DATA_DIRECTORY}"\n'
    )


def test_what_containers_archived_is_restored_on_an_ordinary_machine(play: Play) -> None:
    play.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    play.archive_now()
    stage = play.stage
    taken = play.daemon.exec(["walarchiver", "backup"])
    assert taken.exit_code == 0, taken.output
    play.psql("INSERT INTO t SELECT generate_series(1001, 2000)")
    play.psql("SELECT pg_create_restore_point('good')")
    play.psql("DELETE FROM t")
    play.archive_now()

    stage.install_hook()
    config = stage.write_reader_config(stage.folder / "reader.toml", state=stage.folder / "reader")
    words = [
        "restore",
        "--at",
        "name:good",
        "--into",
        str(stage.folder / "restored"),
        "--start",
        "--output",
        "json",
    ]
    words += ["--hook", str(stage.hook), "--bin-dir", str(postgres_bin(MAJOR))]
    words += ["--owner", "nobody"] if os.geteuid() == 0 else []
    told = json.loads(stage.run(*words, config=config).stdout)
    try:
        with psycopg.connect(told["dsn"], dbname="test") as sql:
            assert sql.execute("SELECT count(*), max(n) FROM t").fetchone() == (2000, 2000)
    finally:
        end(told["pid"], stage.folder / "restored")
