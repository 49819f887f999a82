"""A system under load, and a real Prometheus that has scraped it: nats-server, two workers of the built-in model, a gateway, callers
past capacity, and a worker that is stopped."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

import yaml
from processes import bench
from report import ROOT

NAMESPACE = "rerank"
STEP_SECONDS = 2
WORKERS = ("worker-a", "worker-b")


class Run(NamedTuple):
    """Where Prometheus is, and from when to when there was load (seconds since the epoch)."""

    prometheus: str
    monitoring: str
    began: float
    ended: float

    def ask(self, path: str, **arguments: str) -> dict:
        """An answer of Prometheus' HTTP API, its error as a ValueError."""
        url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from None

    def series(self, query: str) -> list[tuple[dict, list[tuple[float, float]]]]:
        """The series that a query gives over the run, each with its labels and points that are numbers."""
        data = self.ask("query_range", query=query, start=str(self.began), end=str(self.ended), step=str(STEP_SECONDS))
        series = [(one["metric"], [(at - self.began, float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf", "-Inf")]) for one in data["result"]]
        return [(labels, points) for labels, points in series if points]


def start_worker(stage, url: str, name: str) -> None:
    stage.wait_ready(name, stage.worker(name, url, ["--set", "model.threads=1", "--set", "tokenize.threads=1"]))


def logged_address(stage, name: str, process: subprocess.Popen, pattern: str) -> str:
    def find() -> str | None:
        found = re.search(pattern, stage.text(name))
        return found.group(1) if found else None

    return stage.wait(name, process, find)


def start_prometheus(stage, program: Path, targets: dict[str, list[tuple[str, str]]]) -> str:
    """`targets`: by job, pairs of pod and address. Its URL."""
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [address], "labels": {"namespace": NAMESPACE, "pod": pod}} for pod, address in pods]}
        for job, pods in targets.items()
    ]
    rules = [str(path) for path in sorted((ROOT / "deploy" / "prometheus").glob("*.rules.yml"))]
    settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}, "rule_files": rules, "scrape_configs": jobs}
    (stage.folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    process = stage.start(
        "prometheus",
        [str(program), "--config.file=prometheus.yml", f"--storage.tsdb.path={stage.folder}/tsdb", "--web.listen-address=127.0.0.1:0"],
    )
    address = logged_address(stage, "prometheus", process, r'msg="Listening on" address=(127\.0\.0\.1:\d+)')

    def ready() -> bool:
        try:
            return urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).status == 200
        except OSError:
            return False

    stage.wait("prometheus", process, ready)
    return f"http://{address}"


def short_requests(url: str, *flags: str) -> dict:
    """A run of `nats-rerank bench` with short requests; its figures."""
    return bench(url, "--length-mix", "short", *flags, seconds_max=1200)


def call_gateway(address: str, over: threading.Event) -> None:
    """A slow, steady caller over HTTP, until it is over; what it gets is told by the metrics."""
    body = json.dumps({"query": "how do cats purr", "documents": ["Dogs bark.", "Cats purr with the larynx.", "Rain falls.", "A purr is a sound."]})
    while not over.wait(0.2):
        request = urllib.request.Request(f"http://{address}/rerank", body.encode(), {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=10).read()
        except OSError:
            pass


def under_load(stage, program: Path, prometheus: Path, seconds: float) -> Run:
    """Three stretches of load, `seconds` long together: calm, past capacity, calm with a worker less."""
    url = stage.nats_server("-m", "-1")
    (ports,) = stage.folder.glob("nats-server_*.ports")
    monitoring = json.loads(ports.read_text())["monitoring"][0]
    for name in WORKERS:
        start_worker(stage, url, name)
    gateway = stage.start("gateway", [str(program), "gateway", "--set", f"nats.url={url}", "--set", "gateway.listen=127.0.0.1:0"])
    address = logged_address(stage, "gateway", gateway, r"gateway: listening for HTTP.*?address=(\S+)")
    workers = [(name, stage.health_address(name)) for name in WORKERS]
    base = start_prometheus(stage, prometheus, {"nats-rerank-worker": workers, "nats-rerank-gateway": [("gateway", address)]})
    most = short_requests(url, "--callers", "6", "--duration-s", "5", "--timeout-ms", "10000")["requests_per_s"]
    over = threading.Event()
    caller = threading.Thread(target=call_gateway, args=(address, over), daemon=True)
    caller.start()
    began = time.time()

    def load(share: float, part: float) -> None:
        short_requests(url, "--rate", f"{max(1.0, share * most):.2f}", "--duration-s", f"{seconds * part:.0f}", "--timeout-ms", "250")

    load(0.4, 0.25)
    load(3.0, 0.35)
    stage.stop(WORKERS[-1])
    load(0.4, 0.4)
    over.set()
    caller.join(timeout=30)
    # A last scrape.
    time.sleep(2)
    return Run(base, monitoring, began, time.time())
