"""One bit changed at rest: every bit of a small object of each kind, and it is never taken for good.

Rules:
- What machines write is refused, whichever bit it is.
- What people keep and type in (key files, printed keys) is read with some tolerance: comments, blanks at a
  line's end, lower case. There a changed bit may be one that does not count, but gives never another key.
- A roll-up is a copy of entries that vouch for themselves: whatever is read of it is what they say.
- The repository mark is not signed. Its repository id and format are found out when the keyring is read;
  its label and its time are not, and nothing reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.format import world as w
from tests.keys.test_keyfile import CUSTODIAN, SIGNING
from walarchiver.core.moment import CommitTime
from walarchiver.errors import ConfigError, Untrusted
from walarchiver.format import records as r
from walarchiver.format.chain import Accepted, ChainState, Void, accept
from walarchiver.format.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint
from walarchiver.format.epoch import (
    EpochKeyObject,
    Stanza,
    epoch_check,
    sign_epoch_object,
    verify_epoch_object,
    wrap_info,
)
from walarchiver.format.header import Expected
from walarchiver.format.keyring import verify_keyrings
from walarchiver.format.mark import RepositoryMark, parse_mark
from walarchiver.format.rollup import encode_rollup, judge_rollup, split_rollup
from walarchiver.format.seal import open_sealed, seal
from walarchiver.keys.keyfile import parse_key_file
from walarchiver.keys.masterkey import MasterKey
from walarchiver.keys.printable import parse_printable, printable_form
from walarchiver.keys.publicform import parse_public_key, public_key_of
from walarchiver.keys.rootkey import parse_root_text, root_text
from walarchiver.keys.xwing import XWingRecipient

BYTES_MAX = 4096
BLOCK = 4


@dataclass(frozen=True)
class Kind:
    """A stored object and who reads it; `reads` raises Untrusted or ConfigError when it refuses."""

    raw: bytes
    reads: Callable[[bytes], object]
    same_is_fine: bool = False
    """A reading that gives just what the unchanged object gives is no failure."""


def sealed(kind: str, name: str, **changed: object) -> Kind:
    plain = f"what a {kind} object holds, ".encode() * 5
    header = w.header(len(plain), kind=kind, name=name, **changed)
    expect = Expected(repo=w.REPO, system=w.SYSTEM, kind=kind, name=name, tli=1, part=0)

    def reads(raw: bytes) -> object:
        return b"".join(open_sealed(lambda _header: w.EPOCH_KEY, [raw], expect))

    return Kind(bytes(seal(w.EPOCH_KEY, header, [plain]).body), reads)


def entry() -> Kind:
    chain = w.Chain()
    chain.begin()
    stored = r.StoredObject(f"v1/c/{w.SYSTEM}/wal/00000001/00000000/{SEGMENT}.{'0' * 16}", 700, "ab" * 32)
    page = r.FirstPage(0xD110, w.SYSTEM, 1, w.Lsn(7 << 24), 16 << 20)
    wal = r.WalRecord(SEGMENT, "cd" * 32, 16 << 20, (stored,), page)
    raw, state = chain.build(w.gap(), w.horizon(), wal), chain.state

    def reads(raw: bytes) -> object:
        judged = accept(state, state.next_seq, raw, w.RINGS)
        if isinstance(judged, Void):
            raise Untrusted(judged.why)
        return judged

    return Kind(raw, reads)


def keyring() -> Kind:
    members = (w.custodian(w.ALICE, "alice"), w.signing(w.Role.WRITER, w.WRITER))
    return Kind(w.keyring_bytes(members=members), lambda raw: verify_keyrings(w.ROOT.public, [raw]))


def key_object() -> Kind:
    to = XWingRecipient.from_public(w.ALICE.public)
    info = wrap_info(w.EPOCH, to.recipient, w.REPO, w.SYSTEM, w.WRITER.id)
    made = EpochKeyObject(
        epoch=w.EPOCH,
        system=w.SYSTEM,
        repo=w.REPO,
        writer=w.WRITER.id,
        from_us=w.NOW_US,
        check=epoch_check(w.EPOCH_KEY),
        stanzas=(Stanza(to.recipient, to.type, to.wrap(w.EPOCH_KEY, info)),),
        by=w.WRITER.id,
    )
    return Kind(
        sign_epoch_object(made, w.WRITER),
        lambda raw: verify_epoch_object(raw, [w.RING_1], system=w.SYSTEM, epoch=w.EPOCH, revision=0),
    )


def checkpoint() -> Kind:
    made = Checkpoint(w.REPO, w.SYSTEM, 41, "ef" * 32, w.NOW_US, 1, w.WRITER.id)
    return Kind(
        sign_checkpoint(made, w.WRITER),
        lambda raw: verify_checkpoint(raw, w.RINGS, repo=w.REPO, system=w.SYSTEM, seq=41),
    )


def rollup() -> Kind:
    chain = w.Chain()
    chain.begin()
    chain.put(chain.build(w.gap()))
    chain.put(b"junk that somebody put there")
    chain.put(chain.build(w.horizon()))

    def judge(state: ChainState, seq: int, raw: bytes) -> Accepted | Void:
        return accept(state, seq, raw, w.RINGS)

    def reads(raw: bytes) -> object:
        entries = list(split_rollup(raw, repo=w.REPO, system=w.SYSTEM, first=0, block=BLOCK))
        return entries, list(judge_rollup(ChainState(w.REPO, w.SYSTEM), entries, judge, first=0))

    whole = encode_rollup(chain.raws, repo=w.REPO, system=w.SYSTEM, first=0, block=BLOCK)
    return Kind(whole, reads, same_is_fine=True)


def text(shown: str, reads: Callable[[str], object]) -> Kind:
    return Kind(shown.encode(), lambda raw: reads(raw.decode("utf-8", "replace")), same_is_fine=True)


SEGMENT = "000000010000000000000007"
KINDS: dict[str, Kind] = {
    "sealed wal": sealed("wal", SEGMENT),
    "sealed history": sealed("history", "00000001.history"),
    "sealed label": sealed("label", f"{SEGMENT}.00000028.backup"),
    "sealed base": sealed("base", "20261122T120000Z-0000000003000028", parts=None),
    "ledger entry": entry(),
    "keyring": keyring(),
    "key object": key_object(),
    "checkpoint": checkpoint(),
    "roll-up": rollup(),
    "custodian's key file": text(CUSTODIAN.encode(), parse_key_file),
    "writer's key file": text(SIGNING.encode(), parse_key_file),
    "printed key": text(printable_form(CUSTODIAN), lambda typed: parse_printable(typed, name="alice")),
    "public key": text(public_key_of(CUSTODIAN).encode(), parse_public_key),
    "root key": Kind(root_text(w.ROOT.public).encode(), lambda raw: parse_root_text(raw.decode("latin-1"))),
}


def flipped(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Every bit, and the object with it changed."""
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_flipped_bit_is_found(kind: Kind, record_property: Callable[[str, object], None]) -> None:
    assert len(kind.raw) <= BYTES_MAX
    genuine = kind.reads(kind.raw)
    passed = []
    for bit, changed in flipped(kind.raw):
        try:
            found = kind.reads(changed)
        except (Untrusted, ConfigError):
            continue
        if not (kind.same_is_fine and found == genuine):
            passed.append(bit)
    assert passed == []
    record_property("bits flipped", len(kind.raw) * 8)


