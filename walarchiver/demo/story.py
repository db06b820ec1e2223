"""The story: rows and files, both deleted by accident; both restored to the second before, and proved.

Rules:
- The restore knows nothing of the stage but what an empty machine would have: the repository, one
  custodian's key file and a configuration of a few lines.
- The proof compares every row and every file with what the workload recorded outside of both; which
  transactions a moment includes is told by the original server's own commit times.
- Whatever happens, every process started here is ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from walarchiver.clock import SystemClock, SystemRandom
from walarchiver.core.moment import CommitTime, as_datetime, format_rfc3339, parse_rfc3339
from walarchiver.demo import files
from walarchiver.demo.aftermath import rescue
from walarchiver.demo.proof import Files, Proof, prove
from walarchiver.demo.stage import Evidence, Stage
from walarchiver.demo.workload import ACCOUNTS, OPENING_BALANCE, Journal, State, Workload
from walarchiver.embedded.binaries import postgres_bin, weed_binary
from walarchiver.embedded.postgres import EmbeddedCluster
from walarchiver.embedded.seaweed import SeaweedServer
from walarchiver.errors import DeadlineExceeded, RestoreFailed
from walarchiver.gauges import count_ready
from walarchiver.ports import Clock
from walarchiver.postgres.demo_sql import RECEIPTS, Bank, Transfer
from walarchiver.storage import S3Location
from walarchiver.storage.evidence import S3EvidenceBucket

BUCKET = "demo-backups"
EVIDENCE = "demo-evidence"
SECOND_US = 1_000_000
ARCHIVED_WITHIN_S = 60.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Options:
    """How the story is told."""

    major: int = 18
    seed: int = 1
    fast: bool = False
    keep: bool = False
    chaos: bool = False
    """`walarchiver serve` is killed while it uploads, and started again."""

    @property
    def work_s(self) -> float:
        """Seconds of workload between the backup and the accident."""
        return 3.0 if self.fast else 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo measured. Seconds; instants are the database server's microseconds."""

    proof: Proof
    asked: CommitTime
    accident: CommitTime
    rto_s: float
    rpo_s: float
    segments: int
    transactions: int
    folder: str
    seed: int
    major: int

    def members(self) -> dict[str, object]:
        """For --output json."""
        return {
            "proof": self.proof.members(),
            "asked": format_rfc3339(self.asked),
            "accident": format_rfc3339(self.accident),
            "rto_seconds": round(self.rto_s, 3),
            "rpo_seconds": round(self.rpo_s, 3),
            "segments": self.segments,
            "transactions": self.transactions,
            "folder": self.folder,
            "seed": self.seed,
            "major": self.major,
        }


