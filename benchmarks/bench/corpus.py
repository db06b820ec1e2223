"""Real WAL to measure with: some of each kind that databases write, made by an embedded server.

Rules:
- Kinds: init (pgbench -i), tpcb (pgbench's statements, with a commit each), copy, index, jsonb (inserts
  and updates of documents), delete (bulk), switched (a few records and then zeros).
- Full page writes, checksums and hint bits are as in production; only fsync is off, which changes no byte
  of WAL.
- The segments follow each other without a gap; one in which one kind of work ends and the next begins counts
  as the later one's.
- A corpus is a folder with the segments, the cluster that wrote them, and `corpus.json`, which says the
  kind of every segment. It can be kept and used again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench.progress import say
from walarchiver.embedded.postgres import MIB, EmbeddedCluster

MAJOR = 15
"""The newest that every peer of Debian's stable release understands."""
SMALL: Mapping[str, int] = {
    "init": 4,
    "tpcb": 11,
    "copy": 4,
    "index": 3,
    "jsonb": 3,
    "delete": 2,
    "switched": 3,
}
FULL: Mapping[str, int] = {
    "init": 15,
    "tpcb": 38,
    "copy": 14,
    "index": 8,
    "jsonb": 6,
    "delete": 5,
    "switched": 5,
}
TINY: Mapping[str, int] = {
    "init": 1,
    "tpcb": 3,
    "copy": 1,
    "index": 0,
    "jsonb": 1,
    "delete": 1,
    "switched": 1,
}
_TRIES_MAX = 400

