"""A ledger that lost its newest entries while nothing ran: refused until they are back or let go."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.integration.scene import PATIENCE_S, Scene, Scenes, until
from tests.integration.test_refusals import offer
from tests.integration.test_second_place import ledger_names
from walarchiver.demo.stage import ask

REWOUND = "WA-LEDGER-REWOUND"


def cut(scene: Scene, entries: int) -> dict[Path, bytes]:
    """Stop the server and take the newest entries away; what they were."""
    assert scene.stage.stop_server() == 0
    lost = {entry: entry.read_bytes() for entry in ledger_names(scene)[-entries:]}
    for entry in lost:
        entry.unlink()
    return lost


def serve_again(scenes: Scenes, scene: Scene) -> None:
    """Start the server, and return once it answers and has said why it cannot archive."""
    scene.stage.server = scenes.run(scene.stage.command("serve"), scene.stage.log_path)
    scene.logged(REWOUND)
    scene.serves()


def fetched(scene: Scene, name: str) -> subprocess.CompletedProcess[str]:
    """restore_command of a standby, by hand."""
    run_as = scene.cluster.run_as
    return subprocess.run(
        [str(scene.stage.hook), "--socket", str(scene.stage.socket), "fetch", name, "pg_wal/RECOVERYXLOG"],
        capture_output=True,
        text=True,
        cwd=scene.cluster.data_dir,
        timeout=PATIENCE_S,
        check=False,
        user=run_as.uid if run_as else None,
    )


def test_a_restart_on_a_shorter_ledger_refuses_until_the_entries_are_back(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    last = scene.archive_all()
    lost = cut(scene, 3)
    serve_again(scenes, scene)
    pushed = offer(scene, f"pg_wal/{last}")
    assert (pushed.exit_status, REWOUND in pushed.stderr) == (1, True), pushed.stderr
    absent = fetched(scene, last)
    assert (absent.returncode, REWOUND in absent.stderr) == (200, True), absent.stderr
    waiting = scene.switch()
    until(lambda: scene.counted("failed_count"), "a failure that PostgreSQL counts")

    told = scene.call("status", "--output", "json")
    assert (told.exit_status, told.error["code"]) == (15, REWOUND)
    assert "`walarchiver catalog rebuild`" in told.error["hint"]
    (found,) = [
        one
        for one in scene.call("doctor", "--output", "json").json["findings"]
        if one["name"] == "main ledger"
    ]
    assert (found["level"], found["code"]) == ("fail", REWOUND)

    for entry, raw in lost.items():
        entry.write_bytes(raw)
    until(lambda: ask(scene.stage.socket, "/readyz"), "a server that goes on")
    scene.switch()  # PostgreSQL, after three failures, waits a minute or for the next file
    until(lambda: scene.archived(waiting), "archiving that goes on by itself")
    scene.prove_archived()
    scene.prove_rebuild()


def test_entries_that_are_lost_for_good_are_dropped_by_name_and_only_then(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    last = scene.archive_all()
    before = scene.json("ledger", "verify")["entries"]
    lost = cut(scene, 2)
    refused = scene.call("catalog", "rebuild", "--output", "json")
    assert (refused.exit_status, refused.error["code"]) == (15, REWOUND)
    first, head = (int(entry.stem, 16) for entry in (min(lost), max(lost)))
    assert f"lacks entries {first}..{head}" in refused.error["message"]
    named = re.search(r"catalog rebuild --drop (\S+)`", refused.error["hint"])
    assert named is not None
    assert scene.call("catalog", "rebuild", "--drop", "everything").exit_status == 2
    assert scene.call("catalog", "rebuild", "--drop", f"{first}..{head + 1}").exit_status == 15
    assert scene.call("status").exit_status == 15, "a refused rebuild changed the catalog"

    serve_again(scenes, scene)
    assert offer(scene, f"pg_wal/{last}").exit_status == 1
    done = scene.json("catalog", "rebuild", "--drop", named[1])
    assert (done["dropped"]["first"], done["dropped"]["last"]) == (first, head)
    assert done["entries"] == before - 2
    until(lambda: offer(scene, f"pg_wal/{last}").exit_status == 0, "a server that goes on")
    assert scene.open().catalog.file(last) is not None
    again = scene.call("catalog", "rebuild")
    assert (again.exit_status, "dropped" in again.stdout) == (0, False)
    scene.archive_all()
