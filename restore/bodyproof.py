"""Whether the bytes of a version are the ones that a reference means, by the store's checksum or by reading.

Rules:
- A full-object SHA-256 that the store keeps is believed: the store computed it when the object was written.
- Else the body is read and hashed, once per version as long as it is remembered. What cannot be read now
  (archive tier, customer's key) stays unknown; it is never taken as fitting or not.
- A version that the store has no more fits nothing, whatever a listing said before.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import OrderedDict

from restore.core.references import Fit, Reference, fit_by_listing
from walarchiver.bucketports import EvidenceBucket
from walarchiver.core.version import Row
from walarchiver.errors import VersionUnreadable

_SHA256 = "SHA256:"
REMEMBERED_MAX = 10_000
"""So many digests are remembered: of keys that several rows refer to, and those looked up twice."""


class _GoneError(Exception):
    """The store has the version no more."""


class BodyProof:
    """Tells fits for one bucket. Thread-safe."""

    def __init__(self, bucket: EvidenceBucket) -> None:
        self._bucket = bucket
        self._known: OrderedDict[tuple[str, str], str | None] = OrderedDict()
        self._lock = threading.Lock()
        self.read_bytes = 0
        self.read_objects = 0

    def fits(self, reference: Reference, row: Row) -> Fit:
        """What listing and bytes tell together. Raises StoreUnavailable, StoreDenied, ObjectDamaged."""
        by_listing = fit_by_listing(reference, row)
        if by_listing is Fit.NO or reference.sha256 is None:
            return by_listing
        try:
            digest = self._digest(row.entry.key, row.entry.version_id)
        except _GoneError:
            return Fit.NO
        if digest is None:
            return by_listing
        return Fit.YES if digest == reference.sha256 else Fit.NO

    def _digest(self, key: str, version_id: str) -> str | None:
        with self._lock:
            if (key, version_id) in self._known:
                return self._known[key, version_id]
        digest = self._ask(key, version_id)
        with self._lock:
            self._known[key, version_id] = digest
            if len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)
        return digest

    def _ask(self, key: str, version_id: str) -> str | None:
        detail = self._bucket.detail(key, version_id)
        if detail is None:
            raise _GoneError
        if not detail.readable:
            return None
        if detail.checksum is not None and detail.checksum.startswith(_SHA256):
            return base64.b64decode(detail.checksum.removeprefix(_SHA256)).hex()
        found, length = hashlib.sha256(), 0
        try:
            for piece in self._bucket.read(key, version_id):
                found.update(piece)
                length += len(piece)
        except VersionUnreadable:
            return None
        with self._lock:
            self.read_bytes += length
            self.read_objects += 1
        return found.hexdigest()
