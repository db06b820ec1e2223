"""The limit: read, compress and seal in memory, on so many threads, and nothing else.

Run as a program: `python -m benchmarks.bench.ideal --threads 2 FILE...`; prints one line of JSON, interpreter
start not counted. Compression is zstd with the parameters that walarchiver uses for WAL (level 0 below) or an
ordinary level; sealing is AES-256-GCM in pieces of 1 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.bench.driver import ROOT
from benchmarks.bench.figures import Measure

TUNED = 0
_PIECE = 1 << 20


def parameters(level: int) -> zstandard.ZstdCompressionParameters:
    """The tuned setting, or a level as it is."""
    if level != TUNED:
        return zstandard.ZstdCompressionParameters.from_level(level)
    return zstandard.ZstdCompressionParameters.from_level(
        1, window_log=19, hash_log=13, min_match=5, strategy=zstandard.STRATEGY_FAST
    )


def work(files: list[str], threads: int, level: int) -> tuple[int, int]:
    """Plain and sealed bytes."""
    lock, left, sums = threading.Lock(), list(reversed(files)), [0, 0]

    def run() -> None:
        compressor = zstandard.ZstdCompressor(compression_params=parameters(level))
        cipher = AESGCM(b"k" * 32)
        plain = bytearray()
        while True:
            with lock:
                if not left:
                    return
                path = left.pop()
            size = os.stat(path).st_size
            if len(plain) != size:
                plain = bytearray(size)
            with open(path, "rb", buffering=0) as file:
                file.readinto(plain)
            body = memoryview(compressor.compress(plain))
            sealed = 0
            for number, start in enumerate(range(0, len(body), _PIECE)):
                sealed += len(cipher.encrypt(number.to_bytes(12, "big"), body[start : start + _PIECE], None))
            with lock:
                sums[0] += size
                sums[1] += sealed

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sums[0], sums[1]


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--level", type=int, default=TUNED)
    arguments.add_argument("files", nargs="+")
    args = arguments.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    plain, stored = work(args.files, args.threads, args.level)
    wall_s = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        json.dumps(
            {
                "plain": plain,
                "stored": stored,
                "wall_s": wall_s,
                "cpu_s": cpu_s,
                "rss": after.ru_maxrss * 1024,
            }
        )
    )
    return 0


def ideal(label: str, number: int, files: list[Path], *, level: int = TUNED, threads: int = 2) -> Measure:
    """Measured in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.bench.ideal", "--threads", str(threads), "--level", str(level)]
    done = subprocess.run([*words, *map(str, files)], capture_output=True, text=True, check=True, cwd=ROOT)
    return Measure(label=label, round=number, **json.loads(done.stdout))


if __name__ == "__main__":
    sys.exit(main())
