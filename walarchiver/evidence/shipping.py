"""Ships what a version index knows into the repository, and brings it back.

Rules (docs/format.md, `bucket_index`):
- Only rows of versions that were removed for ever, and ends of uploads, cannot be listed again; but a piece
  holds all rows of a key, so that the last piece that names a key is right alone.
- One index file ships under one generation. A generation is gone on with only by the writer that wrote its
  newest piece, in the ledger that has it; everybody else begins one of his own, with everything he knows.
  So two clusters that share an index each get all of it; whoever finds that another has begun stops.
- A piece counts once its record is in the ledger; only then are its keys marked as shipped. So a crash in
  between ships them twice, which changes nothing.
- Without a changed key the newest complete listing is told once an hour: it is how far the index reaches.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from blake3 import blake3

from walarchiver.backup import commit_one
from walarchiver.bucketports import Observation, VersionIndex
from walarchiver.catalog import Catalog
from walarchiver.core.moment import StoreTime
from walarchiver.core.version import Row, StoreMs
from walarchiver.depositor import Depositor
from walarchiver.errors import LedgerBroken, ObjectDamaged
from walarchiver.evidence.parquetrows import read_rows, write_rows
from walarchiver.format.canonical import canonical_json, parse_canonical
from walarchiver.format.header import PART_BYTES_MAX, Expected
from walarchiver.format.records import BucketIndexRecord, Record
from walarchiver.ledger import Ledger, Proposal
from walarchiver.ports import Random
from walarchiver.repository import Repository

KEYS_MAX = 100_000
"""Keys in one piece: some ten MB of Parquet."""
NEWS_US = 3_600_000_000
GENERATION = "generation"
"""Kind of the observation that holds the index's own generation."""
ROWS, OBSERVATIONS = "rows", "observations"


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched of which bucket."""

    bucket: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Shipped:
    """What one shipment brought into the repository."""

    pieces: int = 0
    keys: int = 0
    stored: int = 0


class Shipper:
    """Ships one index into one cluster's ledger. For one thread."""

    def __init__(
        self,
        index: VersionIndex,
        watched: Watched,
        *,
        depositor: Depositor,
        ledger: Ledger,
        writer: str,
        random: Random,
        folder: Path,
        keys_max: int = KEYS_MAX,
    ) -> None:
        """`writer`: id of this host's signing key. `folder`: for temporary files."""
        self._index = index
        self._watched = watched
        self._depositor = depositor
        self._ledger = ledger
        self._writer = writer
        self._random = random
        self._folder = folder
        self._keys_max = keys_max

    def ship(self, progress: Callable[[Shipped], None] = lambda _shipped: None) -> Shipped:
        """Ship all that is not yet in the repository. Nothing to ship is an ordinary answer.

        Raises StoreUnavailable, StoreDenied, LedgerContended and their kin; then the next call goes on.
        """
        done = Shipped()
        generation = self._generation()
        more = False
        while True:
            change = self._index.changes  # before it is known whose turn it is: see _generation
            self._check_ours(generation)
            keys = self._index.unshipped(keys_max=self._keys_max)
            if not keys:
                break
            more = len(keys) == self._keys_max
            if not more:
                done = self._told(done, self._ship_observations(generation), progress)
            stored, written = self._ship_rows(generation, keys, whole=not more)
            self._index.mark_shipped(keys, changes_before=change)
            done = self._told(done, Shipped(1, written, stored), progress)
            if not more:
                return done
        if more or self._is_old_news(generation):
            done = self._told(done, self._ship_observations(generation, whole=True), progress)
        return done

    def _is_old_news(self, generation: str) -> bool:
        """Whether the repository has all rows, but not how far they reach."""
        pieces = self._ledger.catalog.index_pieces(self._watched.bucket, generation)
        asked = self._asked() * 1000
        return asked > 0 and (not pieces or asked >= pieces[-1].asked + NEWS_US)

    @staticmethod
    def _told(before: Shipped, more: Shipped, progress: Callable[[Shipped], None]) -> Shipped:
        done = Shipped(before.pieces + more.pieces, before.keys + more.keys, before.stored + more.stored)
        progress(done)
        return done

    def _generation(self) -> str:
        """The generation of this index; a new one when this ledger has none of it from this writer."""
        known = self._newest_generation()
        if known is not None:
            writer = self._ledger.catalog.index_writer(self._watched.bucket, known)
            if writer == self._writer:
                return known
        generation = self._random.token(8).hex()
        self._index.observe(Observation(self._asked(), GENERATION, generation))
        if known is not None:  # only now: who counted changes after this sees the new generation
            self._index.unship_all()
        return generation

    def _newest_generation(self) -> str | None:
        known = [seen.value for seen in self._index.observations() if seen.kind == GENERATION]
        return known[-1] if known else None

    def _check_ours(self, generation: str) -> None:
        """Nobody else has begun to ship this index. Raises LedgerBroken."""
        if self._newest_generation() != generation:
            raise LedgerBroken(
                f"another process began to ship the index of {self._watched.bucket} elsewhere",
                hint="Do two clusters watch this bucket? The next scan ships all of it again.",
            )

    def _asked(self) -> StoreMs:
        """The newest moment of which the index tells all: the beginning of its last complete listing."""
        return max(
            (seen.at for seen in self._index.observations() if seen.kind == "scan" and self._covers(seen)),
            default=StoreMs(0),
        )

    def _covers(self, scan: Observation) -> bool:
        """Whether everything watched was listed, not only what has a longer prefix."""
        return self._watched.prefix.startswith(str(json.loads(scan.value).get("prefix", "")))

    def _ship_rows(self, generation: str, keys: Sequence[str], *, whole: bool) -> tuple[int, int]:
        rows = (row for key in keys for row in reversed(self._index.history(key)))
        with tempfile.TemporaryDirectory(prefix="walarchiver-index-", dir=self._folder) as folder:
            file = Path(folder) / "rows.parquet"
            count = write_rows(rows, file)
            content = file.read_bytes()
        return self._put(generation, ROWS, content, count, whole=whole), len(keys)

    def _ship_observations(self, generation: str, *, whole: bool = False) -> Shipped:
        seen = self._index.observations()
        content = b"".join(
            canonical_json({"at": one.at, "kind": one.kind, "value": one.value}) + b"\n" for one in seen
        )
        return Shipped(1, 0, self._put(generation, OBSERVATIONS, content, len(seen), whole=whole))

    def _put(self, generation: str, role: str, content: bytes, rows: int, *, whole: bool) -> int:
        """Seal, store and record one piece; its stored bytes."""
        assert len(content) <= PART_BYTES_MAX, "a piece has to fit one object"
        bucket = self._watched.bucket
        n = len(self._ledger.catalog.index_pieces(bucket, generation))
        deposit = self._depositor.seal_index_piece(
            bucket=bucket, generation=generation, n=n, raw=len(content), plain=(content,)
        )
        record = BucketIndexRecord(
            bucket=bucket,
            prefix=self._watched.prefix,
            generation=generation,
            n=n,
            role=role,
            rows=rows,
            whole=whole,
            asked=StoreTime(self._asked() * 1000),
            digest=blake3(content).hexdigest(),
            len=len(content),
            object=self._depositor.put(deposit),
        )

        def decide(catalog: Catalog) -> tuple[Record, ...]:
            if len(catalog.index_pieces(bucket, generation)) != n:
                raise LedgerBroken(
                    f"somebody else writes to generation {generation} of the index of {bucket}",
                    hint="Do two hosts watch this bucket with one signing key? Give each its own.",
                )
            return (*self._depositor.epoch_records(catalog, [deposit.epoch]), record)

        commit_one(self._ledger, Proposal(f"bucket index {bucket}/{generation}/{n}", decide))
        return record.object.stored_len


