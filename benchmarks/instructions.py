"""How many instructions a byte costs: a guard against regressions that needs no quiet machine.

Run by `./dev shell python benchmarks/instructions.py [--write]`. Valgrind's callgrind counts what the scan of
one segment and the sealing of another execute, per byte. `--write` records the figures in instructions.json
here, and tests/core/test_instructions.py compares: above `recorded * factor` something is done twice.

| figure | counted |
| --- | --- |
| scan | inside our own compiled part, as this machine's compiler made it |
| seal zstd, seal cipher | inside the wheels of zstandard and cryptography, which constraints.txt pins |
| seal hashes | inside the host's OpenSSL, in passes of SHA-256 over the plain bytes |
| seal python | inside the interpreter: other builds of it may need up to three times as many |

Rules:
- Counted is the call alone: the probe calls getloadavg() before it, where callgrind forgets what it counted,
  and ends at once behind it. Neither the interpreter's start nor an import is in it.
- Valgrind shows every program the same processor (one with AVX2 and AES, without SHA and AVX-512), so the
  libraries choose the same code everywhere. Where there is no AVX2 they would not, and nothing is measured.
- It says nothing about time: memory copied by libc, caches, locks, waits and system calls are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from hashlib import shake_128
from pathlib import Path

RECORDED = Path(__file__).with_name("instructions.json")
SEAL_BYTES = 4 << 20
SEGMENT_NUMBER = 3
MAGIC_15 = 0xD110
PROBE = """
import os, sys
{prepare}
os.getloadavg()
{measured}
os._exit(0)
"""
SCAN = """
import importlib.util
spec = importlib.util.spec_from_file_location("_walskim", sys.argv[1])
skim = importlib.util.module_from_spec(spec).skim
data = open(sys.argv[2], "rb").read()
base = int(sys.argv[3]) * len(data)
"""
SEAL = """
sys.path[:0] = sys.argv[1].split(os.pathsep)
from walarchiver.format.header import Header
from walarchiver.format.seal import seal_whole
plain = open(sys.argv[2], "rb").read()
name = "000000010000000000000003"
header = Header("wal", "0" * 32, "7290001002003004005", 1, name, 0, len(plain), "0" * 16, "0" * 16, 1)
"""
SEALED = "seal_whole(bytes(32), header, plain)"
HASH = """
import hashlib
data = bytes(1 << 20)
"""
HASHED = "hashlib.sha256(data)"
HASHES = ("libcrypto", "_hashlib", "_sha2")
PYTHON = ("/libpython", "/bin/python")
FACTORS = {"seal python": 3.0}
FACTOR = 1.25


class NotMeasurable(Exception):
    """This machine cannot count; the text says why."""


@dataclass(frozen=True, slots=True)
class Count:
    """Instructions by the file that they lie in, and the bytes that they worked on."""

    by_object: Counter[str]
    bytes: int

    def per_byte(self, *within: str) -> float:
        """Of objects whose path holds one of these."""
        counts = (count for name, count in self.by_object.items() if any(part in name for part in within))
        return sum(counts) / self.bytes


def why_not() -> str | None:
    """Why this machine cannot count; None if it can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    if platform.machine() != "x86_64":
        return f"the recorded figures are those of x86_64, this is {platform.machine()}"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "/proc/cpuinfo cannot be read"
    if " avx2 " not in flags:
        return "without AVX2 the libraries run other code than was recorded"
    return None


def count_scan(folder: Path, extension: Path) -> Count:
    """A scan of one segment of small records and commits, every checksum compared."""
    data = _wal()
    segment = folder / "segment"
    segment.write_bytes(data)
    measured = f"skim(data, base, base + len(data), {MAGIC_15}, 2, False, 0, 0, 0)"
    counted = _counted(folder, SCAN, measured, [extension, segment, str(SEGMENT_NUMBER)], isolated=True)
    return Count(counted, len(data))


