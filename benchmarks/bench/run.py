"""What all sections share: options, corpus, place, peers, and how rounds are taken.

Rules:
- Contestants take turns within each round; the order turns from round to round.
- A round is begun only when the section's share of the time allows it; the first one always is.
- A contestant that fails is told of in the report, and the others go on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench.clients import Client, PgBackRest, Session, Target
from benchmarks.bench.corpus import Corpus
from benchmarks.bench.driver import CallFailed, Job, Outcome, drive
from benchmarks.bench.figures import Measure, Section
from benchmarks.bench.peers import Peers
from benchmarks.bench.place import Place
from benchmarks.bench.progress import elapsed_s, say
from walarchiver.embedded.postgres import EmbeddedCluster


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    sections: tuple[str, ...]
    rounds: int
    seconds: float
    quick: bool
    full: bool
    fetch_peers: bool
    corpus: Path | None
    out: Path
    folder: Path | None


@dataclass(slots=True)
class Run:
    """One run of the benchmarks."""

    options: Options
    place: Place
    corpus: Corpus
    server: EmbeddedCluster
    peers: Peers
    ends_s: float = 0.0
    """When the section at hand should be over, on `elapsed_s`."""
    failed: list[str] = field(default_factory=list)

    def pgbackrest(self, *, level: int = 3, asynchronous: bool = True) -> list[PgBackRest]:
        """The peer as a list that is empty when it is not to be had."""
        program = self.peers.pgbackrest
        return [] if program is None else [PgBackRest(program, level, asynchronous)]

    def segments(self, default: int, *, quick: int, full: int | None = None) -> list[str]:
        """As many names as suit the run, of mixed kinds."""
        wanted = quick if self.options.quick else default
        return self.corpus.mixed(full if full is not None and self.options.full else wanted)

    def target(self, data: Path, *, server: EmbeddedCluster | None = None, back_up: bool = False) -> Target:
        own = server or self.server
        return Target(self.place, data, own.dsn(), own.socket_dir, back_up)

    def rounds(
        self,
        section: Section,
        turns: Sequence[tuple[str, Callable[[int], Measure]]],
        *,
        most: int | None = None,
    ) -> None:
        """Let everybody measure, round by round, into the section."""
        longest_s = 0.0
        failed: set[str] = set()
        for number in range(min(most or self.options.rounds, self.options.rounds)):
            if number and elapsed_s() + longest_s > self.ends_s:
                section.notes.append(f"Only {number} of {self.options.rounds} rounds: the time was up.")
                return
            began_s = elapsed_s()
            at = number % len(turns) if turns else 0
            for label, measure in (*turns[at:], *turns[:at]):
                if label in failed:
                    continue
                os.sync()  # nobody pays for what the one before has left in memory
                try:
                    one = measure(number)
                except CallFailed as error:
                    failed.add(label)
                    self.fail(section, f"{label} failed: {error}")
                    continue
                section.measures.append(one)
                say(
                    f"{section.name} {number + 1}: {label}: {one.wall_s:.2f} s, {one.cpu_per_gb:.2f} CPU s/GB"
                )
            longest_s = max(longest_s, elapsed_s() - began_s)

    def fail(self, section: Section, line: str) -> None:
        """Tell it now and in the report."""
        say(line)
        first = " ".join(line.split())[:300]
        section.notes.append(f"**{first}**")
        self.failed.append(first)

    def archive(
        self,
        client: Client,
        names: list[str],
        number: int,
        *,
        label: str = "",
        one_by_one: bool = False,
        corpus: Corpus | None = None,
        server: EmbeddedCluster | None = None,
    ) -> Measure:
        """Archive copies of these segments into a new repository. Raises CallFailed."""
        source = corpus or self.corpus
        names = some(names, client.segments_max)
        data = source.data_directory(self.place.work("data") / "d", names, ready=False)
        with client.session(self.target(data, server=server)) as session:
            if len(names) > 1:  # what a client does once a day or once ever is not the matter here
                self.warm(session, data, names[0])
                names = names[1:]
            before, _ = self.place.stored(session.prefix)
            if not one_by_one:
                for name in names:
                    (data / "pg_wal" / "archive_status" / f"{name}.ready").touch()
            job = self.job(session, "archive", session.archive, data, names=names, one_by_one=one_by_one)
            outcome = drive(job)
            after, _ = self.place.stored(session.prefix)
        plain = len(names) * source.segment_bytes
        return measured(label or client.label, number, plain, outcome, stored=after - before)

    def warm(self, session: Session, data: Path, name: str) -> None:
        """Archive one segment, not measured: repository, keys and connections are in use then."""
        (data / "pg_wal" / "archive_status" / f"{name}.ready").touch()
        drive(self.job(session, "archive", session.archive, data))

    def job(
        self,
        session: Session,
        verb: str,
        command: str,
        folder: Path,
        *,
        names: Sequence[str] = (),
        one_by_one: bool = False,
        replay_s: float = 0.0,
        bystanders: Sequence[int] = (),
    ) -> Job:
        """A driver's job for a session; the store is the first bystander."""
        return Job(
            verb=verb,
            command=command,
            folder=str(folder),
            environment=session.environment,
            names=list(names),
            watched=list(session.watched),
            bystanders=[self.place.store_pid, *bystanders],
            replay_s=replay_s,
            offer_one_by_one=one_by_one,
        )


def some(names: list[str], most: int) -> list[str]:
    """At most so many neighbours, from the middle: the beginning is all of one kind."""
    first = max(0, (len(names) - most) // 2)
    return names[first : first + most]


def measured(label: str, number: int, plain: int, outcome: Outcome, *, stored: int = 0) -> Measure:
    """A driver's outcome as a measure."""
    return Measure(
        label=label,
        round=number,
        plain=plain,
        wall_s=outcome.wall_s,
        cpu_s=outcome.cpu_s,
        rss=outcome.rss,
        pss=outcome.pss,
        stored=stored,
        calls_s=tuple(outcome.calls_s),
        store_cpu_s=outcome.bystander_cpu_s[0] if outcome.bystander_cpu_s else 0.0,
        server_cpu_s=sum(outcome.bystander_cpu_s[1:]),
    )


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came true in time."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.02)
    return False
