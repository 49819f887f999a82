"""Real servers and workers for the tests, started on free ports, and responders that say what a test wants."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Optional, Union

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from nats_rerank import BreakerOptions, Options

SUBJECT = "rerank.v1.score"
PATIENCE_S = 120.0
"""How long anything may take that a test waits for; a starved machine is slow."""
BUDGET_MS = 60_000.0
"""The largest budget that workers take."""
Answer = Callable[[dict[str, Any]], Union[bytes, dict[str, Any], None]]


def program(variable: str) -> str:
    """A program that the test run was told of."""
    path = os.environ.get(variable)
    if not path or not os.access(path, os.X_OK):
        raise RuntimeError(f"set {variable} to the program (tools/test-clients does)")
    return path


def options(**changes: Any) -> Options:
    """A budget that a starved machine keeps, and no breaker unless the test is about it."""
    return Options(**{"budget_ms": BUDGET_MS, "breaker": BreakerOptions(enabled=False), **changes})


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


def pause(process: subprocess.Popen[bytes]) -> None:
    """Stops every thread of a process where it is."""
    process.send_signal(signal.SIGSTOP)
    # Waits until the kernel has done so.
    os.waitpid(process.pid, os.WUNTRACED)


class NatsServer:
    """A nats-server; it can be stopped and started again on its port."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self._config = folder / "nats.conf"
        self._config.write_text(f"listen: 127.0.0.1:{self.port}\n{settings}\n")
        self._log = folder / "nats-server.log"
        self._process: Optional[subprocess.Popen[bytes]] = None
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program("NATS_SERVER"), "-c", str(self._config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self._log.read_text()
                assert self._process.poll() is None, self._log.read_text()
                time.sleep(0.02)

    def pause(self) -> None:
        """Lets it hang, until `resume`."""
        assert self._process is not None
        pause(self._process)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Worker:
    """A worker process with the built-in model."""

    def __init__(self, folder: Path, url: str, *settings: str) -> None:
        self._log = folder / "worker.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RERANK_")}
        command = [program("NATS_RERANK_BIN"), "worker", "--nats-url", url, "--set", "health.listen=127.0.0.1:0"]
        for setting in settings:
            command += ["--set", setting]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=folder
            )
        deadline = time.monotonic() + PATIENCE_S
        while b"ready: joined the queue group" not in self._log.read_bytes():
            assert time.monotonic() < deadline, self._log.read_text()
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.02)

    def pause(self) -> None:
        """Lets it hang, until `resume`."""
        pause(self._process)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stops it in the way that an operator does."""
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Responder:
    """Stands in for the workers: gives the answers that the test scripts, and remembers what it was asked."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Answer = ranked
        self.activation = "identity"

    async def start(self) -> None:
        await self.client.subscribe(SUBJECT, queue="rerank", cb=self._take)
        await self.client.flush()

    async def _take(self, message: Msg) -> None:
        request = json.loads(message.data)
        self.requests.append(request)
        self.headers.append(message.headers or {})
        answer = self.answer(request)
        if isinstance(answer, dict) and "error" in answer:
            code = str(answer["error"]["code"])
            headers = {"nats-service-error-code": code, "Nats-Service-Error": "told in the header"}
            await self.client.publish(message.reply, json.dumps(answer).encode(), headers=headers)
        elif answer is not None:
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            await self.client.publish(
                message.reply, body, headers={"rerank-worker": "worker-1", "rerank-activation": self.activation}
            )


def score_of(text: str) -> float:
    """The number at the end of a document is its score."""
    return float(text.split()[-1])


def ranked(request: dict[str, Any]) -> dict[str, Any]:
    """What a worker would answer."""
    scores = [score_of(text) for text in request["documents"]]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.get("top_k", len(scores))]
    return {"rankings": [{"index": index, "score": scores[index]} for index in order], "model": "scripted"}


def refusal(code: int, kind: str, scope: Optional[str] = None) -> Answer:
    """A refusal as workers word it; without `scope`, as older ones do."""
    error = {"code": code, "kind": kind, "message": "told\nin the body", "retryable": False}
    return lambda _: {"error": error if scope is None else {**error, "scope": scope}}


def silent(_: dict[str, Any]) -> None:
    """No answer."""


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    folder = tmp_path_factory.mktemp("nats")
    server = NatsServer(folder, f'jetstream {{ store_dir: "{folder}" }}\nmax_payload: 65536')
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path, f'jetstream {{ store_dir: "{tmp_path}" }}')
    yield server
    server.stop()


@pytest.fixture
async def responder(shared_server: NatsServer) -> AsyncIterator[Responder]:
    client = await nats.connect(shared_server.url)
    responder = Responder(client)
    await responder.start()
    yield responder
    await client.close()