class Story:
    """Tells it once."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._clock: Clock = SystemClock()
        self._rest = threading.Event()

    def tell(self) -> Outcome:
        """Play everything; raises what went wrong. All processes are ended either way."""
        options = self._options
        folder = Path(tempfile.mkdtemp(prefix="walarchiver-demo-"))
        folder.chmod(0o755)
        self._say(f"walarchiver demo (seed {options.seed}) in {folder}, on this machine only")
        try:
            with self._stage(folder) as stage:
                return self._play(stage)
        finally:
            if options.keep:
                self._say(f"kept: {folder} (configuration, keys, repository, logs, restored cluster)")
            else:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _stage(self, folder: Path) -> Iterator[Stage]:
        """Start S3, PostgreSQL and the daemon."""
        options, began_s = self._options, self._clock.monotonic_s()
        weed, bin_dir = weed_binary(), postgres_bin(options.major)
        with SeaweedServer(weed, folder / "s3", self._clock, SystemRandom()) as s3:
            s3.make_bucket(BUCKET, versioned=True)
            s3.make_bucket(EVIDENCE, versioned=True)
            stage = Stage(
                folder,
                f"s3://{BUCKET}/walarchiver",
                endpoint=s3.endpoint,
                credentials_file=s3.credentials_file,
                evidence=Evidence(
                    f"s3://{EVIDENCE}", RECEIPTS, {"multipart_time": '"completion"', "scan": '"0s"'}
                ),
            )
            stage.install_hook()
            settings = {**stage.archive_settings(timeout_s=2), "track_commit_timestamp": "on"}
            stage.cluster = EmbeddedCluster(options.major, folder / "pg", settings=settings, bin_dir=bin_dir)
            try:
                stage.cluster.create(segment_bytes=1 << 20)
                stage.make_repository()
                stage.cluster.start()
                stage.serve()
                self._say(
                    f"PostgreSQL {options.major}, an S3 server and `walarchiver serve` run, repository and "
                    f"keys are made ({self._clock.monotonic_s() - began_s:.1f} s)"
                )
                location = S3Location(EVIDENCE, "")
                with closing(
                    S3EvidenceBucket(location, s3.options(), self._clock, SystemRandom())
                ) as self._bucket:
                    yield stage
            finally:
                stage.close()

    def _play(self, stage: Stage) -> Outcome:
        assert stage.cluster is not None
        dsn = stage.cluster.dsn()
        with Bank(dsn) as bank:
            bank.make(ACCOUNTS, OPENING_BALANCE)
        stage.run("bucket", "scan")
        workload = Workload(dsn, self._bucket, seed=self._options.seed, clock=self._clock)
        workload.start()
        try:
            self._back_up(stage)
            self._rest.wait(self._options.work_s)
            if self._options.chaos:
                self._kill_at_work(stage)
            culprit, accident = self._have_accident(dsn)
            asked = CommitTime(accident // SECOND_US * SECOND_US - SECOND_US)
            self._wait_until_restorable(stage, asked)
            recorded = workload.committed()
            with Bank(dsn) as bank:
                times = {one.xid: bank.commit_time(one.xid) for one in recorded}
            stage.cluster.kill()
        finally:
            journal = workload.stop(server_lost=True)
        segments, rpo_s = self._count_losses(stage, journal)
        alone = self._restore_alone(stage, asked)
        before = files.versions(self._bucket)
        restored, verdict, rto_s = self._restore(stage, asked)
        rescued = self._rescue(stage, culprit, accident)
        found = Files(
            digests=files.digests(self._bucket),
            dangling=alone,
            destroyed=len(before - files.versions(self._bucket)),
            verdict=verdict,
        )
        proof = prove(recorded, times, asked, restored, accident, rescued, found)
        self._say_proof(proof, asked)
        return Outcome(
            proof=proof,
            asked=asked,
            accident=accident,
            rto_s=rto_s,
            rpo_s=rpo_s,
            segments=segments,
            transactions=len(journal.committed),
            folder=str(stage.folder),
            seed=self._options.seed,
            major=self._options.major,
        )

    def _back_up(self, stage: Stage) -> None:
        done = json.loads(stage.run("backup", "--output", "json").stdout)["backups"][0]
        self._say(
            f"base backup {done['id']} taken under load: {done['bytes'] / 1e6:.1f} MB, "
            f"{done['stored_bytes'] / 1e6:.1f} MB compressed and sealed"
        )

    def _have_accident(self, dsn: str) -> tuple[int, CommitTime]:
        """DELETE without WHERE, in the middle of the day's work, and the files with it: by whom, and when."""
        with Bank(dsn) as bank:
            xid = bank.run("WITH gone AS (DELETE FROM receipt) DELETE FROM transfer")
            when = bank.commit_time(xid)
        deleted = files.delete_all(self._bucket)
        self._say(
            f"accident: all transfers and receipts deleted by transaction {xid} of "
            f"{as_datetime(when):%H:%M:%S.%f} UTC, and with them {deleted} files of the bucket"
        )
        return xid, when

    def _kill_at_work(self, stage: Stage) -> None:
        """Kill the archiving server while WAL waits for it, and start it again; PostgreSQL goes on."""
        assert stage.cluster is not None
        waiting = 0
        for _ in range(int(ARCHIVED_WITHIN_S / _POLL_S)):
            if waiting := count_ready(stage.cluster.data_dir):
                break
            self._rest.wait(_POLL_S / 20)
        stage.stop_server(kill=True)
        self._rest.wait(1.0)
        stage.serve()
        self._say(
            f"chaos: `walarchiver serve` killed (SIGKILL) with {waiting} WAL files under way, started again"
        )

    def _wait_until_restorable(self, stage: Stage, asked: CommitTime) -> None:
        """The work goes on until the moment is proven restorable."""
        deadline_s = self._clock.monotonic_s() + ARCHIVED_WITHIN_S
        while True:
            told = json.loads(stage.run("status", "--output", "json", check=False).stdout)
            latest = told["latest_restorable"]
            if latest is not None and parse_rfc3339(latest) > asked:
                return
            if self._clock.monotonic_s() > deadline_s:
                raise DeadlineExceeded(f"{format_rfc3339(asked)} was not archived in time: {told['reason']}")
            self._rest.wait(_POLL_S)

    def _count_losses(self, stage: Stage, journal: Journal) -> tuple[int, float]:
        """After the server was killed under load: segments archived, and seconds of work not in them."""
        stage.stop_server()
        told = json.loads(stage.run("status", "--output", "json", check=False).stdout)
        newest = max(one.acknowledged_us for one in journal.committed)
        rpo_s = max(0.0, (newest - parse_rfc3339(told["latest_restorable"])) / SECOND_US)
        self._say(
            f"the server is killed at work (SIGKILL); {told['segments']} segments are archived, "
            f"latest restorable {told['latest_restorable'][11:19]} UTC"
        )
        return told["segments"], rpo_s

    def _restore_alone(self, stage: Stage, asked: CommitTime) -> int:
        """The control: only the database. How many of its references dangle then."""
        told = json.loads(
            stage.run(*self._words(stage, asked, "alone"), config=self._reader_config(stage)).stdout
        )
        try:
            with Bank(told["dsn"]) as bank:
                references = bank.receipts()
        finally:
            end_server(told["pid"], stage.folder / "alone", self._rest)
        dangling = files.dangling(references, self._bucket)
        self._say(
            f"control: restored alone, the database refers to {len(references)} files, and {dangling} of "
            "them are not there"
        )
        return dangling

    def _words(self, stage: Stage, asked: CommitTime, into: str) -> list[str]:
        words = ["restore", "--at", format_rfc3339(asked), "--into", str(stage.folder / into), "--start"]
        words += ["--output", "json"]
        words += ["--hook", str(stage.hook), "--bin-dir", str(postgres_bin(self._options.major))]
        return words + (["--owner", "nobody"] if os.geteuid() == 0 else [])

    def _restore(self, stage: Stage, asked: CommitTime) -> tuple[State, str, float]:
        """Plan and restore both as on an empty machine: the rows then, the verdict, and the seconds."""
        config = self._reader_config(stage)
        at = format_rfc3339(asked)
        plan = json.loads(stage.run("plan", "--at", at, "--output", "json", config=config).stdout)
        self._say(
            f"plan --at {at[:19]}Z: {plan['verdict']}, stop at {plan['stop']['lsn']} "
            f"after transaction {plan['stop']['xid']}, {plan['wal']['count']} segments, "
            f"{plan['undone']['commits']} later commits undone"
        )
        began_s = self._clock.monotonic_s()
        words = [*self._words(stage, asked, "restored"), "--bucket-in-place"]
        told = json.loads(stage.run(*words, config=config).stdout)
        rto_s = self._clock.monotonic_s() - began_s
        try:
            with Bank(told["dsn"]) as bank:
                state = State(*bank.read(), bank.receipts())
        finally:
            end_server(told["pid"], stage.folder / "restored", self._rest)
        joint = told["bucket"]["joint"]
        self._say(
            "restore --bucket-in-place: verified, replayed, stopped at the planned record, promoted to "
            f"timeline {told['timeline']}; {told['bucket']['outcomes'].get('done', 0)} files back; "
            f"{joint['references']} references: {joint['verdict']} ({rto_s:.1f} s)"
        )
        return state, joint["verdict"], rto_s

    def _reader_config(self, stage: Stage) -> Path:
        """An empty machine's: the repository and one custodian's key."""
        return stage.write_reader_config(stage.folder / "reader.toml", state=stage.folder / "reader-state")

    def _rescue(self, stage: Stage, culprit: int, accident: CommitTime) -> dict[int, Transfer]:
        """The other way: find the transaction, and get only its rows back. Raises RestoreFailed."""
        began_s = self._clock.monotonic_s()
        found = rescue(stage, self._reader_config(stage), accident, major=self._options.major)
        if found.xid != culprit:
            raise RestoreFailed(f"find names transaction {found.xid} instead of {culprit}")
        self._say(
            f"find: transaction {found.xid} deleted {found.deleted} transfers; "
            f"rescue --at before-xid:{found.xid}: {len(found.transfers)} rows as CSV, nothing else touched "
            f"({self._clock.monotonic_s() - began_s:.1f} s)"
        )
        return found.transfers

    def _say_proof(self, proof: Proof, asked: CommitTime) -> None:
        if proof.holds:
            self._say(
                f"PROOF: all {proof.accounts} accounts, {proof.transfers} transfers and {proof.receipts} "
                f"receipts are exactly as recorded at {as_datetime(asked):%H:%M:%S} UTC, and the SHA-256 of "
                f"every receipt's file is right; {proof.lost_to_the_accident} deleted rows are back, by "
                "restore and by rescue; no version of the bucket was destroyed"
            )
        else:
            wrong = "; ".join(proof.differences[:3])
            self._say(f"NOT PROVEN: {len(proof.differences)} rows or files differ: {wrong}; {proof.files}")


def end_server(pid: int, data_directory: Path, rest: threading.Event) -> None:
    """Stop the restored server (fast shutdown) and wait until it is gone. Raises RestoreFailed."""
    os.kill(pid, signal.SIGINT)
    for _ in range(300):
        if not (data_directory / "postmaster.pid").exists():
            return
        rest.wait(0.1)
    raise RestoreFailed(f"the restored server (process {pid}) did not stop")
