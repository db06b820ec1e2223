"""`walarchiver plan --at WHEN`: what a moment can be restored from; changes nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from restore.core.model import Verdict
from restore.core.plandocument import plan_document
from restore.core.plantext import plan_text
from walarchiver.assembly import Host
from walarchiver.cli.asking import Answer, add_question, answer, plan_of
from walarchiver.cli.context import Context
from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import (
    BeforeFirstBackup,
    NotProven,
    NotReachable,
    SeveralTargets,
    TargetInGap,
    UnknownTarget,
    WrongBranch,
)

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

_REFUSALS: dict[Verdict, type[NotReachable]] = {
    Verdict.GAP: TargetInGap,
    Verdict.BEFORE_FIRST_BACKUP: BeforeFirstBackup,
    Verdict.NOT_PROVEN: NotProven,
    Verdict.WRONG_BRANCH: WrongBranch,
    Verdict.UNKNOWN_TARGET: UnknownTarget,
    Verdict.AMBIGUOUS: SeveralTargets,
}


def register(subparsers: Subparsers) -> None:
    """Add `plan`."""
    parser = subparsers.add_parser("plan", help="what a moment can be restored from; changes nothing")
    add_question(parser)


def run(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    return show(context, host, answer(context, host, args))


def show(context: Context, host: Host, found: Answer) -> int:
    """Print the answer; the exit status: 0, or 13 or 14 for a refusal."""
    refusal = refusal_of(found)
    if refusal is not None:
        text = plan_text(found.decision, found.view, requested=found.understood)
        context.result(
            f"{text}\nerror code {refusal.code}\nnext step: {refusal.next_step}",
            {
                **plan_document(found.decision, found.view, requested=found.understood),
                "code": refusal.code,
                "next_step": refusal.next_step,
                "other_systems": [
                    {
                        "system": one.system,
                        "major": one.major,
                        "earliest": format_rfc3339(one.earliest),
                        "latest": format_rfc3339(one.latest),
                    }
                    for one in found.elsewhere
                ],
            },
        )
        return refusal.exit_status
    plan = plan_of(host, found, None, Path("walarchiver-hook"))
    text = plan_text(
        found.decision,
        found.view,
        requested=found.understood,
        settings=plan.settings,
        duration=found.duration,
    )
    document: dict[str, object] = dict(
        plan_document(
            found.decision,
            found.view,
            requested=found.understood,
            settings=plan.settings,
            keys=plan.keys,
            duration=found.duration,
        )
    )
    cluster = host.settings.clusters.get(found.archive.cluster.name)
    if cluster is not None and cluster.bucket is not None:
        text, document = _with_bucket(host, found, text, document)
    context.result(text, document)
    return 0


def _with_bucket(
    host: Host, found: Answer, text: str, document: dict[str, object]
) -> tuple[str, dict[str, object]]:
    """The bucket's part added."""
    from walarchiver.cli.bucketpart import bucket_part, with_bucket  # loads the library that reads its index

    part = bucket_part(host, found)
    if part is not None:
        text = "\n".join((text.rstrip("\n"), *part.lines))
        document = with_bucket(document, part)
    return text, document


def refusal_of(found: Answer) -> NotReachable | None:
    """The error that a refusing answer stands for; None when the target is reachable."""
    decision = found.decision
    if decision.stop is not None:
        return None
    refusal = _REFUSALS[decision.verdict](decision.reason)
    for one in found.elsewhere:
        refusal.next_step = (
            f"System identifier {one.system} (PostgreSQL {one.major}) had the same cluster name, and its "
            f"archive holds that moment: add --system {one.system}. {refusal.next_step}"
        )
    return refusal
