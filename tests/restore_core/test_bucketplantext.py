"""What a bucket plan says to people and machines, as the golden files have it; and its lines, read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore.core.bucketactions import Action, Kind, Marker, Options, Seen, Source, Undelete
from restore.core.bucketlines import PlanEnd, PlanHeader, end_line, header_line, parse_end, parse_header
from restore.core.bucketstate import Flag, Loss
from restore.core.buckettext import Digest, plan_members, plan_text, status_of
from restore.core.buckettotals import Tally
from walarchiver.core.version import FOREVER, StoreMs
from walarchiver.errors import MalformedObject

AT = StoreMs(1_772_366_400_000)
HEADER = PlanHeader(
    id="00d1",
    states="s3://evidence/files",
    source="s3://evidence/files",
    target="s3://evidence/files",
    to_prefix="",
    prefix="files/",
    moment=AT,
    requested="2026-03-01T12:00:00.000000Z",
    options=Options(delete_newer=True, undelete=Undelete.MARKERS),
    made_at=1_772_373_600_000_000,
    scanned=StoreMs(AT + 7_200_000),
    verdict="beyond_lifecycle",
    causes=("rule 'tidy' removes replaced versions after 7 days",),
)
SOURCE = Source("v1", 3_000_000, "e1", "STANDARD", StoreMs(AT - 3_600_000))
SEEN, DELETED = Seen("v2", "e2", marker=False), Seen("m1", "", marker=True)
LOSS = Loss(
    "v1", StoreMs(AT - 1000), StoreMs(AT + 1000), StoreMs(AT + 2000), None, "removed by its version id"
)


def action(kind: Kind, key: str, **more: object) -> Action:
    return Action(kind=kind, key=f"files/{key}", to=f"files/{key}", why=f"because of {kind.value}", **more)  # type: ignore[arg-type]


ACTIONS = [
    action(Kind.COPY, "a", source=SOURCE, seen=SEEN),
    action(Kind.COPY, "b", source=SOURCE, seen=None, flags=(Flag.BOUNDARY,)),
    action(Kind.COPY_IN_PARTS, "c", source=replace(SOURCE, size=6_000_000_000), seen=SEEN),
    action(Kind.REMOVE_MARKERS, "d", source=SOURCE, seen=DELETED, markers=(Marker("m1", AT),)),
    action(Kind.MARK_DELETED, "e", seen=SEEN),
    action(Kind.THAW, "f", source=replace(SOURCE, storage_class="GLACIER"), seen=SEEN),
    action(Kind.NEEDS_KEY, "g", source=SOURCE, seen=SEEN),
    action(Kind.LOST, "h\n1", seen=SEEN, loss=LOSS),
    action(Kind.LOST, "i", seen=SEEN, loss=replace(LOSS, existed_until=FOREVER, purged_by=AT)),
    action(Kind.AMBIGUOUS, "j", source=SOURCE, seen=SEEN, flags=(Flag.MULTIPART,)),
    action(Kind.NOTHING, "k", seen=SEEN, flags=(Flag.REMOVED,)),
    *(action(Kind.EXTRA, f"x{number:02}", seen=SEEN) for number in range(22)),
]


def digest_of(*actions: Action) -> Digest:
    digest = Digest(Tally(unchanged=995))
    for one in actions:
        digest.add(one)
    return digest


def test_a_plan_reads_as_the_golden_files_say(golden: Callable[[str, str], None]) -> None:
    digest = digest_of(*ACTIONS)
    golden("bucket_plan.txt", plan_text(HEADER, digest, next_step="this was a dry run"))
    members = plan_members(HEADER, digest, sha256="ab" * 32, path="/state/plan.jsonl")
    golden("bucket_plan.json", json.dumps(members, indent=2) + "\n")


def test_a_loss_outweighs_a_doubt_and_what_can_be_done_weighs_nothing() -> None:
    assert status_of(digest_of(*ACTIONS).tally) == 15
    assert status_of(digest_of(ACTIONS[6]).tally) == 15
    assert status_of(digest_of(ACTIONS[5], ACTIONS[0]).tally) == 3
    assert status_of(digest_of(ACTIONS[9]).tally) == 3
    assert status_of(digest_of(ACTIONS[0], ACTIONS[4], ACTIONS[-1]).tally) == 0


headers = st.builds(
    PlanHeader,
    id=st.text(max_size=8),
    states=st.sampled_from(["s3://a", "s3://b"]),
    source=st.sampled_from(["s3://a", "s3://b"]),
    target=st.sampled_from(["s3://a", "s3://b"]),
    to_prefix=st.text(max_size=3),
    prefix=st.text(max_size=3),
    moment=st.integers(0, FOREVER).map(StoreMs),
    requested=st.text(max_size=8),
    options=st.builds(
        Options,
        missing_only=st.booleans(),
        delete_newer=st.booleans(),
        undelete=st.sampled_from(Undelete),
        accept_uncertain=st.booleans(),
    ),
    made_at=st.integers(0, 4_000_000_000_000_000),
    scanned=st.integers(0, FOREVER).map(StoreMs),
    verdict=st.text(max_size=8),
    causes=st.lists(st.text(max_size=8), max_size=2).map(tuple),
)


@given(headers)
def test_a_header_survives_its_own_line(header: PlanHeader) -> None:
    assert parse_header(header_line(header)) == header


@given(
    st.builds(
        PlanEnd,
        st.integers(0, 2**53 - 1),
        st.integers(0, 2**53 - 1),
        st.binary(min_size=32, max_size=32).map(bytes.hex),
    )
)
def test_an_end_survives_its_own_line(end: PlanEnd) -> None:
    assert parse_end(end_line(end)) == end


def test_a_plan_of_another_format_is_refused() -> None:
    with pytest.raises(MalformedObject, match="format 2"):
        parse_header(header_line(HEADER).replace(b'"format":1', b'"format":2'))
