"""`walarchiver serve` that notes each step of the archive path, and kills itself at a chosen one.

    python -m tests.kit.crashing_server CONFIG STEPS_FILE [KILL_AT]

Steps are appended to STEPS_FILE as they come, one a line, synchronously: a step that is noted has
begun. At step KILL_AT (1 is the first) the process sends itself SIGKILL before anything else of
that step happens. Without KILL_AT it only notes them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

from walarchiver.assembly import Host
from walarchiver.log import LogFormat, configure_logging
from walarchiver.service import Service
from walarchiver.settings import load_settings


class Steps:
    """Counts and notes; called from the event loop and from worker threads."""

    def __init__(self, path: Path, kill_at: int | None) -> None:
        self._lock = threading.Lock()
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._kill_at = kill_at
        self._count = 0

    def __call__(self, step: str) -> None:
        with self._lock:
            self._count += 1
            os.write(self._out, f"{step}\n".encode())
            if self._count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    config, steps, *rest = sys.argv[1:]
    host = Host.here(load_settings(Path(config)))
    configure_logging(host.clock, level="info", form=LogFormat.TEXT)
    observe = Steps(Path(steps), int(rest[0]) if rest else None)

    async def serve() -> None:
        await Service(host, version="test", observe=observe).run()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