def count_seal(folder: Path, source: Path) -> Count:
    """Compression and encryption of 4 MiB, a quarter of it noise, by the packages in `source`."""
    plain = folder / "plain"
    plain.write_bytes(_compressible(SEAL_BYTES))
    paths = os.pathsep.join([str(source), *(path for path in sys.path if path.endswith("-packages"))])
    counted = _counted(folder, SEAL, SEALED, [paths, plain])
    return Count(counted, SEAL_BYTES)


def count_hash(folder: Path) -> Count:
    """One pass of SHA-256 over a MiB."""
    return Count(_counted(folder, HASH, HASHED, [], isolated=True), 1 << 20)


def measure(extension: Path, source: Path) -> dict[str, float]:
    """Every figure, now. Raises NotMeasurable."""
    if reason := why_not():
        raise NotMeasurable(reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = count_scan(folder, extension)
        seal = count_seal(folder, source)
        hashed = count_hash(folder)
    figures = {
        "scan": scan.per_byte(extension.name),
        "seal zstd": seal.per_byte("/zstandard/"),
        "seal cipher": seal.per_byte("/cryptography/"),
        "seal hashes": seal.per_byte(*HASHES) / hashed.per_byte(*HASHES),
        "seal python": seal.per_byte(*PYTHON),
    }
    return {about: round(figure, 3) for about, figure in figures.items()}


def too_many(figures: dict[str, float]) -> list[str]:
    """What costs more than was recorded, in words."""
    limits = json.loads(RECORDED.read_text())
    return [
        f"{about}: {figures[about]}, more than {one['factor']} times the recorded {one['recorded']}"
        for about, one in limits.items()
        if figures[about] > one["recorded"] * one["factor"]
    ]


def _counted(
    folder: Path, prepare: str, measured: str, words: list[str | Path], *, isolated: bool = False
) -> Counter[str]:
    program = PROBE.format(prepare=prepare, measured=measured)
    out = folder / "callgrind.out"
    command = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}"]
    command += ["--compress-strings=no", "--compress-pos=no", "--zero-before=getloadavg"]
    command += [sys.executable, "-I", *(["-S"] if isolated else []), "-c", program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise NotMeasurable(f"callgrind exited {done.returncode}: {done.stderr.strip()[-300:]}")
    return _by_object(out.read_text())


def _by_object(text: str) -> Counter[str]:
    """The self cost of every object file of a callgrind profile; costs of calls are their callees'."""
    found: Counter[str] = Counter()
    here, skip = "", False
    for line in text.splitlines():
        if line.startswith("ob="):
            here = line[3:]
        elif line.startswith("calls="):
            skip = True
        elif line[:1].isdigit():
            if not skip:
                found[here] += int(line.split()[-1])
            skip = False
    return found


def _wal() -> bytes:
    """One segment of 1 MiB, full of small records, every eighth a commit."""
    from tests.kit.wal import MIB, WalWriter

    writer = WalWriter(SEGMENT_NUMBER)
    end = (SEGMENT_NUMBER + 1) * MIB
    turn = 0
    while writer.at < end:
        turn += 1
        if turn % 8:
            writer.filler(80 + turn % 5 * 64)
        else:
            writer.commit(1_700_000_000_000_000 + turn * 1000, xid=800 + turn)
    return writer.segments()[SEGMENT_NUMBER]


def _compressible(size: int) -> bytes:
    """Rows of 128 bytes, 32 of them noise: zstd makes about a quarter of it."""
    noise = shake_128(b"walarchiver").digest(size // 4)
    row = b"%016x" + b"balance of an account, as it stands in a page of the table; filler" + b"." * 14
    return b"".join(
        (row % (at * 7) + noise[at : at + 32]).ljust(128, b"\0")[:128] for at in range(0, len(noise), 32)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"record the figures in {RECORDED.name}")
    given = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(root))
    try:
        figures = measure(root / "walarchiver" / "core" / "_walskim.abi3.so", root)
    except NotMeasurable as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    if given.write:
        limits = {
            about: {"recorded": figure, "factor": FACTORS.get(about, FACTOR)}
            for about, figure in figures.items()
        }
        RECORDED.write_text(json.dumps(limits, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