SCHEMA = """
CREATE TABLE bulk (id bigint, at timestamptz, who text, what text);
CREATE TABLE docs (id bigint PRIMARY KEY, body jsonb);
CREATE INDEX docs_body ON docs USING gin (body jsonb_path_ops);
CREATE PROCEDURE tpcb(n int) LANGUAGE plpgsql AS $$
DECLARE a int; d int; accounts int;
BEGIN
  accounts := (SELECT count(*) * 100000 FROM pgbench_branches);
  FOR i IN 1..n LOOP
    a := 1 + random() * (accounts - 1); d := -5000 + random() * 10000;
    UPDATE pgbench_accounts SET abalance = abalance + d WHERE aid = a;
    PERFORM abalance FROM pgbench_accounts WHERE aid = a;
    UPDATE pgbench_tellers SET tbalance = tbalance + d WHERE tid = 1 + a % 10;
    UPDATE pgbench_branches SET bbalance = bbalance + d WHERE bid = 1;
    INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1 + a % 10, 1, a, d, clock_timestamp());
    COMMIT;
  END LOOP;
END $$;
"""
COPY = (
    "COPY (SELECT g, now() - g * interval '1 second', 'user' || g % 997, md5(g::text) || md5((g * 7)::text) "
    "FROM generate_series(1, 150000) g) TO '{file}'",
    "COPY bulk FROM '{file}'",
)
JSONB = (
    "INSERT INTO docs SELECT g, jsonb_build_object('id', g, 'name', md5(g::text), 'tags', jsonb_build_array("
    "'t' || g % 13, 't' || g % 7), 'address', jsonb_build_object('city', 'c' || g % 301, 'zip', g % 9999), "
    "'note', repeat(md5((g % 50)::text), 2)) FROM generate_series({first}, {first} + 5999) g",
    "UPDATE docs SET body = jsonb_set(body, '{{seen}}', to_jsonb(id % 17)) "
    "WHERE id % 3 = 0 AND id >= {first}",
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Segments of one size, in order."""

    folder: Path
    segment_bytes: int
    kinds: Mapping[str, str]
    """Name of every segment, in order, and its kind."""

    @property
    def names(self) -> list[str]:
        return sorted(self.kinds)

    @property
    def wal(self) -> Path:
        return self.folder / "pg_wal"

    @property
    def bytes(self) -> int:
        return len(self.kinds) * self.segment_bytes

    def server(self) -> EmbeddedCluster:
        """The cluster that wrote it, stopped; it has the system identifier that the segments carry."""
        return _cluster(self.folder)

    def mixed(self, count: int) -> list[str]:
        """`count` neighbouring names whose kinds are as mixed as they come; all when there are fewer."""
        names = self.names
        if count >= len(names):
            return names
        starts = range(len(names) - count + 1)
        first = max(starts, key=lambda at: len({self.kinds[name] for name in names[at : at + count]}))
        return names[first : first + count]

    def data_directory(self, folder: Path, names: list[str], *, ready: bool = True) -> Path:
        """A stand-in for the data directory: the segments by hard link, each marked as to be archived."""
        status = folder / "pg_wal" / "archive_status"
        status.mkdir(parents=True)
        (folder / "global").mkdir()
        shutil.copyfile(self.folder / "PG_VERSION", folder / "PG_VERSION")
        shutil.copyfile(self.folder / "global" / "pg_control", folder / "global" / "pg_control")
        for name in names:
            os.link(self.wal / name, folder / "pg_wal" / name)
            if ready:
                (status / f"{name}.ready").touch()
        return folder


def load(folder: Path) -> Corpus:
    """A corpus that was kept."""
    told = json.loads((folder / "corpus.json").read_text())
    return Corpus(folder, told["segment_bytes"], told["kinds"])


def build(folder: Path, wanted: Mapping[str, int], *, segment_bytes: int = 16 * MIB) -> Corpus:
    """Make at least so many segments of each kind below `folder`."""
    cluster = _cluster(folder)
    cluster.create(segment_bytes=segment_bytes)
    cluster.start()
    try:
        kinds = _Maker(cluster, segment_bytes).make(wanted)
        cluster.stop()
        return _keep(cluster, folder, segment_bytes, kinds)
    finally:
        if cluster.running:
            cluster.kill()


def _cluster(folder: Path) -> EmbeddedCluster:
    settings = {
        "max_wal_size": "64GB",
        "wal_keep_size": "60GB",
        "checkpoint_timeout": "1h",
        "shared_buffers": "256MB",
        "full_page_writes": "on",
        "wal_level": "replica",
        "maintenance_work_mem": "256MB",
        "autovacuum": "off",
    }
    return EmbeddedCluster(MAJOR, folder / "server", settings=settings, durable=False)


def _keep(cluster: EmbeddedCluster, folder: Path, segment_bytes: int, kinds: dict[str, str]) -> Corpus:
    (folder / "pg_wal").mkdir(parents=True)
    (folder / "global").mkdir()
    for part in ("PG_VERSION", "global/pg_control"):
        shutil.copyfile(cluster.data_dir / part, folder / part)
    for name in kinds:
        # A copy: a hard link to a file that PostgreSQL owns could not be handed to everybody.
        shutil.copyfile(cluster.data_dir / "pg_wal" / name, folder / "pg_wal" / name)
    (folder / "corpus.json").write_text(
        json.dumps({"segment_bytes": segment_bytes, "kinds": kinds}, indent=1)
    )
    return Corpus(folder, segment_bytes, kinds)


class _Maker:
    def __init__(self, cluster: EmbeddedCluster, segment_bytes: int) -> None:
        self._cluster = cluster
        self._segment_bytes = segment_bytes
        self._documents = 1
        self._keyed = True
        self._end = ""
        self._copied = cluster.directory / "rows.copy"

    def make(self, wanted: Mapping[str, int]) -> dict[str, str]:
        """Name -> kind of the segments made."""
        steps: dict[str, Callable[[], object]] = {
            "init": self._init,
            "tpcb": self._tpcb,
            "copy": self._copy,
            "index": self._index,
            "jsonb": self._jsonb,
            "delete": self._delete,
            "switched": self._switched,
        }
        self._cluster.program("pgbench", "-i", "-q", "-s", "1", "-d", self._cluster.dsn(), timeout_s=120)
        self._cluster.psql(SCHEMA)
        self._cluster.psql(COPY[0].format(file=self._copied), timeout_s=300)
        self._cluster.psql("SELECT pg_switch_wal()")
        kinds: dict[str, str] = {}
        for kind, step in steps.items():
            if count := wanted.get(kind, 0):
                made = self._until(step, count)
                kinds |= dict.fromkeys(made, kind)
                say(f"corpus: {len(made)} segments of {kind}")
        return kinds

    def _until(self, step: Callable[[], object], count: int) -> list[str]:
        self._cluster.psql("CHECKPOINT")
        first = self._end or self._here()
        for _ in range(_TRIES_MAX):
            step()
            self._end = self._here()
            found = self._before(first, self._end)
            if len(found) >= count:
                return found
        raise AssertionError("a step of the corpus writes no WAL")

    def _before(self, first: str, last: str) -> list[str]:
        """The whole segments from `first` on: those behind it are being written."""
        wal = self._cluster.data_dir / "pg_wal"
        return sorted(p.name for p in wal.iterdir() if len(p.name) == 24 and first <= p.name < last)

    def _here(self) -> str:
        return self._cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())")

    # --- kinds of work -------------------------------------------------------------------------

    def _init(self) -> None:
        # Rows without keys: how those are made is WAL of the kind "index".
        self._keyed = False
        words = ["-i", "-q", "-I", "dtgv", "-s", "3", "-d", self._cluster.dsn()]
        self._cluster.program("pgbench", *words, timeout_s=300)

    def _tpcb(self) -> None:
        if not self._keyed:
            self._cluster.program("pgbench", "-i", "-q", "-I", "p", "-d", self._cluster.dsn(), timeout_s=300)
            self._keyed = True
        self._cluster.psql("CALL tpcb(12000)", timeout_s=300)

    def _copy(self) -> None:
        self._cluster.psql(COPY[1].format(file=self._copied), timeout_s=300)

    def _index(self) -> None:
        self._cluster.psql("CREATE INDEX ON bulk (what)", timeout_s=300)

    def _jsonb(self) -> None:
        for statement in JSONB:
            self._cluster.psql(statement.format(first=self._documents), timeout_s=300)
        self._documents += 6000

    def _delete(self) -> None:
        self._cluster.psql(
            "DELETE FROM bulk WHERE ctid IN (SELECT ctid FROM bulk LIMIT 100000)", timeout_s=300
        )
        if self._cluster.psql("SELECT count(*) < 100000 FROM bulk") == "t":
            self._copy()

    def _switched(self) -> None:
        self._cluster.psql(
            "INSERT INTO docs VALUES (-(1 + (random() * 1e9)::bigint), '{}') ON CONFLICT DO NOTHING"
        )
        self._cluster.psql("SELECT pg_switch_wal()")
