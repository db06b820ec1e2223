"""Where a sealed body lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Where a sealed body is and what its stored bytes are."""

    key: str
    stored_len: int
    stored_sha256: str
    version_id: str | None = None
    """A hint only: a copied repository has other version ids."""
