"""What doctor found as one file to send to somebody: settings, findings, versions, last log lines.

Rules:
- No secret may be in it. Settings are shown masked; on top of that every secret that the
  configuration's files hold is looked for in every file of the bundle and replaced, and so is what
  looks like a password or token in text that is not ours (PostgreSQL's commands, log lines).
- The file is new, mode 0600; one that is there is never overwritten.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from walarchiver.errors import UsageError, WalarchiverError
from walarchiver.keys.keyfile import parse_key_file
from walarchiver.keys.printable import printable_form
from walarchiver.operate.doctor import Examination
from walarchiver.operate.findings import findings_text
from walarchiver.settings import Settings
from walarchiver.settings_text import effective
from walarchiver.storage.credentials import parse_keys_file

LOG_LINES = 400
_LOG_BYTES = 1 << 20
_SECRET_BYTES_MAX = 1 << 16
_MASK = "***"
_LOOKS_SECRET = re.compile(
    r"""((?:password|passwd|secret|token|access_key|api_key)[a-z0-9_-]*["']?\s*[=:]\s*)("[^"]*"|'[^']*'|\S+)""",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(\w+://[^\s/:@]+:)[^\s/@]+@")


def write_bundle(
    path: Path, settings: Settings, examination: Examination, *, log: Path | None, now_s: int
) -> tuple[str, ...]:
    """Write the bundle; the names of the files in it. `now_s`: seconds since 1970, for the files.

    Raises UsageError when the file is there already or cannot be written.
    """
    secrets = secrets_of(settings)
    files = {name: redacted(text, secrets) for name, text in _files(settings, examination, log)}
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with (
            os.fdopen(os.open(path, flags, 0o600), "wb") as out,
            tarfile.open(fileobj=out, mode="w:gz") as tar,
        ):
            for name, text in files.items():
                content = text.encode("utf-8", "replace")
                member = tarfile.TarInfo(f"walarchiver-doctor/{name}")
                member.size, member.mtime, member.mode = len(content), now_s, 0o600
                tar.addfile(member, io.BytesIO(content))
    except FileExistsError:
        raise UsageError(f"{path} exists already", hint="Name a new file for the bundle.") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="Name another place.") from error
    return tuple(files)


def _files(settings: Settings, examination: Examination, log: Path | None) -> Iterator[tuple[str, str]]:
    yield "findings.txt", findings_text(examination.findings) + "\n"
    findings = [finding.members() for finding in examination.findings]
    yield "findings.json", json.dumps(findings, indent=2) + "\n"
    yield "settings.toml", effective(settings)
    yield "versions.json", json.dumps(versions(examination), indent=2) + "\n"
    if examination.server is not None:
        told = {name: masked(value) for name, value in examination.server.settings.items()}
        yield "postgresql-settings.json", json.dumps(told, indent=2, sort_keys=True) + "\n"
    lines = _log_lines(log)
    if lines is not None:
        yield "log.txt", masked(lines)


def versions(examination: Examination) -> dict[str, str]:
    """What runs here."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    if examination.server is not None:
        found["postgresql"] = examination.server.version
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["walarchiver"] = importlib.metadata.version("walarchiver")
        for requirement in importlib.metadata.requires("walarchiver") or ():
            name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
    return found


# --- keeping secrets out ---------------------------------------------------------------------------


def secrets_of(settings: Settings) -> frozenset[str]:
    """Every secret text in the files that the configuration names, as far as they can be read."""
    found: set[str] = set()
    for section in settings.repositories.values():
        for path in (section.signing_key, section.identity):
            found.update(_key_secrets(path))
        found.update(_store_secrets(section.credentials_file))
        found.update(_raw_secrets(section.master_key_file))
        for command in (section.credentials_command, section.master_key_command):
            found.update(_arguments(command))
    for cluster in settings.clusters.values():
        if cluster.bucket is not None:
            found.update(_store_secrets(cluster.bucket.credentials_file))
            found.update(_arguments(cluster.bucket.credentials_command))
    return frozenset(secret for secret in found if len(secret) >= 4)


def _arguments(command: tuple[str, ...] | None) -> Iterable[str]:
    """Arguments long enough to be a secret; settings show none of them, whatever their length."""
    return (word for word in (command or ())[1:] if len(word) >= 8)


def _content(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        with path.open("rb") as file:
            return file.read(_SECRET_BYTES_MAX)
    except OSError:
        return b""


def _key_secrets(path: Path | None) -> Iterable[str]:
    raw = _content(path)
    if raw:
        with contextlib.suppress(WalarchiverError):
            key = parse_key_file(raw.decode("utf-8", "replace"))
            printed = (line.strip() for line in printable_form(key).splitlines())
            return (key.secret.hex(), key.secret.hex().upper(), *printed)
    return _raw_secrets(path)


def _store_secrets(path: Path | None) -> Iterable[str]:
    raw = _content(path)
    if path is not None and raw:
        with contextlib.suppress(WalarchiverError):
            keys = parse_keys_file(raw, path)
            return tuple(
                one for one in (keys.access_key_id, keys.secret_access_key, keys.session_token) if one
            )
    return _raw_secrets(path)


def _raw_secrets(path: Path | None) -> Iterable[str]:
    """A secret file of unknown form: its lines, its longer words, and its bytes as hex."""
    raw = _content(path)
    text = raw.decode("utf-8", "replace")
    words = (word for word in re.split(r"[\s\"'=:,]+", text) if len(word) >= 12)
    return {*(line.strip() for line in text.splitlines() if len(line.strip()) >= 12), *words, raw.hex()}


def redacted(text: str, secrets: Iterable[str]) -> str:
    """`text` without any of the secrets, the longest first so that no rest stays."""
    forms = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1])}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, _MASK)
    return text


def masked(text: str) -> str:
    """`text` without what looks like a password, a token or a secret."""
    return _URL_PASSWORD.sub(rf"\1{_MASK}@", _LOOKS_SECRET.sub(rf"\1{_MASK}", text))


# --- the log ---------------------------------------------------------------------------------------


def _log_lines(log: Path | None) -> str | None:
    """The last lines of a log file, or of the unit's journal; None when there is neither."""
    if log is not None:
        try:
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - _LOG_BYTES))
                text = file.read(_LOG_BYTES).decode("utf-8", "replace")
        except OSError as error:
            raise UsageError(
                f"cannot read {log}: {error.strerror}", hint="Name the daemon's log file."
            ) from error
        return "\n".join(text.splitlines()[-LOG_LINES:]) + "\n"
    journal = shutil.which("journalctl")
    if journal is None:
        return None
    try:
        done = subprocess.run(
            [journal, "--no-pager", "-q", "-u", "walarchiver", "-n", str(LOG_LINES)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout or None
