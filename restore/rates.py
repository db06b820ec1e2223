"""How fast restores were on this host: kept in the state folder, read by estimates.

Rules:
- The newest measurement of a part counts. One over little says little and is not kept.
- It is a convenience: a state folder that cannot be written or read changes nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from restore.core.estimate import Measured, Part
from walarchiver.ports import Clock

MEASURED_BYTES_MIN = 1 << 20
"""What took less than this says more about the machine's other work."""
MEASURED_US_MIN = 1000
_FILE = "rates.json"


def read_rates(state: Path) -> dict[Part, Measured]:
    """The newest measurements, part by part; empty without any."""
    try:
        told = json.loads((state / _FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    found = {}
    for part in Part:
        values = told.get(part.value) if isinstance(told, dict) else None
        if isinstance(values, dict):
            numbers = [n for name in ("bytes", "us", "at") if type(n := values.get(name)) is int and n > 0]
            if len(numbers) == 3:
                found[part] = Measured(*numbers)
    return found


def note_rate(state: Path, part: Part, measured: Measured) -> None:
    """Keep a measurement in place of the part's earlier one."""
    if measured.bytes < MEASURED_BYTES_MIN or measured.us < MEASURED_US_MIN:
        return
    rates = {**read_rates(state), part: measured}
    told = {one.value: {"bytes": m.bytes, "us": m.us, "at": m.at} for one, m in rates.items()}
    temporary = state / f".{_FILE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        try:
            temporary.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")
            temporary.replace(state / _FILE)
        finally:
            temporary.unlink(missing_ok=True)


def note_span(state: Path, clock: Clock, part: Part, count: int, seconds: float) -> None:
    """Keep that so many plain bytes took so long, up to now."""
    note_rate(state, part, Measured(count, round(seconds * 1e6), clock.now_us()))
