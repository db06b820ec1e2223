"""Which object names the stores accept, so that every store accepts the same ones.

Rules:
- A key is one or more parts joined by '/'. A part is 1 to 255 ASCII letters, digits or any of
  `_ . + = @ , ~ -`, and begins with a letter, a digit or `_`. So there is no '.', no '..', no
  empty part, no hidden file and nothing that needs quoting, in a folder as in a URL.
- A listing prefix is the beginning of a key, and may end anywhere inside it.
- Listings still show foreign names as they are; only what we write and ask for is held to this.
"""

from __future__ import annotations

import re

from walarchiver.errors import UsageError

KEY_BYTES_MAX = 1024
"""Limit of S3 for a whole key, the store's own prefix included."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@,~-]{0,254}")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+=@,~/-]*)?")

_HINT = "Object names are made of letters, digits and `_ . + = @ , ~ -`, joined by '/'."


def checked_key(key: str) -> str:
    """`key` itself. Raises UsageError when it cannot be the name of an object here."""
    if len(key) > KEY_BYTES_MAX or not all(_PART.fullmatch(part) for part in key.split("/")):
        raise UsageError(f"{key[:100]!r} is not an object name", hint=_HINT)
    return key


def checked_prefix(prefix: str) -> str:
    """`prefix` itself. Raises UsageError when no object name could begin like this."""
    parts = prefix.split("/")
    hidden = any(part.startswith(".") for part in parts) or "" in parts[:-1]
    if len(prefix) > KEY_BYTES_MAX or hidden or not _PREFIX.fullmatch(prefix):
        raise UsageError(f"{prefix[:100]!r} is not the beginning of an object name", hint=_HINT)
    return prefix
