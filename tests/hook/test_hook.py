"""What PostgreSQL is told, whatever the server, the installation or the command line does."""

from __future__ import annotations

import json
import socket
import subprocess
import threading

import pytest

from tests.hook.conftest import InstalledHook, ServerMaker

NAME = "000000010000000000000001"


def answer(status: int, said: str | None, body: bytes = b"{}", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Something", f"Content-Length: {len(body)}"]
    if said is not None:
        lines.append(f"Walarchiver-Exit: {said}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


DONE = answer(200, "0")
ABSENT = answer(404, "1")

ODD_ANSWERS = {
    "nothing": b"",
    "one byte": b"H",
    "not HTTP": b"220 mail.example.org ESMTP\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nWalarchiver-Exit: 0\r\n",
    "half a body": answer(200, "0", b"x" * 100)[:-50],
    "no length": b"HTTP/1.1 200 OK\r\nWalarchiver-Exit: 0\r\n\r\n{}",
    "a negative length": b"HTTP/1.1 200 OK\r\nWalarchiver-Exit: 0\r\nContent-Length: -1\r\n\r\n{}",
    "a huge length": b"HTTP/1.1 200 OK\r\nWalarchiver-Exit: 0\r\nContent-Length: 9999999999\r\n\r\n",
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000,
    "200 without the header": answer(200, None),
    "200 with another header value": answer(200, "00"),
    "200 with the header twice": answer(200, "0", Walarchiver_Exit="0"),
    "200 with a failure": answer(200, "1"),
    "204": answer(204, "0"),
    "404 without the header": answer(404, None),
    "404 of a stranger": answer(404, "0"),
    "403": answer(403, "1"),
    "500": answer(500, "200"),
    "503": answer(503, "200"),
    "503 that says absent": answer(503, "1"),
    "a redirect": answer(302, "0", Location="http://elsewhere/"),
    "not a number": b"HTTP/1.1 ok ok\r\nWalarchiver-Exit: 0\r\nContent-Length: 0\r\n\r\n",
    "another protocol": b"ICY 200 OK\r\nWalarchiver-Exit: 0\r\nContent-Length: 0\r\n\r\n",
    "zero bytes": b"\0" * 5000,
}


def test_push_succeeds_and_sends_the_absolute_path(hook: InstalledHook, fake_server: ServerMaker) -> None:
    server = fake_server(DONE)
    assert hook.run("push", f"pg_wal/{NAME}") == (0, "")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/push HTTP/1.1\r\n")
    assert json.loads(body) == {"cluster": None, "path": f"{hook.cwd}/pg_wal/{NAME}"}


def test_fetch_succeeds_only_with_the_file_in_place(hook: InstalledHook, fake_server: ServerMaker) -> None:
    server = fake_server(DONE)
    status, err = hook.run("fetch", "--plan", "p1", NAME, "pg_wal/RECOVERYXLOG")
    assert status == 200 and "no file" in err
    (hook.cwd / "pg_wal/RECOVERYXLOG").mkdir()
    assert hook.run("fetch", NAME, "pg_wal/RECOVERYXLOG")[0] == 200
    (hook.cwd / "pg_wal/RECOVERYXLOG").rmdir()
    (hook.cwd / "pg_wal/RECOVERYXLOG").write_bytes(b"wal")
    assert hook.run("--cluster", "shop", "fetch", NAME, "pg_wal/RECOVERYXLOG") == (0, "")
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server.requests]
    path = f"{hook.cwd}/pg_wal/RECOVERYXLOG"
    assert bodies[0] == {"cluster": None, "plan": "p1", "name": NAME, "path": path}
    assert bodies[2] == {"cluster": "shop", "plan": None, "name": NAME, "path": path}


def test_fetch_says_absent_only_for_the_proven_end(hook: InstalledHook, fake_server: ServerMaker) -> None:
    fake_server(ABSENT)
    assert hook.run("fetch", NAME, "pg_wal/RECOVERYXLOG") == (1, "")
    assert hook.run("push", f"pg_wal/{NAME}")[0] == 1


@pytest.mark.parametrize("kept", [len(ABSENT) - 1, ABSENT.index(b"{}"), len(ABSENT) // 2])
def test_a_broken_off_absence_is_a_doubt(hook: InstalledHook, fake_server: ServerMaker, kept: int) -> None:
    fake_server(ABSENT[:kept])
    assert hook.run("fetch", NAME, "pg_wal/RECOVERYXLOG")[0] == 200


@pytest.mark.parametrize("odd", ODD_ANSWERS.values(), ids=ODD_ANSWERS.keys())
def test_an_odd_answer_is_a_failure_for_push_and_a_doubt_for_fetch(
    hook: InstalledHook, fake_server: ServerMaker, odd: bytes
) -> None:
    fake_server(odd)
    (hook.cwd / "pg_wal/RECOVERYXLOG").write_bytes(b"stale")
    for words, expected in ((("push", "pg_wal/x"), 1), (("fetch", NAME, "pg_wal/RECOVERYXLOG"), 200)):
        status, err = hook.run(*words)
        assert status == expected
        assert err.startswith(f"walarchiver-hook {words[0]}: ") and err.count("\n") == 1


def test_the_servers_message_reaches_the_log_on_one_line(
    hook: InstalledHook, fake_server: ServerMaker
) -> None:
    fake_server(answer(409, "1", b'{"error":\n {"code": "WA-DIVERGENCE"}}'))
    status, err = hook.run("push", "pg_wal/x")
    assert status == 1
    assert err == 'walarchiver-hook push: server answered 409: {"error": {"code": "WA-DIVERGENCE"}}\n'


@pytest.mark.parametrize("cut_after", [0, 1, 20, 60])
def test_a_reset_connection_is_a_doubt(hook: InstalledHook, fake_server: ServerMaker, cut_after: int) -> None:
    def reset(connection: socket.socket) -> None:
        connection.sendall(DONE[:cut_after])

    fake_server(reset)
    assert hook.run("fetch", NAME, "pg_wal/RECOVERYXLOG")[0] == 200
    assert hook.run("push", "pg_wal/x")[0] == 1


def test_the_reason_is_heard_of_a_server_that_does_not_listen(hook: InstalledHook) -> None:
    """The server turns strangers away before it reads; a request this long cannot have been sent by then."""
    body = b'{"error": "not you"}'
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(hook.environment["WALARCHIVER_SOCKET"])
        listening.listen()
        process = hook.start("--cluster", "c" * 120_000, "push", "/" + "p" * 120_000)
        connection, _ = listening.accept()
        with connection:
            connection.sendall(answer(403, "1", body))
        _out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "server answered 403" in err.decode()
    assert "not you" in err.decode()


def test_a_silent_server_is_left_at_the_deadline(hook: InstalledHook, fake_server: ServerMaker) -> None:
    done = threading.Event()
    fake_server(lambda connection: done.wait(60) and None)
    hook.environment["WALARCHIVER_TIMEOUT"] = "1"
    assert hook.run("push", "pg_wal/x") == (
        1,
        "walarchiver-hook push: WA-DEADLINE: no answer from the server inside the deadline; "
        "is the storage slow?\n",
    )
    done.set()


def test_a_dripping_server_does_not_stretch_the_deadline(
    hook: InstalledHook, fake_server: ServerMaker
) -> None:
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        try:
            while not stop.wait(0.05):
                connection.sendall(b"H")
        except OSError:
            return

    fake_server(drip)
    hook.environment["WALARCHIVER_TIMEOUT"] = "1"
    assert hook.run("fetch", NAME, "pg_wal/RECOVERYXLOG")[0] == 200
    stop.set()


def test_without_a_server_push_fails_at_once(hook: InstalledHook) -> None:
    status, err = hook.run("push", "pg_wal/x")
    assert status == 1 and "no server on" in err


def test_without_a_server_fetch_waits_and_then_doubts(hook: InstalledHook) -> None:
    hook.environment["WALARCHIVER_TIMEOUT"] = "1"
    assert hook.run("fetch", NAME, "pg_wal/RECOVERYXLOG")[0] == 200


def test_fetch_waits_for_a_server_that_is_being_restarted(
    hook: InstalledHook, fake_server: ServerMaker
) -> None:
    process = hook.start("fetch", NAME, "pg_wal/RECOVERYXLOG")
    assert process.stderr is not None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    fake_server(ABSENT)
    assert process.wait(30) == 1
    process.stderr.close()


USAGE_FAULTS = {
    "too few": [],
    "too many": ["a", "b", "c"],
    "an unknown option": ["--force", "a", "b"],
    "an option without value": ["a", "b", "--cluster"],
    "an empty option": ["a", "b", "--cluster="],
    "an empty path": ["a", ""],
}


@pytest.mark.parametrize("words", USAGE_FAULTS.values(), ids=USAGE_FAULTS.keys())
def test_a_wrong_command_line_never_says_absent(hook: InstalledHook, words: list[str]) -> None:
    assert hook.run("fetch", *words)[0] == 200
    assert hook.run(*words, "fetch")[0] == 200
    assert hook.run("push", *words, "x", "y")[0] == 1


def test_a_command_line_without_a_verb_never_says_absent(hook: InstalledHook) -> None:
    """It may be restore_command's, misspelt; to archive_command 200 is a failure like another."""
    status, err = hook.run()
    assert status == 200 and "usage:" in err
    assert hook.run("fecth", "0" * 24, "x")[0] == 200


def test_a_bad_timeout_is_a_failure_not_a_default(hook: InstalledHook) -> None:
    hook.environment["WALARCHIVER_TIMEOUT"] = "soon"
    assert hook.run("fetch", NAME, "x")[0] == 200


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "größe", "日本", "tab\t", "\x7f"])
def test_any_utf8_path_arrives_as_it_is(hook: InstalledHook, fake_server: ServerMaker, name: str) -> None:
    server = fake_server(DONE)
    for locale in ("C", "C.UTF-8", "POSIX"):
        hook.environment["LC_ALL"] = locale
        assert hook.run("push", f"/w/{name}") == (0, "")
        assert json.loads(server.requests.pop().partition(b"\r\n\r\n")[2])["path"] == f"/w/{name}"


def test_a_path_that_is_not_utf8_is_refused(hook: InstalledHook, fake_server: ServerMaker) -> None:
    server = fake_server(DONE)
    assert hook.run("push", b"/w/\xff")[0] == 1
    assert hook.run("fetch", NAME.encode(), b"/w/\xff")[0] == 200
    assert server.requests == []
