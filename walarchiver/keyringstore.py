"""The keyrings and the mark of a repository as the store has them: read, and trusted from the root down.

Rules (docs/format.md, "Keyring"):
- Every version of a name is looked at: what verifies counts, whatever stands above it.
- Two different chains, or marks, that verify are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from walarchiver.core.objectname import KEYRING_PREFIX, keyring_key, repo_key
from walarchiver.errors import KeyringBroken, ObjectDamaged, Untrusted
from walarchiver.format.keyring import KEYRING_BYTES_MAX, Keyring, parse_keyring, verify_keyrings
from walarchiver.format.mark import MARK_BYTES_MAX
from walarchiver.ports import ObjectStore


def vouched_mark(store: ObjectStore, latest: bytes, keyrings: Mapping[int, Keyring]) -> bytes:
    """The bytes of `v1/REPO` that the keyrings name, in any of its versions; the latest, when none is named.

    Raises ObjectDamaged.
    """
    named = {ring.mark for ring in keyrings.values() if ring.mark is not None}
    if not named:
        return latest
    for body in (latest, *_bodies(store, repo_key(), MARK_BYTES_MAX)):
        if named == {hashlib.sha256(body).hexdigest()}:
            return body
    raise ObjectDamaged(f"{repo_key()} in {store.url} is not the mark that the keyrings name")


def check_home(store: ObjectStore, keyrings: Mapping[int, Keyring], repo: str, mark: str) -> None:
    """Raises KeyringBroken unless every keyring is of this repository and names no other mark."""
    if any(ring.repo != repo or ring.mark not in (None, mark) for ring in keyrings.values()):
        raise KeyringBroken(f"the keyring in {store.url} belongs to another repository")


def read_keyrings(store: ObjectStore, *, root: bytes) -> dict[int, Keyring]:
    """Every keyring, verified from the pinned root. Raises KeyringBroken."""
    chains: list[list[bytes]] = [[]]
    while bodies := _bodies(store, keyring_key(len(chains[0]) + 1)):
        number = len(chains[0]) + 1
        chains = [[*chain, body] for chain in chains for body in bodies if _follows(chain, body)]
        if not chains:
            raise KeyringBroken(f"nothing at {keyring_key(number)} follows keyring {number - 1}")
    if chains == [[]]:
        raise KeyringBroken(f"{store.url} has no keyring below {KEYRING_PREFIX}")
    good, problem = [], None
    for chain in chains:
        try:
            good.append(verify_keyrings(root, chain))
        except Untrusted as error:
            problem = error
    if len(good) > 1:
        raise KeyringBroken(f"{store.url} has {len(good)} different keyring chains that verify")
    if problem is not None and not good:
        raise problem
    (keyrings,) = good
    return keyrings


def _bodies(store: ObjectStore, key: str, bytes_max: int = KEYRING_BYTES_MAX) -> list[bytes]:
    """The distinct contents of a name's versions; b"" for one that is too long."""
    found: set[bytes] = set()
    for version in store.list_versions(key):
        if version.key == key and not version.is_delete_marker:
            long = version.size > bytes_max
            body = b"" if long else store.get(key, version_id=version.version_id, bytes_max=bytes_max)
            if body is not None:
                found.add(body)
    return sorted(found)


def _follows(chain: Sequence[bytes], body: bytes) -> bool:
    """Whether `body` is a keyring that names the last one of `chain` as the one before."""
    try:
        keyring = parse_keyring(body)
    except Untrusted:
        return False
    before = parse_keyring(chain[-1]).sha256 if chain else None
    return (keyring.n, keyring.prev) == (len(chain) + 1, before)
