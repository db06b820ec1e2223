"""Who may sign what in a chain, and what hostile bytes do to it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.format.test_chain import VOIDS, revision, signed, superseded
from tests.format.test_chain import chain as chain
from tests.format.world import (
    ADMIN,
    BOOT,
    CLUSTER,
    DRILLER,
    MEMBERS,
    NOW_US,
    PRUNER,
    RECORD_1,
    REPO,
    RINGS,
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
from walarchiver.errors import MalformedObject
from walarchiver.format import records as r
from walarchiver.format import scans
from walarchiver.format.canonical import canonical_json
from walarchiver.format.chain import Accepted, ChainState, Void, accept, build_entry
from walarchiver.format.entry import encode_and_sign, parse_entry
from walarchiver.format.keyring import Role, parse_keyring


def unknown(kind: str) -> r.UnknownRecord:
    return r.UnknownRecord(kind, canonical_json({"kind": kind}))


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
