"""A promise broken on purpose is noticed: the tests named pass on the source as it is and fail on another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as Xml
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutations.table import COMPILED_HOOK, MUTATIONS, Mutation
from tests.nightly.named import ROOT, exists

COPIED = ("walarchiver", "restore", "tests", "docs", "bin", "config", "pyproject.toml")
NOT_COPIED = shutil.ignore_patterns("__pycache__")
TIMEOUT_S = 30
PROMISES = {1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17}
WITNESS = """
import pathlib, restore, walarchiver
pathlib.Path("imported").write_text(f"{walarchiver.__file__}\\n{restore.__file__}\\n")
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What pytest said: its exit status, and how many tests passed, failed and broke."""

    status: int
    passed: int
    failures: int
    errors: int
    output: str


@dataclass(frozen=True, slots=True)
class Copy:
    """The source in a folder of its own, to be changed."""

    folder: Path

    @contextmanager
    def changed(self, mutation: Mutation) -> Iterator[None]:
        file = self.folder / mutation.file
        original = file.read_text()
        assert original.count(mutation.old) == 1
        file.write_text(original.replace(mutation.old, mutation.new))
        try:
            yield
        finally:
            file.write_text(original)

    def run(self, *nodes: str) -> Told:
        """Run tests of the copy on the source of the copy."""
        report, witness = self.folder / "report.xml", self.folder / "imported"
        for left in (report, witness):
            left.unlink(missing_ok=True)
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "witness"]
        words += [f"--timeout={TIMEOUT_S}", f"--junitxml={report}", *nodes]
        done = subprocess.run(
            words,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S * 10,
            check=False,
        )
        assert report.is_file(), done.stdout + done.stderr
        assert all(line.startswith(f"{self.folder}/") for line in witness.read_text().splitlines())
        (suite,) = Xml.parse(report).getroot().iter("testsuite")
        count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        passed = count["tests"] - count["failures"] - count["errors"] - count["skipped"]
        return Told(done.returncode, passed, count["failures"], count["errors"], done.stdout)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    folder = tmp_path_factory.mktemp("mutated").resolve()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=NOT_COPIED)
        else:
            shutil.copy(ROOT / name, folder / name)
    (folder / "witness.py").write_text(WITNESS)
    return Copy(folder)


def test_every_promise_is_broken_at_least_once() -> None:
    assert {one.promise for one in MUTATIONS} == PROMISES


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: f"{one.promise}: {one.breaks}")
def test_a_mutation_fits_the_source_and_its_tests_exist(mutation: Mutation) -> None:
    found = (ROOT / mutation.file).read_text().count(mutation.old)
    assert found == 1, (
        f"fit tests/mutations/table.py to {mutation.file}: {mutation.old!r} is there {found} times"
    )
    assert mutation.old != mutation.new
    assert mutation.tests
    assert [node for node in mutation.tests if not exists(node)] == []


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_unchanged_all_these_tests_pass(copy: Copy) -> None:
    told = copy.run(*dict.fromkeys(node for mutation in MUTATIONS for node in mutation.tests))
    assert told.status == 0, told.output
    assert told.passed >= len({node for mutation in MUTATIONS for node in mutation.tests})


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: f"{one.promise}: {one.breaks}")
def test_a_broken_promise_is_noticed(
    copy: Copy, mutation: Mutation, record_property: Callable[[str, object], None]
) -> None:
    if mutation.file == COMPILED_HOOK and shutil.which("cc") is None:
        pytest.skip("no C compiler here that can make the hook")
    with copy.changed(mutation):
        told = copy.run(*mutation.tests)
    assert (told.status, told.errors) == (1, 0), told.output
    assert told.failures >= 1
    record_property("mutations noticed", 1)
