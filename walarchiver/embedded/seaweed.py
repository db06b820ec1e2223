"""A private S3 server (SeaweedFS `weed server`) on loopback, for the demo and the tests.

Rules:
- One process, in a process group of its own. It ends with `stop`, with the interpreter, and also
  when this process is killed: a watcher in its group reads a pipe that only we hold open.
- It is ours when it accepts the random keys that were just written for it; a foreign server that
  happens to listen on the port does not, and other ports are tried.
- Telemetry, iceberg, lance, IAM, metrics and web interfaces stay off; nothing listens beyond
  127.0.0.1. The keys are in a file that only the owner reads, never in the arguments.
- Stopping keeps the data: `start` again serves the same buckets on the same ports.
- With `tls` the S3 port speaks https only, with a certificate that nobody but `options()` trusts.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from walarchiver.embedded.certificate import loopback_certificate
from walarchiver.errors import StoreDenied, StoreUnavailable, WalarchiverError
from walarchiver.ports import Clock, Random
from walarchiver.storage import S3Options
from walarchiver.storage.bucket import create_bucket, delete_bucket
from walarchiver.storage.credentials import CredentialsFile
from walarchiver.storage.retry import RetryPolicy

_HOST = "127.0.0.1"
_START_TRIES = 3
_LOWEST_PORT, _PORTS = 12_000, 10_000
_POLL_S = 0.1
_GRACE_S = 2.0
"""How long it may take to end by itself; its own shutdown often hangs, and its files survive a kill."""
_END_TIMEOUT_S = 10.0
_LOG_TAIL_BYTES = 2000

# The watcher outlives nothing: it shares the process group that it kills once our end of the pipe
# is closed. `exec` makes the server the group's leader and our direct child.
_LAUNCH = 'exec 3<&0 </dev/null; (read -r _ <&3; rm -f {sockets}; kill -s KILL -- -$$) & exec "$@" 3<&-'


class SeaweedServer:
    """One `weed server` whose files all lie below `directory`."""

    def __init__(
        self, binary: Path, directory: Path, clock: Clock, random: Random, *, tls: bool = False
    ) -> None:
        self._binary = binary
        self._directory = directory
        self._clock = clock
        self._random = random
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}

    @property
    def pid(self) -> int | None:
        """The server's process (and process group); None when it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def endpoint(self) -> str:
        """The S3 address, known after `start`."""
        return f"{'https' if self._tls else 'http'}://{_HOST}:{self._ports['s3']}"

    @property
    def ca_file(self) -> Path | None:
        """What a client must trust, known after `start`; None without TLS."""
        return loopback_certificate(self._directory, self._clock).ca_file if self._tls else None

    @property
    def credentials_file(self) -> Path:
        """The file with the keys that may do everything, in the form that `credentials_file` takes."""
        return self._directory / "admin.toml"

    @property
    def reader_credentials_file(self) -> Path:
        """Keys that may read and list, and are denied everything else."""
        return self._directory / "reader.toml"

    @property
    def stranger_credentials_file(self) -> Path:
        """Keys that may do nothing but what a bucket's policy grants to the user `stranger`."""
        return self._directory / "stranger.toml"

    @property
    def log_path(self) -> Path:
        return self._directory / "weed.log"

    def options(self) -> S3Options:
        """How to reach it with the keys that may do everything."""
        return S3Options(
            endpoint=self.endpoint,
            ca_file=self.ca_file,
            credentials=CredentialsFile(self.credentials_file),
        )

    def make_bucket(self, bucket: str, *, versioned: bool) -> None:
        """Create a bucket. Raises StoreUnavailable or StoreDenied."""
        create_bucket(bucket, self.options(), self._clock, versioned=versioned)

    def start(self, *, timeout_s: float = 60.0) -> Self:
        """Return once S3 answers. Raises StoreUnavailable, with the end of the log, when it does not."""
        assert self._process is None, "already started"
        self._prepare()
        known = bool(self._ports)
        for last in range(_START_TRIES - 1, -1, -1):
            if not known:
                self._ports = _free_ports(self._random)
            try:
                self._launch()
                self._wait_until_ours(timeout_s)
            except StoreUnavailable:
                self.stop()
                if not last or known:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                break
        return self

    def stop(self) -> None:
        """End the process and wait for it; the data stay. Harmless when it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.stop)
        try:
            process.terminate()
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the watcher too; the group is ours alone
            process.wait(_END_TIMEOUT_S)
            if process.stdin is not None:
                process.stdin.close()
            for path in self._sockets():
                Path(path).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self) -> None:
        (self._directory / "data").mkdir(parents=True, exist_ok=True)
        identities: list[dict[str, object]] = []
        config = self._directory / "s3.json"
        if config.exists():
            return
        roles: tuple[tuple[str, list[str]], ...] = (
            ("admin", ["Admin", "Read", "List", "Write", "Tagging"]),
            ("reader", ["Read", "List"]),
            ("stranger", []),
        )
        for name, actions in roles:
            access, secret = self._random.token(10).hex(), self._random.token(20).hex()
            identities.append(
                {
                    "name": name,
                    "credentials": [{"accessKey": access, "secretKey": secret}],
                    "actions": actions,
                }
            )
            _write_private(
                self._directory / f"{name}.toml",
                f'access_key_id = "{access}"\nsecret_access_key = "{secret}"\n',
            )
        _write_private(config, json.dumps({"identities": identities}))

    def _launch(self) -> None:
        ports = self._ports
        arguments = [
            f"-dir={self._directory / 'data'}",
            f"-ip={_HOST}",
            f"-ip.bind={_HOST}",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-master.electionTimeout=1s",
            f"-master.port={ports['master']}",
            "-volume.max=1000",
            "-volume.preStopSeconds=0",
            f"-volume.port={ports['volume']}",
            f"-filer.port={ports['filer']}",
            f"-filer.localSocket={self._directory / 'filer.sock'}",
            "-s3",
            f"-s3.port={ports['s3']}",
            f"-s3.config={self._directory / 's3.json'}",
            f"-s3.localSocket={self._directory / 's3.sock'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            "-s3.iam=false",
            "-iam=false",
            "-webdav=false",
            "-sftp=false",
            "-mq.broker=false",
        ]
        if self._tls:
            certificate = loopback_certificate(self._directory, self._clock)
            arguments += [
                f"-s3.cert.file={certificate.ca_file}",
                f"-s3.key.file={certificate.key_file}",
            ]
        atexit.register(self.stop)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "/bin/sh",
                    "-c",
                    _LAUNCH.format(sockets=" ".join(self._sockets())),
                    "sh",
                    str(self._binary),
                    "server",
                    *arguments,
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                start_new_session=True,
            )

    def _wait_until_ours(self, timeout_s: float) -> None:
        """Until a bucket of a random name could be made with our random keys."""
        assert self._process is not None
        process, deadline_s = self._process, self._clock.monotonic_s() + timeout_s
        options = replace(
            self.options(), connect_timeout_s=2.0, read_timeout_s=5.0, retry=RetryPolicy(budget_s=0.0)
        )
        probe = f"ours-{self._random.token(8).hex()}"
        while True:
            try:
                create_bucket(probe, options, self._clock, versioned=False)
                delete_bucket(probe, options, self._clock)
                return
            except (StoreUnavailable, StoreDenied) as failure:
                last: WalarchiverError = failure
            if process.poll() is not None:
                raise StoreUnavailable(f"weed ended with status {process.returncode}: {self._log_tail()}")
            if self._clock.monotonic_s() > deadline_s:
                raise StoreUnavailable(
                    f"weed did not serve S3 within {timeout_s:g} s ({last.message}): {self._log_tail()}"
                ) from last
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)

    def _sockets(self) -> list[str]:
        """The gRPC sockets that weed puts into /tmp, and leaves behind when it is killed."""
        return [f"/tmp/seaweedfs-{name}-grpc-{port + 10000}.sock" for name, port in self._ports.items()]  # noqa: S108

    def _log_tail(self) -> str:
        try:
            content = self.log_path.read_bytes()
        except OSError:
            return "no log"
        return content[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")


def _write_private(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(text)


def _free_ports(random: Random) -> dict[str, int]:
    """Four free ports whose gRPC ports (10000 higher, as weed has it) are free as well.

    All below what systems give to outgoing connections, which could take one while the server is down.
    """
    found: dict[str, int] = {}
    held: list[socket.socket] = []
    try:
        for name in ("master", "volume", "filer", "s3"):
            while name not in found:
                port = _LOWEST_PORT + int.from_bytes(random.token(2)) % _PORTS
                try:
                    held.append(socket.create_server((_HOST, port)))
                    held.append(socket.create_server((_HOST, port + 10000)))
                except OSError:
                    continue
                found[name] = port
    finally:
        for one in held:
            one.close()
    return found
