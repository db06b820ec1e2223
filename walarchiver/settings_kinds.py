"""Kinds of configuration values: how each is read from TOML and written back.

Rules:
- `read` takes what the TOML parser gave and returns the typed value; ValueError carries a text that
  fits behind the key's name, without the value when it may be a secret.
- `show` is the inverse: TOML text that reads to the same value.
- Kinds check form only. Whether a file exists is found out by the part that opens it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

Value = TypeVar("Value")

_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})(s|m|h|d|w|y)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 366 * 86400}
"""A year has 366 days here, so that what is promised in years is never kept shorter."""
_SIZE = re.compile(r"([1-9][0-9]{0,11})(B|KiB|MiB|GiB)")
_UNIT_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+)):([0-9]{1,5})")
_PASSWORD = re.compile(r"(?:^|[\s?&])(?:ssl)?password\s*=", re.IGNORECASE)
_CREDENTIAL = re.compile(r"credential:([A-Za-z0-9_.-]{1,255})")


@dataclass(frozen=True, slots=True)
class Kind(Generic[Value]):
    """One kind of value: its name for the reference, and both directions."""

    name: str
    read: Callable[[object], Value]
    show: Callable[[Value], str]
    masked: bool = False
    """Parts of the value may be secret: `config show` hides them."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: host (name or IP address) and port."""

    host: str
    port: int


