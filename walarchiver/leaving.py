"""Leaving: ends the daemon's process although some of its threads still wait for a store.

Rules:
- Python joins every thread at its end. One that waits for a store that does not answer would hold
  an orderly stop for minutes, past the time in which a service manager kills.
- What such a thread does was never acknowledged: PostgreSQL offers or asks for the file again. An
  object that it still completes lies under a random name that no ledger entry names.
"""

from __future__ import annotations

import logging
import os
import sys
import threading

from walarchiver.ports import Clock

PATIENCE_S = 0.5
"""For threads that are just ending."""


def leave(clock: Clock, status: int = 0) -> int:
    """`status`, for an ordinary end; does not return when some thread would hold that up."""
    ends_s = clock.monotonic_s() + PATIENCE_S
    for thread in threading.enumerate():
        if thread is threading.main_thread() or thread.daemon:
            continue
        thread.join(max(0.0, ends_s - clock.monotonic_s()))
        if thread.is_alive():
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return status
