"""What the guides tell an operator to type exists: commands, options, keys, codes, metrics, files, links."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from restore.core.recoveryconf import render_settings
from tests.hook.conftest import REPOSITORY
from walarchiver.cli.bucket import Verbs
from walarchiver.cli.main import COMMANDS, Command, _parser
from walarchiver.embedded.binaries import postgres_bin
from walarchiver.errors import all_errors
from walarchiver.metrics import Metrics
from walarchiver.settings import parse_settings

GUIDES = [
    REPOSITORY / "docs" / name
    for name in (
        *("operations.md", "runbook-restore.md", "operations-tools.md", "keys.md"),
        *("bucket.md", "bucket-restore.md", "joint.md"),
    )
]
SYSTEMD = REPOSITORY / "deploy" / "systemd"
ROOT = "wa-root1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PREFIX = re.compile(r"^(?:runuser -u postgres -- |systemd-run (?:-\S+ (?:\S+=\S+ )?)*)")


def fenced(text: str, language: str) -> list[str]:
    return [body for found, body in _FENCE.findall(text) if found == language]


def typed(text: str) -> Iterator[str]:
    """The command lines of the indented blocks, without who runs them and without comments."""
    for line in _FENCE.sub("", text).splitlines():
        if line.startswith("    "):
            yield _PREFIX.sub("", line.strip())


def spoken(text: str) -> Iterator[str]:
    """Commands in the middle of a sentence, which need not be whole."""
    for code in re.findall(r"`([^`\n]+)`", _FENCE.sub("", text)):
        yield _PREFIX.sub("", code)


def calls(lines: Iterator[str]) -> list[list[str]]:
    """The words of those that call the program."""
    found = []
    for line in (each.removeprefix("$ ") for each in lines):
        if not line.startswith("walarchiver"):
            continue  # another program's, or what is printed
        words = shlex.split(line.replace("[", "").replace("]", ""), comments=True)
        if words[:1] == ["walarchiver"] and len(words) > 1:
            found.append(words[1:])
    return found


def parser_of(words: list[str]) -> argparse.ArgumentParser:
    names = {entry.name: entry for entry in COMMANDS}
    entry = next((names[word] for word in words if word in names), None)
    assert entry is not None, f"no such command: {words}"
    return _parser(entry, cast(Command, importlib.import_module(entry.module)))


def options_of(parser: argparse.ArgumentParser, words: list[str]) -> set[str]:
    """Every option that may stand among these words; fails on a subcommand that does not exist."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            name = next((word for word in words if word in action.choices), None)
            if name is None:
                given = [word for word in words if not word.startswith("-")]
                assert not given, f"{given[0]!r} is none of {', '.join(action.choices)}"
                return found
            if isinstance(action, Verbs):
                action.load(name)
            return found | options_of(action.choices[name], words[words.index(name) + 1 :])
    return found


def options_in(words: list[str]) -> set[str]:
    return options_of(parser_of(words), words)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_each_command_and_option_of_a_guide_exists(guide: Path) -> None:
    text = guide.read_text()
    whole, spoken_of = calls(typed(text)), calls(spoken(text))
    assert len(whole) + len(spoken_of) >= 4
    for words in whole + spoken_of:
        known = options_in(words)
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{word} in {' '.join(words)}"


@pytest.mark.parametrize("guide", GUIDES[:2], ids=lambda guide: guide.name)
def test_each_command_line_of_a_guide_is_whole(guide: Path) -> None:
    for words in calls(typed(guide.read_text())):
        parser_of(words).parse_args(words)


def test_what_is_no_command_or_option_is_found() -> None:
    for wrong in ("walarchiver restorre --at latest", "walarchiver keys recipients add x"):
        with pytest.raises(AssertionError):
            options_in(shlex.split(wrong)[1:])
    words = ["plan", "--at", "latest", "--branch", "2"]
    assert "--branch" not in options_in(words)


@pytest.mark.parametrize("guide", GUIDES[:2], ids=lambda guide: guide.name)
def test_each_configuration_of_a_guide_is_valid(guide: Path) -> None:
    found = fenced(guide.read_text(), "toml")
    assert found
    for text in found:
        parse_settings(text.replace("wa-root1...", ROOT), source=guide)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_each_code_metric_file_and_link_of_a_guide_exists(guide: Path) -> None:
    text = guide.read_text()
    codes = {cls.code for cls in all_errors()}
    assert {code.rstrip("-") for code in re.findall(r"WA-[A-Z][A-Z-]*", text)} <= codes
    metrics = Metrics("x").render().decode()
    for name in re.findall(r"\bwalarchiver_[a-z_]+", text):
        assert f"# TYPE {name.removesuffix('_total')}" in metrics, name
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (guide.parent / link).exists(), link
    for path in re.findall(r"\bdeploy/[\w./-]*\w", text):
        assert (REPOSITORY / path).exists(), path
    for unit in re.findall(r"\bwalarchiver[\w-]*\.(?:service|socket|timer)\b", text):
        assert (SYSTEMD / unit).exists(), unit


def test_the_lines_that_a_restore_added_are_found_by_the_runbooks_pattern() -> None:
    pattern = re.search(r"sed -i '/(\^[^/]+)/,\$d'", GUIDES[1].read_text())
    assert pattern is not None
    rendered = render_settings(
        (("archive_mode", "off"),), comments=("walarchiver restore --at latest: plan 1",)
    )
    assert re.search(pattern[1], rendered, re.MULTILINE)


def test_the_settings_told_for_postgresql_are_known_to_it() -> None:
    (conf,) = (body for body in fenced(GUIDES[0].read_text(), "") if "archive_mode" in body)
    sample = (postgres_bin(15).parent / "share" / "postgresql.conf.sample").read_text()
    for line in conf.splitlines():
        assert f"{line.partition(' ')[0]} = " in sample


def test_the_hook_is_called_as_it_wants_to_be() -> None:
    found = [
        call for guide in GUIDES[:2] for call in re.findall(r"walarchiver-hook (\w+) ", guide.read_text())
    ]
    assert set(found) == {"push", "fetch"}
