"""The configuration as text: the reference file, and what is in force.

Rules:
- Everything is derived from the declarations in settings_schema; config/walarchiver.toml is this
  module's output, and a test compares them.
- What may carry a secret (arguments of commands) is shown as "***".
- The reference file is itself a valid configuration: only what is needed stands outside comments.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field

from walarchiver.settings import Settings, keys_of
from walarchiver.settings_kinds import Kind, quote
from walarchiver.settings_schema import (
    BackupSettings,
    BucketSettings,
    ClusterSettings,
    RepositorySettings,
    RetentionSettings,
    ServerSettings,
)

_HEADER = """\
# walarchiver configuration: every key, with its default or an example.
# Written by `walarchiver config init`; check a changed file with `walarchiver config validate`.
# Durations: s, m, h, d, w, y (366 days). Sizes: B, KiB, MiB, GiB. Paths are absolute.
# Secrets are never values: name a file, a command, or a systemd credential ("credential:NAME").
"""
_SECTIONS: tuple[tuple[str, type[object], str], ...] = (
    ("server", ServerSettings, "The daemon."),
    ("repository.main", RepositorySettings, "A place where everything is kept; name it as you like."),
    ("cluster.main", ClusterSettings, "A PostgreSQL cluster; name it as you like."),
    ("cluster.main.backup", BackupSettings, "How base backups of it are taken."),
    ("cluster.main.retention", RetentionSettings, "What to keep of it."),
    ("cluster.main.bucket", BucketSettings, "The versioned bucket with the application's files, if any."),
)
_COMMENTED_OUT = frozenset({"cluster.main.bucket"})
_MASK = "***"


def reference() -> str:
    """The text of config/walarchiver.toml and of `config init`."""
    blocks = [_HEADER]
    for name, section, doc in _SECTIONS:
        off = "#" if name in _COMMENTED_OUT else ""
        lines = [f"# {doc}", f"{off}[{name}]"]
        for key, declared in keys_of(section).items():
            lines.extend(_reference_key(key, declared, off=bool(off)))
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _reference_key(key: str, declared: Field[object], *, off: bool) -> Iterator[str]:
    kind, example = declared.metadata["kind"], str(declared.metadata["example"])
    assert isinstance(kind, Kind)
    required = declared.default is MISSING and declared.default_factory is MISSING
    yield from textwrap.wrap(
        f"{declared.metadata['doc']} ({kind.name}{'; required' if required else ''})",
        width=100,
        initial_indent="# ",
        subsequent_indent="# ",
    )
    if required or key == "repository":
        yield f"{'#' if off else ''}{key} = {example}"
    elif declared.default is None or declared.default == ():
        yield f"#{key} = {example}"
    else:
        yield f"#{key} = {kind.show(declared.default)}" + (f"   # for example {example}" if example else "")


def effective(settings: Settings) -> str:
    """What is in force, as TOML; defaults are marked, secrets masked."""
    blocks = [f"# {settings.source}\n"]
    for name, section in _sections_of(settings):
        lines = [f"[{name}]"]
        for key, (kind, value, is_default) in _values(section).items():
            if value is not None:
                shown = _masked(kind, value)
                lines.append(f"{key} = {shown}" + ("   # default" if is_default else ""))
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def effective_json(settings: Settings) -> dict[str, object]:
    """The same for machines: section name to key to TOML value text (None: not set)."""
    return {
        "schema_version": 1,
        "source": str(settings.source),
        "sections": {
            name: {
                key: None if value is None else _plain(kind, value)
                for key, (kind, value, _is_default) in _values(section).items()
            }
            for name, section in _sections_of(settings)
        },
    }


def _sections_of(settings: Settings) -> Iterator[tuple[str, object]]:
    yield "server", settings.server
    for name, repository in settings.repositories.items():
        yield f"repository.{quote(name) if '.' in name else name}", repository
    for name, cluster in settings.clusters.items():
        where = f"cluster.{quote(name) if '.' in name else name}"
        yield where, cluster
        yield f"{where}.backup", cluster.backup
        yield f"{where}.retention", cluster.retention
        if cluster.bucket is not None:
            yield f"{where}.bucket", cluster.bucket


def _values(section: object) -> Mapping[str, tuple[Kind[object], object, bool]]:
    found: dict[str, tuple[Kind[object], object, bool]] = {}
    for key, declared in keys_of(type(section)).items():
        kind = declared.metadata["kind"]
        assert isinstance(kind, Kind)
        value = getattr(section, declared.name)
        found[key] = (kind, value, value == declared.default)
    return found


def _masked(kind: Kind[object], value: object) -> str:
    if kind.masked and isinstance(value, tuple):
        return kind.show((value[0], *(_MASK for _ in value[1:])))
    return kind.show(value)


def _plain(kind: Kind[object], value: object) -> object:
    if kind.masked and isinstance(value, tuple):
        return [value[0], *(_MASK for _ in value[1:])]
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, bool | int) and kind.show(value).strip('"') == str(value).lower():
        return value
    shown = kind.show(value)
    return shown[1:-1] if shown.startswith('"') and "\\" not in shown else shown
