"""Joint consistency: do the objects that a database refers to exist in the bucket as of the same moment?

The database's moment is exact; the bucket's is a second wide, on another clock, and an application writes the
two one after the other. So sets are not compared: each reference is looked up by itself.

Rules:
- A reference is a key and, if the database has them, the version id, SHA-256, ETag or size of what it means.
- A version id decides alone, but bytes that were read and are others do not fit. Else the version that was
  current at the moment is asked first, then those within the guard interval: 1 s + the clocks' difference +
  the time that the application may take between the two.
- Whether bytes fit can be told by size and ETag, often not by SHA-256: then `Fit.UNKNOWN`, which counts as
  fitting unless somebody reads the bytes (`--deep`), and is counted apart.
- A version that was removed for ever fits nothing; it is the reason why a reference is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from restore.core.bucketstate import Flag, Want
from walarchiver.bucketports import Doubt
from walarchiver.core.version import NULL_VERSION, SECOND_MS, EntryKind, Row, StoreMs, Trait


@dataclass(frozen=True, slots=True)
class Reference:
    """One object that the database points at; None: the database does not say."""

    key: str
    version_id: str | None = None
    sha256: str | None = None
    """64 lower-case hex digits."""
    etag: str | None = None
    size: int | None = None

    @property
    def by_key_alone(self) -> bool:
        """Nothing but the name is known: any content fits."""
        return self.sha256 is None and self.etag is None and self.size is None


class Fit(StrEnum):
    """Whether a version has the bytes that a reference means."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Standing(StrEnum):
    """How a reference stands at the moment."""

    EXACT = "exact"
    """The database names the version, and it is there."""
    MATCH = "match"
    """What was current at the moment fits."""
    LATE = "late"
    """Nothing was current, but a version that fits came within the guard interval."""
    EARLY_DELETE = "early_delete"
    """The version that fits was deleted within the guard interval before."""
    MISMATCH = "mismatch"
    """Other bytes were current; a version that fits lies within the guard interval."""
    OLDER = "older"
    """Only a version outside of the guard interval fits."""
    UNCERTAIN = "uncertain"
    """What was current cannot be told."""
    LOST = "lost"
    """No version fits."""


SETTLED = frozenset({Standing.EXACT, Standing.MATCH, Standing.LATE, Standing.EARLY_DELETE, Standing.MISMATCH})
"""A restore to the moment can bring these back."""

_FLAGS: Mapping[Standing, Flag] = {
    Standing.LATE: Flag.LATE,
    Standing.EARLY_DELETE: Flag.EARLY_DELETE,
    Standing.MISMATCH: Flag.MISMATCH,
    Standing.OLDER: Flag.OLDER,
}


@dataclass(frozen=True, slots=True)
class Guard:
    """How far from the moment a reference may be resolved; milliseconds."""

    before_ms: int
    after_ms: int

    @classmethod
    def of(cls, *, skew_low_ms: int, skew_high_ms: int, app_lag_ms: int) -> Guard:
        """1 s for the store's whole seconds, the bound on the clocks' difference, the application's lag."""
        skew = max(abs(skew_low_ms), abs(skew_high_ms))
        whole = SECOND_MS + skew + app_lag_ms
        return cls(whole, whole)


@dataclass(frozen=True, slots=True)
class Finding:
    """One reference, and the version it resolves to."""

    reference: Reference
    standing: Standing
    row: Row | None
    """The version to keep or restore; None when nothing fits."""
    proven: bool
    """The bytes are known to be the ones meant, or the database names no digest."""
    reason: str
    doubted: bool = False
    """It was the bytes that settled what was current at the moment; the index alone could not tell."""

    def plain(self, moment: StoreMs) -> bool:
        """What the bucket holds as of the moment is what is meant: nothing is to be told or done."""
        if self.standing not in (Standing.EXACT, Standing.MATCH) or self.row is None:
            return False
        return not self.doubted and self.row.was_current(moment)

    @property
    def want(self) -> Want:
        """The same for a restore."""
        flag = _FLAGS.get(self.standing)
        flags = () if flag is None else (flag,)
        return Want(self.reference.key, self.row, flags)


Fits = Callable[[Reference, Row], Fit]


def fit_by_listing(reference: Reference, row: Row) -> Fit:
    """What a listing alone can tell: size and ETag (S3 API, "Object": the ETag is the body's MD5 only for
    some, so another ETag than the recorded one proves other bytes only when both were made the same way)."""
    entry = row.entry
    if reference.size is not None and reference.size != entry.size:
        return Fit.NO
    if reference.etag is not None:
        if reference.etag.strip('"') == entry.etag:
            return Fit.YES
        if ("-" in reference.etag) == entry.in_parts:
            return Fit.NO
        return Fit.UNKNOWN
    return Fit.UNKNOWN if reference.sha256 is not None else Fit.YES


