"""Where the keys to the object store come from; they are never an option, a log line or a repr.

Rules:
- Four sources: a TOML file, a systemd credential (the same TOML), a command that prints JSON as
  the AWS `credential_process` convention has it, or the platform's own role.
- A file that its group or others may read is refused. A systemd credential is not held to that:
  systemd keeps it in a private folder and may show its access list as group bits.
- A file is read again when it has changed; a command runs again five minutes before its answer
  expires. So keys can be rotated without a restart.
- What a command prints is never repeated in an error, only how it ended.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from walarchiver.errors import StoreDenied, StoreUnavailable
from walarchiver.ports import Clock

_FILE_BYTES_MAX = 64 * 1024
_COMMAND_OUTPUT_MAX = 64 * 1024
_REFRESH_BEFORE_US = 300 * 1_000_000
_FILE_HINT = "The file is TOML: access_key_id, secret_access_key and, if there is one, session_token."
_COMMAND_HINT = "The command prints JSON: Version 1, AccessKeyId, SecretAccessKey, SessionToken, Expiration."


@dataclass(frozen=True, slots=True)
class Keys:
    """One set of S3 keys; its repr shows none of them."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_us: int | None = None
    """Microseconds since 1970 UTC; None when they do not expire."""


@dataclass(frozen=True, slots=True)
class CredentialsFile:
    """A TOML file that only its owner can read."""

    path: Path


@dataclass(frozen=True, slots=True)
class SystemdCredential:
    """The same TOML, handed over by systemd (LoadCredential= and friends)."""

    path: Path


@dataclass(frozen=True, slots=True)
class CredentialsCommand:
    """A program that prints short-lived keys; it is run without a shell."""

    argv: tuple[str, ...] = field(repr=False)
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class PlatformRole:
    """What the platform gives this process: instance role, web identity, environment, profile."""


CredentialSource = CredentialsFile | SystemdCredential | CredentialsCommand | PlatformRole


def file_source(path: Path, *, credentials_directory: Path | None) -> CredentialsFile | SystemdCredential:
    """A systemd credential when `path` lies directly in systemd's folder, else an ordinary file."""
    if credentials_directory is not None and path.parent == credentials_directory:
        return SystemdCredential(path)
    return CredentialsFile(path)


class KeyChain:
    """The keys that are valid now; thread-safe, and asked before every request."""

    def __init__(
        self, source: CredentialsFile | SystemdCredential | CredentialsCommand, clock: Clock
    ) -> None:
        """Reads a file at once, so that a fault shows at start; a command first runs when needed.

        Raises StoreDenied when the file cannot be used.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: Keys | None = None
        self._seen: tuple[int, int, int] | None = None
        self._renewed: Callable[[], Keys]
        if isinstance(source, CredentialsCommand):
            command = source
            self._renewed = lambda: self._from_command(command)
        else:
            file = source
            self._renewed = lambda: self._from_file(file)
            self.current()

    def current(self) -> Keys:
        """The keys to sign with. Raises StoreDenied or StoreUnavailable when there are none."""
        with self._lock:
            self._keys = self._renewed()
            return self._keys

    def _from_file(self, source: CredentialsFile | SystemdCredential) -> Keys:
        try:
            with source.path.open("rb") as file:
                found = os.fstat(file.fileno())
                seen = (found.st_ino, found.st_mtime_ns, found.st_size)
                if self._keys is not None and seen == self._seen:
                    return self._keys
                if isinstance(source, CredentialsFile):
                    _check_private(source.path, found)
                content = file.read(_FILE_BYTES_MAX)
        except OSError as failure:
            raise StoreDenied(
                f"credentials file {source.path}: {failure.strerror}", hint=_FILE_HINT
            ) from failure
        keys = parse_keys_file(content, source.path)
        self._seen = seen
        return keys

    def _from_command(self, source: CredentialsCommand) -> Keys:
        keys, now_us = self._keys, self._clock.now_us()
        if keys is not None and (keys.expires_us is None or now_us < keys.expires_us - _REFRESH_BEFORE_US):
            return keys
        try:
            return parse_command_output(_output_of(source))
        except StoreUnavailable:
            if keys is not None and keys.expires_us is not None and now_us < keys.expires_us:
                return keys  # still good for minutes: the next request tries again
            raise


def parse_keys_file(content: bytes, path: Path) -> Keys:
    """The keys in a TOML file. Raises StoreDenied, naming the file and never its content."""
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        # No cause is attached: it may quote the line with the secret.
        raise StoreDenied(f"credentials file {path} is not TOML", hint=_FILE_HINT) from None
    unknown = sorted(table.keys() - {"access_key_id", "secret_access_key", "session_token"})
    if unknown:
        raise StoreDenied(f"credentials file {path} has unknown keys: {', '.join(unknown)}", hint=_FILE_HINT)
    return Keys(
        access_key_id=_text(table, "access_key_id", f"credentials file {path}", _FILE_HINT),
        secret_access_key=_text(table, "secret_access_key", f"credentials file {path}", _FILE_HINT),
        session_token=_text(table, "session_token", f"credentials file {path}", _FILE_HINT)
        if "session_token" in table
        else None,
    )


def parse_command_output(output: bytes) -> Keys:
    """The keys that a credentials command printed (AWS `credential_process`, version 1).

    Raises StoreDenied when the output is something else.
    """
    try:
        table = json.loads(output)
    except ValueError:
        table = None
    if not isinstance(table, dict) or table.get("Version") != 1:
        raise StoreDenied("the credentials command did not print version 1 credentials", hint=_COMMAND_HINT)
    where = "the output of the credentials command"
    expires = table.get("Expiration")
    return Keys(
        access_key_id=_text(table, "AccessKeyId", where, _COMMAND_HINT),
        secret_access_key=_text(table, "SecretAccessKey", where, _COMMAND_HINT),
        session_token=_text(table, "SessionToken", where, _COMMAND_HINT)
        if table.get("SessionToken")
        else None,
        expires_us=None if expires is None else _instant_us(expires),
    )


def _text(table: Mapping[str, object], name: str, where: str, hint: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value or not value.isascii() or any(c.isspace() for c in value):
        raise StoreDenied(f"{where} has no usable {name}", hint=hint)
    return value


def _instant_us(text: object) -> int:
    try:
        instant = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise StoreDenied("the credentials command printed an Expiration that is no time", hint=_COMMAND_HINT)
    return int(instant.astimezone(UTC).timestamp()) * 1_000_000


def _check_private(path: Path, found: os.stat_result) -> None:
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise StoreDenied(
            f"credentials file {path} has mode {stat.S_IMODE(found.st_mode):04o}: others may use it",
            hint=f"Run `chmod 600 {path}`; replace the keys if other people have accounts on this host.",
        )
    if found.st_uid not in (0, os.geteuid()):
        raise StoreDenied(
            f"credentials file {path} belongs to uid {found.st_uid}, who may change it",
            hint="It should belong to root or to the user that walarchiver runs as.",
        )


def _output_of(source: CredentialsCommand) -> bytes:
    try:
        done = subprocess.run(
            source.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=source.timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StoreUnavailable(f"the credentials command did not end in {source.timeout_s:g} s") from None
    except OSError as failure:
        raise StoreDenied(f"the credentials command cannot be run: {failure.strerror}") from None
    if done.returncode != 0:
        raise StoreUnavailable(f"the credentials command ended with status {done.returncode}")
    if len(done.stdout) > _COMMAND_OUTPUT_MAX:
        raise StoreDenied("the credentials command printed too much", hint=_COMMAND_HINT)
    return done.stdout
