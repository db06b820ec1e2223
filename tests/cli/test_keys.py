"""`keys init` makes a repository whose keys are safe on disk, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from walarchiver.cli.main import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "walarchiver.toml"
    path.write_text(
        f'[repository.main]\nurl = "file://{tmp_path}/repo"\nmaster_key_file = "{tmp_path}/master"\n'
    )
    (tmp_path / "repo").mkdir()
    return path


def test_keys_init_makes_a_repository_and_its_keys(capsys: Captured, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "keys"
    words = ["--config", str(config), "--output", "json", "keys", "init", "--out", str(out), "--printable"]
    assert main([*words, "--custodian", "alice", "--custodian", "bob"]) == 0
    said = capsys.readouterr()
    made = json.loads(said.out)
    assert made["root"].startswith("wa-root1")
    names = {"root.key", "admin.key", "writer.key", "custodian-alice.key", "custodian-bob.key"}
    assert {Path(file).name for file in made["files"]} == names | {f"{name}.txt" for name in names}
    for file in out.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        secrets = [line for line in file.read_text().splitlines() if "secret" in line.lower()]
        assert not any(secret in said.out + said.err for secret in secrets)
    assert list((tmp_path / "repo").rglob("REPO"))


def test_a_repository_is_never_made_twice(capsys: Captured, config: Path, tmp_path: Path) -> None:
    words = ["--config", str(config), "keys", "init", "--out"]
    assert main([*words, str(tmp_path / "keys")]) == 0
    capsys.readouterr()
    assert main([*words, str(tmp_path / "other")]) == 1
    assert "error[WA-REPOSITORY-EXISTS]" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_key_files_are_never_overwritten(capsys: Captured, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "keys"
    out.mkdir()
    (out / "root.key").write_text("an older key")
    assert main(["--config", str(config), "keys", "init", "--out", str(out)]) == 2
    assert "root.key" in capsys.readouterr().err
    assert [file.read_text() for file in out.iterdir()] == ["an older key"]
    assert not list((tmp_path / "repo").rglob("REPO"))


def test_one_custodian_alone_is_refused(capsys: Captured, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "keys"
    assert main(["--config", str(config), "keys", "init", "--out", str(out), "--custodian", "a"]) == 2
    assert not out.exists()


def test_a_master_key_needs_no_custodians(capsys: Captured, config: Path, tmp_path: Path) -> None:
    master = tmp_path / "master"
    master.write_text("ab" * 32)
    master.chmod(0o600)
    out = tmp_path / "keys"
    assert main(["--config", str(config), "keys", "init", "--out", str(out), "--master-key"]) == 0
    assert {file.name for file in out.iterdir()} == {"root.key", "admin.key", "writer.key"}
    assert "ab" * 32 not in capsys.readouterr().out
