"""The journal of one bucket restore: what was done, line by line of its plan; only ever appended to.

Rules:
- A file of canonical JSON lines beside the plan. It belongs to one plan (by its hash), and one process at a
  time may append to it (Locked).
- What removes a delete marker is written here *before*, with the marker's id and time, and is durable here
  and in the sink before the store is asked: it is all that remembers the marker if the index is lost, too.
- The lines of one piece (between two `piece` lines) go to the sink as they are, numbered from 0; a piece
  whose arrival was not noted is sent again, the same bytes under the same number.
- A sink that fails stops nothing but the removal of markers: its pieces wait in the file, nothing more is
  sent, and `send_rest` tries once more at the end. So does whoever opens the journal again.
- A line that a crash cut off is dropped: what it told of is found out again from the bucket.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from restore.core.bucketactions import Kind, Marker
from restore.core.bucketlines import marker_of
from walarchiver.errors import Locked, MalformedObject, WalarchiverError
from walarchiver.format.canonical import JsonValue, canonical_json, parse_canonical
from walarchiver.format.fields import Fields

PIECE_BYTES_MAX = 16 * 1024**2
_INTENT_LINE = re.compile(rb'^\{"intent":', re.MULTILINE)


class JournalSink(Protocol):
    """Where a journal is kept besides this host: the repository."""

    def put(self, journal: str, number: int, lines: bytes) -> None:
        """Make a piece durable; called again with the same bytes after a crash. Raises Store…"""
        ...


class NoSink:
    """The journal stays on this host."""

    def put(self, journal: str, number: int, lines: bytes) -> None:
        """Nothing."""


class Outcome(StrEnum):
    """What became of one action."""

    DONE = "done"
    UNCHANGED = "unchanged"
    """The key held what it should already."""
    THAW_REQUESTED = "thaw_requested"
    LEFT = "left"
    """It cannot be done now: lost, ambiguous, archived, or no key at hand. See `why`."""
    CONTENDED = "contended"
    """Somebody wrote to the key again and again; given up."""
    FAILED = "failed"


FINAL = frozenset({Outcome.DONE, Outcome.UNCHANGED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one line of the plan."""

    line: int
    to: str
    kind: Kind
    outcome: Outcome
    why: str = ""
    version_id: str = ""
    """What is current since: the new version or marker, or the version that was uncovered."""
    etag: str = ""
    source: str = ""
    """The version whose content it has."""
    source_etag: str = ""
    replaced: str = ""
    """The version or marker that was current before; it is still there, below."""
    replanned: bool = False
    """Somebody had written to the key since the plan was made; that version is still there, below."""
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """Delete markers of a key that are about to be removed."""

    line: int
    to: str
    markers: tuple[Marker, ...]


