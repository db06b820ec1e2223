"""The repository mark `v1/REPO`: that there is a repository, and of which format.

Rules (docs/format.md, section 2): canonical JSON and a line feed; nothing is trusted because of
it; another format than 1 is refused. A keyring that names its hash vouches for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import MalformedObject
from walarchiver.format.canonical import JsonValue, canonical_json, parse_canonical
from walarchiver.format.fields import Fields

MARK_BYTES_MAX = 65536
FORMAT = 1


@dataclass(frozen=True, slots=True)
class RepositoryMark:
    """`created` is microseconds since 1970 on the clock of whoever ran `keys init`."""

    repo: str
    name: str
    created: int

    def encode(self) -> bytes:
        value: dict[str, JsonValue] = {
            "created": format_rfc3339(self.created),
            "format": FORMAT,
            "name": self.name,
            "repo": self.repo,
        }
        return canonical_json(value) + b"\n"


def parse_mark(raw: bytes) -> RepositoryMark:
    """What `v1/REPO` says. Raises MalformedObject."""
    if not raw.endswith(b"\n"):
        raise MalformedObject("repository mark: not a line")
    fields = Fields(parse_canonical(raw[:-1]), "repository mark")
    number = fields.integer("format")
    if number != FORMAT:
        raise MalformedObject(f"repository of format {number}, this release reads format {FORMAT}")
    mark = RepositoryMark(fields.hex("repo", 16), fields.text("name"), fields.time_us("created"))
    fields.end()
    return mark
