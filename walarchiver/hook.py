"""archive_command and restore_command: hand one file name to the server and answer PostgreSQL.

Rules:
- Imports only what the interpreter has in memory or as one small extension (`_socket`, `_signal`,
  `posix`, `sys`): a test holds this budget, because PostgreSQL pays for it once per WAL file.
- push exits 0 only when the server said so, and 1 for everything else: above 125, or dead by a
  signal, PostgreSQL restarts its archiver and does not count the failure.
- fetch exits 0 only when the server said so *and* the file is there, `PROVEN_ABSENT` only when the
  server proved the end of the archive, and 200 for any doubt, a misspelt verb among them: PostgreSQL takes
  every status up to 125 as "there is no such file" and may open the database early.
- An interpreter that cannot start exits 1 by itself. So the launcher (bin/walarchiver-hook) lets
  PostgreSQL see 1 from fetch only for `PROVEN_ABSENT`, which no failing interpreter exits with.
- Every wait is at most a second long; between waits the deadline and PostgreSQL's life are checked. A
  hook outliving its server would answer nobody, and one that hangs stops archiving for ever.
- `hook.c` does the same in a tenth of the time, and is what is installed where it could be built
  (ADR 0021). Statuses and messages are equal to the letter: the tests run over both, and compare them.
"""

import _signal  # type: ignore[import-not-found]  # typeshed has no stub for it
import _socket
import posix
import sys

PROVEN_ABSENT = 101
DOUBT = 200

_DEFAULT_SOCKET = "/run/walarchiver/walarchiver.sock"
_TIMEOUT_S = {"push": 120.0, "fetch": 600.0}
_ABSENT_SERVER_S = 10.0
"""How long fetch waits for a server that is just being restarted."""
_SLICE_S = 1.0
_ANSWER_BYTES_MAX = 65536
_TEXT_BYTES_MAX = 2000
_SHOWN_BYTES_MAX = 1024
"""So much of a path is shown in a message."""
_VALUED = ("--socket", "--cluster", "--plan", "--parent")
_USAGE = (
    "usage: walarchiver-hook [--socket PATH] [--cluster NAME] push %p\n"
    "       walarchiver-hook [--socket PATH] [--cluster NAME] fetch [--plan ID] %f %p"
)


class GiveUp(Exception):
    """No good answer was had; the text goes to PostgreSQL's log: error code, what is wrong, next step."""


