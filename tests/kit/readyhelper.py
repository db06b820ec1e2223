"""The program behind `readystage`: imports walarchiver, then forks a process for every command asked for."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

import restore
import walarchiver


def import_all(package: ModuleType) -> None:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def command(asked: dict[str, object], out: int, err: int) -> NoReturn:
    """What the interpreter does for `python -m PROGRAM WORDS`."""
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, place in ((null, 0), (out, 1), (err, 2)):
            os.dup2(fd, place)
            os.close(fd)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(0, "r", encoding="utf-8"),
            os.fdopen(1, "w", encoding="utf-8"),
            os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1),
        )
        words, env = asked["words"], asked["env"]
        assert isinstance(words, list)
        assert isinstance(env, dict)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(str(asked["cwd"]))
        sys.argv = [str(asked["program"]), *words]
        status = importlib.import_module(sys.argv[0]).main() or 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def forked(work: Callable[[], object]) -> int:
    """The process that does it, and then ends."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def attend(channel: socket.socket) -> None:
    """Run what one caller asks for: its process id, then its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, fds, _, _ = socket.recv_fds(channel, 4, 2)
    out, err = fds
    left, raw = int.from_bytes(head, "big"), b""
    while len(raw) < left and (more := channel.recv(left - len(raw))):
        raw += more
    asked = json.loads(raw)

    def work() -> None:
        channel.close()
        command(asked, out, err)

    pid = forked(work)
    os.close(out)
    os.close(err)
    channel.sendall(pid.to_bytes(4, "big", signed=True))
    ending = os.pidfd_open(pid)
    if ending not in select.select([ending, channel], [], [])[0]:
        os.kill(pid, signal.SIGKILL)  # whoever asked is gone
    _, ended = os.waitpid(pid, 0)
    channel.sendall(os.waitstatus_to_exitcode(ended).to_bytes(4, "big", signed=True))


def main() -> None:
    for package in (walarchiver, restore):
        import_all(package)
    for name in ("boto3", "botocore.session", "psycopg", "duckdb", "tests.kit.crashing_server"):
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would not be there in the forked processes"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who attend
    gc.collect()
    gc.freeze()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(sys.argv[1])
    listening.listen(64)
    print("ready", flush=True)
    with selectors.DefaultSelector() as waiting:
        waiting.register(listening, selectors.EVENT_READ)
        waiting.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fd == 0:
                    os._exit(0)  # whoever started us closed the pipe, or is gone
                channel, _ = listening.accept()

                def work(channel: socket.socket = channel) -> None:
                    waiting.close()
                    listening.close()
                    attend(channel)
                    os._exit(0)

                forked(work)
                channel.close()


if __name__ == "__main__":
    main()
