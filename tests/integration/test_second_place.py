"""The second place: away, it delays nothing; there, it shows that the ledger's end was cut off."""

from __future__ import annotations

from pathlib import Path

from tests.integration.scene import Scene, Scenes, until


def configure(scene: Scene, place: str, *, section: str = "") -> None:
    """Restart the server with this second place."""
    assert scene.stage.stop_server() == 0
    kept = scene.stage.config.read_text().partition("[repository.elsewhere]")[0].splitlines()
    lines = [line for line in kept if not line.startswith("checkpoints")]
    scene.stage.config.write_text("\n".join([*lines, f'checkpoints = "{place}"', section, ""]))
    scene.stage.serve()


def test_a_second_place_is_never_waited_for_and_bounds_what_can_be_cut_off(scenes: Scenes) -> None:
    scene = scenes.make()
    folder = scene.stage.folder / "elsewhere"
    configure(scene, f"file://{folder}")
    scene.logged("checkpoint not kept elsewhere")
    scene.archive_all()
    told = scene.call("status", "--output", "json")
    assert any("Checkpoints are not kept in" in problem for problem in told.json["problems"])
    alarms = scene.call("doctor", "--output", "json").json["findings"]
    assert [one["level"] for one in alarms if one["name"] == "main checkpoints"] == ["warn"]

    folder.mkdir()
    configure(scene, "elsewhere", section=f'[repository.elsewhere]\nurl = "file://{folder}"')
    (made,) = until(lambda: list(folder.rglob("v1/checkpoint/*/*/*.json")), "a checkpoint kept elsewhere")
    scene.archive_all()
    checked = scene.call("ledger", "verify", "--output", "json")
    assert checked.exit_status == 0, checked.stderr
    assert checked.json["bound"]["seq"] == int(made.stem, 16)

    assert scene.stage.stop_server() == 0
    lost = [entry for entry in ledger_names(scene) if entry.stem >= made.stem]
    for entry in lost:
        entry.unlink()
    assert scene.call("ledger", "verify").exit_status == 15
    first, last = (int(entry.stem, 16) for entry in (lost[0], lost[-1]))
    scene.json(
        "catalog", "rebuild", "--drop", f"{first}..{last}"
    )  # this host forgets; the second place does not
    (problem,) = [
        one for one in scene.call("status", "--output", "json").json["problems"] if "vouches" in one
    ]
    assert f"entry {int(made.stem, 16)} of system" in problem


def ledger_names(scene: Scene) -> list[Path]:
    return sorted((scene.stage.folder / "repository").glob("v1/c/*/ledger/*.json"))
