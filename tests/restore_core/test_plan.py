"""Settings, plans and their two renderings: golden files, round trips, and what must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.core.estimate import Measured, Part, estimate
from restore.core.model import AtLatest, AtLsn, AtName, AtTime, Decision, Superseded, Target
from restore.core.plan import Plan, make_plan
from restore.core.plandocument import plan_document
from restore.core.planfile import plan_from_text, plan_to_json, plan_to_text
from restore.core.planner import decide
from restore.core.plantext import plan_text
from restore.core.recoveryconf import quote_setting, recovery_settings, render_settings
from restore.core.when import Understood, parse_when
from tests.restore_core.scenes import at, failover, full, gap_world, three_commits
from tests.restore_core.synthetic import SECOND, SIZE, T0, World, new_world
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import format_rfc3339
from walarchiver.core.scan import EventKind
from walarchiver.core.segment import Segment
from walarchiver.errors import MalformedObject, UsageError

pytestmark = pytest.mark.usefixtures("both_ways")

Golden = Callable[[str, str], None]
COMMAND = "walarchiver-hook --socket /run/walarchiver/walarchiver.sock fetch --plan p-1 %f %p"


def named_world() -> World:
    world, writer = three_commits()
    for second in (70, 90):
        writer.commit(second * SECOND, 742 + second)
        writer.point("before_migration", second * SECOND)
    full(writer)
    return world


def stepped_world() -> World:
    """The clock was set back between two commits, with a transaction prepared before."""
    world, writer = three_commits()
    writer.event(65 * SECOND, 742, EventKind.PREPARE, gid="transfer 7")
    writer.commit(90 * SECOND, 743)
    writer.commit(70 * SECOND, 744)
    full(writer)
    return world


def quiet_world() -> World:
    """No transaction since the base backup."""
    world, writer = new_world()
    writer.backup("first", 10 * SECOND)
    full(writer)
    writer.sample(60 * SECOND)
    return world


CASES: dict[str, tuple[Callable[[], World], Target]] = {
    "reachable": (lambda: three_commits()[0], at(30)),
    "idle": (lambda: three_commits()[0], at(50)),
    "not_proven": (lambda: three_commits()[0], at(3600)),
    "before_first_backup": (lambda: three_commits()[0], at(1)),
    "gap": (gap_world, at(30)),
    "fork": (lambda: failover()[0], at(85)),
    "ambiguous": (named_world, AtName("before_migration")),
    "unknown": (named_world, AtName("after_migration")),
    "latest": (named_world, AtLatest()),
    "lsn": (named_world, AtLsn(Lsn(0x1F0000))),
    "clocks": (stepped_world, at(75)),
    "quiet": (quiet_world, AtLatest()),
}


def understood(target: Target) -> Understood:
    if isinstance(target, AtTime):
        text = format_rfc3339(target.time)
        return parse_when(text, now_us=T0 + 7200 * SECOND, timezone="Europe/Berlin")
    return Understood(target)


def decided(case: str) -> tuple[World, Target, Decision]:
    build, target = CASES[case]
    world = build()
    return world, target, decide(world.view(), target, world.knowledge())


def plan_of(world: World, decision: Decision) -> Plan:
    return make_plan(
        decision,
        world.view(),
        plan_id="p-1",
        repository="5f3c",
        requested="latest",
        made_at=T0,
        keys=("00112233445566ff",),
        settings=recovery_settings(decision, restore_command=COMMAND),
    )


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_answer_reads_as_the_golden_files_say(case: str, golden: Golden) -> None:
    world, target, decision = decided(case)
    conf = () if decision.stop is None else recovery_settings(decision, restore_command=COMMAND)
    keys = () if decision.stop is None else ("00112233445566ff",)
    plan_id = None if decision.stop is None else "p-1"
    asked = understood(target)
    duration = estimate(decision, {Part.FILES: Measured(bytes=3_000_000, us=2_000_000, at=T0)})
    text = plan_text(
        decision, world.view(), requested=asked, settings=conf, plan_id=plan_id, duration=duration
    )
    golden(f"{case}.txt", text)
    document = plan_document(
        decision, world.view(), requested=asked, settings=conf, keys=keys, plan_id=plan_id, duration=duration
    )
    golden(f"{case}.json", json.dumps(document, indent=2) + "\n")


def test_what_an_administrator_replaced_on_the_path_is_told() -> None:
    world, target, decision = decided("fork")

    def change(name: str) -> Superseded:
        return Superseded(name, "aa" * 32, "bb" * 32, f"why {name}")

    met = [Segment(1, 1).name(SIZE), Segment(2, 2).name(SIZE), "00000002.history"]
    passed = [Segment(1, 2).name(SIZE), Segment(2, 9).name(SIZE), "00000003.history", "odd.partial"]
    view = replace(world.view(), superseded=tuple(change(name) for name in (*met, *passed)))
    told = plan_document(decision, view, requested=understood(target))["superseded"]
    assert [one["name"] for one in told] == met  # type: ignore[index, union-attr, call-overload]
    text = " ".join(plan_text(decision, view, requested=understood(target)).split())
    assert f"{met[0]}: an administrator put digest bbbbbbbbbbbbbbbb… in the place" in text
    assert not [name for name in passed if name in text]
    refused = replace(decision, wal=None)
    assert view.superseded_on(refused.path, None) == (change("00000002.history"),)


@pytest.mark.parametrize("case", ["reachable", "latest"])
def test_the_settings_file_reads_as_the_golden_file_says(case: str, golden: Golden) -> None:
    _, target, decision = decided(case)
    conf = recovery_settings(decision, restore_command=COMMAND)
    golden(
        f"{case}.conf", render_settings(conf, comments=(f"asked: {understood(target).text}", decision.reason))
    )


def test_every_target_but_the_position_is_blank_and_archiving_is_off() -> None:
    _, _, decision = decided("fork")
    conf = dict(recovery_settings(decision, restore_command=COMMAND))
    targets = ("", "_time", "_xid", "_name")
    assert [conf[f"recovery_target{kind}"] for kind in targets] == ["", "", "", ""]
    assert conf["recovery_target_lsn"]
    assert conf["recovery_target_timeline"] == "2"
    assert conf["archive_mode"] == "off"


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("", "''"),
        ("it's", "'it''s'"),
        ("a\\b", "'a\\\\b'"),
        ("%f %p", "'%f %p'"),
        ("'; x = '", "'''; x = '''"),
    ],
)
def test_values_are_quoted_as_postgresql_reads_them(value: str, quoted: str) -> None:
    assert quote_setting(value) == quoted


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
def test_a_value_that_no_quoting_carries_is_refused(value: str) -> None:
    with pytest.raises(UsageError):
        quote_setting(value)


def test_a_comment_cannot_smuggle_in_a_setting() -> None:
    text = render_settings((("archive_mode", "off"),), comments=("name:x\narchive_mode = on\u2028",))
    assert text.splitlines() == ["", "# name:x?archive_mode = on?", "archive_mode = 'off'"]


@pytest.mark.parametrize("case", ["reachable", "idle", "fork", "latest"])
def test_a_plan_is_read_back_as_itself(case: str) -> None:
    world, _, decision = decided(case)
    plan = plan_of(world, decision)
    assert plan_from_text(plan_to_text(plan)) == plan
    assert plan.segments()[0] == decision.wal.first if decision.wal else False
    assert plan.segments()[-1] == decision.wal.last if decision.wal else False


def test_a_plan_reads_as_the_golden_file_says(golden: Golden) -> None:
    world, _, decision = decided("fork")
    golden("plan.json", plan_to_text(plan_of(world, decision)))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_plan_with_any_member_missing_added_or_of_another_type_is_refused(data: st.DataObject) -> None:
    world, _, decision = decided("fork")
    value = plan_to_json(plan_of(world, decision))
    nested = data.draw(st.sampled_from(["", "stop", "forks"]))
    document = json.loads(json.dumps(value))
    members = {"": document, "stop": document["stop"], "forks": document["forks"][0]}[nested]
    name = data.draw(st.sampled_from(sorted(members)))
    match data.draw(st.sampled_from(["drop", "add", "retype"])):
        case "drop":
            del members[name]
        case "add":
            members["more"] = 1
        case _:
            members[name] = {"is": "not this"} if not isinstance(members[name], dict) else 1
    with pytest.raises(MalformedObject):
        plan_from_text(json.dumps(document))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("schema_version", 2),
        ("segment_size", 3_000_000),
        ("first", "000000020000000000000009"),
        ("last", "000000010000000000000002"),
        ("last", "000000020000000000000000"),
        ("timeline", 1),
        ("verdict", "gap"),
        ("made_at", "2026-11-22 14:00"),
        ("id", "../../etc"),
        ("system", "-1"),
        ("settings", [["a"]]),
        ("keys", [1]),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(member: str, value: object) -> None:
    world, _, decision = decided("fork")
    document = dict(plan_to_json(plan_of(world, decision)))
    assert member in document
    with pytest.raises(MalformedObject):
        plan_from_text(json.dumps(document | {member: value}))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a":1,"a":1}', '{"a":1.5}', "null", "[" * 100_000])
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(MalformedObject):
        plan_from_text(text)


def test_a_refusal_has_no_plan() -> None:
    world, _, decision = decided("gap")
    with pytest.raises(AssertionError):
        plan_of(world, replace(decision, wal=None))
    assert world.view().segment_size == SIZE
