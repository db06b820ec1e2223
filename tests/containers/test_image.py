"""The image alone: what is in it, who it runs as, how little it needs, and its health check."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.conftest import Engine
from tests.integration.scene import until

CONTAINED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--version"], "walarchiver "),
        (["--help"], "usage: walarchiver"),
        (["config", "init", "--stdout"], "[repository.main]"),
        (["explain", "WA-GAP"], "WA-GAP"),
    ],
)
def test_every_command_runs_without_a_writable_root_or_any_privilege(
    engine: Engine, image: str, words: list[str], expected: str
) -> None:
    assert expected in engine.run("run", "--rm", *CONTAINED, image, *words)


def test_it_runs_as_the_user_that_owns_data_directories_and_not_as_root(engine: Engine, image: str) -> None:
    assert engine.run("run", "--rm", *CONTAINED, "--entrypoint", "id", image, "-u") == "999"


def test_the_compiled_scan_is_in_it_and_no_compiler(engine: Engine, image: str) -> None:
    python = ["run", "--rm", *CONTAINED, "--entrypoint", "/opt/walarchiver/bin/python", image, "-I", "-c"]
    asked = "import shutil, walarchiver.core.skim as s; print(s.COMPILED, *map(shutil.which, ('cc', 'gcc')))"
    assert engine.run(*python, asked) == "True None None"


def test_the_hook_is_in_it_and_honest_without_a_server(engine: Engine, image: str) -> None:
    hook = [
        "run",
        "--rm",
        *CONTAINED,
        "--entrypoint",
        "walarchiver-hook",
        "--env",
        "WALARCHIVER_TIMEOUT=1",
        image,
    ]
    assert engine.call(*hook, "push", "/x").returncode == 1
    assert engine.call(*hook, "fetch", "000000010000000000000001", "/x").returncode == 200


def test_no_key_and_no_tool_of_the_build_is_in_it(engine: Engine, image: str) -> None:
    found = engine.run(
        *("run", "--rm", *CONTAINED, "--entrypoint", "/opt/walarchiver/bin/python", image, "-c"),
        "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))",
    ).split()
    assert {"aiohttp", "boto3", "walarchiver"} <= set(found)
    assert not {"pytest", "mypy", "ruff", "setuptools", "hypothesis", "testcontainers"} & set(found)


def test_the_postgres_image_has_a_hook_that_runs(engine: Engine, postgres_image: str) -> None:
    hook = ["run", "--rm", "--network", "none", "--user", "999:999", "--entrypoint", "walarchiver-hook"]
    told = engine.call(*hook, postgres_image, "push", "/x")
    assert told.returncode == 1
    assert "no server on /run/walarchiver/walarchiver.sock" in told.stderr


@pytest.fixture
def name(engine: Engine) -> Iterator[str]:
    chosen = f"walarchiver-test-{uuid.uuid4().hex[:8]}"
    yield chosen
    engine.call("rm", "--force", "--volumes", chosen)


def test_the_health_check_finds_a_living_server_and_a_stopped_one_ends_in_time(
    engine: Engine, image: str, name: str, tmp_path: Path
) -> None:
    config = tmp_path / "walarchiver.toml"
    config.write_text('[repository.main]\nurl = "file:///var/lib/walarchiver/r"\n[cluster.main]\n')
    config.chmod(0o644)
    tmp_path.chmod(0o755)
    mount = f"{config}:/etc/walarchiver/walarchiver.toml:ro"
    engine.run(
        "run", "--detach", "--name", name, *CONTAINED, "--volume", mount, "--health-interval", "1s", image
    )

    def state() -> dict[str, object]:
        found = json.loads(engine.run("inspect", "--format", "{{json .State}}", name))
        assert isinstance(found, dict)
        return found

    def healthy() -> bool:
        health = state()["Health"]
        assert isinstance(health, dict)
        return bool(health["Status"] == "healthy")

    until(healthy, "healthy", patience_s=60)
    engine.run("stop", "--time", "30", name)
    assert state()["ExitCode"] == 0
