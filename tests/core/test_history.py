"""Timeline history files, as PostgreSQL writes them and as they may look by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core.history import Fork, TimelineHistory
from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.errors import MalformedObject

MIB = 1 << 20


def history(content: str, timeline: int = 3) -> TimelineHistory:
    return TimelineHistory.parse(timeline, content.encode())


@st.composite
def histories(draw: st.DrawFn) -> TimelineHistory:
    parents = sorted(draw(st.sets(st.integers(1, 60), min_size=1, max_size=5)))
    switches = draw(st.lists(st.integers(0, 50 * MIB), min_size=len(parents), max_size=len(parents)))
    forks = tuple(Fork(parent, Lsn(at)) for parent, at in zip(parents, switches, strict=True))
    return TimelineHistory(parents[-1] + draw(st.integers(1, 5)), forks)


@given(histories(), st.sampled_from(["no recovery target specified", "before 2026-11-22 12:00:00+00\n", ""]))
def test_a_history_survives_being_written_like_postgresql_does(made: TimelineHistory, reason: str) -> None:
    content = "\n".join(f"{fork.parent}\t{format_lsn(fork.switch)}\t{reason}\n" for fork in made.forks)
    assert history(content, made.timeline) == made


def test_a_reason_may_hold_a_line_break() -> None:
    content = (
        '1\t0/3000148\tbefore 2026-11-22 14:32:06.000001+00\n\n2\t0/5000028\tat restore point "a\n1 b"\n'
    )
    assert history(content).forks == (Fork(1, Lsn(0x3000148)), Fork(2, Lsn(0x5000028)))


def test_comments_and_blank_lines_do_not_count_and_any_white_space_separates() -> None:
    assert history("# made by hand\n\n  1   0/A000000   why\n#2\t0/B000000\tno\n").forks == (
        Fork(1, Lsn(0xA000000)),
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "# nothing\n",
        "3\t0/1000000\titself\n",
        "2\t0/1000000\tx\n1\t0/2000000\tdescending\n",
        "1\t0/1000000\tx\n1\t0/2000000\ttwice\n",
    ],
)
def test_an_ancestry_that_makes_no_sense_is_refused(content: str) -> None:
    with pytest.raises(MalformedObject, match="history of timeline 3"):
        history(content)


def test_each_timeline_of_a_path_begins_where_the_one_before_ends() -> None:
    path = history("1\t0/300100\tx\n2\t0/500200\ty\n")
    assert path.path == (1, 2, 3)
    assert [path.begin(t) for t in path.path] == [0, 0x300100, 0x500200]
    assert [path.end(t) for t in path.path] == [0x300100, 0x500200, None]
    with pytest.raises(KeyError):
        path.begin(7)
    with pytest.raises(KeyError):
        path.end(7)


def test_a_parent_that_had_not_begun_at_the_fork_gives_nothing() -> None:
    """What PostgreSQL writes after a recovery along timeline 2 that stopped before 2 left 1."""
    path = history("1\t0/500200\tpromoted\n2\t0/300100\tbefore the fork\n")
    assert [path.begin(t) for t in path.path] == [0, 0x500200, 0x300100]
    assert [path.end(t) for t in path.path] == [0x300100, 0x300100, None]
    assert [path.timeline_of_segment(n, 1 << 20) for n in (2, 3, 4, 5, 6)] == [1, 3, 3, 3, 3]


def test_the_segment_of_a_fork_is_read_from_the_child() -> None:
    path = history("1\t0/300100\tx\n2\t0/500000\ty\n")
    assert [path.timeline_of_segment(n, MIB) for n in range(1, 7)] == [1, 1, 2, 2, 3, 3]


@given(histories(), st.integers(0, 60))
def test_a_segment_is_never_read_from_a_timeline_that_begins_behind_it(
    made: TimelineHistory, number: int
) -> None:
    timeline = made.timeline_of_segment(number, MIB)
    assert made.begin(timeline) < (number + 1) * MIB
    newer = [other for other in made.path if other > timeline]
    assert all(made.begin(other) >= (number + 1) * MIB for other in newer)
