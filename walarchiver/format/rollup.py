"""Roll-ups: the stored bytes of a whole block of ledger entries in one object.

Rules (docs/format.md, section 5):
- One zstd frame over `canonical JSON ‖ LF ‖ the entries one after another`; the line says how long each is,
  because a void entry may be any bytes. Both sides are bounded, and are read piece by piece.
- It is not signed. It counts when every entry is judged in its place and the last one is valid: then a
  signature and the hashes before it vouch for each byte. So nothing of it may be used before the last one is.
- `block` is 4096 in every repository; vectors and tests state another number to stay short.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import zstandard

from walarchiver.core.objectname import ROLL_ENTRIES
from walarchiver.errors import MalformedObject, ObjectMisplaced, Untrusted
from walarchiver.format.canonical import canonical_json, parse_object
from walarchiver.format.chain import Accepted, ChainState, Void
from walarchiver.format.entry import ENTRY_BYTES_MAX
from walarchiver.format.fields import Fields
from walarchiver.format.frame import announced_bytes, frame_views

ROLLUP_BYTES_MAX = 64 << 20
"""The most that a roll-up has, stored and unpacked alike."""
LINE_BYTES_MAX = 64 << 10
_PIECE_BYTES = 1 << 20
_LEVEL = 9

Judge = Callable[[ChainState, int, bytes], Accepted | Void]
"""What `chain.accept` does, with the keyrings at hand."""


def encode_rollup(
    entries: Sequence[bytes], *, repo: str, system: str, first: int, block: int = ROLL_ENTRIES
) -> bytes:
    """The stored bytes of the roll-up of `first` and the entries behind it, as they are stored.

    Raises MalformedObject when the bounds do not hold: such a block has no roll-up.
    """
    if len(entries) != block or first % block:
        raise MalformedObject(f"roll-up of {len(entries)} entries from {first}, not of {block}")
    lengths = [len(entry) for entry in entries]
    line = canonical_json({"first": first, "lengths": lengths, "repo": repo, "system": system}) + b"\n"
    content_bytes = len(line) + sum(lengths)
    if max(lengths) > ENTRY_BYTES_MAX or content_bytes > ROLLUP_BYTES_MAX:
        raise MalformedObject(f"roll-up of {content_bytes} bytes with an entry of {max(lengths)}")
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, window_log=23, write_content_size=True, write_checksum=True
    )
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=content_bytes)
    stored = bytearray(frame.compress(line))
    for entry in entries:
        stored += frame.compress(entry)
    stored += frame.flush()
    if len(stored) > ROLLUP_BYTES_MAX:
        raise MalformedObject(f"roll-up of {len(stored)} stored bytes")
    return bytes(stored)


def split_rollup(
    stored: bytes, *, repo: str, system: str, first: int, block: int = ROLL_ENTRIES
) -> Iterator[bytes]:
    """The entries in a roll-up, one after the other; whole only when the iteration ends.

    None of them is judged yet. Raises ObjectDamaged, MalformedObject, ObjectMisplaced.
    """
    if len(stored) > ROLLUP_BYTES_MAX:
        raise MalformedObject(f"roll-up of {len(stored)} stored bytes")
    content_bytes = announced_bytes(stored)
    if content_bytes > ROLLUP_BYTES_MAX:
        raise MalformedObject(f"roll-up of {content_bytes} bytes")
    pieces = (stored[start : start + _PIECE_BYTES] for start in range(0, len(stored), _PIECE_BYTES))
    content = _Content(frame_views(content_bytes, pieces))
    line = content.line()
    lengths = _lengths(line, repo=repo, system=system, first=first, block=block)
    if len(line) + 1 + sum(lengths) != content_bytes:
        raise MalformedObject(f"roll-up of {content_bytes} bytes, its lengths add up to {sum(lengths)}")
    for length in lengths:
        yield content.take(length)
    content.end()


def judge_rollup(
    state: ChainState,
    entries: Iterable[bytes],
    judge: Judge,
    *,
    first: int,
    known: Callable[[int], str | None] = lambda _seq: None,
) -> Iterator[Accepted | Void]:
    """Judge the entries of a roll-up from `state` on; `known` tells the hashes of those before it.

    Nothing that was given counts when this raises: Untrusted when the last entry is not valid or a
    known one is another, and whatever `entries` raises.
    """
    verdict: Accepted | Void | None = None
    for seq, entry in enumerate(entries, first):
        if seq < state.next_seq:
            if hashlib.sha256(entry).hexdigest() != known(seq):
                raise Untrusted(f"roll-up from entry {first} has another entry {seq} than was read before")
            continue
        verdict = judge(state, seq, entry)
        state = verdict.state
        yield verdict
    if not isinstance(verdict, Accepted):
        raise Untrusted(f"roll-up from entry {first}: nothing vouches for its last entry")


class _Content:
    """The unpacked bytes, taken from the front; no more of them is held than asked for and a block."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._held = bytearray()

    def line(self) -> bytes:
        """The bytes before the first line feed, which goes too."""
        while (end := self._held.find(b"\n", 0, LINE_BYTES_MAX + 1)) < 0:
            if len(self._held) > LINE_BYTES_MAX or not self._fill():
                raise MalformedObject("roll-up without a first line")
        line = self.take(end)
        self.take(1)
        return line

    def take(self, length: int) -> bytes:
        while len(self._held) < length:
            filled = self._fill()
            assert filled, "a frame gives what it announces, which is what the lengths add up to, or raises"
        taken = bytes(memoryview(self._held)[:length])
        del self._held[:length]
        return taken

    def end(self) -> None:
        """Once all that was announced is taken. Raises ObjectDamaged unless the frame ended well."""
        assert not self._held, "a frame gives no more than it announces"
        self._fill()
        assert not self._held, "a frame gives no more than it announces"

    def _fill(self) -> bool:
        piece = next(self._pieces, None)
        self._held += piece or b""
        return piece is not None


def _lengths(line: bytes, *, repo: str, system: str, first: int, block: int) -> list[int]:
    fields = Fields(parse_object(line), "roll-up")
    place = (fields.hex("repo", 16), fields.system(), fields.integer("first"))
    lengths = fields.items("lengths")
    fields.end()
    if place != (repo, system, first):
        raise ObjectMisplaced(f"roll-up is of system {place[1]} from entry {place[2]} on, not of {first}")
    if first % block or len(lengths) != block:
        raise MalformedObject(f"roll-up of {len(lengths)} entries from {first}, not of {block}")
    found = [length for length in lengths if type(length) is int and 0 <= length <= ENTRY_BYTES_MAX]
    if len(found) != block:
        raise MalformedObject("roll-up with a length that no entry has")
    return found
