"""The benchmarks' arithmetic and report."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.bench.figures import Measure, Pair, Section, Spread, percentile, ratios
from benchmarks.bench.profiling import part_of
from benchmarks.bench.report import document, markdown

GB = 1_000_000_000


def measures() -> list[Measure]:
    """Two rounds; theirs had half the bytes, and failed in none."""
    ours = [
        Measure("ours", n, GB, wall, cpu, stored=300_000_000)
        for n, wall, cpu in ((0, 2.0, 4.0), (1, 4.0, 5.0))
    ]
    theirs = [
        Measure("theirs", n, GB // 2, wall, 6.0, stored=150_000_000) for n, wall in ((0, 3.0), (1, 3.0))
    ]
    return [*ours, *theirs, Measure("theirs", 2, GB, 99.0, 99.0)]


def section() -> Section:
    return Section("drain", "A drain", measures=measures(), pairs=[Pair("theirs", "ours", ">= 3")])


def test_a_ratio_is_taken_per_byte_within_a_round_that_has_both() -> None:
    one = section()
    assert ratios(one, one.pairs[0], lambda each: each.wall_per_byte) == pytest.approx([3.0, 1.5])
    assert ratios(one, one.pairs[0], lambda each: each.cpu_per_gb) == pytest.approx([3.0, 2.4])


def test_a_pair_without_a_partner_has_no_ratio_and_no_row() -> None:
    one = section()
    one.pairs = [Pair("nobody", "ours")]
    assert ratios(one, one.pairs[0], lambda each: each.wall_s) == []
    assert "nobody" not in markdown({}, [one])


def test_a_spread_is_told_as_median_and_extremes() -> None:
    assert Spread.of([3.0, 1.0, 2.0]).text(1) == "2.0 [1.0-3.0]"
    assert Spread.of([2.0]).text() == "2.00"


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)])
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_the_report_has_a_row_for_each_contestant_and_the_ratio_beside_its_goal() -> None:
    lines = markdown({"date": "today"}, [section()]).splitlines()
    assert "- date: today" in lines
    (ours,) = [line for line in lines if line.startswith("| ours |")]
    assert ours.split(" | ")[:5] == ["| ours", "2", "3.00 [2.00-4.00]", "375 [250-500]", "4.50 [4.00-5.00]"]
    (ratio,) = [line for line in lines if line.startswith("| theirs / ours")]
    assert "2.25 [1.50-3.00] | 2.70 [2.40-3.00] | 1.00" in ratio
    assert ratio.endswith("| wall >= 3 |")


def test_the_json_has_every_measure_and_every_ratio() -> None:
    told = json.loads(document({"date": "today"}, [section()]))
    (one,) = told["sections"]
    assert len(one["measures"]) == 5
    assert one["ratios"][0]["wall"] == pytest.approx([3.0, 1.5])
    assert Measure(**{**one["measures"][0], "calls_s": tuple(one["measures"][0]["calls_s"])}) == measures()[0]


def test_the_hottest_calls_show_as_percentiles() -> None:
    one = section()
    one.measures = [replace(each, calls_s=(0.010, 0.020, 0.5)) for each in one.measures[:1]]
    assert "| 20.0 | 500.0 |" in markdown({}, [one])


@pytest.mark.parametrize(
    ("library", "symbol", "part"),
    [
        ("backend_c.cpython-311-x86_64-linux-gnu.so", "ZSTD_compressBlock_fast", "compress or unpack (zstd)"),
        ("_rust.abi3.so", "aesni_ctr32_ghash", "seal or open (AES-GCM)"),
        ("libcrypto.so.3", "sha256_block_data_order", "SHA-256 of the stored body"),
        ("libssl.so.3", "ssl3_write_bytes", "TLS"),
        ("[kernel.kallsyms]", "tcp_sendmsg", "kernel: sockets"),
        ("libpython3.11.so.1.0", "_PyEval_EvalFrameDefault", "Python"),
        ("libnew.so", "x", "other (libnew.so)"),
    ],
)
def test_a_symbol_belongs_to_a_part_of_the_work(library: str, symbol: str, part: str) -> None:
    assert part_of(library, symbol) == part
