"""systemd's side of the daemon: readiness, watchdog, and a socket that outlives the process.

Rules:
- The protocols of sd_notify(3) and sd_listen_fds(3) over the standard library; outside systemd every call
  does nothing.
- WATCHDOG=1 is sent by the event loop itself: a loop that stands still is restarted by systemd.
- A message that cannot be sent never fails the work; the first failure is logged.
- What systemd put into the environment is taken out of it: programs that we start must not believe it theirs.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, MutableMapping
from pathlib import Path

from walarchiver.errors import ConfigError
from walarchiver.log import get_log

_log = get_log("systemd")

STATUS_INTERVAL_S = 10.0
_FIRST_FD = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""
_STATUS_CHARS_MAX = 500


class Notifier:
    """Tells the service manager how the daemon is; silent when there is none."""

    def __init__(self, address: str | None = None, *, watchdog_s: float | None = None) -> None:
        """`address` as in NOTIFY_SOCKET: a path, or @ and an abstract name; any other is logged, not used."""
        if address is not None and not address.startswith(("/", "@")):
            _log.warning("NOTIFY_SOCKET is not understood", address=address)
            address = None
        self._address = address
        self.watchdog_s = watchdog_s
        self._failed = False

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Notifier:
        """From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, which are removed."""
        address = environment.pop("NOTIFY_SOCKET", "") or None
        interval = environment.pop("WATCHDOG_USEC", "")
        meant = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        watched = interval.isdecimal() and int(interval) > 0 and meant == str(os.getpid())
        return cls(address, watchdog_s=int(interval) / 1_000_000 if watched else None)

    def ready(self, status: str) -> None:
        """The socket answers."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def stopping(self, status: str) -> None:
        """The drain begins."""
        self._send("STOPPING=1", f"STATUS={_line(status)}")

    async def keep_alive(self, status: Callable[[], str]) -> None:
        """Send the watchdog's sign of life and the status line, until cancelled."""
        if self._address is None:
            return
        interval_s = STATUS_INTERVAL_S
        if self.watchdog_s is not None:
            interval_s = min(interval_s, self.watchdog_s / 2)  # sd_watchdog_enabled(3) advises half
        while True:
            alive = ["WATCHDOG=1"] if self.watchdog_s is not None else []
            self._send(*alive, f"STATUS={_line(status())}")
            await asyncio.sleep(interval_s)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)  # the loop never waits for the service manager
                channel.connect(address)
                channel.send("\n".join(lines).encode())
        except OSError as error:
            if not self._failed:
                _log.warning("the service manager cannot be told", reason=error.strerror or str(error))
            self._failed = True
        else:
            self._failed = False


def passed_socket(environment: MutableMapping[str, str], path: Path) -> socket.socket | None:
    """The Unix socket that systemd listens on for us at `path`; None when it passed nothing.

    LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are removed. Raises ConfigError when something else was passed.
    """
    meant = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if meant != str(os.getpid()) or not count.isdecimal() or int(count) == 0:
        return None
    if int(count) != 1:
        raise ConfigError(
            f"systemd passed {count} sockets, walarchiver takes one",
            hint="Keep one ListenStream= in walarchiver.socket; metrics have `listen` in [server].",
        )
    try:
        os.set_inheritable(_FIRST_FD, False)
        passed = socket.socket(fileno=_FIRST_FD)
    except OSError as error:
        raise ConfigError(f"systemd passed a socket, but descriptor {_FIRST_FD} is not open") from error
    return _checked(passed, path)


def _checked(passed: socket.socket, path: Path) -> socket.socket:
    """The socket itself. Raises ConfigError, and closes it, when it is not the one of the configuration."""
    unix_stream = passed.family == socket.AF_UNIX and passed.type == socket.SOCK_STREAM
    if not unix_stream or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        passed.close()
        raise ConfigError(
            "what systemd passed is not a listening Unix stream socket",
            hint="walarchiver.socket needs ListenStream= with a path, and Accept=no.",
        )
    name = passed.getsockname()
    if not isinstance(name, str) or os.path.realpath(name) != os.path.realpath(path):
        passed.close()
        raise ConfigError(
            f"systemd listens on {name!r}, but server.socket is {path}",
            hint="Give ListenStream= in walarchiver.socket and `socket` in [server] the same path.",
        )
    passed.setblocking(False)
    return passed


def _line(text: str) -> str:
    return " ".join(text.split())[:_STATUS_CHARS_MAX]
