"""The chain: what counts, what is void, and that nothing wedges it."""

from __future__ import annotations

import hashlib

import pytest

from tests.format.world import (
    ADMIN,
    BOOT,
    CLUSTER,
    KEYRING_1,
    NOW_US,
    OTHER_WRITER,
    RECORD_1,
    RECORD_2,
    REPO,
    RING_1,
    RINGS,
    STRANGER,
    SYSTEM,
    WRITER,
    Chain,
    gap,
    horizon,
)
from walarchiver.errors import LedgerBroken, MalformedObject
from walarchiver.format import records as r
from walarchiver.format.chain import Accepted, ChainState, Void, accept, build_entry, void
from walarchiver.format.entry import NO_ENTRY, RECORDS_MAX, Entry, VoidMark, encode_and_sign, parse_entry
from walarchiver.format.signed import SignedKind, Signer


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    assert isinstance(chain.begin(), Accepted)
    return chain


def test_a_chain_grows_entry_by_entry(chain: Chain) -> None:
    for number in range(1, 5):
        judged = chain.put(chain.build(horizon(number), gap()))
        assert isinstance(judged, Accepted)
        assert judged.entry.seq == number
        assert judged.entry.prev == hashlib.sha256(chain.raws[-2]).hexdigest()
        assert judged.entry.records == (horizon(number), gap())
        assert judged.state.prev == hashlib.sha256(chain.raws[-1]).hexdigest()
    assert chain.state.cluster == CLUSTER
    assert (chain.state.next_seq, chain.state.keyring_n, chain.state.head_time) == (5, 1, NOW_US)
    assert parse_entry(chain.raws[0]).prev == NO_ENTRY


def test_the_loser_of_a_race_goes_on_behind_the_winner(chain: Chain) -> None:
    ours = chain.build(horizon(1), boot="1" * 16)
    winner = chain.build(horizon(1), boot="2" * 16)
    assert ours != winner
    assert isinstance(chain.put(winner), Accepted)
    late = accept(chain.state, chain.state.next_seq, ours, RINGS)
    assert isinstance(late, Void)  # the same bytes at the next number do not count
    assert isinstance(chain.put(chain.build(horizon(2), boot="1" * 16)), Accepted)


def superseded(old: str, new: str, name: str = "0" * 24) -> r.SupersedeRecord:
    return r.SupersedeRecord(name, old, new, "the disk of the first host was failing")


def revision(rev: int | None) -> r.EpochRecord:
    return r.EpochRecord("e" * 16, "5" * 64, rev)


VOIDS = {
    "empty": lambda chain: b"",
    "noise": lambda chain: b"\x00\xff" * 500,
    "no signature": lambda chain: chain.build(gap())[:-130] + b"\n",
    "wrong signer": lambda chain: chain.build(gap(), signer=STRANGER),
    "signer of another keyring": lambda chain: chain.build(gap(), signer=OTHER_WRITER),
    "role": lambda chain: chain.build(gap(), signer=ADMIN),
    "superseded by a writer": lambda chain: chain.build(superseded("2" * 64, "4" * 64)),
    "a revision recorded by a writer": lambda chain: chain.build(revision(1)),
    "revision 0 spelled out": lambda chain: chain.build(revision(0), signer=ADMIN),
    "a revision too high": lambda chain: chain.build(revision(10000), signer=ADMIN),
    "no such keyring": lambda chain: chain.build(r.KeyringRecord(3, "a" * 64)),
    "keyring of another hash": lambda chain: chain.build(r.KeyringRecord(1, "a" * 64)),
    "keyring rises without its record": lambda chain: signed(chain, keyring=2, signer=OTHER_WRITER),
    "another chain": lambda chain: signed(chain, system="1"),
    "another repository": lambda chain: signed(chain, repo="f" * 32),
    "another number": lambda chain: signed(chain, seq=7),
    "another predecessor": lambda chain: signed(chain, prev="f" * 64),
    "void without reason": lambda chain: signed(chain, void=(VoidMark(0, "f" * 64),)),
    "another cluster": lambda chain: chain.build(r.ClusterRecord("x", "1", 15, 16 << 20, True)),
    "flipped bit": lambda chain: chain.build(gap("lost")).replace(b'"lost"', b'"lust"'),
    "trailing byte": lambda chain: chain.build(gap()) + b"\n",
    "upper-case signature": lambda chain: upper(chain.build(gap())),
    "space": lambda chain: chain.build(gap()).replace(b'"seq":', b'"seq": '),
    "keyring's signature": lambda chain: KEYRING_1,
    "ill-typed record": lambda chain: raw_signed(chain, [{"kind": "gap", "first": 1}]),
    "record without a kind": lambda chain: raw_signed(chain, [{"first": 1}]),
    "no records": lambda chain: raw_signed(chain, []),
    "too many records": lambda chain: raw_signed(chain, [{"kind": "x"}] * (RECORDS_MAX + 1)),
    "unknown member": lambda chain: raw_signed(chain, [{"kind": "x"}], more=1),
    "empty void": lambda chain: raw_signed(chain, [{"kind": "x"}], void=[]),
    "signed as something else": lambda chain: raw_signed(chain, [{"kind": "x"}], as_kind=SignedKind.EPOCH),
}


def signed(chain: Chain, *, signer: Signer = WRITER, **changed: object) -> bytes:
    members: dict[str, object] = {
        "repo": REPO,
        "system": SYSTEM,
        "seq": chain.state.next_seq,
        "prev": chain.state.prev,
        "time": NOW_US,
        "writer": signer.id,
        "boot": BOOT,
        "keyring": 1,
        "records": (gap(),),
    }
    return encode_and_sign(Entry(**{**members, **changed}), signer)  # type: ignore[arg-type]