class Journal:
    """Appends to one journal. Thread-safe."""

    def __init__(self, path: Path, *, name: str, plan_sha256: str, actions: int, sink: JournalSink) -> None:
        """Open or begin the journal of a plan. Raises Locked, MalformedObject, OSError."""
        self._name, self._sink = name, sink
        self._lock = threading.Lock()
        self._piece: list[bytes] = []
        self._piece_bytes = 0
        self._number = 0
        self._waiting: set[int] = set()
        """Pieces that the sink has not got although it was to."""
        self.sink_failure: WalarchiverError | None = None
        """Why the sink has not got everything."""
        self._final = bytearray(actions)
        self._intended: dict[int, set[str]] = {}
        self.resumed = path.exists() and path.stat().st_size > 0
        """Whether an earlier process worked on this plan."""
        self._path = path
        self._file = open(path, "ab")  # noqa: SIM115  closed by close()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Locked(f"another process carries out the plan of {path}") from None
        try:
            self._take_up(plan_sha256)
        except BaseException:
            self._file.close()
            raise

    # --- reading

    def is_final(self, line: int) -> bool:
        """Whether this line of the plan needs nothing more."""
        return bool(self._final[line])

    def results(self) -> Iterator[Result]:
        """What this plan's restores did, oldest first; the last result of a line counts."""
        self.flush()
        for fields in _lines(self._path):
            if fields.has("result"):
                yield _result(Fields(fields.take("result"), "journal result"))

    # --- writing

    def note(self, result: Result) -> None:
        """Append what became of a line; durable at the next flush."""
        with self._lock:
            if result.outcome in FINAL:
                self._final[result.line] = 1
                self._intended.pop(result.line, None)
            self._append({"result": _result_members(result)})

    def intend(self, intents: Iterable[Intent]) -> None:
        """Append what is about to be removed, and return when that is durable everywhere."""
        with self._lock:
            fresh = False
            for intent in intents:
                known = self._intended.setdefault(intent.line, set())
                markers = [marker for marker in intent.markers if marker.version_id not in known]
                if not markers:
                    continue
                fresh = True
                known.update(marker.version_id for marker in markers)
                self._append({"intent": _intent_members(intent, markers)})
            if fresh:
                self._flush()

    def flush(self) -> None:
        """Make everything durable here, and in the sink unless that fails. Raises OSError."""
        with self._lock:
            self._flush()

    def send_rest(self) -> None:
        """Send what the sink has not got; call it at the end. Raises what the sink raises."""
        with self._lock:
            self._flush()
            for number, piece in _pieces(self._path) if self._waiting else ():
                if number in self._waiting:
                    self._send_now(number, piece)
            self.sink_failure = None

    def close(self) -> None:
        self._file.close()

    # --- inside

    def _take_up(self, plan_sha256: str) -> None:
        whole = _whole_bytes(self._path)
        if whole != self._path.stat().st_size:
            os.truncate(self._path, whole)
        if not whole:
            self._write(canonical_json({"journal": {"name": self._name, "plan": plan_sha256}}) + b"\n")
            os.fsync(self._file.fileno())
            return
        unsent: dict[int, bytes] = {}
        lines = _lines(self._path)
        first = next(lines)
        begun = Fields(first.take("journal"), "journal")
        if begun.text("plan") != plan_sha256:
            raise MalformedObject(f"{self._path} is the journal of another plan")
        for fields in lines:
            self._replay(fields, unsent)
        for number, piece in sorted(unsent.items()):
            self._send(number, piece)
        self._flush()

    def _replay(self, fields: Fields, unsent: dict[int, bytes]) -> None:
        if fields.has("piece"):
            unsent[self._number] = b"".join(self._piece)
            self._begin_piece(fields.integer("piece") + 1)
        elif fields.has("sent"):
            unsent.pop(fields.integer("sent"), None)
        elif fields.has("result"):
            result = _result(Fields(fields.take("result"), "journal result"))
            if result.outcome in FINAL and result.line < len(self._final):
                self._final[result.line] = 1
                self._intended.pop(result.line, None)
            self._gather({"result": _result_members(result)})
        else:
            intent = _intent(Fields(fields.take("intent"), "journal intent"))
            self._intended.setdefault(intent.line, set()).update(one.version_id for one in intent.markers)
            self._gather({"intent": _intent_members(intent, intent.markers)})

    def _append(self, members: Mapping[str, JsonValue]) -> None:
        line = self._gather(members)
        self._write(line)
        if self._piece_bytes >= PIECE_BYTES_MAX:
            self._flush()

    def _gather(self, members: Mapping[str, JsonValue]) -> bytes:
        line = canonical_json(members) + b"\n"
        self._piece.append(line)
        self._piece_bytes += len(line)
        return line

    def _flush(self) -> None:
        if not self._piece:
            return
        number, piece = self._number, b"".join(self._piece)
        self._write(canonical_json({"piece": number}) + b"\n")
        os.fsync(self._file.fileno())
        self._begin_piece(number + 1)
        self._send(number, piece)

    def _begin_piece(self, number: int) -> None:
        self._number = number
        self._piece, self._piece_bytes = [], 0

    def _send(self, number: int, piece: bytes) -> None:
        self._waiting.add(number)
        needed = _INTENT_LINE.search(piece) is not None
        if self.sink_failure is not None and not needed:
            return
        try:
            self._send_now(number, piece)
        except WalarchiverError as failure:
            self.sink_failure = failure
            if needed:
                raise

    def _send_now(self, number: int, piece: bytes) -> None:
        self._sink.put(self._name, number, piece)
        self._write(canonical_json({"sent": number}) + b"\n")
        self._waiting.discard(number)

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()


def results_in(path: Path) -> Iterator[Result]:
    """The results in a journal that nobody appends to. Raises MalformedObject."""
    for fields in _lines(path):
        if fields.has("result"):
            yield _result(Fields(fields.take("result"), "journal result"))


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """The pieces of a journal as they were, or were to be, sent."""
    piece: list[bytes] = []
    with open(path, "rb") as file:
        for line in file:
            fields = Fields(parse_canonical(line[:-1]), "journal")
            if fields.has("piece"):
                yield fields.integer("piece"), b"".join(piece)
                piece = []
            elif fields.has("result") or fields.has("intent"):
                piece.append(line)


def _whole_bytes(path: Path) -> int:
    """How long the file is without a line that was cut off."""
    length = 0
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                length += len(line)
    return length


def _lines(path: Path) -> Iterator[Fields]:
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield Fields(parse_canonical(line[:-1]), "journal")


# --- the lines -------------------------------------------------------------------------------------------

_KINDS = frozenset(kind.value for kind in Kind)
_OUTCOMES = frozenset(outcome.value for outcome in Outcome)


def _result_members(result: Result) -> dict[str, JsonValue]:
    return {
        "etag": result.etag,
        "kind": result.kind.value,
        "line": result.line,
        "outcome": result.outcome.value,
        "replaced": result.replaced,
        "replanned": result.replanned,
        "size": result.size,
        "source": result.source,
        "source_etag": result.source_etag,
        "to": result.to,
        "version": result.version_id,
        "why": result.why,
    }


def _result(fields: Fields) -> Result:
    result = Result(
        line=fields.integer("line"),
        to=fields.text("to"),
        kind=Kind(fields.one_of("kind", _KINDS)),
        outcome=Outcome(fields.one_of("outcome", _OUTCOMES)),
        why=fields.text("why"),
        version_id=fields.text("version"),
        etag=fields.text("etag"),
        source=fields.text("source"),
        source_etag=fields.text("source_etag"),
        replaced=fields.text("replaced"),
        replanned=fields.take("replanned") is True,
        size=fields.integer("size"),
    )
    fields.end()
    return result


def _intent_members(intent: Intent, markers: Iterable[Marker]) -> dict[str, JsonValue]:
    removed: list[JsonValue] = [[marker.version_id, marker.modified] for marker in markers]
    return {"line": intent.line, "remove_markers": removed, "to": intent.to}


def _intent(fields: Fields) -> Intent:
    intent = Intent(
        line=fields.integer("line"),
        to=fields.text("to"),
        markers=tuple(map(marker_of, fields.items("remove_markers"))),
    )
    fields.end()
    return intent
