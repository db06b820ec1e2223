"""The two hooks are one: the same request, the same status and the same words, whatever they are given."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.hook.conftest import (
    REPOSITORY,
    FakeServer,
    ServerMaker,
    install_compiled,
    install_python,
)
from tests.hook.test_hook import ABSENT, DONE, NAME, ODD_ANSWERS

Told = tuple[int, bytes]
FOUND = b"ERROR: "
"""How a sanitizer begins what it has to say."""
SANITIZERS = "address,undefined"

TEXTS = [b"x", b"shop", b"push", b"fetch", "größe".encode(), b"new\nline", b'quo"te\\', b"\xff"]
TEXTS += ["日本\x7f".encode(), b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x1b[2J", b"%s%n"]
TEXTS += [b"c" * 3000, b"=", b"-", b""]
WORDS = [*TEXTS, b"--cluster", b"--cluster=", b"--plan", b"--plan=p", b"--parent", b"--parent=1", b"--socket"]
WORDS += [b"--cluster=push", b"--cluster=fetch", b"--parent=" + b"9" * 30, b"--force", b"--help", b"--"]
NUMBERS = [b"", b"100", b"0", b"00600", b"86400", b"86401", b"-1", b" 5", b"soon", b"\xff", b"1" * 5000]
NUMBERS += ["٣".encode(), b"4294967297", b"0" * 30 + b"900"]
PARENTS = [b"", b"0", b"01", b"1", b"-1", b"2147483647", b"2147483648", b"9" * 30, "٣".encode(), b"x"]

texts = st.one_of(st.sampled_from(TEXTS), st.binary(max_size=8).map(lambda raw: raw.replace(b"\0", b"")))
paths = st.one_of(texts, texts.map(lambda text: b"/w/" + text), st.just(b"pg_wal/RECOVERYXLOG"))
some_options = st.lists(
    st.one_of(
        texts.map(lambda text: [b"--cluster", text]),
        texts.map(lambda text: [b"--plan=" + text]),
        st.sampled_from(PARENTS).map(lambda text: [b"--parent", text]),
    ),
    max_size=2,
).map(lambda groups: [word for group in groups for word in group])
pushes = st.tuples(some_options, paths).map(lambda given: [*given[0], b"push", given[1]])
fetches = st.tuples(some_options, texts, paths).map(lambda given: [*given[0], b"fetch", given[1], given[2]])
command_lines = st.one_of(pushes, fetches, st.lists(st.sampled_from(WORDS), max_size=5))

environments = st.fixed_dictionaries(
    {b"LC_ALL": st.sampled_from([b"C", b"C.UTF-8", b"POSIX"])},
    optional={b"WALARCHIVER_TIMEOUT": st.sampled_from(NUMBERS), b"WALARCHIVER_CLUSTER": texts},
)

statuses = st.sampled_from([b"200", b"404", b"409", b"503", b"20", b"2000", b"-20", b"", b" 200", b"2x0"])
first_lines = st.tuples(st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"http/1.1", b"ICY", b""]), statuses).map(
    lambda parts: b" ".join(parts) + b" Said"
)
names = st.sampled_from(
    [b"Walarchiver-Exit", b"walarchiver-exit", b"Walarchiver-Exit ", b"Content-Length", b"X"]
)
values = st.sampled_from([b"0", b"1", b" 0 ", b"\t1", b"00", b"200", b"", b"5", b"\x0b0", b"999999999"])
headers = st.lists(st.tuples(names, st.sampled_from([b":", b": ", b""]), values).map(b"".join), max_size=4)
some_bodies = [b'{"a":\r\n 1}', b" a  b ", b"y " * 3000, b"\xc3" * 3000]
bodies = st.one_of(st.binary(max_size=40), st.sampled_from(some_bodies))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Mostly nearly right: what is all wrong is refused at its first line."""
    body = draw(bodies)
    lines = [draw(first_lines), *draw(headers)]
    if draw(st.booleans()):
        lines.append(b"content-length: %d" % (len(body) + draw(st.sampled_from([0, 0, 0, 1, -1]))))
    if draw(st.booleans()):
        lines[0] = draw(st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not"]))
        lines.append(draw(st.sampled_from([b"Walarchiver-Exit: 0", b"Walarchiver-Exit: 1"])))
    whole = b"\r\n".join(lines) + b"\r\n\r\n" + body
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 9)) == 0 else whole


