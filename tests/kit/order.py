"""The order of the tests: files that take long first, so that two workers end together.

`--order-seed N` shuffles the files instead, and the tests inside each. pytest still puts tests of one shared
fixture's parameter together, so that nothing is made twice.
"""

from __future__ import annotations

import random

import pytest

LONG = (
    "integration/test_planned_and_real.py",
    "integration/test_any_moment.py",
    "integration/test_joint.py",
    "integration/test_stepped_clock.py",
    "integration/test_kills.py",
    "integration/test_commands.py",
    "integration/test_keys.py",
    "integration/test_check.py",
    "matrix/",
    "integration/test_rewound.py",
    "integration/test_outages.py",
    "contracts/test_s3_faults.py",
    "contracts/test_seaweed.py",
    "core/test_wal_of_postgres.py",
    "integration/",
    "postgres/",
    "core/test_skim.py",
    "contracts/",
    "evidence/",
    "packaging/",
    "restore_core/test_planner_model.py",
    "systemd/",
    "vectors/",
    "hook/",
)
"""Beginnings of names below tests/, the longest first; what is not named takes seconds."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--order-seed", type=int, metavar="N", help="run the tests in the random order of this seed"
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = config.getoption("--order-seed")
    return None if seed is None else f"random order: --order-seed {seed}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seed = config.getoption("--order-seed")
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    names = sorted(files)
    if seed is None:
        names.sort(key=_rank)
    else:
        chance = random.Random(seed)
        chance.shuffle(names)
        for name in names:
            chance.shuffle(files[name])
    items[:] = [item for name in names for item in files[name]]


def _rank(name: str) -> int:
    below = name.partition("tests/")[2] or name
    return next((rank for rank, start in enumerate(LONG) if below.startswith(start)), len(LONG))