@pytest.mark.parametrize("name", ["custodian's key file", "writer's key file", "public key"])
def test_only_bits_of_a_comment_or_of_the_last_line_end_do_not_count_in_a_key_file(name: str) -> None:
    kind = KINDS[name]
    comment = range((kind.raw.index(b"\n") + 1) * 8)
    last = range((len(kind.raw) - 1) * 8, len(kind.raw) * 8)
    for bit, changed in flipped(kind.raw):
        if bit not in comment and bit not in last:
            with pytest.raises(ConfigError):
                kind.reads(changed)


def test_where_no_keyring_names_the_mark_only_flips_in_its_label_and_time_stay_unnoticed() -> None:
    """Whatever else passes as a mark names another repository than the keyring does. Where one names it,
    as every new one does, all are found (tests/simulation/test_repository.py)."""
    mark = RepositoryMark(w.REPO, "production", CommitTime(w.NOW_US))
    for _, changed in flipped(mark.encode()):
        try:
            found = parse_mark(changed)
        except Untrusted:
            continue
        assert found.repo != w.RING_1.repo or (found.name, found.created) != (mark.name, mark.created)


def test_a_flipped_bit_makes_a_master_key_another_one_that_no_keyring_names() -> None:
    secret = bytes(range(32))
    genuine = MasterKey.from_bytes(secret).recipient
    assert all(MasterKey.from_bytes(changed).recipient != genuine for _, changed in flipped(secret))
