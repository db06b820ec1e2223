"""Tests by their names, without importing them: whether a node that some table names exists."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def exists(node: str) -> bool:
    """Whether `file.py::test_function`, with or without a parameter in brackets, is there."""
    path, _, name = node.partition("::")
    return name.partition("[")[0] in functions(path)


@functools.cache
def functions(path: str) -> frozenset[str]:
    """The test functions of a file, by its path in the source tree; none if there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    body = ast.parse(file.read_text()).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(one.name for one in body if isinstance(one, kinds) and one.name.startswith("test_"))
