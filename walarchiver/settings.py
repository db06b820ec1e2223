"""The configuration file: read once, validated whole, every fault reported together.

Rules:
- An unknown key or section is a fault and names the nearest known spelling.
- Nothing starts on a file with a fault; ConfigError lists all of them, one a line, sorted as in the file.
- No secret is ever a value, so nothing here can leak one; `settings_text` masks command arguments.
- The file is the only source: environment variables choose the file, not what is in it. (One exception:
  `credential:NAME` resolves to systemd's folder.)
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from walarchiver.errors import ConfigError, UnknownCluster
from walarchiver.settings_kinds import TEXTS, Kind
from walarchiver.settings_schema import (
    BackupSettings,
    BucketSettings,
    ClusterSettings,
    RepositorySettings,
    RetentionSettings,
    ServerSettings,
)

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_PATH",
    "BackupSettings",
    "BucketSettings",
    "ClusterSettings",
    "RepositorySettings",
    "RetentionSettings",
    "ServerSettings",
    "Settings",
    "config_path",
    "key_name",
    "keys_of",
    "load_settings",
    "parse_settings",
]

DEFAULT_PATH = Path("/etc/walarchiver/walarchiver.toml")
CONFIG_VARIABLE = "WALARCHIVER_CONFIG"
_FILE_BYTES_MAX = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

Section = TypeVar("Section")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole, valid configuration."""

    source: Path
    server: ServerSettings
    repositories: Mapping[str, RepositorySettings]
    clusters: Mapping[str, ClusterSettings]

    def repository(self, name: str) -> RepositorySettings:
        """Raises ConfigError when there is no [repository.`name`]."""
        try:
            return self.repositories[name]
        except KeyError:
            known = ", ".join(sorted(self.repositories)) or "none"
            raise ConfigError(f"no repository {name!r} is configured; there is {known}") from None

    def cluster_name(self, name: str | None) -> str:
        """`name`, or the only cluster's name. Raises UnknownCluster, which lists the names."""
        known = ", ".join(sorted(self.clusters)) or "none"
        if name is None:
            if len(self.clusters) == 1:
                return next(iter(self.clusters))
            raise UnknownCluster(f"no cluster was named, and the configuration has {known}")
        if name not in self.clusters:
            raise UnknownCluster(f"no cluster {name!r} is configured; there is {known}")
        return name

    def cluster(self, name: str | None) -> ClusterSettings:
        """The named cluster's section, or the only one. Raises UnknownCluster."""
        return self.clusters[self.cluster_name(name)]


def config_path(given: str | os.PathLike[str] | None) -> Path:
    """The file to read: as given, else WALARCHIVER_CONFIG, else /etc/walarchiver/walarchiver.toml."""
    chosen = given if given is not None else os.environ.get(CONFIG_VARIABLE) or DEFAULT_PATH
    return Path(chosen).absolute()


def load_settings(path: Path) -> Settings:
    """Read and validate the file. Raises ConfigError with every fault in it."""
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}",
            hint="Name the file with --config, or write one with `walarchiver config init`.",
        ) from error
    if len(raw) > _FILE_BYTES_MAX:
        raise ConfigError(f"{path} is longer than {_FILE_BYTES_MAX} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}") from error
    return parse_settings(text, source=path)


