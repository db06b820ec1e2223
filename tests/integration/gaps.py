"""Makes a hole in an archive, as a wrong archive_command does."""

from __future__ import annotations

from tests.integration.scene import Scene, until


def lose_segment(scene: Scene) -> str:
    """Let PostgreSQL believe that one segment is archived, which is not; its name."""
    genuine = scene.stage.archive_settings()["archive_command"]
    _set_command(scene, "/bin/true")
    lost = scene.archive_all()
    _set_command(scene, genuine)
    return lost


def _set_command(scene: Scene, command: str) -> None:
    scene.cluster.configure({"archive_command": command})
    scene.cluster.reload()
    # The archiver reads the file anew only when it is told, so it must have been told.
    until(lambda: scene.cluster.psql("SHOW archive_command") == command, "the reload")
