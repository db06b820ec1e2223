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
- Counted is the call alone: the probe calls getloadavg() before each, where callgrind begins another profile,
  and ends at once behind the last. Neither the interpreter's start nor an import is in it.
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
PROBE = """
import hashlib, importlib.util, os, sys
extension, segment, number, plain, paths = sys.argv[1:]
sys.path[:0] = paths.split(os.pathsep)
spec = importlib.util.spec_from_file_location("_walskim", extension)
skim = importlib.util.module_from_spec(spec).skim
wal = open(segment, "rb").read()
base = int(number) * len(wal)
hashed = bytes(1 << 20)
from walarchiver.format.header import Header
from walarchiver.format.seal import seal_whole
plain = open(plain, "rb").read()
name = "000000010000000000000003"
header = Header("wal", "0" * 32, "7290001002003004005", 1, name, 0, len(plain), "0" * 16, "0" * 16, 1)
os.getloadavg()
skim(wal, base, base + len(wal), 0xD110, 2, False, 0, 0, 0)
os.getloadavg()
hashlib.sha256(hashed)
os.getloadavg()
seal_whole(bytes(32), header, plain)
os._exit(0)
"""
HASHED_BYTES = 1 << 20
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


def measure(extension: Path, source: Path) -> dict[str, float]:
    """Every figure, now. Raises NotMeasurable."""
    if reason := why_not():
        raise NotMeasurable(reason)
    with tempfile.TemporaryDirectory() as folder:
        scan, hashed, seal = _counted(Path(folder), extension, source)
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


def _counted(folder: Path, extension: Path, source: Path) -> tuple[Count, Count, Count]:
    """A scan with every checksum, one pass of SHA-256, one sealing, by the packages in `source`."""
    segment, plain, out = folder / "segment", folder / "plain", folder / "out"
    wal = _wal()
    segment.write_bytes(wal)
    plain.write_bytes(_compressible(SEAL_BYTES))
    paths = os.pathsep.join([str(source), *(path for path in sys.path if path.endswith("-packages"))])
    command = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}"]
    command += ["--compress-strings=no", "--compress-pos=no", "--dump-before=getloadavg"]
    command += [sys.executable, "-I", "-c", PROBE]
    command += [str(extension), str(segment), str(SEGMENT_NUMBER), str(plain), paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    dumps = [out.with_name(name) for name in ("out.2", "out.3", "out")]
    if done.returncode != 0 or not all(dump.exists() for dump in dumps):
        raise NotMeasurable(f"callgrind exited {done.returncode}: {done.stderr.strip()[-300:]}")
    profiles = [_by_object(dump.read_text()) for dump in dumps]
    sizes = (len(wal), HASHED_BYTES, SEAL_BYTES)
    scan, hashed, seal = (Count(*each) for each in zip(profiles, sizes, strict=True))
    return scan, hashed, seal


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
