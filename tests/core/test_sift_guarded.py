"""The compiled part reads nothing behind its input and takes no wrong tables."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.core.test_sift import ROOT, SMALL_BYTES
from tests.kit.wal import MIB
from walarchiver.core.skim import COMPILED

pytestmark = pytest.mark.skipif(not COMPILED, reason="the compiled part is not built here")

GUARDED = """
import ctypes, mmap, random, sys
from tests.core.test_sift import BUSY_BYTES, FIRST, MIB, WATCH
from walarchiver.core import _walskim, sift

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)

def guarded(content):
    "The bytes, behind them memory that may not be read."
    room = -(-len(content) // PAGE) * PAGE
    memory = mmap.mmap(-1, room + PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(address + room), PAGE, 0) == 0
    memory[room - len(content) : room] = content
    return memoryview(memory)[room - len(content) : room]

chance = random.Random(int(sys.argv[1]))
names = b"".join(WATCH.named)
calls = 0
for turn in range(int(sys.argv[2])):
    pages = chance.randrange(1, 9)
    first = chance.randrange(len(BUSY_BYTES) // 8192 - pages) if chance.random() < 0.8 else 0
    cut = chance.choice((0, 0, 1, 24, 8000))
    content = bytearray(BUSY_BYTES[first * 8192 : (first + pages) * 8192 - cut])
    base = FIRST * MIB + first * 8192
    for _ in range(chance.choice((0, 1, 3, 30, 3000))):
        byte = chance.choice((0, 1, 16, 32, 128, 255, chance.randrange(256)))
        content[chance.randrange(len(content))] = byte
    for _ in range(chance.choice((0, 1, 2))):  # lengths are what counts
        at = chance.randrange(len(content) - 4)
        content[at : at + 4] = chance.choice((2**32 - 1, 2**31, 1 << 20, 24, 25, 0)).to_bytes(4, "little")
    if chance.random() < 0.1:
        content = bytearray(chance.randbytes(len(content)))
    data = guarded(content)
    at = chance.choice((0, 40, 64, chance.randrange(len(content)), 2**64 - 4, len(content), 8192))
    stop = chance.choice((base + len(content), base, 2**64 - 1, base + chance.randrange(len(content))))
    last = chance.choice((-1, 0, 40, 2**63 - 1))
    for magic in (0xD110, int.from_bytes(content[:2], "little")):
        rest = (names, chance.choice((0, 2, 9)), 0x1C, at, last, 0)
        _walskim.sift(data, base, stop, magic, sift._ACTIONS, *rest)
        every = bytes([turn % 9]) * 65536
        _walskim.sift(data, base, stop, magic, every, *rest)
        _walskim.skim(data, base, stop, magic, turn % 3, bool(turn % 2), at, max(last, 0), 0)
        calls += 3
print(calls)
"""


def test_the_compiled_part_reads_nothing_behind_its_input() -> None:
    """Behind it lies memory that ends the process when it is read."""
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, "7", "400"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "2400"), done.stderr


def test_tables_that_are_none_are_refused() -> None:
    from walarchiver.core import _walskim

    for actions, files in ((b"", b""), (bytes(1 << 16), b"x" * 13)):
        with pytest.raises(ValueError, match="that is none"):
            _walskim.sift(SMALL_BYTES, 3 * MIB, 4 * MIB, 0xD110, actions, files, 0, 0, 0, -1, 0)
