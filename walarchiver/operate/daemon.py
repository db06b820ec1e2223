"""Asks the running `walarchiver serve` on this host over its socket."""

from __future__ import annotations

import contextlib
import http.client
import socket
from pathlib import Path

from walarchiver.errors import ServerUnreachable, SocketUnusable

TIMEOUT_S = 5.0
_ANSWER_BYTES_MAX = 1 << 20


def ask_server(socket_path: Path, path: str) -> tuple[int, str]:
    """Status and text of a GET. Raises ServerUnreachable."""
    connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT_S)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as channel:
        channel.settimeout(TIMEOUT_S)
        try:
            channel.connect(str(socket_path))
            connection.sock = channel
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read(_ANSWER_BYTES_MAX).decode("utf-8", "replace").strip()
        except (ConnectionRefusedError, PermissionError) as error:
            if isinstance(error, ConnectionRefusedError) and socket_path.is_socket():
                raise ServerUnreachable(f"nobody answers on {socket_path}: {error.strerror}") from error
            reason = error.strerror if isinstance(error, PermissionError) else "it is not a socket"
            raise SocketUnusable(f"{socket_path} cannot be used: {reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ServerUnreachable(f"nobody answers on {socket_path}: {reason}") from error