def resolve(
    reference: Reference,
    history: Sequence[Row],
    moment: StoreMs,
    guard: Guard,
    *,
    fits: Fits = fit_by_listing,
) -> Finding:
    """Where one reference stands. `history`: all that is known of the key, newest first."""
    if reference.version_id is not None:
        return _by_version(reference, history, fits)
    versions = [row for row in history if row.entry.kind is EntryKind.VERSION]
    current = next((row for row in history if row.was_current(moment)), None)
    doubt = _doubt(history, current, moment)
    here = current if current is not None and current.entry.kind is EntryKind.VERSION else None
    search = _Search(reference, [row for row in versions if not row.is_gone], fits)
    if here is not None and not here.is_gone and (fit := fits(reference, here)) is not Fit.NO:
        if doubt is not None and (reference.by_key_alone or fit is Fit.UNKNOWN):
            return _found(
                reference, Standing.UNCERTAIN, here, Fit.UNKNOWN, f"its state is uncertain: {doubt}"
            )
        found = _found(reference, Standing.MATCH, here, fit, "current at the moment")
        return replace(found, doubted=doubt is not None)
    near = search.within(StoreMs(moment - guard.before_ms), StoreMs(moment + guard.after_ms))
    if near is not None:
        return _near(reference, here, near, search.fit, moment)
    far = search.any()
    if far is not None:
        return _found(reference, Standing.OLDER, far, search.fit, _outside(far, moment))
    return Finding(reference, Standing.LOST, None, proven=False, reason=_why_lost(versions, here))


def in_doubt(history: Sequence[Row], moment: StoreMs) -> bool:
    """Whether the index alone cannot tell what was current at the moment."""
    current = next((row for row in history if row.was_current(moment)), None)
    return _doubt(history, current, moment) is not None


def _by_version(reference: Reference, history: Sequence[Row], fits: Fits) -> Finding:
    for row in history:
        if row.entry.version_id == reference.version_id and row.entry.kind is EntryKind.VERSION:
            if row.is_gone:
                why = f"version {reference.version_id} was removed for ever"
                return Finding(reference, Standing.LOST, None, proven=False, reason=why)
            if reference.version_id == NULL_VERSION and fit_by_listing(reference, row) is Fit.NO:
                break
            meant = Reference(reference.key, sha256=reference.sha256)
            if fits(meant, row) is Fit.NO:
                why = f"version {reference.version_id} has other bytes than the database says"
                return Finding(reference, Standing.LOST, None, proven=False, reason=why)
            return _found(reference, Standing.EXACT, row, Fit.YES, "named by its version id")
    why = f"version {reference.version_id} was never seen"
    return Finding(reference, Standing.LOST, None, proven=False, reason=why)


def _found(reference: Reference, standing: Standing, row: Row, fit: Fit, reason: str) -> Finding:
    return Finding(reference, standing, row, proven=fit is Fit.YES, reason=reason)


@dataclass(slots=True)
class _Search:
    reference: Reference
    versions: Sequence[Row]
    """Newest first; none that is gone."""
    fits: Fits
    fit: Fit = Fit.NO

    def within(self, low: StoreMs, high: StoreMs) -> Row | None:
        """The version that fits and was current at some instant of [low, high]; the latest of them."""
        return self._first(lambda row: row.placed.begin <= high and row.placed.until > low)

    def any(self) -> Row | None:
        return self._first(lambda _row: True)

    def _first(self, meets: Callable[[Row], bool]) -> Row | None:
        for row in self.versions:
            if meets(row) and (fit := self.fits(self.reference, row)) is not Fit.NO:
                self.fit = fit
                return row
        return None


def _near(reference: Reference, here: Row | None, near: Row, fit: Fit, moment: StoreMs) -> Finding:
    if here is not None:
        return _found(reference, Standing.MISMATCH, near, fit, "other bytes were current at the moment")
    if near.placed.begin > moment:
        late_s = (near.placed.begin - moment) / SECOND_MS
        return _found(reference, Standing.LATE, near, fit, f"stored {late_s:.3f} s after the moment")
    early_s = (moment - near.placed.until) / SECOND_MS
    return _found(reference, Standing.EARLY_DELETE, near, fit, f"deleted {early_s:.3f} s before the moment")


def _outside(row: Row, moment: StoreMs) -> str:
    if row.placed.begin > moment:
        return f"only a version from {(row.placed.begin - moment) / SECOND_MS:.0f} s after the moment fits"
    return f"only a version that ended {(moment - row.placed.until) / SECOND_MS:.0f} s before the moment fits"


def _why_lost(versions: Sequence[Row], here: Row | None) -> str:
    if here is not None and here.is_gone:
        if here.entry.version_id == NULL_VERSION:
            return "the version of the moment was replaced while versioning was suspended"
        return "the version of the moment was removed for ever"
    if any(row.is_gone for row in versions):
        return "versions that might have fitted were removed for ever"
    if versions:
        return "no version of this key has these bytes"
    return "no version of this key was ever seen"


def _doubt(history: Sequence[Row], current: Row | None, moment: StoreMs) -> Doubt | None:
    """Why the state of the key at the moment is not certain, as far as it matters to a reference."""
    if current is not None and current.placed.traits & Trait.ORDER_CONFLICT:
        return Doubt.ORDER
    for row in history:
        if row.placed.traits & Trait.UNKNOWN_BEGIN and row.placed.begin <= moment < row.first_seen:
            return Doubt.MULTIPART
    return None


# --- the verdict -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tally:
    """What a comparison found."""

    standings: Mapping[Standing, int]
    unproven: int
    """References that stand well as far as can be told without reading bytes."""
    orphans: int | None
    """Objects current at the moment that nothing refers to; None: not counted."""

    @property
    def references(self) -> int:
        return sum(self.standings.values())

    @property
    def consistent(self) -> bool:
        """Every reference can be brought back as the database means it."""
        return all(count == 0 for standing, count in self.standings.items() if standing not in SETTLED)
