"""deploy/compose brought up for real, as far as its images can be had here, and asked for an answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import checks
import debian
from engine import ROOT, Engine, Failed

FILE = ROOT / "deploy" / "compose" / "compose.yaml"
PROMETHEUS_IMAGE = "prom/prometheus:v2.53.4"
PROJECT = "nats-rerank-check"
# Those whose images can be had from Debian's archive or are ours. (The services that depend on nothing else come by themselves.)
SERVICES = ["nats", "worker", "gateway", "prometheus"]
LEFT_OUT = {"switch": "nats-box", "nats-exporter": "prometheus-nats-exporter", "grafana": "Grafana"}
WORKERS = 2
PATIENCE_S = 600


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class System:
    """The project of compose.yaml. Use it in a `with`: leaving it removes containers, network and volumes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.compose = debian.program("docker-compose")
        self.ports = {name: free_port() for name in ("NATS_PORT", "GATEWAY_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")}

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        environment = self.engine.environment | {name: str(port) for name, port in self.ports.items()}
        command = [str(self.compose), "--file", str(FILE), "--project-name", PROJECT, "--env-file", os.devnull, *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        if check and result.returncode:
            raise Failed(f"docker compose {' '.join(arguments)}: {result.stderr.strip()[-3000:]}")
        return result

    def __enter__(self) -> System:
        self.down()
        self.run("up", "--detach", "--no-build", "--pull", "never", "--scale", f"worker={WORKERS}", *SERVICES)
        return self

    def __exit__(self, *_) -> None:
        self.down()

    def down(self) -> None:
        self.run("down", "--volumes", "--timeout", "40", check=False)

    def get(self, port: str, path: str) -> dict | None:
        status, text = checks.get(f"http://127.0.0.1:{self.ports[port]}{path}")
        return json.loads(text) if status == 200 else None

    def targets(self) -> dict[str, list[str]]:
        """Prometheus' own view of what it scrapes: the health of each target, by job."""
        answer = self.get("PROMETHEUS_PORT", "/api/v1/targets?state=active")
        found: dict[str, list[str]] = {}
        for target in answer["data"]["activeTargets"] if answer else []:
            found.setdefault(target["labels"]["job"], []).append(target["health"])
        return found

    def count(self, query: str) -> float:
        answer = self.get("PROMETHEUS_PORT", f"/api/v1/query?query={urllib.parse.quote(query)}")
        rows = answer["data"]["result"] if answer else []
        return float(rows[0]["value"][1]) if rows else 0.0

    def rerank(self) -> tuple[int, str | None, dict]:
        """Status, why the answer is in the order that was sent (None: it is the model's), and the body."""
        body = json.dumps({"query": "how do cats purr", "documents": ["Dogs bark.", "Cats purr."]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['GATEWAY_PORT']}/v1/rerank", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
                # Looked up without regard to case: the gateway writes it small.
                return answer.status, answer.headers["Rerank-Fallback"], json.load(answer)
        except (OSError, ValueError) as error:
            return 0, None, {"error": str(error)}


def wait_until(condition, what: str, problems: list[str], detail=lambda: "") -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            problems.append(f"{what} did not come about in {PATIENCE_S} s. {detail()}")
            return
        time.sleep(1)


def at_work(engine: Engine) -> list[str]:
    """Brings the system up and asks the gateway and Prometheus."""
    found: list[str] = []
    with System(engine) as system:
        last: list = []

        def answered() -> bool:
            last[:] = system.rerank()
            return last[0] == 200 and last[1] is None

        wait_until(answered, "a ranking from the gateway", found, lambda: f"{last}\n{system.run('logs', '--tail', '20', check=False).stdout}")
        if not found and last[2]["results"][0]["index"] != 1:
            found.append(f"the cats are not first: {last[2]}")
        expected = {"nats-rerank-worker": ["up"] * WORKERS, "nats-rerank-gateway": ["up"]}
        wait_until(lambda: expected.items() <= system.targets().items(), f"that Prometheus scrapes {expected}", found, lambda: f"It says {system.targets()}")
        wait_until(lambda: system.count("sum(rerank_requests_total)") >= 1, "the request in Prometheus", found)
        before = set(system.run("ps", "--all", "--quiet").stdout.split())
        system.run("stop", "--timeout", "40", "worker", "gateway")
        for container in before:
            state = engine.inspect(container)
            if state["Config"]["Image"].startswith("nats-rerank") and state["State"]["ExitCode"] not in (0, checks.STOPPED):
                found.append(f"{state['Name']} did not stop cleanly: exit code {state['State']['ExitCode']}")
    return found
