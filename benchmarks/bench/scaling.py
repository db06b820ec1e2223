"""Scaling: throughput over segment size, workers and the length of the backlog."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import corpus
from benchmarks.bench.archiving import OURS
from benchmarks.bench.clients import Client, Walarchiver
from benchmarks.bench.figures import Measure, Pair, Section
from benchmarks.bench.progress import say
from benchmarks.bench.run import Run
from walarchiver.embedded.postgres import MIB, EmbeddedCluster

SIZES = {1: {"init": 4, "tpcb": 30, "copy": 10, "jsonb": 8}, 64: {"tpcb": 2, "copy": 2}}
"""Segments of each kind, by size in MiB; 16 is the corpus itself."""
BACKLOGS = (1, 2, 4, 8, 16, 32)


def scaling(run: Run) -> list[Section]:
    """Three sections; two rounds at most, since these are curves and no contest."""
    return [_sizes(run), _workers(run), _backlogs(run)]


def _sizes(run: Run) -> Section:
    section = Section("sizes", "Drain over segment size")
    names = run.segments(12, quick=4)
    turns = [_turn(run, client, names, f"{client.label}, 16 MiB") for client in _contest(run)]
    pairs = [Pair("pgBackRest async zst 3, 16 MiB", f"{OURS}, 16 MiB")]
    # Each size is a cluster of its own; they are measured one after the other.
    run.rounds(section, turns, most=2)
    for mib, wanted in SIZES.items():
        folder = run.place.work("corpus")
        kinds = {kind: max(1, count // 4) for kind, count in wanted.items()} if run.options.quick else wanted
        made = corpus.build(folder, kinds, segment_bytes=mib * MIB)
        say(f"scaling: {len(made.names)} segments of {mib} MiB")
        server = made.server()
        server.start()
        try:
            chosen = made.names[:64] if mib < 16 else made.names[:5]
            turns = [
                _turn(run, client, chosen, f"{client.label}, {mib} MiB", made, server)
                for client in _contest(run)
            ]
            run.rounds(section, turns, most=2)
        finally:
            server.stop()
        pairs.append(Pair(f"pgBackRest async zst 3, {mib} MiB", f"{OURS}, {mib} MiB"))
    section.pairs = pairs
    return section


def _contest(run: Run) -> list[Client]:
    return [Walarchiver(), *run.pgbackrest()]


def _workers(run: Run) -> Section:
    section = Section("workers", "Drain over `workers`")
    names = run.segments(16, quick=4)
    turns = [
        _turn(run, Walarchiver(workers=workers), names, f"{OURS}, workers = {workers}") for workers in (1, 2)
    ]
    run.rounds(section, turns, most=2)
    section.pairs = [Pair(f"{OURS}, workers = 1", f"{OURS}, workers = 2")]
    return section


def _backlogs(run: Run) -> Section:
    section = Section("backlogs", "Drain over the length of the backlog")
    # One more than the label says: the first is archived before the clock.
    most = 4 if run.options.quick else len(run.corpus.names) - 1
    turns = [
        _turn(run, client, run.corpus.mixed(count + 1), f"{client.label}, {count} segments")
        for count in BACKLOGS
        if count <= most
        for client in _contest(run)
    ]
    run.rounds(section, turns, most=2)
    section.pairs = [
        Pair(f"pgBackRest async zst 3, {count} segments", f"{OURS}, {count} segments")
        for count in BACKLOGS
        if count <= most
    ]
    return section


def _turn(
    run: Run,
    client: Client,
    names: list[str],
    label: str,
    source: corpus.Corpus | None = None,
    server: EmbeddedCluster | None = None,
) -> tuple[str, Callable[[int], Measure]]:
    def measure(number: int) -> Measure:
        return run.archive(client, names, number, label=label, corpus=source, server=server)

    return label, measure
