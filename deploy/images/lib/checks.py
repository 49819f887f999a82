"""What the image must be, asked of the image itself, and of containers that run it as the files of deploy/ do."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from typing import Iterator

from engine import Engine, Failed

# The CPU image is stated to be no larger (deploy/README.md).
SIZE_MB_MAX = 550
# docker stop's own; a container that needs it was not stopped cleanly.
GRACE_S = 40
# A machine may be busy.
PATIENCE_S = 600
# Nothing of this belongs into what runs.
TOOLS = "gcc g++ cc c++ cpp clang ld as make cargo rustc rustup pip pip3 python python3 node npm git curl wget"
HARDENED = ["--read-only", "--tmpfs", "/tmp:size=64m,mode=1777", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]
LABELS = ["title", "description", "licenses", "version", "revision", "created"]
NATS_IMAGE = "nats:2.11.8-alpine"
NATS_URL = "RERANK_NATS__URL=nats://nats:4222"
# Stopped as it was told to, by SIGTERM. Killed would be 137.
STOPPED = 143


def size_mb(engine: Engine, image: str) -> float:
    return engine.inspect(image)["Size"] / 1e6


def of_image(engine: Engine, image: str) -> list[str]:
    """What can be asked of the image alone."""
    found = []
    config = engine.inspect(image)["Config"]
    if size_mb(engine, image) > SIZE_MB_MAX:
        found.append(f"{size_mb(engine, image):.0f} MB are more than {SIZE_MB_MAX}")
    if config["User"] != "65532:65532":
        found.append(f"runs as {config['User']!r}")
    if "nats-rerank healthcheck" not in " ".join(config.get("Healthcheck", {}).get("Test", [])):
        found.append("has no HEALTHCHECK")
    labels = config["Labels"] or {}
    found += [f"has no label {name}" for name in LABELS if labels.get(f"org.opencontainers.image.{name}") in (None, "", "unknown")]
    script = f"for tool in {TOOLS}; do command -v $tool; done; find / -xdev -name 'python*' -path '*bin*'; find / -xdev -perm /022 -type f | grep -v ^/proc; true"
    inside = engine.run("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script).stdout.split()
    if inside:
        found.append(f"carries tools, or files that anybody may change: {', '.join(inside[:10])}")
    found += of_parts(engine.run("run", "--rm", "--network", "none", "--entrypoint", "cat", image, "/usr/local/share/nats-rerank/sbom.cdx.json").stdout)
    return found


def of_parts(text: str) -> list[str]:
    """The SBOM: is it one, and does it name what is surely there?"""
    document = json.loads(text)
    names = {(part["type"], part["name"]) for part in document["components"]}
    expected = {("library", "tokio"), ("library", "tch"), ("library", "torch"), ("library", "libc6"), ("machine-learning-model", "builtin")}
    found = [f"the SBOM lacks {name}" for _, name in sorted(expected - names)]
    references = [part["bom-ref"] for part in document["components"]] + [document["metadata"]["component"]["bom-ref"]]
    if len(set(references)) != len(references):
        found.append("the SBOM names a part twice")
    dangling = {other for entry in document["dependencies"] for other in entry.get("dependsOn", [])} - set(references)
    return found + [f"the SBOM refers to {name}, which it lacks" for name in sorted(dangling)]


@contextlib.contextmanager
def network(engine: Engine, name: str) -> Iterator[str]:
    """A network with a real nats-server in it, reached as `nats`; all that hangs on it is removed at the end."""
    clear(engine, name)
    engine.run("network", "create", name)
    try:
        engine.run("run", "--detach", "--network", name, "--name", f"{name}-nats", "--network-alias", "nats", NATS_IMAGE, "--http_port", "8222")
        yield name
    finally:
        clear(engine, name)


def clear(engine: Engine, name: str) -> None:
    containers = engine.run("ps", "--all", "--quiet", "--filter", f"network={name}").stdout.split()
    if containers:
        engine.run("rm", "--force", "--volumes", *containers, check=False)
    engine.run("network", "rm", name, check=False)


def start(engine: Engine, net: str, image: str, *more: str, command: tuple[str, ...] = ("worker",)) -> str:
    settings = ["--env", NATS_URL, "--env", "RERANK_HEALTH__LISTEN=0.0.0.0:9464"]
    return engine.run("run", "--detach", "--network", net, *HARDENED, *settings, *more, image, *command).stdout.strip()


def address(engine: Engine, container: str) -> str:
    (net,) = engine.inspect(container)["NetworkSettings"]["Networks"].values()
    return net["IPAddress"]


def get(url: str) -> tuple[int, str]:
    """Status and text; 0 if nobody answers."""
    try:
        # No proxy: containers are on this machine.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def wait_ready(engine: Engine, container: str) -> None:
    url = f"http://{address(engine, container)}:9464/readyz"
    end = time.monotonic() + PATIENCE_S
    while get(url)[0] != 200:
        state = engine.inspect(container)["State"]
        if not state["Running"] or time.monotonic() > end:
            raise Failed(f"the worker did not become ready ({state['Status']}):\n{logs(engine, container)}")
        time.sleep(0.02)


def logs(engine: Engine, container: str) -> str:
    result = engine.run("logs", "--tail", "40", container, check=False)
    return result.stdout + result.stderr


def at_work(engine: Engine, image: str) -> list[str]:
    """A worker over a real nats-server, started as deploy/ starts it: a request, its health, its user, its end."""
    found = []
    with network(engine, "nats-rerank-check") as net:
        container = start(engine, net, image, "--memory", "1g", "--health-interval", "1s")
        wait_ready(engine, container)
        asked = ["query", "--timeout", "20s", "--format", "ids", "how do cats purr"]
        answer = engine.run("run", "--rm", "--interactive", "--network", net, *HARDENED, "--env", NATS_URL, image, *asked, stdin="Dogs bark at night.\nCats purr with their throat.\n", check=False)
        found += of_answer(answer)
        inside = engine.run("exec", container, "sh", "-c", "id -u; touch /file /usr/local/file /models/file 2>/dev/null; ls /file /usr/local/file /models/file 2>/dev/null; true").stdout.split()
        if inside != ["65532"]:
            found.append(f"runs as the user, and can write: {inside}")
        end = time.monotonic() + PATIENCE_S
        while (health := engine.inspect(container)["State"]["Health"])["Status"] != "healthy" and time.monotonic() < end:
            time.sleep(0.5)
        if health["Status"] != "healthy":
            found.append(f"HEALTHCHECK: {health['Status']}: {health['Log'][-1:]}")
        found += of_stop(engine, container)
    return found


def of_answer(answer: subprocess.CompletedProcess) -> list[str]:
    if answer.returncode:
        return [f"a request was not answered: {answer.stdout}{answer.stderr}"]
    return [] if answer.stdout.split() == ["1", "0"] else [f"the cats are not first: {answer.stdout}"]


def of_stop(engine: Engine, container: str) -> list[str]:
    engine.run("stop", "--time", str(GRACE_S), container)
    state = engine.inspect(container)["State"]
    if state["ExitCode"] != STOPPED or state["OOMKilled"]:
        return [f"did not stop cleanly: exit code {state['ExitCode']}\n{logs(engine, container)}"]
    return []


def cold_starts_s(engine: Engine, image: str, count: int) -> list[float]:
    """From `docker run` to ready, each in a new container."""
    times = []
    with network(engine, "nats-rerank-check") as net:
        for _ in range(count):
            began = time.monotonic()
            container = start(engine, net, image)
            wait_ready(engine, container)
            times.append(time.monotonic() - began)
            engine.run("rm", "--force", container)
    return sorted(times)


def p50(times: list[float]) -> float:
    return statistics.median(times)
