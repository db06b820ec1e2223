"""Which files are begun ahead: PostgreSQL's order, its own marks, and never more than there is room for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.kit.walmaker import MIB
from walarchiver.core.ahead import next_names, ready_names
from walarchiver.core.segment import Segment

segments = st.builds(Segment, st.integers(1, 3), st.integers(0, 40)).map(lambda one: one.name(MIB))
histories = st.integers(2, 20).map(lambda timeline: f"{timeline:08X}.history")
names = segments | segments.map(lambda name: f"{name}.partial") | histories
marks = st.sampled_from([".ready", ".ready", ".done", "", ".ready.tmp"])
entries = st.builds(lambda name, mark: name + mark, names | st.just("README"), marks)


@given(st.lists(entries))
def test_only_wal_files_that_postgresql_marked_ready_are_chosen(listed: list[str]) -> None:
    found = ready_names(listed, MIB)
    assert set(found) == {one.removesuffix(".ready") for one in listed if one.endswith(".ready")} - {"README"}


@given(st.lists(names, unique=True))
def test_histories_come_first_and_then_the_order_of_names(marked: list[str]) -> None:
    found = ready_names([f"{name}.ready" for name in marked], MIB)
    kinds = [name.endswith(".history") for name in found]
    assert kinds == sorted(kinds, reverse=True)
    for kind in (True, False):
        same = [name for name in found if name.endswith(".history") is kind]
        assert same == sorted(same)


@given(st.lists(names, unique=True), st.sets(names), st.integers(0, 20))
def test_what_is_begun_next_is_the_first_that_is_not_busy(
    ready: list[str], busy: set[str], room: int
) -> None:
    found = next_names(ready, busy=busy, room=room)
    free = [name for name in ready if name not in busy]
    assert found == free[:room]
