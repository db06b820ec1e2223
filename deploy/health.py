"""Health check of the container image: exits 0 when the server answers 200 on its Unix socket.

    python -I -S health.py /livez       the event loop answers
    python -I -S health.py /readyz      every cluster can archive

Standard library only, and little of it: it runs every few seconds. WALARCHIVER_SOCKET names another socket.
"""

import os
import socket
import sys

TIMEOUT_S = 5.0
DEFAULT_SOCKET = "/run/walarchiver/walarchiver.sock"


def main() -> int:
    """0 for the answer 200, else 1; what was said goes to stdout, where the engine keeps it."""
    path = sys.argv[1] if len(sys.argv) > 1 else "/livez"
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(TIMEOUT_S)
            channel.connect(os.environ.get("WALARCHIVER_SOCKET") or DEFAULT_SOCKET)
            channel.sendall(f"GET {path} HTTP/1.1\r\nHost: walarchiver\r\nConnection: close\r\n\r\n".encode())
            while len(answer) < 65536 and (more := channel.recv(4096)):
                answer += more
    except OSError as error:
        print(f"no answer: {error}")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    print(body.decode("utf-8", "replace").strip())
    return 0 if head.startswith(b"HTTP/1.1 200 ") else 1


if __name__ == "__main__":
    sys.exit(main())