def raw_signed(
    chain: Chain, records: object, *, as_kind: SignedKind = SignedKind.ENTRY, **more: object
) -> bytes:
    value: dict[str, object] = {
        "boot": BOOT,
        "keyring": 1,
        "prev": chain.state.prev,
        "records": records,
        "repo": REPO,
        "seq": chain.state.next_seq,
        "system": SYSTEM,
        "time": "2026-11-22T14:32:06.000000Z",
        "writer": WRITER.id,
    }
    return WRITER.sign(as_kind, {**value, **more})  # type: ignore[dict-item]


def upper(raw: bytes) -> bytes:
    return raw[:-129] + raw[-129:].upper()


@pytest.mark.parametrize("what", VOIDS)
def test_an_entry_that_does_not_count_is_void_and_the_next_one_names_it(chain: Chain, what: str) -> None:
    raw = VOIDS[what](chain)
    last = chain.state.prev
    judged = chain.put(raw)
    assert isinstance(judged, Void)
    assert judged.why
    assert judged.state.prev == last
    assert (judged.seq, judged.sha256) == (1, hashlib.sha256(raw).hexdigest())

    following = chain.put(chain.build(horizon()))
    assert isinstance(following, Accepted)
    assert following.entry.void == (VoidMark(1, judged.sha256),)
    assert following.entry.prev == last
    assert following.state.voids == ()


@pytest.mark.parametrize("what", VOIDS)
def test_the_first_place_can_be_squatted_without_harm(what: str) -> None:
    squatted = Chain()
    squatter = Chain()
    squatter.begin()
    judged = squatted.put(VOIDS[what](squatter))
    assert isinstance(judged, Void)
    assert isinstance(squatted.begin(), Accepted)
    assert squatted.state.prev == hashlib.sha256(squatted.raws[1]).hexdigest()


def test_several_void_entries_are_named_together(chain: Chain) -> None:
    for number in range(3):
        assert isinstance(chain.put(b"junk %d" % number), Void)
    judged = chain.put(chain.build(gap()))
    assert isinstance(judged, Accepted)
    assert [mark.seq for mark in judged.entry.void] == [1, 2, 3]


def test_an_entry_that_hides_a_void_one_is_void(chain: Chain) -> None:
    before = chain.state
    chain.put(b"junk")
    raw = build_entry(
        ChainState(REPO, SYSTEM, 2, before.prev, 1), [gap()], time_us=NOW_US, boot=BOOT, signer=WRITER
    )
    assert isinstance(chain.put(raw), Void)


def test_an_object_too_long_to_hold_is_void_by_its_hash_alone(chain: Chain) -> None:
    judged = void(chain.state, 1, "d" * 64, "17 MiB")
    following = accept(
        judged.state,
        2,
        build_entry(judged.state, [gap()], time_us=NOW_US, boot=BOOT, signer=WRITER),
        RINGS,
    )
    assert isinstance(following, Accepted)
    with pytest.raises(LedgerBroken):
        void(chain.state, 5, "d" * 64, "")


@pytest.mark.parametrize("seq", [0, 2, 3])
def test_a_missing_number_breaks_the_chain(chain: Chain, seq: int) -> None:
    with pytest.raises(LedgerBroken):
        accept(chain.state, seq, chain.build(gap()), RINGS)


@pytest.mark.parametrize(
    "records",
    [
        (gap(), CLUSTER, RECORD_1),
        (CLUSTER, gap()),
        (RECORD_1, CLUSTER),
        (CLUSTER, RECORD_1, r.ClusterRecord("x", "1", 15, 16 << 20, True)),
    ],
)
def test_a_chain_begins_with_its_cluster_and_keyring(records: tuple[r.Record, ...]) -> None:
    chain = Chain()
    if any(isinstance(record, r.KeyringRecord) for record in records):
        assert isinstance(chain.put(chain.build(*records)), Void)
    else:
        with pytest.raises(MalformedObject):  # keyring 0 is none
            chain.build(*records)


def test_a_new_keyring_takes_over_and_the_old_one_never_returns(chain: Chain) -> None:
    assert isinstance(chain.put(chain.build(RECORD_2, signer=ADMIN)), Accepted)
    assert chain.state.keyring_n == 2
    assert isinstance(chain.put(chain.build(gap(), signer=OTHER_WRITER)), Accepted)
    revoked = chain.put(chain.build(gap(), signer=WRITER))
    assert isinstance(revoked, Void)
    backdated = chain.put(signed(chain, signer=WRITER, keyring=1, void=chain.state.voids))
    assert isinstance(backdated, Void)
    assert "falls" in backdated.why


def test_the_entry_that_raises_the_keyring_is_judged_under_the_new_one(chain: Chain) -> None:
    assert isinstance(chain.put(chain.build(RECORD_2, signer=WRITER)), Void)  # revoked by 2
    assert isinstance(chain.put(chain.build(RECORD_2, signer=OTHER_WRITER)), Accepted)  # new in 2


def test_repeating_the_keyring_in_force_is_harmless(chain: Chain) -> None:
    assert isinstance(chain.put(chain.build(RECORD_1)), Accepted)


def test_an_unknown_keyring_is_to_be_read_anew_before_judging(chain: Chain) -> None:
    raw = chain.build(RECORD_2, signer=ADMIN)
    judged = accept(chain.state, 1, raw, {1: RING_1})
    assert isinstance(judged, Void)
    assert judged.missing_keyring == 2
    assert isinstance(accept(chain.state, 1, raw, RINGS), Accepted)
