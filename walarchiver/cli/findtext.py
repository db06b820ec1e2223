"""What `find` prints: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from restore.core.catalogsteps import Fate
from restore.core.findings import Finding, Kind, Part
from restore.core.model import View
from restore.finding import Answer, Question
from walarchiver.assembly import Archive
from walarchiver.cli.when import both_clocks
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import format_rfc3339

_HARMLESS = {Fate.REWRITE: "rewritten (VACUUM FULL, CLUSTER or ALTER TABLE)", Fate.MOVE: "moved"}


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer."""

    archive: Archive
    view: View
    question: Question
    answer: Answer
    timezone: str | None
    elapsed_s: float

    # --- for people -------------------------------------------------------------------------------

    def text(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        answer = self.answer
        yield (
            f"cluster {self.view.cluster}, timeline {answer.path.timeline}, {self._what()}: "
            f"{', '.join(sorted(self.question.kinds))}"
        )
        yield f"from {both_clocks(self.question.from_us, self.timezone)}"
        yield f"to   {both_clocks(self.question.to_us, self.timezone)}"
        yield (
            f"read: {answer.segments} segments, {format_lsn(answer.start)} to {format_lsn(answer.end)}, "
            f"{answer.walked / 1e6:,.0f} MB in {self.elapsed_s:.1f} s"
        )
        yield ""
        for found in answer.findings:
            yield from self._finding(found)
        if not answer.findings:
            yield "no such transaction was found"
        if answer.omitted:
            yield f"NOT LISTED: {answer.omitted} more with fewer rows; raise --limit, or narrow the time"
        yield from (f"harmless: {line}" for line in self._harmless())
        yield from (f"note: {line}" for line in answer.notes)
        yield from (f"NOT CERTAIN: {line}" for line in answer.doubts)
        if answer.gap is not None:
            yield f"GAP: {answer.gap}; this is what was found before it"

    def _what(self) -> str:
        wanted = self.answer.wanted
        if wanted is None:
            return self.question.table or str(self.question.relation)
        names = [table.name for table in wanted.tables]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"{', '.join(names[:3])}{more} in database {wanted.database_name}"

    def _finding(self, found: Finding) -> Iterator[str]:
        one = found.transaction
        ended = "" if one.committed else "  ROLLED BACK"
        yield f"xid {one.xid}  {both_clocks(one.time, self.timezone)}  {format_lsn(one.lsn)}{ended}"
        for part in found.parts:
            yield f"    {part.table}: {_said(part)}"
        if one.committed:
            exact = f"--at lsn:{format_lsn(found.before)}{self._branch()}"
            by_xid = f"--at before-xid:{one.xid}{self._branch()}"
            yield (
                f"    just before it: {by_xid}   or, exactly: {exact}"
                if found.by_xid
                else f"    just before it: {exact}"
            )

    def _branch(self) -> str:
        timeline = self.answer.path.timeline
        return "" if timeline == self.view.current_timeline else f" --timeline {timeline}"

    def _harmless(self) -> Iterator[str]:
        if Kind.REWRITE in self.question.kinds:
            return
        for table, history in self.answer.histories:
            for loss in history.losses:
                if loss.outcome.fate in _HARMLESS:
                    one = loss.transaction
                    yield (
                        f"{table.name} was {_HARMLESS[loss.outcome.fate]} by xid {one.xid} "
                        f"at {both_clocks(one.time, self.timezone)}; all rows went along"
                    )

    # --- for machines -----------------------------------------------------------------------------

    def members(self) -> dict[str, object]:
        answer, question = self.answer, self.question
        return {
            "cluster": self.view.cluster,
            "system": self.archive.system,
            "timeline": answer.path.timeline,
            "database": None if answer.wanted is None else answer.wanted.database_name,
            "table": question.table,
            "relation": None if question.relation is None else str(question.relation),
            "kinds": sorted(question.kinds),
            "from": format_rfc3339(question.from_us),
            "to": format_rfc3339(question.to_us),
            "searched": {
                "from_lsn": format_lsn(answer.start),
                "to_lsn": format_lsn(answer.end),
                "segments": answer.segments,
                "bytes": answer.walked,
                "seconds": round(self.elapsed_s, 3),
            },
            "tables": [
                {
                    "name": table.name,
                    "oid": table.oid,
                    "files": sorted(map(str, history.files)),
                    "changes": [
                        {"xid": loss.transaction.xid, "what": str(loss.outcome.fate)}
                        for loss in history.losses
                    ],
                }
                for table, history in answer.histories
            ],
            "transactions": [self._member(found) for found in answer.findings],
            "omitted": answer.omitted,
            "certain": not answer.doubts,
            "doubts": list(answer.doubts),
            "notes": list(answer.notes),
            "gap": answer.gap,
        }

    def _member(self, found: Finding) -> dict[str, object]:
        one, rows = found.transaction, found.rows
        return {
            "xid": one.xid,
            "time": format_rfc3339(one.time),
            "lsn": format_lsn(one.lsn),
            "committed": one.committed,
            "kinds": sorted(found.kinds),
            "inserted": rows.inserted,
            "updated": rows.updated,
            "deleted": rows.deleted,
            "parts": [
                {
                    "table": part.table,
                    "kinds": sorted(part.kinds),
                    "inserted": part.rows.inserted,
                    "updated": part.rows.updated,
                    "deleted": part.rows.deleted,
                }
                for part in found.parts
            ],
            "at": f"before-xid:{one.xid}" if found.by_xid and one.committed else None,
            "at_lsn": f"lsn:{format_lsn(found.before)}" if one.committed else None,
        }


def _said(part: Part) -> str:
    """`DELETE 7 rows, UPDATE 2 rows, TRUNCATE`."""
    words = [str(kind).upper() for kind in (Kind.DROP, Kind.TRUNCATE, Kind.REWRITE) if kind in part.kinds]
    if Kind.UNCLEAR in part.kinds:
        words.append("its file was given up, in a way that is not understood")
    for verb, count in (
        ("DELETE", part.rows.deleted),
        ("UPDATE", part.rows.updated),
        ("INSERT", part.rows.inserted),
    ):
        if count:
            words.append(f"{verb} {count:,} rows" if count != 1 else f"{verb} 1 row")
    return ", ".join(words)
