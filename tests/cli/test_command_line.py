"""The command line: options anywhere, errors with a next step, exit statuses as promised."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from walarchiver.cli.explain import reference
from walarchiver.cli.main import COMMANDS, main
from walarchiver.errors import all_errors

ROOT = Path(__file__).resolve().parents[2]
Captured = pytest.CaptureFixture[str]


def run(capsys: Captured, *words: str) -> tuple[int, str, str]:
    status = main(words)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "walarchiver.toml"
    path.write_text(f'[repository.main]\nurl = "file://{tmp_path}/repo"\n[cluster.main]\n')
    return path


def test_an_error_has_a_code_a_message_and_a_next_step(capsys: Captured, tmp_path: Path) -> None:
    status, out, err = run(capsys, "config", "validate", "--config", str(tmp_path / "none"))
    assert (status, out) == (2, "")
    assert err == (
        f"error[WA-CONFIG]: cannot read {tmp_path}/none: No such file or directory\n"
        "hint: Name the file with --config, or write one with `walarchiver config init`.\n"
    )


def test_an_error_is_json_when_asked(capsys: Captured, tmp_path: Path) -> None:
    status, out, err = run(capsys, "--output=json", "--config", str(tmp_path / "none"), "config", "show")
    assert (status, out) == (2, "")
    said = json.loads(err)
    assert said["schema_version"] == 1
    assert set(said["error"]) == {"code", "message", "hint"}


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["--no-such-option"],
        ["config"],
        ["config", "show", "--no-such-option"],
        ["config", "show", "--output", "xml"],
        ["--config"],
        ["explain", "a", "b"],
    ],
)
def test_a_wrong_command_line_exits_2(capsys: Captured, words: list[str]) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error[WA-USAGE]: ")
    assert "--help" in err


def test_without_a_command_the_help_is_shown(capsys: Captured) -> None:
    status, out, err = run(capsys)
    assert (status, out) == (2, "")
    for entry in COMMANDS:
        assert entry.name in err


@pytest.mark.parametrize("before", [True, False])
def test_global_options_may_stand_before_or_after_the_command(
    capsys: Captured, config: Path, *, before: bool
) -> None:
    options, command = ["--config", str(config), "--output", "json"], ["config", "validate"]
    status, out, _ = run(capsys, *(options + command if before else command + options))
    assert status == 0
    assert json.loads(out) == {
        "schema_version": 1,
        "valid": True,
        "source": str(config),
        "repositories": ["main"],
        "clusters": ["main"],
    }


def test_the_configuration_is_found_by_the_variable(
    capsys: Captured, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WALARCHIVER_CONFIG", str(config))
    status, out, _ = run(capsys, "config", "show")
    assert status == 0
    assert f'url = "file://{config.parent}/repo"' in out


def test_config_init_writes_a_valid_file_and_never_over_another(capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "new" / "walarchiver.toml"
    assert run(capsys, "--config", str(path), "config", "init")[0] == 0
    assert run(capsys, "--config", str(path), "config", "validate")[0] == 0
    path.write_text("mine")
    status, _, err = run(capsys, "--config", str(path), "config", "init")
    assert status == 2
    assert "exists already" in err
    assert path.read_text() == "mine"


def test_explain_knows_every_code(capsys: Captured) -> None:
    codes = [cls.code for cls in all_errors()]
    assert len(set(codes)) == len(codes), "one code, one fact"
    for code in codes:
        status, out, _ = run(capsys, "explain", code.removeprefix("WA-").lower())
        assert status == 0
        assert out.startswith(f"{code}: ")
    listed = json.loads(run(capsys, "explain", "--output", "json")[1])["errors"]
    assert [entry["code"] for entry in listed] == codes


def test_explain_suggests_the_nearest_code(capsys: Captured) -> None:
    status, _, err = run(capsys, "explain", "WA-GAPS")
    assert status == 2
    assert "did you mean WA-GAP?" in err


def test_the_errors_follow_the_style() -> None:
    for cls in all_errors():
        assert cls.__doc__, cls
        assert cls.hint[-1] in ".?", cls
        assert cls.exit_status in (1, 2, 3, 10, 11, 12, 13, 14, 15, 130), cls


def test_the_list_of_errors_is_written_down() -> None:
    """When this fails: ./dev generated"""
    assert (ROOT / "docs/errors.md").read_text() == reference()


@pytest.mark.parametrize("name", [entry.name for entry in COMMANDS])
def test_every_command_has_its_module_and_its_help(capsys: Captured, name: str) -> None:
    importlib.import_module(f"walarchiver.cli.{name}")
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: walarchiver {name}")


def test_help_loads_no_command_and_no_heavy_library() -> None:
    program = (
        "import sys; from walarchiver.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ran.stderr.split())
    heavy = {"boto3", "botocore", "aiohttp", "psycopg", "cryptography", "zstandard", "asyncio", "sqlite3"}
    assert "walarchiver.cli.main" in loaded
    assert not loaded & (heavy | {f"walarchiver.cli.{entry.name}" for entry in COMMANDS})


def test_what_opens_a_repository_loads_the_library_for_s3_only_for_s3() -> None:
    program = "import sys, walarchiver.assembly; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ran.stdout.split())
    assert "walarchiver.storage.probe" in loaded
    assert not loaded & {"boto3", "botocore", "walarchiver.storage.s3"}


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("status", {"psycopg", "asyncio", "restore.planning", "restore.instance"}),
        ("plan", {"psycopg", "asyncio", "http.client", "restore.instance"}),
        ("restore", {"psycopg", "asyncio", "http.client", "restore.bucketrestore", "restore.planserver"}),
        ("backup", {"restore.planning", "restore.instance"}),
        ("serve", {"psycopg", "restore.planning", "restore.instance", "walarchiver.service"}),
    ],
)
def test_a_command_begins_without_what_few_calls_need(command: str, without: set[str]) -> None:
    program = (
        "import sys; from walarchiver.cli.main import main\n"
        "try: main([sys.argv[1], '--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ran.stderr.split())
    rare = {"aiohttp", "boto3", "botocore", "duckdb", "prometheus_client", "walarchiver.evidence.openindex"}
    rare |= {"restore.throwaway", "restore.rescue", "walarchiver.storage.s3", "walarchiver.storage.evidence"}
    assert f"walarchiver.cli.{command}" in loaded
    assert not loaded & (rare | without)


def test_the_version_is_printed(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.startswith("walarchiver 0.")


def test_ctrl_c_exits_130(capsys: Captured, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("walarchiver.cli.config.run", interrupted)
    status, out, err = run(capsys, "--config", str(config), "config", "show")
    assert (status, out) == (130, "")
    assert err.startswith("error[WA-INTERRUPTED]: interrupted\nhint: ")


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    command = f"{sys.executable} -m walarchiver.cli.main explain | true"
    ran = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
