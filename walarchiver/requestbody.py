"""What a request's JSON object may hold: named members of text, checked before anything acts on them."""

from __future__ import annotations

from walarchiver.errors import UsageError

_PATH_BYTES_MAX = 4096
"""PATH_MAX of Linux."""


def members_of(
    members: dict[object, object], *, required: tuple[str, ...], optional: tuple[str, ...]
) -> dict[str, str | None]:
    """The members of a request's object, those left out as None. Raises UsageError."""
    found: dict[str, str | None] = dict.fromkeys((*required, *optional))
    for name, value in members.items():
        if name not in found:
            raise UsageError(f"unknown member {str(name)[:100]!r} in the request")
        if not isinstance(value, str) and not (value is None and name in optional):
            raise UsageError(f"member {name!r} of the request is not text")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UsageError(f"member {name!r} of the request is not Unicode text") from None
            found[str(name)] = value
    for name in required:
        if not found[name]:
            raise UsageError(f"member {name!r} is missing in the request")
    return found


def path_of(text: str | None) -> str:
    """An absolute path as a request may name one. Raises UsageError."""
    if text is None or not text.startswith("/") or "\0" in text or len(text.encode()) > _PATH_BYTES_MAX:
        raise UsageError("path is not an absolute path")
    return text
