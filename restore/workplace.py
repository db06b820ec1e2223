"""The folder beside a restored data directory: plan, socket, spool, log.

`DIR.walarchiver` lies on the same file system as `DIR`, so that fetched files can be renamed into
place. It holds no key; only `configuration` may hold secrets, and is closed to others. A restored
instance finds its plan here for as long as it recovers, also after a crash or on another day.
"""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from restore.core.plan import Plan
from restore.core.planfile import plan_from_text, plan_to_text
from walarchiver.errors import ConfigError, TargetDirectoryInUse, UsageError
from walarchiver.postgres.process import RunAs

SOCKET_PATH_MAX = 107
"""sun_path of a Unix socket address on Linux, without the final NUL (unix(7))."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """The places that belong to one restored data directory (absolute path)."""

    target: Path

    @classmethod
    def beside(cls, target: Path) -> Workplace:
        """Raises UsageError when a socket cannot have its path there."""
        place = cls(Path(os.path.abspath(target)))
        if len(os.fsencode(place.socket)) > SOCKET_PATH_MAX:
            raise UsageError(
                f"{place.socket} is longer than the {SOCKET_PATH_MAX} bytes that a socket may have",
                hint="Restore into a directory with a shorter path.",
            )
        return place

    @property
    def folder(self) -> Path:
        return self.target.with_name(f"{self.target.name}.walarchiver")

    @property
    def plan_path(self) -> Path:
        return self.folder / "plan.json"

    @property
    def socket(self) -> Path:
        return self.folder / "wa.sock"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def instance(self) -> Path:
        """Private socket, access rules and log of the instance while we run it."""
        return self.folder / "instance"

    @property
    def recovering(self) -> bool:
        """Whether PostgreSQL has WAL to replay there still; it removes the file when recovery has ended."""
        return (self.target / "recovery.signal").exists()

    @property
    def log(self) -> Path:
        """Where PostgreSQL writes when it is started by hand, with the command that `restore` prints."""
        return self.folder / "server.log"

    @property
    def increments(self) -> Path:
        """Increments of a chain of backups, while they are combined."""
        return self.folder / "increments"

    @property
    def configuration(self) -> Path:
        """Copies of configuration files that lay outside the data directory, by their old paths."""
        return self.folder / "configuration"

    @property
    def tablespaces(self) -> Path:
        """Where tablespaces go unless the operator says otherwise."""
        return self.target.with_name(f"{self.target.name}.tablespaces")

    def check_unused(self) -> None:
        """Raises TargetDirectoryInUse when a plan is there already; writes nothing."""
        if self.plan_path.exists():
            raise TargetDirectoryInUse(
                f"{self.plan_path} is there: an earlier restore into {self.target} used this place",
                hint=f"Remove {self.folder}, or name another directory.",
            )

    def make(self, owner: RunAs | None) -> None:
        """Make the folders. Raises TargetDirectoryInUse when a plan is there already."""
        self.check_unused()
        self.make_again(owner)

    def make_again(self, owner: RunAs | None) -> None:
        """Make the folders where an earlier restore may have left its own; its plan counts no longer."""
        self.plan_path.unlink(missing_ok=True)
        if self.configuration.exists():
            shutil.rmtree(self.configuration)
        try:
            for folder in (self.folder, self.spool):
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
                if owner is not None and os.geteuid() == 0:  # never whatever its owner made it a link to
                    os.chown(folder, owner.uid, owner.gid, follow_symlinks=False)
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be made: {error.strerror}") from error

    def write_plan(self, plan: Plan) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self.plan_path, flags, 0o644), "w", encoding="utf-8") as out:
            out.write(plan_to_text(plan))

    def restore_command(self, hook: Path, plan_id: str) -> str:
        """restore_command of this instance; PostgreSQL replaces %f and %p, and %% by one %."""
        words = f"{shlex.quote(str(hook))} --socket {shlex.quote(str(self.socket))} fetch --plan {plan_id}"
        return f"{words.replace('%', '%%')} %f %p"


def find_plan(reference: str, state: Path) -> tuple[Plan, Workplace]:
    """The plan that `serve --plan` names: an id noted in the state folder, or a path of plan.json.

    Raises ConfigError, MalformedObject.
    """
    path = Path(reference)
    if path.name != "plan.json":
        note = state / "plans" / reference
        try:
            path = Path(note.read_text("utf-8").strip())
        except OSError:
            raise ConfigError(
                f"no plan {reference} is noted in {state / 'plans'}",
                hint="Give the path of plan.json, in the folder beside the restored data directory.",
            ) from None
    try:
        plan = plan_from_text(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    folder = path.absolute().parent
    return plan, Workplace(folder.with_name(folder.name.removesuffix(".walarchiver")))


def note_plan(plan: Plan, place: Workplace, state: Path) -> bool:
    """Let `serve --plan ID` find the plan by its id; False where the state folder cannot be written."""
    try:
        folder = state / "plans"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / plan.id).write_text(f"{place.plan_path}\n", "utf-8")
    except OSError:
        return False
    return True
