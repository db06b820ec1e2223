"""The journal of a bucket restore: what it remembers after a crash at any byte, and what the sink has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.bucketjournal import FINAL, Intent, Journal, JournalSink, NoSink, Outcome, Result
from restore.core.bucketactions import Kind, Marker
from walarchiver.core.version import StoreMs
from walarchiver.errors import MalformedObject, StoreUnavailable

PLAN = "ab" * 32
ACTIONS = 8


@dataclass
class Sink:
    """Keeps pieces; fails while told to. A piece that was taken is never taken with other bytes."""

    pieces: dict[int, bytes] = field(default_factory=dict)
    failing: bool = False
    forgetful: bool = False
    """Takes it, and the answer is lost."""

    def put(self, journal: str, number: int, lines: bytes) -> None:
        if self.failing:
            raise StoreUnavailable("not now")
        assert self.pieces.setdefault(number, lines) == lines
        if self.forgetful:
            raise StoreUnavailable("the answer was lost")

    def whole(self) -> bytes:
        return b"".join(self.pieces[number] for number in sorted(self.pieces))


def opened(path: Path, sink: JournalSink, plan: str = PLAN) -> Journal:
    return Journal(path, name="r1", plan_sha256=plan, actions=ACTIONS, sink=sink)


def result(line: int, outcome: Outcome = Outcome.DONE) -> Result:
    return Result(line=line, to=f"key {line}", kind=Kind.COPY, outcome=outcome, version_id=f"v{line}")


def test_what_was_flushed_is_known_to_the_next_process_and_to_the_sink(tmp_path: Path) -> None:
    path, sink = tmp_path / "journal", Sink()
    journal = opened(path, sink)
    assert not journal.resumed
    journal.note(result(3))
    journal.note(result(4, Outcome.FAILED))
    journal.flush()
    journal.close()
    again = opened(path, sink)
    assert again.resumed
    assert [line for line in range(ACTIONS) if again.is_final(line)] == [3]
    assert list(again.results()) == [result(3), result(4, Outcome.FAILED)]
    again.close()
    assert b'"key 3"' in sink.whole()


def test_an_intent_is_in_the_sink_when_intend_returns_and_is_told_once(tmp_path: Path) -> None:
    path, sink = tmp_path / "journal", Sink()
    intent = Intent(line=1, to="a", markers=(Marker("m1", StoreMs(5)), Marker("m2", StoreMs(6))))
    journal = opened(path, sink)
    journal.intend([intent])
    assert sink.whole().count(b'"m1"') == 1
    journal.intend([intent])
    journal.close()
    again = opened(path, sink)
    again.intend([intent])
    again.close()
    assert sink.whole().count(b'"m1"') == 1


def test_an_intent_that_a_crash_kept_from_the_sink_is_there_before_the_next_process_goes_on(
    tmp_path: Path,
) -> None:
    path, sink = tmp_path / "journal", Sink(failing=True)
    intent = Intent(line=1, to="a", markers=(Marker("m1", StoreMs(5)),))
    journal = opened(path, sink)
    with pytest.raises(StoreUnavailable):
        journal.intend([intent])
    journal.close()
    sink.failing = False
    again = opened(path, sink)
    again.intend([intent])
    again.close()
    assert sink.whole().count(b'"m1"') == 1


def test_a_piece_whose_answer_was_lost_is_sent_again_as_it_was(tmp_path: Path) -> None:
    path, sink = tmp_path / "journal", Sink(forgetful=True)
    journal = opened(path, sink)
    journal.note(result(0))
    journal.flush()
    assert journal.sink_failure is not None
    with pytest.raises(StoreUnavailable):
        journal.send_rest()
    journal.close()
    sink.forgetful = False
    again = opened(path, sink)
    again.note(result(1))
    again.flush()
    again.close()
    assert sorted(sink.pieces) == [0, 1]


def test_a_sink_that_fails_stops_nothing_and_gets_everything_at_the_end(tmp_path: Path) -> None:
    sink = Sink(failing=True)
    journal = opened(tmp_path / "journal", sink)
    for line in range(3):
        journal.note(result(line))
        journal.flush()
    sink.failing = False
    journal.note(result(3))
    journal.flush()
    assert sink.pieces == {}  # after a failure it is asked once more, at the end
    journal.send_rest()
    journal.close()
    assert sorted(sink.pieces) == [0, 1, 2, 3]
    assert b"".join(sink.pieces[n] for n in range(4)).count(b'"key ') == 4
    assert journal.sink_failure is None


def test_what_a_failed_sink_did_not_get_the_next_process_sends(tmp_path: Path) -> None:
    path, sink = tmp_path / "journal", Sink(failing=True)
    journal = opened(path, sink)
    journal.note(result(0))
    journal.flush()
    journal.close()
    sink.failing = False
    opened(path, sink).close()
    assert b'"key 0"' in sink.whole()


def test_the_journal_of_another_plan_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "journal", NoSink()).close()
    with pytest.raises(MalformedObject):
        opened(tmp_path / "journal", NoSink(), plan="cd" * 32)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("note"), st.integers(0, ACTIONS - 1), st.sampled_from(Outcome)),
        st.tuples(st.just("intend"), st.integers(0, ACTIONS - 1), st.none()),
        st.tuples(st.just("flush"), st.none(), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(steps, st.floats(0, 1))
def test_cut_off_at_any_byte_it_opens_again_and_believes_only_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, int, Outcome]], cut: float
) -> None:
    path, sink = tmp_path_factory.mktemp("journal") / "journal", Sink()
    journal = opened(path, sink)
    for kind, line, outcome in done:
        if kind == "note":
            journal.note(result(line, outcome))
        elif kind == "intend":
            journal.intend([Intent(line=line, to="a", markers=(Marker(f"m{line}", StoreMs(1)),))])
        else:
            journal.flush()
    journal.close()
    raw = path.read_bytes()
    kept = raw[: int(len(raw) * cut)]
    whole = kept[: kept.rfind(b"\n") + 1]
    path.write_bytes(kept)
    sink.pieces.clear()  # what it has was durable here before; a cut behind that cannot be
    again = opened(path, sink)
    final = {line for line in range(ACTIONS) if again.is_final(line)}
    told = [one for one in again.results() if one.outcome in FINAL]
    again.close()
    assert final == {one.line for one in told}
    assert all(b'"key %d"' % line in whole for line in final)
