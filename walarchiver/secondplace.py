"""The second place: a store of its own in which the checkpoints of a chain are kept.

Rules (docs/format.md, "Checkpoints"):
- Names are written once. One that is taken must say the same of its entry; otherwise two chains go by one
  name, and that is an error.
- What does not verify is reported and passed over: somebody who can write there must not be able to
  hide an older checkpoint behind a made-up newer one, nor one who was removed to accuse the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from walarchiver.chainreader import Keyrings
from walarchiver.core.objectname import checkpoint_key, checkpoints_prefix, parse_checkpoint_key
from walarchiver.errors import KeyTaken, LedgerBroken, ObjectMissing, Untrusted
from walarchiver.format.checkpoint import (
    CHECKPOINT_BYTES_MAX,
    Checkpoint,
    parse_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
)
from walarchiver.format.signed import Signer
from walarchiver.log import get_log
from walarchiver.ports import ObjectStore, StoredVersion

log = get_log("checkpoints")


InForce = Callable[[int], int]
"""The number of the keyring in force at an entry of the chain, or at its end where it has none such."""


def verified(
    raw: bytes, keyrings: Keyrings, *, repo: str, system: str, in_force: InForce, seq: int | None = None
) -> Checkpoint:
    """As `verify_checkpoint`, after reading the keyrings anew when it takes one that is not known."""
    checkpoint = parse_checkpoint(raw)
    known, n = keyrings.known(), in_force(checkpoint.seq)
    if not {checkpoint.keyring, n} <= known.keys():
        known = keyrings.refresh()
    return verify_checkpoint(raw, known, repo=repo, system=system, seq=seq, in_force=n)


class SecondPlace:
    """One chain's checkpoints in one store. Blocking, without state."""

    def __init__(
        self, store: ObjectStore, keyrings: Keyrings, *, repo: str, system: str, in_force: InForce
    ) -> None:
        self.store = store
        self._in_force = in_force
        self._keyrings = keyrings
        self._repo = repo
        self._system = system

    @property
    def url(self) -> str:
        return self.store.url

    def newest(self) -> Checkpoint | None:
        """The checkpoint of the highest entry that verifies; None when there is none.

        Raises StoreUnavailable, StoreDenied.
        """
        names: dict[int, list[StoredVersion]] = {}
        for version in self.store.list_versions(checkpoints_prefix(self._repo, self._system)):
            name = parse_checkpoint_key(version.key)
            if name is not None and not version.is_delete_marker:
                names.setdefault(name.seq, []).append(version)
        for seq in sorted(names, reverse=True):
            for found in self._verified(seq, names[seq]):
                return found
        return None

    def put(self, checkpoint: Checkpoint, signer: Signer) -> None:
        """Keep a checkpoint; that another host was first with the same is as good.

        Raises LedgerBroken when the place says another thing of that entry, StoreUnavailable, StoreDenied.
        """
        key = checkpoint_key(self._repo, self._system, checkpoint.seq)
        try:
            self.store.put_new(key, sign_checkpoint(checkpoint, signer))
        except KeyTaken:
            versions = [v for v in self.store.list_versions(key) if v.key == key and not v.is_delete_marker]
            there = {found.sha256 for found in self._verified(checkpoint.seq, versions)}
            if there != {checkpoint.sha256}:
                raise LedgerBroken(
                    f"{self.url} has {' and '.join(sorted(there)) or 'something else'} at {key}, "
                    f"the ledger has {checkpoint.sha256}",
                    hint="Was the ledger cut off, or is this the checkpoint of another one? Run "
                    "`walarchiver ledger verify`.",
                ) from None

    def _verified(self, seq: int, versions: list[StoredVersion]) -> Iterator[Checkpoint]:
        for version in reversed(versions):
            try:
                raw = self.store.get(
                    version.key, version_id=version.version_id, bytes_max=CHECKPOINT_BYTES_MAX
                )
                if raw is None:
                    raise ObjectMissing(f"{version.key} is listed but cannot be read")
                yield verified(
                    raw,
                    self._keyrings,
                    repo=self._repo,
                    system=self._system,
                    in_force=self._in_force,
                    seq=seq,
                )
            except Untrusted as error:
                log.error("checkpoint not used", place=self.url, key=version.key, reason=error.message)
