"""The roll-ups of one cluster's ledger in a store, as they are: nothing here decides what to believe.

Rules (docs/format.md, "Roll-ups"):
- Every version of a name counts; names that are not aligned are no roll-ups.
- What is unpacked is given piece by piece, and is whole only when the iteration ends.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from walarchiver.core.objectname import parse_roll_key, roll_key, roll_prefix
from walarchiver.errors import ObjectMissing, Untrusted
from walarchiver.format.rollup import ROLLUP_BYTES_MAX, split_rollup
from walarchiver.ports import ObjectStore, StoredVersion


@dataclass(frozen=True, slots=True)
class RollupStore:
    """Reads one cluster's roll-ups. Blocking, without state."""

    store: ObjectStore
    repo: str
    system: str
    block: int
    """Entries in a roll-up."""

    def first_of(self, seq: int) -> int:
        """The first number of the block that has `seq`."""
        return seq - seq % self.block

    def key(self, first: int) -> str:
        return roll_key(self.system, first, self.block)

    def listed(self, seq: int = 0) -> dict[int, list[StoredVersion]]:
        """What stands at the names of roll-ups that end with `seq` or behind it, by first number."""
        first = self.first_of(seq)
        after = self.key(first - self.block) if first else ""
        found: dict[int, list[StoredVersion]] = {}
        for version in self.store.list_versions(roll_prefix(self.system), start_after=after):
            name = parse_roll_key(version.key, self.block)
            if name is not None and not version.is_delete_marker:
                found.setdefault(name.first, []).append(version)
        return found

    def at(self, first: int) -> list[StoredVersion]:
        """What stands at the name of one block's roll-up."""
        key = self.key(first)
        found = self.store.list_versions(key)
        return [version for version in found if version.key == key and not version.is_delete_marker]

    def unpacked(self, first: int, version: StoredVersion) -> Iterator[bytes]:
        """The entries in it, not judged. Raises Untrusted, Store…"""
        stored = self.store.get(version.key, version_id=version.version_id, bytes_max=ROLLUP_BYTES_MAX)
        if stored is None:
            raise ObjectMissing(f"{version.key} is listed but cannot be read")
        return split_rollup(stored, repo=self.repo, system=self.system, first=first, block=self.block)

    def ends_with(self, first: int, sha256: str | None) -> bool:
        """Whether a roll-up of this block ends with the entry that has this hash."""
        for version in self.at(first):
            with contextlib.suppress(Untrusted):
                *_, last = self.unpacked(first, version)
                if hashlib.sha256(last).hexdigest() == sha256:
                    return True
        return False
