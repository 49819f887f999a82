"""As much of a NATS client as asking one question takes, so that a start can be timed without a program's own start."""

from __future__ import annotations

import json
import socket
import time
from urllib.parse import urlsplit


class NobodyThere(Exception):
    """The server said that no worker is subscribed."""


class Connection:
    """One connection without authentication; not for more than one request at a time."""

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = self.socket.makefile("rb")
        self.input.readline()  # INFO
        self.inbox = f"_INBOX.bench{time.monotonic_ns()}"
        hello = json.dumps({"verbose": False, "pedantic": False, "headers": True, "no_responders": True})
        self.socket.sendall(f"CONNECT {hello}\r\nSUB {self.inbox} 1\r\nPING\r\n".encode())

    def ask(self, subject: str, body: bytes) -> bytes:
        """The reply's body; NobodyThere without a worker."""
        self.socket.sendall(f"PUB {subject} {self.inbox} {len(body)}\r\n".encode() + body + b"\r\n")
        while True:
            line = self.input.readline().split()
            if not line:
                raise ConnectionError("nats-server closed the connection")
            if line[0] == b"PING":
                self.socket.sendall(b"PONG\r\n")
            elif line[0] in (b"MSG", b"HMSG"):
                head = int(line[-2]) if line[0] == b"HMSG" else 0
                payload = self.input.read(int(line[-1]) + 2)[:-2]
                if payload[:head].startswith(b"NATS/1.0 503"):
                    raise NobodyThere
                return payload[head:]
            elif line[0] == b"-ERR":
                raise ConnectionError(b" ".join(line).decode())