def parse_settings(text: str, *, source: Path) -> Settings:
    """Validate the text of a configuration file. Raises ConfigError with every fault in it."""
    try:
        table: Mapping[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {str(error)[:1].lower()}{str(error)[1:]}") from error
    reader = _Reader()
    settings = reader.settings(table, source)
    if reader.faults:
        raise ConfigError(
            f"{source} has {len(reader.faults)} fault{'s' if len(reader.faults) > 1 else ''}:"
            + "".join(f"\n  {fault}" for fault in reader.faults)
        )
    return settings


def key_name(declared: Field[object]) -> str:
    """The key that a field has in the file."""
    return str(declared.metadata.get("name") or declared.name)


def keys_of(section: type[object]) -> dict[str, Field[object]]:
    """The plain keys of a section's declaration, without its subsections."""
    found: tuple[Field[object], ...] = fields(section)  # type: ignore[arg-type]  # every section is a dataclass
    return {key_name(declared): declared for declared in found if "kind" in declared.metadata}


class _Reader:
    """Collects faults instead of stopping at the first."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def settings(self, table: Mapping[str, object], source: Path) -> Settings:
        self._only(table, ("server", "repository", "cluster"), "")
        server = self._section(ServerSettings, self._table(table.get("server", {}), "server"), "server")
        repositories = {
            name: section
            for name, content in self._named(table, "repository")
            if (section := self._repository(content, f"repository.{name}")) is not None
        }
        declared = tuple(self._table(table.get("repository", {}), "repository", silent=True))
        if not declared:
            self._fault("repository", "is missing: at least one [repository.NAME] is needed")
        clusters = {
            name: cluster
            for name, content in self._named(table, "cluster")
            if (cluster := self._cluster(content, f"cluster.{name}", declared)) is not None
        }
        for name, cluster in clusters.items():
            urls = {repositories[own].url for own in cluster.repositories if own in repositories}
            if cluster.checkpoints in urls:
                self._fault(f"cluster.{name}.checkpoints", "is where the ledger itself is")
        return Settings(
            source=source, server=server or ServerSettings(), repositories=repositories, clusters=clusters
        )

    def _named(self, table: Mapping[str, object], kind: str) -> Iterable[tuple[str, Mapping[str, object]]]:
        for name, content in self._table(table.get(kind, {}), kind).items():
            if not isinstance(content, dict):
                self._fault(f"{kind}.{name}", f"stands outside a section; write [{kind}.NAME] above it")
            elif _NAME.fullmatch(name) is None:
                self._fault(f"{kind}.{name}", "is not a name of letters, digits, '.', '_' and '-'")
            else:
                yield name, content

    def _repository(self, table: Mapping[str, object], where: str) -> RepositorySettings | None:
        section = self._section(RepositorySettings, table, where)
        if section is None:
            return None
        self._s3(section, where)
        if section.master_key_file is not None and section.master_key_command is not None:
            self._fault(where, "names both master_key_file and master_key_command")
        return section

    def _cluster(
        self, table: Mapping[str, object], where: str, declared: tuple[str, ...]
    ) -> ClusterSettings | None:
        section = self._section(ClusterSettings, table, where, subsections=("backup", "retention", "bucket"))
        backup = self._section(
            BackupSettings, self._table(table.get("backup", {}), f"{where}.backup"), f"{where}.backup"
        )
        retention = self._section(
            RetentionSettings,
            self._table(table.get("retention", {}), f"{where}.retention"),
            f"{where}.retention",
        )
        bucket = None
        if "bucket" in table:
            bucket = self._section(
                BucketSettings, self._table(table["bucket"], f"{where}.bucket"), f"{where}.bucket"
            )
            if bucket is not None:
                self._s3(bucket, f"{where}.bucket")
        repositories = self._tied(table, f"{where}.repository", declared)
        if section is None:
            return None
        self._second_place(section.checkpoints, f"{where}.checkpoints", declared, repositories)
        return replace(
            section,
            repositories=repositories,
            backup=backup or BackupSettings(),
            retention=retention or RetentionSettings(),
            bucket=bucket,
        )

    def _s3(self, section: RepositorySettings | BucketSettings, where: str) -> None:
        """What holds between the keys that say how to reach a store."""
        if section.credentials_file is not None and section.credentials_command is not None:
            self._fault(where, "names both credentials_file and credentials_command")
        if section.url.startswith("file:") and section.endpoint is not None:
            self._fault(f"{where}.endpoint", "has no meaning for a file:// repository")
        if section.endpoint is not None and not section.allow_http and not _is_private(section.endpoint):
            self._fault(
                f"{where}.endpoint",
                "is not encrypted and not on this host; use https, or say allow_http = true",
            )

    def _tied(self, table: Mapping[str, object], where: str, declared: tuple[str, ...]) -> tuple[str, ...]:
        """The names of the cluster's repositories, each known to exist."""
        if "repository" not in table:
            if len(declared) > 1:
                self._fault(where, f"is missing; there is {', '.join(declared)}")
            return declared[:1]
        try:
            wanted = TEXTS.read(table["repository"])
        except ValueError:
            return ()  # the section's own reading reports it
        if not wanted:
            self._fault(where, "is empty")
        for name in wanted:
            if name not in declared:
                self._fault(where, f"names {name!r}, which is not configured{_nearest(name, declared)}")
        return wanted

    def _second_place(
        self, place: str | None, where: str, declared: tuple[str, ...], own: tuple[str, ...]
    ) -> None:
        """A place that is not the repository itself."""
        if place in own:
            self._fault(where, f"names {place!r}, where the ledger itself is")
        elif place is not None and ":" not in place and place not in declared:
            self._fault(where, f"names {place!r}, which is not configured{_nearest(place, declared)}")

    def _section(
        self,
        make: Callable[..., Section],
        table: Mapping[str, object],
        where: str,
        *,
        subsections: tuple[str, ...] = (),
    ) -> Section | None:
        """The section's value; None when a key in it is wrong or missing."""
        assert isinstance(make, type)
        known = keys_of(make)
        before = len(self.faults)
        self._only(table, (*known, *subsections), where)
        values: dict[str, object] = {}
        for name, declared in known.items():
            if name not in table:
                if declared.default is MISSING and declared.default_factory is MISSING:
                    self._fault(f"{where}.{name}", "is missing")
                continue
            kind = declared.metadata["kind"]
            assert isinstance(kind, Kind)
            try:
                values[declared.name] = kind.read(table[name])
            except ValueError as error:
                self._fault(f"{where}.{name}", str(error))
        return make(**values) if len(self.faults) == before else None

    def _table(self, raw: object, where: str, *, silent: bool = False) -> Mapping[str, object]:
        if isinstance(raw, dict):
            return raw
        if not silent:
            self._fault(where, "should be a section")
        return {}

    def _only(self, table: Mapping[str, object], known: Iterable[str], where: str) -> None:
        known = tuple(known)
        for name in table:
            if name not in known:
                self._fault(f"{where}.{name}" if where else name, f"is unknown{_nearest(name, known)}")

    def _fault(self, where: str, what: str) -> None:
        self.faults.append(f"{where}: {what}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, tuple(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _is_private(endpoint: str) -> bool:
    """Encrypted, or never leaving this host."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https":
        return True
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
