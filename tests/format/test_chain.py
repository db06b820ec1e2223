"""The chain: what counts, what is void, and that nothing wedges it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.format.world import (
    ADMIN,
    BOOT,
    CLUSTER,
    DRILLER,
    KEYRING_1,
    MEMBERS,
    NOW_US,
    OTHER_WRITER,
    PRUNER,
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
    keyring_bytes,
    signing,
)
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime, StoreTime
from walarchiver.errors import LedgerBroken, MalformedObject
from walarchiver.format import records as r
from walarchiver.format import scans
from walarchiver.format.canonical import canonical_json
from walarchiver.format.chain import Accepted, ChainState, Void, accept, build_entry, void
from walarchiver.format.entry import NO_ENTRY, RECORDS_MAX, Entry, VoidMark, encode_and_sign, parse_entry
from walarchiver.format.keyring import Role, parse_keyring
from walarchiver.format.signed import SignedKind, Signer


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    assert isinstance(chain.begin(), Accepted)
    return chain


def unknown(kind: str) -> r.UnknownRecord:
    return r.UnknownRecord(kind, canonical_json({"kind": kind}))


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


SIGNERS = {Role.WRITER: WRITER, Role.ADMIN: ADMIN, Role.PRUNER: PRUNER, Role.DRILLER: DRILLER}
TABLE = {
    "wal history label part backup horizon tie gap pin bucket_index cluster": {Role.WRITER},
    "scan": {Role.WRITER, Role.DRILLER},
    "epoch keyring": {Role.WRITER, Role.ADMIN},
    "checkpoint": {Role.WRITER, Role.PRUNER},
    "drill": {Role.DRILLER},
    "prune": {Role.PRUNER},
    "bucket_journal": {Role.WRITER, Role.ADMIN},
    "supersede hold": {Role.ADMIN},
    "invented_in_2031": set(SIGNERS),
}
STORED = (r.StoredObject("k", 1, "1" * 64),)
PAGE = r.FirstPage(0xD110, SYSTEM, 1, r.Lsn(0), 16 << 20)
LIMITS = r.LimitFacts(100, 8, 10, 0, 64)
FACTS = r.BackupFacts(
    "15.18", 150018, "x86_64", 8192, 8192, 16 << 20, True, "UTF8", (), (), LIMITS, packages=""
)
_EVENT = scans.EventFact("commit", Lsn(0x3000100), Lsn(0x3000128), 739, CommitTime(NOW_US))
SCAN = scans.ScanRecord(
    name="0" * 24,
    digest="2" * 64,
    ending="whole",
    problem="",
    end=Lsn(0x4000000),
    records=5,
    commits=1,
    aborts=0,
    prepares=1,
    backward_us=0,
    switched=True,
    restore_points=(scans.RestorePoint(Lsn(0x3000128), Lsn(0x3000190), "mark", CommitTime(NOW_US)),),
    checkpoints=(scans.Checkpoint(Lsn(0x3000190), Lsn(0x3000100), 1, 1, CommitTime(NOW_US), shutdown=False),),
    limits=(scans.ParameterChange(Lsn(0x3000210), 100, 8, 10, 0, 64, 1),),
    prepared=(
        scans.EventFact("prepare", Lsn(0x3000250), Lsn(0x3000300), 740, CommitTime(NOW_US), "gid one"),
    ),
    overwritten=(Lsn(0x3000300),),
    first=Lsn(0x3000100),
    first_prev=Lsn(0x20000F8),
    last=Lsn(0x3000340),
    min_time=CommitTime(NOW_US),
    max_time=CommitTime(NOW_US),
    first_event=_EVENT,
    last_event=_EVENT,
    last_commit=_EVENT,
    min_xid=739,
    max_xid=739,
)

EXAMPLES: dict[str, r.Record] = {
    "checkpoint": r.CheckpointRecord(0, "2" * 64),
    "backup": r.BackupRecord(
        backup="20261122T143206Z-1f2e3d4c",
        method="full",
        source="primary",
        timeline=1,
        start_lsn=r.Lsn(0x2000028),
        checkpoint_lsn=r.Lsn(0x2000060),
        stop_lsn=r.Lsn(0x2000138),
        start_time=r.CommitTime(NOW_US),
        stop_time=r.CommitTime(NOW_US + 1),
        raw=1,
        stored=1,
        parts=1,
        parts_sha256="4" * 64,
        tablespaces=(r.TablespaceFact(1663, 0, None),),
        facts=FACTS,
    ),
    "wal": r.WalRecord("0" * 24, "2" * 64, 1, STORED, PAGE),
    "history": r.HistoryRecord("00000002.history", "2" * 64, 1, STORED, ()),
    "label": r.LabelRecord("x", "2" * 64, 1, STORED),
    "part": r.PartRecord("b", ()),
    "horizon": horizon(),
    "gap": gap(),
    "scan": SCAN,
    "cluster": CLUSTER,
    "keyring": RECORD_1,
    "epoch": r.EpochRecord("e" * 16, "3" * 64),
    "supersede": superseded("2" * 64, "4" * 64),
    "tie": r.TieRecord(
        bucket="evidence",
        timeline=1,
        before=CommitTime(NOW_US),
        before_lsn=Lsn(0x3000148),
        after=CommitTime(NOW_US + 1),
        after_lsn=Lsn(0x3000190),
        date=StoreTime(NOW_US // 1_000_000 * 1_000_000),
    ),
    "bucket_index": r.BucketIndexRecord(
        bucket="evidence",
        prefix="",
        generation="1f2e3d4c5b6a7988",
        n=0,
        role="rows",
        rows=1,
        whole=True,
        asked=StoreTime(NOW_US),
        digest="2" * 64,
        len=1,
        object=STORED[0],
    ),
    "pin": r.PinRecord(
        pin="20261122T143206Z-1f2e3d4c",
        backup="20261122T143206Z-1f2e3d4c",
        timeline=1,
        lsn=Lsn(0x3000190),
        time=CommitTime(NOW_US),
        bucket="evidence",
        prefix="files/",
        cutoff=StoreTime(NOW_US),
        objects=1,
        bytes=1,
        kept_in="",
        reason="year end",
        parts=(r.PinPart(0, 1, "2" * 64, 1, STORED[0]),),
    ),
    "bucket_journal": r.BucketJournalRecord(
        "evidence", "20261122T143206Z-1f2e3d4c", 0, "2" * 64, 1, STORED[0]
    ),
}


def test_a_revision_of_an_epoch_key_is_an_admins_to_record(chain: Chain) -> None:
    assert isinstance(chain.put(chain.build(revision(1), signer=ADMIN)), Accepted)
    assert isinstance(chain.put(chain.build(revision(1), signer=WRITER)), Void)
    assert isinstance(chain.put(chain.build(revision(None), signer=WRITER)), Accepted)


@pytest.mark.parametrize("role", SIGNERS)
@pytest.mark.parametrize("kind", sorted(" ".join(TABLE).split()))
def test_each_role_signs_just_what_the_table_says(chain: Chain, role: Role, kind: str) -> None:
    allowed = next(roles for kinds, roles in TABLE.items() if kind in kinds.split())
    record = EXAMPLES.get(kind) or unknown(kind)
    judged = chain.put(chain.build(record, signer=SIGNERS[role]))
    assert isinstance(judged, Accepted) == (role in allowed)


def test_a_scope_keeps_a_writer_to_its_clusters() -> None:
    for systems, expected in (((SYSTEM,), Accepted), (("1",), Void)):
        members = (*MEMBERS[:2], signing(Role.WRITER, WRITER, systems=systems))
        ring = parse_keyring(keyring_bytes(members=members))
        state = ChainState(REPO, SYSTEM)
        raw = build_entry(
            state, [CLUSTER, r.KeyringRecord(1, ring.sha256)], time_us=NOW_US, boot=BOOT, signer=WRITER
        )
        assert isinstance(accept(state, 0, raw, {1: ring}), expected)


def test_a_key_with_two_roles_may_sign_for_both() -> None:
    ring = parse_keyring(keyring_bytes(members=(*MEMBERS, signing(Role.ADMIN, WRITER))))
    state = ChainState(REPO, SYSTEM)
    records = [CLUSTER, r.KeyringRecord(1, ring.sha256), unknown("hold")]
    raw = build_entry(state, records, time_us=NOW_US, boot=BOOT, signer=WRITER)
    assert isinstance(accept(state, 0, raw, {1: ring}), Accepted)


def test_a_keyring_of_another_repository_vouches_for_nobody() -> None:
    ring = parse_keyring(keyring_bytes(repo="f" * 32))
    state = ChainState(REPO, SYSTEM)
    raw = build_entry(
        state, [CLUSTER, r.KeyringRecord(1, ring.sha256)], time_us=NOW_US, boot=BOOT, signer=WRITER
    )
    assert isinstance(accept(state, 0, raw, {1: ring}), Void)


def test_an_entry_is_signed_by_whom_it_names(chain: Chain) -> None:
    forged = signed(chain).replace(WRITER.id.encode(), ADMIN.id.encode())
    assert isinstance(chain.put(forged), Void)
    with pytest.raises(MalformedObject):
        encode_and_sign(parse_entry(chain.raws[0]), ADMIN)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_flipped_bit_makes_an_entry_void(data: st.DataObject) -> None:
    chain = Chain()
    chain.begin()
    raw = bytearray(chain.build(gap()))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert isinstance(chain.put(bytes(raw)), Void)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([*VOIDS, "good"]), max_size=12))
def test_whatever_is_thrown_in_every_reader_agrees_and_good_entries_count(moves: list[str]) -> None:
    chain = Chain()
    chain.begin()
    accepted = 1
    for move in moves:
        judged = chain.put(chain.build(gap()) if move == "good" else VOIDS[move](chain))
        accepted += isinstance(judged, Accepted)
    assert accepted == 1 + sum(move == "good" or (move == "void without reason" and False) for move in moves)
    state = ChainState(REPO, SYSTEM)
    for seq, raw in enumerate(chain.raws):
        state = accept(state, seq, raw, RINGS).state
    assert state == chain.state
