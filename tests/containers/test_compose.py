"""deploy/compose as a user starts it: archive, back up, restart, plan."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.containers.conftest import SOURCE, Engine
from tests.integration.scene import until

UP_TIMEOUT_S = 600


@dataclass(frozen=True)
class Compose:
    """One project of deploy/compose/compose.yaml."""

    program: tuple[str, ...]
    project: str
    environment: dict[str, str]

    def call(self, *words: str, timeout_s: float = UP_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        command = [
            *self.program,
            "--project-name",
            self.project,
            "--file",
            "deploy/compose/compose.yaml",
            *words,
        ]
        return subprocess.run(
            command,
            cwd=SOURCE,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def run(self, *words: str) -> str:
        done = self.call(*words)
        if done.returncode != 0:
            pytest.fail(
                f"compose {' '.join(words)}: {done.stderr[-3000:]}\n{self.call('logs').stdout[-5000:]}"
            )
        return done.stdout.strip()

    def psql(self, sql: str) -> str:
        words = [
            "psql",
            "--username",
            "postgres",
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--command",
            sql,
        ]
        return self.run("exec", "-T", "postgres", *words)

    def walarchiver(self, *words: str) -> str:
        return self.run("exec", "-T", "walarchiver", "walarchiver", *words)

    def archived(self) -> int:
        return int(self.psql("SELECT archived_count FROM pg_stat_archiver"))

    def archive_now(self) -> None:
        """Return once PostgreSQL was told that what is written by now is archived."""
        self.psql("SELECT pg_logical_emit_message(true, 'test', 'x')")
        name = self.psql("SELECT pg_walfile_name(pg_switch_wal() - 1)")
        last = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"
        until(lambda: self.psql(last)[:24] >= name, f"{name} archived", patience_s=90)


def compose_program() -> tuple[str, ...]:
    told = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if told.returncode == 0:
        return ("docker", "compose")
    if shutil.which("docker-compose") is None:
        pytest.skip("Compose is not installed: neither `docker compose` nor docker-compose")
    return ("docker-compose",)


@pytest.fixture
def compose(engine: Engine, image: str, postgres_image: str) -> Iterator[Compose]:
    made = Compose(
        compose_program(),
        f"wa-test-{uuid.uuid4().hex[:8]}",
        {
            **os.environ,
            "POSTGRES_PASSWORD": uuid.uuid4().hex,
            "S3_SECRET_KEY": uuid.uuid4().hex,
            "WALARCHIVER_IMAGE": image,
            "WALARCHIVER_POSTGRES_IMAGE": postgres_image,
        },
    )
    yield made
    made.call("--profile", "reader", "down", "--volumes", "--remove-orphans", "--timeout", "30")


def test_it_archives_backs_up_survives_a_restart_and_can_be_planned(compose: Compose) -> None:
    compose.run("up", "--detach", "--no-build", "--wait", "--wait-timeout", "400")
    compose.psql("CREATE TABLE t AS SELECT generate_series(1, 100) AS n")
    compose.archive_now()
    compose.walarchiver("backup")
    compose.psql("INSERT INTO t SELECT generate_series(101, 200)")
    compose.archive_now()

    compose.run("restart", "walarchiver")
    compose.run("up", "--detach", "--no-build", "--wait", "--wait-timeout", "200")
    compose.psql("INSERT INTO t SELECT generate_series(201, 300)")
    compose.archive_now()
    assert json.loads(compose.walarchiver("status", "--output", "json"))["schema_version"] == 1

    told = json.loads(
        compose.run("run", "--rm", "--no-deps", "-T", "reader", "plan", "--at", "latest", "--output", "json")
    )
    assert told["verdict"] == "reachable", told
    assert told["wal"]["count"] >= 1

    custody = compose.call("exec", "-T", "walarchiver", "ls", "/custody")
    assert custody.returncode != 0, "the daemon's container can see the custodians' keys"
    first_again = compose.run("run", "--rm", "--no-deps", "-T", "init")
    assert first_again == "", "init did its work twice"