class Call:
    """What the command line asks for."""

    __slots__ = ("cluster", "name", "parent", "path", "plan", "socket", "timeout_s", "verb")

    def __init__(self) -> None:
        self.verb = ""
        self.socket = _environment("WALARCHIVER_SOCKET") or _DEFAULT_SOCKET
        self.cluster: str | None = _environment("WALARCHIVER_CLUSTER") or None
        self.plan: str | None = None
        self.name = ""
        self.path = ""
        self.timeout_s = 0.0
        self.parent: int | None = None

    def request(self) -> bytes:
        """The whole HTTP request (docs/api.md)."""
        members = [("cluster", self.cluster), ("path", self.path)]
        if self.verb == "fetch":
            members += [("plan", self.plan), ("name", self.name)]
        body = b"{" + b",".join(b'"%s":%s' % (key.encode(), _json(value)) for key, value in members) + b"}"
        head = (
            f"POST /v1/{self.verb} HTTP/1.1\r\nHost: walarchiver\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


class Deadline:
    """When to stop, and whether PostgreSQL still waits for us.

    `posix.times` has the time since boot; no module has to be loaded for it.
    """

    __slots__ = ("_ends", "_own_parent", "_parent")

    def __init__(self, timeout_s: float, parent: int | None) -> None:
        self._ends = posix.times().elapsed + timeout_s
        self._own_parent = posix.getppid()
        self._parent = parent

    def next_wait_s(self) -> float:
        """How long the next wait may be. Raises GiveUp at the end, or when nobody waits for us."""
        left = self._ends - posix.times().elapsed
        if left <= 0:
            raise GiveUp("WA-DEADLINE: no answer from the server inside the deadline; is the storage slow?")
        if posix.getppid() != self._own_parent or (self._parent is not None and not _alive(self._parent)):
            raise GiveUp("WA-CALLER-GONE: the PostgreSQL process that asked is gone")
        return min(left, _SLICE_S)


def _environment(name: str) -> str:
    raw = posix.environ.get(name.encode(), b"")
    return raw.decode("utf-8", "surrogateescape")


def _alive(pid: int) -> bool:
    try:
        posix.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def _json(value: str | None) -> bytes:
    """A JSON string as UTF-8, or null. Raises GiveUp for text that is not UTF-8."""
    if value is None:
        return b"null"
    out = []
    for char in value:
        if char in '"\\' or char < " ":
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(char)
    try:
        return b'"' + "".join(out).encode() + b'"'
    except UnicodeEncodeError:
        raise GiveUp(f"WA-NAME: {_shown(value)} is not UTF-8; PostgreSQL names no such file") from None


def _shown(value: str) -> str:
    """Words of the caller in a message: on one line, as UTF-8, and not endless."""
    raw = value.encode("utf-8", "surrogateescape")
    return _line(raw[:_SHOWN_BYTES_MAX]) + ("..." if len(raw) > _SHOWN_BYTES_MAX else "")


def _line(raw: bytes) -> str:
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(f"\\x{ord(char):02x}" if char < " " or char == "\x7f" else char for char in text)


def _argument(value: str) -> str:
    """The text whose UTF-8 form is the argument's bytes, whatever the locale made of them."""
    return value.encode(sys.getfilesystemencoding(), "surrogateescape").decode("utf-8", "surrogateescape")


def _absolute(path: str) -> str:
    """PostgreSQL gives %p relative to the data directory, where it runs its commands."""
    if not path:
        raise GiveUp(f"WA-USAGE: the path is empty\n{_USAGE}")
    if path.startswith("/"):
        return path
    try:
        folder = posix.getcwdb().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise GiveUp(f"WA-USAGE: the working directory is not known: {error.strerror}") from error
    return folder + "/" + path


def _verb(words: list[str]) -> str:
    """Which answer the caller expects, even when the rest of the line is wrong.

    A cluster may be called `push`; or its name was forgotten, and the verb stands where it should.
    """
    values, later = False, ""
    for word in words:
        if word in _TIMEOUT_S:
            if not values:
                return word
            later = later or word
        values = not values and word in _VALUED
    return later


def _parse(words: list[str]) -> Call:
    """Read the command line. Raises GiveUp with the usage."""
    call = Call()
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        option, equals, value = word.partition("=")
        if option in _VALUED:
            if not equals:
                position += 1
                if position == len(words):
                    raise GiveUp(f"WA-USAGE: {option} needs a value\n{_USAGE}")
                value = words[position]
            if option == "--parent":
                call.parent = _number(value, 2**31 - 1)
            elif not value:
                raise GiveUp(f"WA-USAGE: {option} needs a value\n{_USAGE}")
            elif option == "--socket":
                call.socket = value
            elif option == "--cluster":
                call.cluster = value
            else:
                call.plan = value
        elif word.startswith("-"):
            raise GiveUp(f"WA-USAGE: unknown option {_shown(word)}\n{_USAGE}")
        else:
            rest.append(word)
        position += 1
    match rest:
        case ["push", path] if call.plan is None:
            call.verb, call.path = "push", _absolute(path)
        case ["fetch", name, path] if name:
            call.verb, call.name, call.path = "fetch", name, _absolute(path)
        case _:
            raise GiveUp(f"WA-USAGE: {_USAGE}")
    call.timeout_s = _timeout_s(call.verb)
    return call


def _timeout_s(verb: str) -> float:
    text = _environment("WALARCHIVER_TIMEOUT")
    if not text:
        return _TIMEOUT_S[verb]
    seconds = _number(text, 86400)
    if seconds:
        return float(seconds)
    raise GiveUp(f"WA-USAGE: WALARCHIVER_TIMEOUT is {_shown(text)}, not a number of seconds from 1 to 86400")


def _number(text: str, most: int) -> int | None:
    """A number in plain digits, if it is one and not above `most`."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) <= 10 and int(digits) <= most else None


def _pause(seconds: float) -> None:
    """Wait without loading `time`: nobody ever writes to this pair."""
    quiet, other = _socket.socketpair()
    try:
        quiet.settimeout(seconds)
        quiet.recv(1)
    except TimeoutError:
        pass
    finally:
        quiet.close()
        other.close()


def _connect(call: Call, deadline: Deadline) -> _socket.socket:
    patience_s = _ABSENT_SERVER_S if call.verb == "fetch" else 0.0
    retry_ends = posix.times().elapsed + patience_s
    while True:
        wait_s = deadline.next_wait_s()
        try:
            connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        except OSError as error:
            raise GiveUp(f"WA-SERVER: no socket can be made: {error.strerror}") from error
        try:
            connection.settimeout(wait_s)
            connection.connect(call.socket.encode("utf-8", "surrogateescape"))
        except (BlockingIOError, TimeoutError):  # the server's queue of new connections is full
            connection.close()
        except OSError as error:
            connection.close()
            if posix.times().elapsed >= retry_ends:
                raise GiveUp(_no_server(call.socket, error)) from error
        else:
            return connection
        _pause(min(0.1, wait_s))


def _no_server(socket: str, error: OSError) -> str:
    """Why nobody can be asked on the socket, and what to do about it."""
    path = socket.encode("utf-8", "surrogateescape")
    socket = _shown(socket)
    reason = error.strerror or error
    try:
        kind = posix.stat(path).st_mode & 0o170000
    except OSError:
        kind = 0
    if kind not in (0, 0o140000):  # S_IFSOCK
        return f"WA-SOCKET: no server on {socket}: it is not a socket; correct the path"
    if isinstance(error, PermissionError):
        return f"WA-SOCKET: no server on {socket}: {reason}; let user {posix.geteuid()} reach it"
    if not isinstance(error, (FileNotFoundError, NotADirectoryError, ConnectionError)):
        return f"WA-SOCKET: no server on {socket}: {reason}; correct the path"
    return f"WA-SERVER: no server on {socket}: {reason}; is `walarchiver serve` running, with this path?"


def _exchange(call: Call, deadline: Deadline) -> tuple[int, bytes, bytes]:
    """The answer's HTTP status, its Walarchiver-Exit header, and its body."""
    unsent = memoryview(call.request())  # before anybody is called: it may be refused
    connection = _connect(call, deadline)
    try:
        while unsent:
            connection.settimeout(deadline.next_wait_s())
            try:
                unsent = unsent[connection.send(unsent) :]
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break  # turned away before we were heard; the reason may be waiting
        answer = b""
        while not _complete(answer):
            connection.settimeout(deadline.next_wait_s())
            try:
                more = connection.recv(16384)
            except TimeoutError:
                continue
            if not more:
                break
            answer += more
            if len(answer) > _ANSWER_BYTES_MAX:
                raise GiveUp("WA-SERVER: the server's answer is too long")
    except OSError as error:
        said = f"WA-SERVER: the connection to the server broke: {error.strerror}; see its log"
        raise GiveUp(said) from error
    finally:
        connection.close()
    return _read_answer(answer)


def _header(head: bytes, name: bytes) -> bytes | None:
    """The value of a header; None when it is missing or there twice."""
    parts = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    found = [value.strip() for named, _colon, value in parts if named.lower() == name]
    return found[0] if len(found) == 1 else None


def _complete(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    length = _header(head, b"content-length") if blank else None
    return length is not None and length.isdigit() and len(length) < 10 and len(body) >= int(length)


def _read_answer(answer: bytes) -> tuple[int, bytes, bytes]:
    if not answer:
        raise GiveUp("WA-SERVER: the server closed the connection without an answer; see its log")
    head, _blank, body = answer.partition(b"\r\n\r\n")
    first = head.split(b"\r\n", 1)[0].split(b" ")
    if not _complete(answer):
        raise GiveUp("WA-SERVER: the server's answer broke off; see its log")
    http = len(first) >= 2 and first[0] in (b"HTTP/1.1", b"HTTP/1.0")
    if not http or len(first[1]) != 3 or not first[1].isdigit():
        raise GiveUp("WA-SERVER: what answers on the socket is not the walarchiver server; correct the path")
    return int(first[1]), _header(head, b"walarchiver-exit") or b"", body


def _is_file(path: str) -> bool:
    try:
        return posix.lstat(path.encode("utf-8", "surrogateescape")).st_mode & 0o170000 == 0o100000
    except OSError:
        return False


def perform(call: Call) -> int:
    """Ask the server; the exit status. Raises GiveUp when no good answer was had."""
    status, said, body = _exchange(call, Deadline(call.timeout_s, call.parent))
    if status == 200 and said == b"0":
        if call.verb == "fetch" and not _is_file(call.path):
            raise GiveUp(
                f"WA-DOUBT: the server said done, but there is no file {_shown(call.path)}; is this its host?"
            )
        return 0
    if call.verb == "fetch" and status == 404 and said == b"1":
        return PROVEN_ABSENT
    raise GiveUp(f"server answered {status}: {_line(b' '.join(body.split())[:_TEXT_BYTES_MAX])}")


def _say(verb: str, message: str) -> None:
    line = f"walarchiver-hook {verb}: {message}\n".encode("utf-8", "backslashreplace")
    try:
        posix.write(2, line)
    except OSError:
        return  # nobody reads it; the exit status still stands


def _stopped(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def run(words: list[str]) -> int:
    """The exit status for one command line; nothing escapes."""
    verb = ""
    try:
        verb = _verb(words)
        if verb != "fetch":
            # To die by a signal would restart the archiver; for fetch PostgreSQL wants to see the signal.
            for number in (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT):
                _signal.signal(number, _stopped)
        return perform(_parse([_argument(word) for word in words]))
    except GiveUp as error:
        _say(verb, str(error))
    except KeyboardInterrupt:
        _say(verb, "stopped by a signal")
    except BaseException as error:  # noqa: BLE001  a traceback's status 1 would mean "absent" to PostgreSQL
        _say(verb, f"{type(error).__name__}: {error}")
    return 1 if verb == "push" else DOUBT


def main() -> None:
    """Leave by `_exit`: a failing flush at interpreter shutdown must not change the status."""
    posix._exit(run(sys.argv[1:]))  # noqa: SLF001  public in os, which is too dear to import


if __name__ == "__main__":
    main()
