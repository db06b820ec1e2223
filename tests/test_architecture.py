"""The layer rules of ARCHITECTURE.md, read from the source itself."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

LAYERS: tuple[tuple[str, ...], ...] = (
    ("walarchiver.errors", "walarchiver.core"),
    ("restore.core", "walarchiver.format", "walarchiver.ports", "walarchiver.bucketports"),
    (
        "walarchiver.storage",
        "walarchiver.postgres",
        "walarchiver.keys",
        "walarchiver.settings",
        "walarchiver.settings_kinds",
        "walarchiver.settings_schema",
        "walarchiver.settings_text",
        "walarchiver.clock",
        "walarchiver.log",
        "walarchiver.metrics",
    ),
    (),  # shells: whatever is not named elsewhere
    ("walarchiver.api", "walarchiver.listening", "walarchiver.hook", "walarchiver.systemd"),
    (
        "walarchiver.service",
        "walarchiver.assembly",
        "walarchiver.bucketassembly",
        "walarchiver.bucketjournals",
        "walarchiver.bucketpins",
        "walarchiver.bucketshipping",
        "walarchiver.bucketstatus",
        "walarchiver.clusterservice",
        "walarchiver.gauges",
        "walarchiver.restorable",
        "walarchiver.status",
        "restore.finding",
        "restore.planserver",
        "restore.relationlists",
        "restore.restoring",
        "restore.throwaway",
        "restore.rescue",
        "walarchiver.cli",
        "walarchiver.demo",
        "walarchiver.embedded",
        "walarchiver.operate",
    ),
)
SHELLS, ROOTS = 3, 5

PURE = ("walarchiver.core", "walarchiver.format", "restore.core")
IMPURE_MODULES = frozenset(
    [
        *(
            "asyncio",
            "concurrent",
            "contextvars",
            "fcntl",
            "glob",
            "http",
            "io",
            "logging",
            "multiprocessing",
        ),
        *("os", "pathlib", "random", "secrets", "select", "shutil", "signal", "socket", "socketserver"),
        *("sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib.request"),
    ]
)
IMPURE_CALLS = frozenset({"open", "input", "print", "breakpoint", "exec", "eval"})
WALL_CLOCK = frozenset({"now", "today", "utcnow"})

ONLY_IN: dict[str, tuple[str, ...]] = {
    "boto3": ("walarchiver.storage",),
    "botocore": ("walarchiver.storage",),
    "psycopg": ("walarchiver.postgres",),
    "aiohttp": ("walarchiver.api",),
    "duckdb": ("walarchiver.evidence",),
    "prometheus_client": ("walarchiver.metrics",),
    "time": ("walarchiver.clock",),
    "random": ("walarchiver.clock",),
    "secrets": (),
}
TEST_TOOLS = ("walarchiver.demo", "walarchiver.embedded")
"""They drive real servers, so they may use clients that the product keeps at its edge."""


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    tree: ast.Module
    lines: int

    def imports(self, *, at_runtime: bool = False) -> Iterator[tuple[str, int]]:
        """Every imported module, with its line; relative imports made absolute."""
        skipped = set(_type_checking_only(self.tree)) if at_runtime else set()
        for node in ast.walk(self.tree):
            if node in skipped:
                continue
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, node.lineno
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                for alias in node.names:
                    deeper = f"{base}.{alias.name}"
                    yield (deeper if deeper in NAMES else base), node.lineno

    def _base(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        package = self.name.split(".")[: -node.level]
        return ".".join([*package, *([node.module] if node.module else [])])


def _type_checking_only(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.body:
                yield from ast.walk(statement)


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules() -> list[Module]:
    found = []
    for package in ("walarchiver", "restore"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found.append(Module(_name(path), path, ast.parse(text), text.count("\n")))
    return found


NAMES: frozenset[str] = frozenset(
    _name(path) for package in ("walarchiver", "restore") for path in (ROOT / package).rglob("*.py")
)
MODULES = _modules()


def _inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def layer_of(name: str) -> int:
    for layer, packages in enumerate(LAYERS):
        if _inside(name, packages):
            return layer
    return SHELLS


def _every(faults: Iterator[str]) -> None:
    found = list(faults)
    assert not found, "\n".join(found)


def test_imports_go_down_only() -> None:
    def faults() -> Iterator[str]:
        for module in MODULES:
            if module.name in ("walarchiver", "restore"):
                continue
            for imported, line in module.imports(at_runtime=True):
                if imported in ("walarchiver", "restore") or imported not in NAMES:
                    continue
                ours, theirs = layer_of(module.name), layer_of(imported)
                if theirs > ours:
                    yield f"{module.path}:{line}: layer {ours} imports {imported} of layer {theirs}"

    _every(faults())


def test_the_writing_side_does_not_import_the_reading_side() -> None:
    def faults() -> Iterator[str]:
        for module in MODULES:
            if not module.name.startswith("walarchiver.") or layer_of(module.name) == ROOTS:
                continue
            for imported, line in module.imports(at_runtime=True):
                if _inside(imported, ("restore",)):
                    yield f"{module.path}:{line}: only roots may import {imported}"

    _every(faults())


def test_the_core_is_pure() -> None:
    def faults() -> Iterator[str]:
        for module in MODULES:
            if not _inside(module.name, PURE):
                continue
            for imported, line in module.imports():
                if imported in IMPURE_MODULES or imported.split(".")[0] in IMPURE_MODULES:
                    yield f"{module.path}:{line}: imports {imported}"
            for node in ast.walk(module.tree):
                if isinstance(node, ast.AsyncFunctionDef | ast.Await):
                    yield f"{module.path}:{node.lineno}: is asynchronous"
                if isinstance(node, ast.Call):
                    called = node.func
                    if isinstance(called, ast.Name) and called.id in IMPURE_CALLS:
                        yield f"{module.path}:{node.lineno}: calls {called.id}"
                    if isinstance(called, ast.Attribute) and called.attr in WALL_CLOCK:
                        yield f"{module.path}:{node.lineno}: asks the time with .{called.attr}()"

    _every(faults())


@pytest.mark.parametrize("library", ONLY_IN)
def test_each_library_stays_in_its_place(library: str) -> None:
    def faults() -> Iterator[str]:
        for module in MODULES:
            if _inside(module.name, ONLY_IN[library]) or _inside(module.name, TEST_TOOLS):
                continue
            for imported, line in module.imports():
                if _inside(imported, (library,)):
                    yield f"{module.path}:{line}: imports {imported}"

    _every(faults())


def test_modules_are_short_and_say_their_job() -> None:
    def faults() -> Iterator[str]:
        for module in MODULES:
            if module.lines > MODULE_LINES_MAX:
                yield f"{module.path}: {module.lines} lines, at most {MODULE_LINES_MAX}"
            if module.lines and not ast.get_docstring(module.tree):
                yield f"{module.path}: no docstring"

    _every(faults())


def test_functions_are_short() -> None:
    def faults() -> Iterator[str]:
        for module in MODULES:
            for node in ast.walk(module.tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > FUNCTION_LINES_MAX:
                        yield f"{module.path}:{node.lineno}: {node.name} has {length} lines"

    _every(faults())


def test_broad_handlers_stand_only_at_the_edge() -> None:
    """`hook` too: any traceback of it would exit 1, which PostgreSQL reads as an answer. And `scanner`: no
    bug in it may keep WAL from being archived."""
    allowed = ("walarchiver.api", "walarchiver.service", "walarchiver.hook", "walarchiver.scanner")

    def faults() -> Iterator[str]:
        for module in MODULES:
            if _inside(module.name, allowed):
                continue
            for node in ast.walk(module.tree):
                if not isinstance(node, ast.ExceptHandler) or not _is_broad(node.type):
                    continue
                last = node.body[-1]
                if not (
                    isinstance(last, ast.Raise) and last.exc is None
                ):  # tidying up on the way out is fine
                    yield f"{module.path}:{node.lineno}: catches everything"

    _every(faults())


def _is_broad(caught: ast.expr | None) -> bool:
    if caught is None:
        return True
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(isinstance(name, ast.Name) and name.id in ("Exception", "BaseException") for name in names)


def test_every_package_is_shipped() -> None:
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {_name(module.path) for module in MODULES if module.path.name == "__init__.py"}
    assert set(shipped) == packages


def test_the_rules_would_notice_a_fault() -> None:
    """A rule that reads nothing would always pass."""
    assert len(MODULES) > 20
    assert layer_of("walarchiver.core.lsn") == 0
    assert layer_of("restore.core.model") == 1
    assert layer_of("walarchiver.archiver") == SHELLS
    assert layer_of("walarchiver.cli.main") == ROOTS
    assert _is_broad(None)
