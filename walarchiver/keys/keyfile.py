"""Key files: one private key as a short text, with all that is needed to use it.

Rules (docs/format.md, section 4):
- A custodian's file alone restores: seed, repository id, and the root key to trust.
- Eight lines in a fixed order, the last one a check over the others; `#` lines do not count.
- Secrets never appear in `repr` nor in messages. Files are created new, with mode 0600; a file
  that everyone may read is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from walarchiver.errors import ConfigError, KeyTaken
from walarchiver.format.keyring import HPKE_XWING
from walarchiver.format.signed import ED25519, Signer
from walarchiver.keys.rootkey import parse_root_text, root_text

_FIRST = "walarchiver key 1"
_NAMES = ("role", "name", "repo", "root", "type", "secret", "check")
_REPO = re.compile(r"[0-9a-f]{32}")
_SECRET = re.compile(r"[0-9a-f]{64}")
_FILE_BYTES_MAX = 65536


class KeyRole(StrEnum):
    """Whose key it is. The order is that of the numbers in the printable form, from 1."""

    CUSTODIAN = "custodian"
    ROOT = "root"
    ADMIN = "admin"
    WRITER = "writer"
    PRUNER = "pruner"
    DRILLER = "driller"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key: 32 bytes of seed (X-Wing for a custodian, else Ed25519)."""

    role: KeyRole
    name: str
    repo: str
    root: bytes
    """Public root key of the repository."""
    secret: bytes = field(repr=False)

    @property
    def type(self) -> str:
        return HPKE_XWING if self.role is KeyRole.CUSTODIAN else ED25519

    def signer(self) -> Signer:
        """The signing key in it. Raises ConfigError for a custodian's file."""
        if self.role is KeyRole.CUSTODIAN:
            raise ConfigError(
                f"key file of {self.name!r} is a custodian's and cannot sign",
                hint="Name a writer's key file as `signing_key`; custodians' files belong elsewhere.",
            )
        return Signer.from_seed(self.secret)

    def encode(self) -> str:
        """The text of the file; `parse_key_file` is the inverse."""
        if not self.name.isprintable() or self.name != self.name.strip() or not self.name:
            raise ValueError(f"{self.name!r} cannot be the name of a key")
        lines = [
            _FIRST,
            f"role: {self.role}",
            f"name: {self.name}",
            f"repo: {self.repo}",
            f"root: {root_text(self.root)}",
            f"type: {self.type}",
            f"secret: {self.secret.hex()}",
        ]
        text = "\n".join([_comment(self.role), *lines, f"check: {lines_check(lines)}", ""])
        assert parse_key_file(text) == self
        return text


def parse_key_file(text: str) -> KeyFile:
    """The key in a key file's text. Raises ConfigError, which names the line but never its content."""
    return _checked(read_lines(text, _FIRST, _NAMES))


def read_lines(text: str, first: str, names: Sequence[str]) -> dict[str, str]:
    """The values in the lines of a key file or a public form, its check compared. Raises ConfigError."""
    lines = [line.rstrip() for line in text.split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines or lines[0] != first:
        raise ConfigError(f"not a key file: its first line is not {first!r}")
    if len(lines) != len(names) + 1:
        raise ConfigError(f"key file has {len(lines)} lines, not {len(names) + 1}")
    values: dict[str, str] = {}
    for name, line in zip(names, lines[1:], strict=True):
        if not line.startswith(f"{name}: "):
            raise ConfigError(f"key file: line {name!r} expected after {list(values)[-1:] or [first]}")
        values[name] = line.removeprefix(f"{name}: ")
    if values["check"] != lines_check(lines[:-1]):
        raise ConfigError(
            "key file was changed or damaged: its check does not fit",
            hint="Use another copy, or type the printable form in again.",
        )
    return values


def new_key_file(path: Path, text: str) -> None:
    """Write a key file that does not exist yet, mode 0600, durably.

    Raises KeyTaken when something is there, ConfigError when the place cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise KeyTaken(f"{path} exists already", hint="Key files are never overwritten.") from error
    except OSError as error:
        raise ConfigError(f"cannot write key file {path}: {error.strerror}") from error


def read_key_file(path: Path) -> KeyFile:
    """The key in a file. Raises ConfigError: not there, not a key file, or readable by everyone."""
    text = read_secret(path).decode("utf-8", "replace")
    try:
        return parse_key_file(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.next_step) from error


def read_secret(path: Path) -> bytes:
    """The bytes of a small secret file. Raises ConfigError as `read_key_file`."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                raise ConfigError(f"{path} can be read by every user", hint=f"Run `chmod 600 {path}`.")
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigError(f"{path} is too long to be a key")
    return content


def lines_check(lines: Sequence[str]) -> str:
    """The `check` over the lines above it."""
    covered = "".join(line + "\n" for line in lines)
    return hashlib.sha256(covered.encode("utf-8")).hexdigest()[:16]


def _checked(values: dict[str, str]) -> KeyFile:
    if values["role"] not in set(KeyRole):
        raise ConfigError(f"key file: {values['role']!r} is not a role")
    if _REPO.fullmatch(values["repo"]) is None or _SECRET.fullmatch(values["secret"]) is None:
        raise ConfigError("key file: repository id or secret is not of its length")
    key = KeyFile(
        role=KeyRole(values["role"]),
        name=values["name"],
        repo=values["repo"],
        root=parse_root_text(values["root"]),
        secret=bytes.fromhex(values["secret"]),
    )
    check_consistent(key)
    if values["type"] != key.type:
        raise ConfigError(f"key file: a {key.role}'s key is not of type {values['type']!r}")
    return key


def check_consistent(key: KeyFile) -> None:
    """Raises ConfigError when a root's file does not hold the root key that it names."""
    if key.role is KeyRole.ROOT and key.signer().public != key.root:
        raise ConfigError("key file: the root's secret does not belong to the root key beside it")


def _comment(role: KeyRole) -> str:
    uses = {
        KeyRole.CUSTODIAN: "opens everything in the repository: keep it far from database and bucket",
        KeyRole.ROOT: "signs keyrings: keep it offline",
        KeyRole.ADMIN: "signs changes of keys and holds: keep it with the administrators",
        KeyRole.WRITER: "signs what one archiving host writes; it opens nothing",
        KeyRole.PRUNER: "signs what is pruned; it opens nothing",
        KeyRole.DRILLER: "signs what rehearsals found; it opens nothing",
    }
    return f"# Private key ({role}): {uses[role]}."
