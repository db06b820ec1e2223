"""Run one `postgres` server process: start, know its state, stop it, leave nothing behind.

Rules:
- PostgreSQL refuses to run as root; `RunAs` names the ordinary user that root drops to.
- The server is our child in a process group of its own, without pg_ctl: its end is seen at once.
- The state is read from line 8 of postmaster.pid (PostgreSQL src/include/utils/pidfile.h),
  so no connection is needed.
- Whatever is still running when this Python ends is stopped (immediate mode, then SIGKILL).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from walarchiver.errors import DatabaseUnavailable, UsageError

POLL_S = 0.05
_KILL_WAIT_MS = 10_000
_SOCKET_PATH_MAX = 107
"""sun_path of a Unix socket address on Linux, without the final NUL."""


@dataclass(frozen=True, slots=True)
class RunAs:
    """The user a server runs as when we are root."""

    uid: int
    gid: int

    @classmethod
    def named(cls, user: str) -> RunAs:
        """Raises UsageError when there is no such user, or it is root."""
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise UsageError(f"there is no user {user!r} on this host") from None
        return cls._ordinary(entry.pw_uid, entry.pw_gid, user)

    @classmethod
    def owner_of(cls, path: Path) -> RunAs:
        """The owner of a data directory. Raises UsageError when that is root."""
        state = path.stat()
        return cls._ordinary(state.st_uid, state.st_gid, f"the owner of {path}")

    @classmethod
    def _ordinary(cls, uid: int, gid: int, who: str) -> RunAs:
        if uid == 0:
            raise UsageError(f"PostgreSQL does not run as root, but {who} is root")
        return cls(uid, gid)

    def take(self, tree: Path) -> None:
        """Give `tree` and all below it to this user."""
        os.chown(tree, self.uid, self.gid, follow_symlinks=False)
        for folder, folders, files in os.walk(tree):
            for name in (*folders, *files):
                os.chown(os.path.join(folder, name), self.uid, self.gid, follow_symlinks=False)


class StopMode(StrEnum):
    """How pg_ctl names the ways to stop."""

    SMART = "smart"
    FAST = "fast"
    IMMEDIATE = "immediate"


_SIGNALS = {
    StopMode.SMART: signal.SIGTERM,
    StopMode.FAST: signal.SIGINT,
    StopMode.IMMEDIATE: signal.SIGQUIT,
}


class ServerState(StrEnum):
    """What postmaster.pid says, plus STOPPED."""

    STARTING = "starting"
    READY = "ready"
    STANDBY = "standby"
    """Recovery goes on and read-only connections are let in."""
    STOPPING = "stopping"
    STOPPED = "stopped"


_running: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


class ServerProcess:
    """One `postgres` on one data directory."""

    def __init__(
        self,
        bin_dir: Path,
        data_dir: Path,
        *,
        log_path: Path,
        run_as: RunAs | None,
        options: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`options` are settings given on the command line, which win over every file."""
        self.bin_dir = bin_dir
        self.data_dir = data_dir
        self.log_path = log_path
        self.run_as = run_as
        self._options = dict(options or {})
        self._environment = dict(environment or {})
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when it does not run."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How the last run ended; None while it runs or was never started."""
        return None if self._child is None else self._child.poll()

    def launch(self) -> None:
        """Start the process and return at once. Raises DatabaseUnavailable."""
        if self.pid is not None:
            return
        command = [str(self.bin_dir / "postgres"), "-D", str(self.data_dir)]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        user, group, extra_groups = _as_user(self.run_as)
        try:
            with self.log_path.open("ab") as log:
                if self.run_as is not None:
                    os.fchown(log.fileno(), self.run_as.uid, self.run_as.gid)
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.data_dir,
                    env=server_environment(self._environment),
                    start_new_session=True,
                    user=user,
                    group=group,
                    extra_groups=extra_groups,
                )
        except OSError as cause:
            raise DatabaseUnavailable(f"{command[0]} cannot be started: {cause}") from cause
        _running.add(self)

    def wait_until(self, *states: ServerState, timeout_s: float) -> ServerState:
        """The first of `states` (or STOPPED) that is seen.

        Raises DatabaseUnavailable when none came in time; the process goes on then.
        """
        for _ in range(max(1, round(timeout_s / POLL_S))):
            if (state := self.state()) in states or state is ServerState.STOPPED:
                return state
            self.rest(POLL_S)
        wanted = " or ".join(states)
        raise DatabaseUnavailable(
            f"{self.data_dir} was not {wanted} within {timeout_s} s, see {self.log_path}"
        )

    def rest(self, seconds: float) -> None:
        """Wait, but no longer than the process runs."""
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(seconds)

    def state(self) -> ServerState:
        """What the process says of itself right now."""
        pid = self.pid
        if pid is None:
            return ServerState.STOPPED
        try:
            lines = (self.data_dir / "postmaster.pid").read_text("utf-8").splitlines()
        except OSError:
            return ServerState.STARTING  # not written yet, or removed as the last act
        if len(lines) < 8 or lines[0].strip() != str(pid):
            return ServerState.STARTING
        try:
            return ServerState(lines[7].strip())
        except ValueError:
            return ServerState.STARTING

    def stop(self, mode: StopMode = StopMode.FAST, *, timeout_s: float = 60) -> int | None:
        """Ask the server to end and wait; its exit code, None when it did not run.

        A server that outlasts `timeout_s` is killed.
        """
        child = self._child
        if child is None or child.poll() is not None:
            return None
        child.send_signal(_SIGNALS[mode])
        try:
            return child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def detach(self) -> None:
        """Let the server outlive this process, which otherwise takes it down at its own end."""
        _running.discard(self)

    def kill(self) -> int | None:
        """SIGKILL the postmaster and every process below it, as a power cut would."""
        child = self._child
        if child is None or child.poll() is not None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGSTOP)  # so that it starts nothing while we count
        below = _descendants(child.pid)
        child.kill()
        _kill_and_wait(below)
        return child.wait()

    def complaint(self) -> str:
        """The last lines of the log that tell why the server ended, on one line."""
        lines = self.log_text().strip().splitlines()
        marks = ("FATAL:", "PANIC:", "ERROR:")
        severe = [at for at, line in enumerate(lines) if any(mark in line for mark in marks)]
        end = severe[-1] + 1 if severe else len(lines)
        return " | ".join(lines[max(0, end - 3) : end])  # the cause often stands in LOG lines before

    def log_text(self) -> str:
        """The server's log so far; empty before the first start."""
        try:
            return self.log_path.read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""


