"""CPU of one PUT and one GET of an object: botocore's path, ours, and bare sockets as the floor.

    .venv/bin/python benchmarks/s3path.py [--null] [--plain] [--rounds N]

Over TLS (EC P-256, AES-GCM) unless `--plain`, against SeaweedFS, or with `--null` against one that reads
bodies and throws them away. Milliseconds of this process' own CPU (user and system), the median of rounds
that are taken in turn; what the server spends is not counted, but the kernel does the loopback's receiving
partly on the sender's account. Checksums are part of it; opening the sealed body is not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from walarchiver.clock import SystemClock, SystemRandom
from walarchiver.embedded.binaries import weed_binary
from walarchiver.embedded.certificate import ServerCertificate, loopback_certificate
from walarchiver.embedded.seaweed import SeaweedServer
from walarchiver.storage import S3Options
from walarchiver.storage.credentials import CredentialsFile
from walarchiver.storage.s3access import Access
from walarchiver.storage.s3bodies import Bodies, ThroughBotocore, crc_of, drained
from walarchiver.storage.s3direct import DirectBodies

BUCKET = "bench"
LARGE, SMALL = 4 << 20, 1 << 10
CLOCK, RANDOM = SystemClock(), SystemRandom()
Operation = Callable[[int], object]


# --- a sink ---------------------------------------------------------------------------------------


def sink(certificate: ServerCertificate | None) -> None:
    """Serve for ever: any PUT is accepted, any GET answered with its last path element in bytes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate is not None:
        context.load_cert_chain(certificate.ca_file, certificate.key_file)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            taken, _ = listening.accept()
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            speaking = taken if certificate is None else context.wrap_socket(taken, server_side=True)
            threading.Thread(target=_swallow, args=(speaking,), daemon=True).start()


def _swallow(connection: socket.socket) -> None:
    scratch, content = bytearray(1 << 20), bytes(LARGE)
    with connection, contextlib.suppress(OSError):
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return
                head += piece
            words, _, rest = head.partition(b"\r\n\r\n")
            if words.startswith(b"GET"):
                size = int(re.match(rb"GET \S*/(\d+)[ ?]", words)[1])  # type: ignore[index]
                reply = f'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: {size}\r\n\r\n'
                connection.sendall(reply.encode() + content[:size])
                continue
            if b"100-continue" in words.lower():
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            left = int(re.search(rb"(?i)content-length: (\d+)", words)[1]) - len(rest)  # type: ignore[index]
            while left > 0:
                left -= connection.recv_into(scratch, min(left, len(scratch)))
            connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n')


@contextlib.contextmanager
def null_server(folder: Path, plain: bool) -> Iterator[S3Options]:
    arguments = [] if plain else [str(folder)]
    process = subprocess.Popen(
        [sys.executable, __file__, "--sink", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    try:
        keys = folder / "keys.toml"
        keys.touch(mode=0o600)
        keys.write_text('access_key_id = "nobody"\nsecret_access_key = "nothing"\n')
        port = int(process.stdout.readline())
        yield S3Options(
            endpoint=f"{'http' if plain else 'https'}://127.0.0.1:{port}",
            ca_file=None if plain else loopback_certificate(folder, CLOCK).ca_file,
            credentials=CredentialsFile(keys),
        )
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def seaweed_server(folder: Path, plain: bool) -> Iterator[S3Options]:
    with SeaweedServer(weed_binary(), folder, CLOCK, RANDOM, tls=not plain) as server:
        server.make_bucket(BUCKET, versioned=True)
        yield server.options()


# --- what is measured -----------------------------------------------------------------------------


def over(bodies: Bodies, prefix: str, body: bytes) -> tuple[Operation, Operation]:
    """A PUT and a GET through one of our two paths."""
    size = len(body)

    def put(number: int) -> None:
        assert bodies.create(f"{prefix}/{number}/{size}", body, crc_of(body)).etag

    def get(number: int) -> None:
        with bodies.opened(f"{prefix}/{number}/{size}", None, None) as incoming:
            assert incoming.length == size
            assert len(drained(incoming, size, "bench", 30.0, CLOCK)) == size

    return put, get


class Floor:
    """One connection, requests made beforehand, nothing looked at: what the kernel and TLS cost."""

    def __init__(self, options: S3Options) -> None:
        assert options.endpoint is not None
        host, _, port = options.endpoint.rpartition("/")[2].rpartition(":")
        self._socket: socket.socket = socket.create_connection((host, int(port)))
        if options.ca_file is not None:
            context = ssl.create_default_context(cafile=str(options.ca_file))
            self._socket = context.wrap_socket(self._socket, server_hostname=host)

    def over(self, body: bytes) -> tuple[Operation, Operation]:
        size = len(body)
        put_head = f"PUT /x/{size} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode()
        get_head = f"GET /x/{size} HTTP/1.1\r\n\r\n".encode()

        def put(_number: int) -> None:
            self._socket.sendall(put_head)
            self._socket.sendall(body)
            self._socket.recv(65536)

        def get(_number: int) -> None:
            self._socket.sendall(get_head)
            room = bytearray(size)
            view = memoryview(room)
            head = self._socket.recv(65536)
            read = len(head) - head.index(b"\r\n\r\n") - 4
            while read < size:
                read += self._socket.recv_into(view[read:])

        return put, get

    def close(self) -> None:
        self._socket.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--null", action="store_true", help="a sink in place of SeaweedFS")
    parser.add_argument("--plain", action="store_true", help="http in place of https")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sink", nargs="?", const="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.sink is not None:
        sink(loopback_certificate(Path(chosen.sink), CLOCK) if chosen.sink else None)
    folder = Path(tempfile.mkdtemp(prefix="wa-s3path-"))
    try:
        serve = null_server if chosen.null else seaweed_server
        with serve(folder, chosen.plain) as options:
            for size, count in ((LARGE, 12), (SMALL, 60)):
                measure(options, size, count, chosen.rounds, with_floor=chosen.null)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(options: S3Options, size: int, count: int, rounds: int, *, with_floor: bool) -> None:
    body = RANDOM.token(size)
    access = Access(options, CLOCK)
    botocore_path = ThroughBotocore(access, BUCKET)
    direct = DirectBodies(access, BUCKET, options, CLOCK, botocore_path)
    ways = {"botocore": over(botocore_path, "b", body), "direct": over(direct, "d", body)}
    floor = Floor(options) if with_floor else None
    if floor is not None:
        ways["sockets"] = floor.over(body)
    spent: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds + 1):  # the first opens connections and is not counted
        for way, operations in ways.items():
            for which, operation in enumerate(operations):
                began_s = time.process_time()
                for number in range(count):
                    operation(turn * count + number)
                if turn:
                    each_ms = (time.process_time() - began_s) * 1000 / count
                    spent.setdefault((way, which), []).append(each_ms)
    for which, verb in enumerate(("PUT", "GET")):
        cells = []
        for way in ways:
            found = spent[way, which]
            cells.append(f"{way} {statistics.median(found):.2f} [{min(found):.2f}-{max(found):.2f}]")
        ratio = statistics.median(spent["botocore", which]) / statistics.median(spent["direct", which])
        print(f"{verb} of {size} bytes, CPU ms: {', '.join(cells)}; botocore/direct {ratio:.1f}")
    direct.close()
    if floor is not None:
        floor.close()


if __name__ == "__main__":
    main()
