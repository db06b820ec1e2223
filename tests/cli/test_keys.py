"""`keys init` makes a repository whose keys are safe on disk, once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from walarchiver.cli.main import main
from walarchiver.format.keyring import parse_keyring
from walarchiver.keys.keyfile import read_key_file
from walarchiver.keys.masterkey import MasterKey
from walarchiver.keys.publicform import parse_public_key
from walarchiver.keys.rootkey import root_text

Captured = pytest.CaptureFixture[str]
Json = dict[str, Any]


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


def test_a_master_key_may_come_from_a_command(capsys: Captured, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    config = tmp_path / "walarchiver.toml"
    command = f'["{sys.executable}", "-c", "print(64 * \'a\')"]'
    config.write_text(f'[repository.main]\nurl = "file://{tmp_path}/repo"\nmaster_key_command = {command}\n')
    out = tmp_path / "keys"
    assert main(["--config", str(config), "keys", "init", "--out", str(out), "--master-key"]) == 0
    capsys.readouterr()
    (keyring,) = (tmp_path / "repo").rglob("v1/keyring/*.json")
    (member,) = [one for one in parse_keyring(keyring.read_bytes()).members if one.type == "master-key"]
    assert member.id == MasterKey.from_bytes(b"\xaa" * 32).recipient


# --- members -------------------------------------------------------------------------------------


class Place:
    """A repository on disk with its keys, and commands on it."""

    def __init__(self, folder: Path, capsys: Captured) -> None:
        self.folder, self.capsys, self.keys = folder, capsys, folder / "keys"
        self.config = folder / "walarchiver.toml"
        (folder / "repo").mkdir()
        section = f'[repository.main]\nurl = "file://{folder}/repo"\n'
        self.config.write_text(section)
        made = self.json("keys", "init", "--out", str(self.keys), "--custodian", "a", "--custodian", "b")
        self.config.write_text(
            f'[server]\nstate = "{folder}/state"\n{section}root = "{made["root"]}"\n'
            f'signing_key = "{self.keys}/writer.key"\n'
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        status = main(["--config", str(self.config), *words])
        said = self.capsys.readouterr()
        return status, said.out, said.err

    def json(self, *words: str) -> Json:
        status, out, err = self.run(*words, "--output", "json")
        assert status == 0, err
        document: Json = json.loads(out)
        return document

    def new(self, role: str, name: str) -> Path:
        """The public form of a new key."""
        out = self.keys / f"{name}.key"
        self.json("keys", "new", "--role", role, "--name", name, "--out", str(out))
        return out.with_name(f"{name}.key.pub")

    def root(self) -> tuple[str, str]:
        return ("--root-key", str(self.keys / "root.key"))


@pytest.fixture
def place(tmp_path: Path, capsys: Captured) -> Place:
    return Place(tmp_path, capsys)


def test_a_new_key_and_its_public_form_belong_together_and_only_one_is_secret(place: Place) -> None:
    public = place.new("custodian", "carol")
    private = public.with_suffix("")
    assert private.stat().st_mode & 0o777 == 0o600
    status, out, _ = place.run("keys", "export-public", str(private))
    assert (status, out) == (0, public.read_text())
    key = read_key_file(private)
    assert key.secret.hex() not in public.read_text()
    assert parse_public_key(out).member().public is not None
    status, _, err = place.run("keys", "new", "--role", "custodian", "--name", "carol", "--out", str(private))
    assert status == 2
    assert "exists already" in err
    assert read_key_file(private) == key


def test_a_key_can_be_made_far_from_the_store(place: Place, tmp_path: Path) -> None:
    root = read_key_file(place.keys / "root.key")
    place.config.unlink()
    out = tmp_path / "far.key"
    words = ["--repo", root.repo, "--root", root_text(root.root)]
    status, _, err = place.run("keys", "new", "--role", "writer", "--name", "far", "--out", str(out), *words)
    assert status == 0, err
    assert read_key_file(out).repo == root.repo


def test_members_come_and_go_and_the_list_shows_them(place: Place) -> None:
    assert place.json("keys", "recipient", "add", str(place.new("custodian", "carol")), *place.root())["made"]
    assert place.json("keys", "member", "add", str(place.new("writer", "host2")), *place.root())["made"]
    again = place.json("keys", "member", "add", str(place.keys / "host2.key.pub"), *place.root())
    assert (again["made"], again["keyring"]) == (False, 3)
    told = place.json("keys", "list")
    names = {(one["role"], one["name"]) for one in told["members"]}
    assert {("custodian", "carol"), ("writer", "host2"), ("admin", "admin")} <= names
    status, out, err = place.run("keys", "recipient", "remove", "carol", *place.root(), "--dry-run")
    assert status == 0, err
    assert "would be made" in out
    assert "stay stored" in out, "what a removal does not take away is said"
    assert place.json("keys", "list")["keyring"] == 3
    place.json("keys", "recipient", "remove", "carol", *place.root())
    status, out, _ = place.run("keys", "recipient", "remove", "a", *place.root())
    assert status == 0
    assert "WARNING only one custodian" in out
    status, _, err = place.run("keys", "recipient", "remove", "b", *place.root())
    assert status == 1
    assert "error[WA-LAST-KEY]" in err
    status, _, err = place.run("keys", "member", "remove", "nobody", *place.root())
    assert status == 2
    assert "no keyring has a member 'nobody'" in err


def test_the_root_hands_over_and_old_pins_go_on_to_work(place: Place) -> None:
    status, _, err = place.run(
        "keys", "new", "--role", "root", "--name", "next", "--out", str(place.keys / "next.key")
    )
    assert status == 0, err
    place.json("keys", "root", str(place.keys / "next.key.pub"), *place.root())
    public = place.new("custodian", "carol")
    status, _, err = place.run("keys", "recipient", "add", str(public), *place.root())
    assert status == 15
    assert "not the root in force" in err
    told = place.json("keys", "recipient", "add", str(public), "--root-key", str(place.keys / "next.key"))
    assert told["keyring"] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("recipient", "add", "{private}", "--root-key", "{root}"), "this is a private key"),
        (("recipient", "add", "{public}"), "the root key file is needed"),
        (("recipient", "add", "{public}", "--root-key", "{admin}"), "is of role admin, and root is needed"),
        (("member", "add", "{public}", "--root-key", "{root}"), "is of role custodian"),
        (("member", "remove", "a", "--root-key", "{root}"), "is a custodian"),
        (("recipient", "add", "--root-key", "{root}"), "name the file with the public form"),
        (
            ("recipient", "add", "--master-key", "--root-key", "{root}"),
            "takes the key that the section names",
        ),
        (("root", "{public}", "--root-key", "{root}"), "is of role custodian, and root is needed"),
        (("rotate",), "an admin's key file is needed"),
        (
            ("rotate", "--admin-key", "{root}", "--identity", "{custodian}"),
            "is of role root, and admin is needed",
        ),
        (("new", "--role", "writer", "--name", "x y", "--out", "{out}"), "cannot name a key"),
        (("new", "--role", "writer", "--name", "x", "--out", "{out}", "--repo", "1"), "go together"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    place: Place, words: tuple[str, ...], said: str
) -> None:
    public = place.new("custodian", "carol")
    names = {
        "private": place.keys / "carol.key",
        "public": public,
        "root": place.keys / "root.key",
        "admin": place.keys / "admin.key",
        "custodian": place.keys / "custodian-a.key",
        "out": place.keys / "x.key",
    }
    before = sorted((place.folder / "repo").rglob("*"))
    status, _, err = place.run("keys", *(word.format(**names) for word in words))
    assert status == 2, err
    assert said in err
    assert sorted((place.folder / "repo").rglob("*")) == before
    assert not names["out"].exists()


def test_a_key_of_another_repository_is_told_apart(place: Place, tmp_path: Path, capsys: Captured) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stranger = Place(other, capsys).new("custodian", "mallory")
    status, _, err = place.run("keys", "recipient", "add", str(stranger), *place.root())
    assert status == 2
    assert "is of repository" in err
    root = ("--root-key", str(other / "keys" / "root.key"))
    status, _, err = place.run("keys", "recipient", "add", str(place.new("custodian", "carol")), *root)
    assert status == 2
    assert "is of repository" in err


def test_there_is_nothing_to_test_or_rotate_before_anything_was_archived(place: Place) -> None:
    identity = ("--identity", str(place.keys / "custodian-a.key"))
    status, out, _ = place.run("keys", "test", *identity)
    assert (status, "nothing was ever archived" in out) == (0, True)
    admin = ("--admin-key", str(place.keys / "admin.key"))
    status, out, _ = place.run("keys", "rotate", *identity, *admin)
    assert (status, "nothing was ever archived" in out) == (0, True)
    status, _, err = place.run("keys", "test")
    assert status == 12
    assert "error[WA-KEY" in err