def run_program(
    bin_dir: Path,
    program: str,
    *arguments: str,
    run_as: RunAs | None,
    cwd: Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs to its end. Raises DatabaseUnavailable when it cannot be run."""
    user, group, extra_groups = _as_user(run_as)
    try:
        return subprocess.run(
            [str(bin_dir / program), *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=server_environment(environment or {}),
            timeout=timeout_s,
            check=False,
            user=user,
            group=group,
            extra_groups=extra_groups,
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise DatabaseUnavailable(f"{program} from {bin_dir} did not run: {cause}") from cause


def server_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """A small environment: nothing of ours (PG* variables, secrets) leaks into the server."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
    environment.update(extra)
    return environment


def check_socket_folder(folder: Path, port: int) -> None:
    """Raises UsageError when the socket's full name does not fit into a Unix socket address."""
    name = os.fsencode(folder / f".s.PGSQL.{port}")
    if len(name) > _SOCKET_PATH_MAX:
        raise UsageError(
            f"the socket name {name.decode('utf-8', 'replace')} has {len(name)} bytes, at most "
            f"{_SOCKET_PATH_MAX} are possible",
            hint="Choose a directory with a shorter path.",
        )


def find_system_bin(major: int) -> Path | None:
    """The folder of an installed PostgreSQL of this major version: PATH, then Debian's and
    Red Hat's usual places. None when there is none."""
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += [Path(f"/usr/lib/postgresql/{major}/bin"), Path(f"/usr/pgsql-{major}/bin")]
    for folder in folders:
        if os.access(folder / "postgres", os.X_OK) and program_major(folder) == major:
            return folder
    return None


def program_major(bin_dir: Path) -> int | None:
    """The major version that the `postgres` in this folder prints; None when it prints none."""
    try:
        done = subprocess.run(
            [str(bin_dir / "postgres"), "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    for word in done.stdout.split():  # "postgres (PostgreSQL) 15.19 (Debian ...)"
        head = word.partition(".")[0].rstrip("abcdefghijklmnopqrstuvwxyz")
        if word[:1].isdigit() and head.isdigit():
            return int(head)
    return None


def _as_user(run_as: RunAs | None) -> tuple[int | None, int | None, tuple[int, ...] | None]:
    """user, group and extra_groups for subprocess; all None when there is nothing to drop."""
    if run_as is None or os.geteuid() != 0:
        return None, None, None
    return run_as.uid, run_as.gid, ()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    pending = [pid]
    while pending:
        here = pending.pop()
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{here}/task/{here}/children").read_text("ascii")
            below = [int(word) for word in text.split()]
            found += below
            pending += below
    return found


def _kill_and_wait(pids: list[int]) -> None:
    """SIGKILL these, and return once they are gone (they are not our children, so no wait())."""
    handles: list[int] = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handles.append(os.pidfd_open(pid))
    for handle in handles:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    for handle in handles:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(_KILL_WAIT_MS)
        os.close(handle)


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        server.stop(StopMode.IMMEDIATE, timeout_s=5)