@dataclass
class Twins:
    """Both hooks, in the folder of one data directory, in front of one server."""

    python: Path
    compiled: Path
    cwd: Path
    server: FakeServer

    def call(
        self, hook: Path, words: list[bytes], environment: dict[bytes, bytes]
    ) -> tuple[Told, list[bytes]]:
        """Status and words of one of them, and what it asked the server."""
        self.server.requests.clear()
        done = subprocess.run(
            [os.fsencode(hook), *words],
            cwd=self.cwd,
            env={
                b"PATH": b"/usr/bin:/bin",
                b"WALARCHIVER_SOCKET": os.fsencode(self.server.path),
                b"ASAN_OPTIONS": b"exitcode=99:detect_leaks=0",
                **environment,
            },
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        return (done.returncode, done.stderr), list(self.server.requests)

    def compare(self, words: list[bytes], environment: dict[bytes, bytes], answer: bytes) -> Told:
        """What both say. AssertionError when they differ."""
        self.server.answer = answer
        told = self.call(self.compiled, words, environment)
        assert FOUND not in told[0][1]
        assert told == self.call(self.python, words, environment)
        return told[0]


def _judge(words: list[bytes], answer: bytes, told: Told) -> None:
    """What must hold of any one of them."""
    status, said = told
    verbs = [word for word in words if word in (b"push", b"fetch")]
    assert status in ({0, 1, 200} if verbs else {200})
    if status == 0 or (status == 1 and not said):
        assert answer.startswith(b"HTTP/1.") and b"alarchiver-" in answer
    if status == 1 and not said:
        assert b"fetch" in verbs and b" 404" in answer


TwinsMaker = Callable[[Path], Twins]


@pytest.fixture
def twins_of(tmp_path: Path, fake_server: ServerMaker) -> TwinsMaker:
    def make(compiled: Path) -> Twins:
        (tmp_path / "data" / "pg_wal").mkdir(parents=True)
        (tmp_path / "data" / "pg_wal" / "RECOVERYXLOG").touch()
        install_python(tmp_path / "python")
        install_compiled(tmp_path / "compiled", compiled)
        python, other = (tmp_path / place / "bin" / "walarchiver-hook" for place in ("python", "compiled"))
        return Twins(python, other, tmp_path / "data", fake_server(DONE))

    return make


@pytest.fixture
def twins(twins_of: TwinsMaker, compiled_hook: Path | None) -> Twins:
    if compiled_hook is None:
        pytest.skip("no C compiler here that can make the hook")
    return twins_of(compiled_hook)


def _run_property(twins: Twins, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(command_lines, environments, answers())
    @example([b"--cluster", b"push", b"fetch", NAME.encode(), b"x"], {}, ABSENT)
    @example([b"--cluster", b"fetch", NAME.encode(), b"x"], {}, ABSENT)
    @example([b"--cluster", b"push", b"push", b"x"], {}, DONE)
    def same(words: list[bytes], environment: dict[bytes, bytes], answer: bytes) -> None:
        _judge(words, answer, twins.compare(words, environment, answer))

    same()


def test_both_hooks_say_the_same_to_anything(twins: Twins) -> None:
    _run_property(twins, 60)


def test_a_verb_that_stands_for_a_value_is_no_reason_to_say_absent(twins: Twins) -> None:
    """A cluster may be called `push`, and a cluster's name may have been forgotten before `fetch`."""
    fetch = [b"fetch", NAME.encode(), b"pg_wal/x"]
    broken = ODD_ANSWERS["503"]
    assert twins.compare([b"--cluster", b"push", *fetch], {}, broken)[0] == 200
    assert twins.compare([b"--cluster", *fetch], {}, ABSENT)[0] == 200
    assert twins.compare([b"--cluster", b"push", *fetch], {}, ABSENT) == (1, b"")
    assert twins.compare([b"--cluster", b"fetch", b"push", b"x"], {}, broken)[0] == 1


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_both_hooks_say_the_same_to_anything_for_long(twins: Twins) -> None:
    _run_property(twins, 3000)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_no_sanitizer_finds_anything_in_the_compiled_hook(twins_of: TwinsMaker, tmp_path: Path) -> None:
    """The same calls, with a build that ends at the first access out of bounds or undefined operation."""
    built = tmp_path / "sanitized"
    flags = ["-g", "-O1", f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all", "-D_GNU_SOURCE"]
    source = REPOSITORY / "walarchiver" / "hook.c"
    try:
        done = subprocess.run(
            ["cc", *flags, source, "-o", built], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no C compiler here")
    if done.returncode != 0:
        pytest.skip(f"the compiler has no sanitizers: {done.stderr.strip()[-200:]}")
    started = [subprocess.run([built], capture_output=True, check=False) for _ in range(20)]
    if any(one.returncode != 1 for one in started):
        pytest.skip(
            f"what is built with sanitizers does not start on this kernel: {started[0].stderr[-200:]!r}"
        )
    twins = twins_of(built)
    for answer in ODD_ANSWERS.values():
        twins.compare([b"fetch", NAME.encode(), b"pg_wal/RECOVERYXLOG"], {}, answer)
    long = b"/" + b'"' * 120_000
    twins.compare([b"--cluster", long[1:], b"push", long], {}, DONE)
    _run_property(twins, 1500)