# --- bringing it back ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """The index of a bucket as the repository has it."""

    generation: str
    pieces: tuple[BucketIndexRecord, ...]
    """From number 0 to the last one with `whole`."""

    @property
    def asked(self) -> StoreTime:
        return self.pieces[-1].asked


def kept_index(catalog: Catalog, watched: Watched) -> Kept | None:
    """The newest generation that tells all; None when there is none."""
    for generation in reversed(catalog.index_generations(watched.bucket)):
        pieces = catalog.index_pieces(watched.bucket, generation)
        numbered = [
            piece for n, piece in enumerate(pieces) if piece.n == n and piece.prefix == watched.prefix
        ]
        whole = [n for n, piece in enumerate(numbered) if piece.whole]
        if whole:
            return Kept(generation, tuple(numbered[: whole[-1] + 1]))
    return None


def load_index(
    repository: Repository,
    system: str,
    kept: Kept,
    index: VersionIndex,
    *,
    folder: Path,
    progress: Callable[[int, int], None] = lambda _piece, _pieces: None,
) -> int:
    """Bring a kept index into an empty one; the number of rows. Needs a key that opens the archive.

    Raises KeyCannotOpen, ObjectMissing, ObjectDamaged, MalformedObject.
    """
    total = 0
    last = max((n for n, piece in enumerate(kept.pieces) if piece.role == OBSERVATIONS), default=None)
    for n, piece in enumerate(kept.pieces):
        progress(n, len(kept.pieces))
        if piece.role not in (ROWS, OBSERVATIONS) or (piece.role == OBSERVATIONS and n != last):
            continue
        content = _opened(repository, system, piece)
        if piece.role == OBSERVATIONS:
            for seen in _observations(content):
                index.observe(seen)
            continue
        with tempfile.TemporaryDirectory(prefix="walarchiver-index-", dir=folder) as place:
            file = Path(place) / "rows.parquet"
            file.write_bytes(content)
            keys = groupby(read_rows(file), key=lambda row: row.entry.key)
            total += index.load_many((key, _newest_first(rows)) for key, rows in keys)
    return total


def _newest_first(rows: Iterator[Row]) -> tuple[Row, ...]:
    return tuple(reversed(list(rows)))


def _opened(repository: Repository, system: str, piece: BucketIndexRecord) -> bytes:
    expect = Expected(
        kind="bindex",
        repo=repository.repo,
        system=system,
        name=f"{piece.bucket}/{piece.generation}",
        part=piece.n,
        raw=piece.len,
    )
    content = b"".join(repository.plain(piece.object, expect))
    if blake3(content).hexdigest() != piece.digest:
        raise ObjectDamaged(f"{piece.object.key} has another digest than the ledger recorded")
    return content


def _observations(content: bytes) -> Iterator[Observation]:
    for line in content.splitlines():
        match parse_canonical(line):
            case {"at": int(at), "kind": str(kind), "value": str(value)}:
                yield Observation(StoreMs(at), kind, value)
            case _:
                raise ObjectDamaged("an observation of the bucket cannot be understood")
