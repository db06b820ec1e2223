"""Makes a hole in an archive, as a wrong archive_command does."""

from __future__ import annotations

from tests.integration.scene import Scene


def lose_segment(scene: Scene) -> str:
    """Let PostgreSQL believe that one segment is archived, which is not; its name."""
    genuine = scene.stage.archive_settings()["archive_command"]
    scene.reload({"archive_command": "/bin/true"})
    lost = scene.archive_all()
    scene.reload({"archive_command": genuine})
    return lost