def quote(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _text_of(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"should be text, not {_toml_type(raw)}")
    if not raw.strip():
        raise ValueError("is empty")
    if "\0" in raw:
        raise ValueError("holds a zero byte")
    return raw


def _toml_type(raw: object) -> str:
    match raw:
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a section"
        case _:
            return "a date or time"


def _path(raw: object) -> Path:
    text = _text_of(raw)
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not an absolute path")
    if ".." in Path(text).parts:
        raise ValueError(f"{text!r} steps upwards with '..'")
    return Path(text)


def _secret_file(raw: object) -> Path:
    text = _text_of(raw)
    match = _CREDENTIAL.fullmatch(text)
    if match is None:
        if not text.startswith("/"):
            raise ValueError(
                "should be the absolute path of a file, or credential:NAME; never the secret itself"
            )
        return _path(raw)
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not folder.startswith("/"):
        raise ValueError(f"names the systemd credential {match[1]!r}, but CREDENTIALS_DIRECTORY is not set")
    return Path(folder) / match[1]


def _boolean(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"should be true or false, not {_toml_type(raw)}")
    return raw


def _duration(raw: object) -> timedelta:
    text = _text_of(raw)
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is not a duration such as "90s", "15m", "12h", "35d", "52w" or "7y"')
    try:
        return timedelta(seconds=int(match[1]) * _UNIT_S[match[2]])
    except OverflowError:
        raise ValueError(f"{text!r} is longer than can be counted") from None


def _show_duration(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    unit = next((unit for unit in "ydhm" if seconds and seconds % _UNIT_S[unit] == 0), "s")
    return quote(f"{seconds // _UNIT_S[unit]}{unit}")


def _size(raw: object) -> int:
    text = _text_of(raw)
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is not a size such as "512KiB", "64MiB" or "1GiB"')
    return int(match[1]) * _UNIT_BYTES[match[2]]


def _show_size(value: int) -> str:
    unit = next((unit for unit in ("GiB", "MiB", "KiB") if value % _UNIT_BYTES[unit] == 0), "B")
    return quote(f"{value // _UNIT_BYTES[unit]}{unit}")


def _zone(raw: object) -> str:
    text = _text_of(raw)
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f'{text!r} is not a time zone that this host knows, such as "Europe/Berlin"'
        ) from None
    return text


def _address(raw: object) -> Address:
    text = _text_of(raw)
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ValueError(f'{text!r} is not HOST:PORT, such as "127.0.0.1:9187"')
    return Address(match[1] or match[2], int(match[3]))


def _show_address(value: Address) -> str:
    host = f"[{value.host}]" if ":" in value.host else value.host
    return quote(f"{host}:{value.port}")


def _url(*schemes: str) -> Callable[[object], str]:
    forms = " or ".join(f"{scheme}:///PATH" if scheme == "file" else f"{scheme}://..." for scheme in schemes)

    def read(raw: object) -> str:
        text = _text_of(raw)
        try:
            parts = urlsplit(text)
            user, host = parts.username, parts.netloc
            _ = parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if user is not None or parts.password is not None:
            raise ValueError("carries a user or password; credentials belong into credentials_file")
        if parts.scheme not in schemes or parts.query or parts.fragment:
            raise ValueError(f"{text!r} is not of the form {forms}")
        if parts.scheme == "file" and (host or not parts.path.startswith("/")):
            raise ValueError(f"{text!r} is not of the form file:///PATH")
        if parts.scheme != "file" and not host:
            raise ValueError(f"{text!r} names no host or bucket")
        return text

    return read


def _dsn(raw: object) -> str:
    text = _text_of(raw)
    if text.startswith(("postgresql://", "postgres://")) and ":" in urlsplit(text).netloc.rpartition("@")[0]:
        raise ValueError("carries a password; name a password file with passfile=/path instead")
    if _PASSWORD.search(text):
        raise ValueError("carries a password; name a password file with passfile=/path instead")
    return text


def _texts(raw: object) -> tuple[str, ...]:
    if isinstance(raw, str):
        return (_text_of(raw),)
    if not isinstance(raw, list):
        raise ValueError(f"should be text or a list of texts, not {_toml_type(raw)}")
    texts = tuple(_text_of(item) for item in raw)
    if len(set(texts)) != len(texts):
        raise ValueError("names something twice")
    return texts


def _show_texts(value: tuple[str, ...]) -> str:
    if len(value) == 1:
        return quote(value[0])
    return "[" + ", ".join(quote(text) for text in value) + "]"


def _command(raw: object) -> tuple[str, ...]:
    if not isinstance(raw, list) or not raw or not all(isinstance(word, str) for word in raw):
        raise ValueError('should be a list of words, such as ["/usr/local/bin/fetch-key", "backup"]')
    words = tuple(str(word) for word in raw)
    if not words[0].startswith("/"):
        raise ValueError(f"starts {words[0]!r}, which is not an absolute path")
    return words


def _show_command(value: tuple[str, ...]) -> str:
    return "[" + ", ".join(quote(word) for word in value) + "]"


def choice(*words: str) -> Kind[str]:
    """One of a few words."""

    def read(raw: object) -> str:
        text = _text_of(raw)
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return Kind("one of " + ", ".join(words), read, quote)


def count(low: int, high: int) -> Kind[int]:
    """A whole number between two bounds, both included."""

    def read(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise ValueError(f"should be a whole number, not {_toml_type(raw)}")
        if not low <= raw <= high:
            raise ValueError(f"{raw} is not between {low} and {high}")
        return raw

    return Kind(f"whole number, {low} to {high}", read, str)


def url_of(*schemes: str) -> Kind[str]:
    """A URL with one of these schemes and no credentials in it."""
    return Kind("URL (" + ", ".join(schemes) + ")", _url(*schemes), quote)


def _place(raw: object) -> str:
    text = _text_of(raw)
    return _url("file")(raw) if ":" in text or "/" in text else text


TEXT = Kind("text", _text_of, quote)
PLACE = Kind("file:///PATH, or the name of a [repository] section", _place, quote)
TEXTS = Kind("text, or a list of texts", _texts, _show_texts)
PATH = Kind("absolute path", _path, lambda value: quote(str(value)))
SECRET_FILE = Kind("absolute path, or credential:NAME", _secret_file, lambda value: quote(str(value)))
COMMAND = Kind("list: program and its arguments", _command, _show_command, masked=True)
BOOLEAN = Kind("true or false", _boolean, lambda value: "true" if value else "false")
DURATION = Kind("duration", _duration, _show_duration)
SIZE = Kind("size", _size, _show_size)
ZONE = Kind("time zone", _zone, quote)
ADDRESS = Kind("HOST:PORT", _address, _show_address)
DSN = Kind("libpq connection string without a password", _dsn, quote)
