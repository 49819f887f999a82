"""A caller that sends at a rate of its own and writes down what becomes of each request; and how long processes wait for a processor."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from fates import Request

SUBJECT = "rerank.v1.score"
SAMPLE_SECONDS = 0.02


class Caller:
    """An open loop over one connection at a time, made to the next server when one is gone, as client libraries do."""

    def __init__(self, urls: list[str], timeout_s: float) -> None:
        self.urls, self.timeout_s = urls, timeout_s
        self.run = f"{os.getpid()}x{time.monotonic_ns()}"
        self.requests: dict[int, Request] = {}
        self.losses: list[float] = []
        self.duplicates, self.at, self.ended = 0, 0, False
        self.writing = threading.Lock()
        self.connect()
        threading.Thread(target=self.read, daemon=True).start()

    @property
    def server(self) -> str:
        return f"nats-{self.at % len(self.urls)}"

    def connect(self) -> None:
        while True:
            parts = urlsplit(self.urls[self.at % len(self.urls)])
            try:
                connection = socket.create_connection((parts.hostname, parts.port), 1)
                break
            except OSError:
                self.at += 1
                time.sleep(0.01)
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = connection.makefile("rb")
        self.input.readline()  # INFO
        hello = json.dumps({"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "name": "caller"})
        connection.sendall(f"CONNECT {hello}\r\nSUB _INBOX.ledger.{self.run}.* 1\r\n".encode())
        self.socket = connection

    def send(self, number: int, due: float, body: bytes) -> None:
        """One request, due at that time; its budget counts from then."""
        request = Request(number, due, due + self.timeout_s, server=self.server)
        self.requests[number] = request
        now = time.time()
        left_ms = max(1.0, (request.deadline - now) * 1e3)
        head = f"NATS/1.0\r\ntraceparent: 00-{number:032x}-{number:016x}-01\r\nRerank-Timeout-Ms: {left_ms:.3f}\r\n\r\n".encode()
        line = f"HPUB {SUBJECT} _INBOX.ledger.{self.run}.{number} {len(head)} {len(head) + len(body)}\r\n".encode()
        try:
            with self.writing:
                self.socket.sendall(line + head + body + b"\r\n")
            request.sent = now
        except OSError:
            request.kind = "not sent"

    def read(self) -> None:
        while not self.ended:
            try:
                words = self.input.readline().split()
                if words and words[0] == b"PING":
                    with self.writing:
                        self.socket.sendall(b"PONG\r\n")
                elif words and words[0] in (b"MSG", b"HMSG"):
                    head = int(words[-2]) if words[0] == b"HMSG" else 0
                    payload = self.input.read(int(words[-1]) + 2)[:-2]
                    self.take(int(words[1].rsplit(b".", 1)[-1]), payload[:head], payload[head:])
            except OSError:
                words = []
            if not words and not self.ended:
                self.losses.append(time.time())
                self.at += 1
                self.connect()

    def take(self, number: int, head: bytes, body: bytes) -> None:
        request = self.requests[number]
        if request.replied is not None:
            self.duplicates += 1
            return
        if head.startswith(b"NATS/1.0 503"):
            request.kind = "no responders"
        else:
            error = json.loads(body).get("error")
            request.kind = f"refused: {error['kind']}" if error else "scored"
        request.replied = time.time()

    def end(self) -> None:
        self.ended = True
        self.socket.shutdown(socket.SHUT_RDWR)


class Waits(threading.Thread):
    """Samples how long each process waits for a processor, by the kernel's count for each of its threads (`schedstat`).

    In `rows`, for each name, (time, seconds waited so far). Threads wait side by side: of each sample the longest wait counts. For
    this process also what its own loop overslept.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.pids: dict[str, int] = {"caller": os.getpid()}
        self.rows: dict[str, list[tuple[float, float]]] = {}
        self.ended = threading.Event()
        self.before: dict[tuple[int, str], float] = {}

    def run(self) -> None:
        due = time.monotonic()
        while not self.ended.is_set():
            overslept = max(0.0, time.monotonic() - due)
            for name, pid in list(self.pids.items()):
                waits = [self.waited(pid, thread) for thread in self.threads(pid)]
                longest = max([overslept if name == "caller" else 0.0, *waits])
                rows = self.rows.setdefault(name, [])
                rows.append((time.time(), (rows[-1][1] if rows else 0.0) + longest))
            due = time.monotonic() + SAMPLE_SECONDS
            self.ended.wait(SAMPLE_SECONDS)

    @staticmethod
    def threads(pid: int) -> list[str]:
        try:
            return os.listdir(f"/proc/{pid}/task")
        except OSError:
            return []  # it has ended

    def waited(self, pid: int, thread: str) -> float:
        """Seconds that a thread has waited since it was looked at last."""
        try:
            total = int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0
        before = self.before.get((pid, thread), total)
        self.before[(pid, thread)] = total
        return total - before
