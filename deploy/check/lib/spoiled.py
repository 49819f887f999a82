"""Mistakes made on purpose, one at a time, in an otherwise right rendering: a check that passes over one of them checks nothing.
Each takes the objects by kind and name."""

from __future__ import annotations

from typing import Callable

WORKER = ("Deployment", "nats-rerank-worker")
GATEWAY = ("Deployment", "nats-rerank-gateway")
SETTINGS = ("ConfigMap", "nats-rerank-worker")
SCALED = ("ScaledObject", "nats-rerank-worker")


def by_name(documents: list[dict]) -> dict:
    """The objects by kind and name, without the hash that kustomize puts at the end of some."""

    def name(document: dict) -> str:
        given = document["metadata"]["name"]
        return given.rsplit("-", 1)[0] if document["kind"] == "ConfigMap" else given

    return {(document["kind"], name(document)): document for document in documents}


def pod(objects: dict, which=WORKER) -> dict:
    return objects[which]["spec"]["template"]["spec"]


def container(objects: dict, which=WORKER) -> dict:
    return pod(objects, which)["containers"][0]


def edit(old: str, new: str) -> Callable[[dict], None]:
    def spoil(objects: dict) -> None:
        data = objects[SETTINGS]["data"]
        assert old in data["worker.toml"], old
        data["worker.toml"] = data["worker.toml"].replace(old, new)

    return spoil


def query(old: str, new: str) -> Callable[[dict], None]:
    def spoil(objects: dict) -> None:
        changed = 0
        for trigger in objects[SCALED]["spec"]["triggers"]:
            changed += old in trigger["metadata"]["query"]
            trigger["metadata"]["query"] = trigger["metadata"]["query"].replace(old, new)
        assert changed, old

    return spoil


SPOILED: dict[str, Callable[[dict], object]] = {
    "a field that Kubernetes does not have": lambda o: pod(o).update(terminationGraceSeconds=40),
    "a field of the wrong type": lambda o: pod(o).update(terminationGracePeriodSeconds="40"),
    "a setting that does not exist": edit("grace_ms", "grace_msec"),
    "a setting out of its range": edit("grace_ms = 20000", "grace_ms = 20000000"),
    "a variable that is no setting": lambda o: container(o)["env"].append({"name": "RERANK_MODEL__IDD", "value": "x"}),
    "a profile that does not exist": lambda o: container(o)["args"].__setitem__(2, "big"),
    "a longer grace than the pod is given": edit("grace_ms = 20000", "grace_ms = 30000"),
    "a health listener on loopback": edit("[::]:9464", "127.0.0.1:9464"),
    "another port in the settings than in the pod": edit("[::]:9464", "[::]:9465"),
    "a probe of a port that is not there": lambda o: container(o)["livenessProbe"]["httpGet"].update(port="http"),
    "a liveness probe that asks for readiness": lambda o: container(o)["livenessProbe"]["httpGet"].update(path="/readyz"),
    "credentials where no Secret is mounted": edit("/etc/nats-rerank/nats/nats.nk", "/etc/nats/nats.nk"),
    "no login": edit('nkey_seed_file = "/etc/nats-rerank/nats/nats.nk"', ""),
    "a cache on the read-only root": edit("/var/cache/nats-rerank/hub", "/var/lib/hub"),
    "root": lambda o: pod(o)["securityContext"].update(runAsNonRoot=False),
    "a root file system that can be written": lambda o: container(o)["securityContext"].pop("readOnlyRootFilesystem"),
    "a capability": lambda o: container(o)["securityContext"]["capabilities"].update(add=["NET_RAW"]),
    "a service account token": lambda o: pod(o).update(automountServiceAccountToken=True),
    "TLS for workers alone": lambda o: container(o, GATEWAY)["args"].remove("--set=nats.tls_required=true"),
    "half a core": lambda o: container(o)["resources"]["limits"].update(cpu="1500m"),
    "two GPUs": lambda o: container(o)["resources"]["limits"].update({"nvidia.com/gpu": "2"}),
    "no limit of memory": lambda o: container(o, GATEWAY)["resources"]["limits"].pop("memory"),
    "replicas and an autoscaler": lambda o: o[WORKER]["spec"].update(replicas=2),
    "a disruption budget for nobody": lambda o: o["PodDisruptionBudget", "nats-rerank-worker"]["spec"]["selector"]["matchLabels"].update(tier="x"),
    "a network policy for nobody": lambda o: o["NetworkPolicy", "nats-rerank-worker"]["spec"]["podSelector"]["matchLabels"].update(tier="x"),
    "a network policy that lets all out": lambda o: o["NetworkPolicy", "nats-rerank-worker"]["spec"]["egress"].append({}),
    "a Service to a port that is not there": lambda o: o["Service", "nats-rerank-gateway"]["spec"]["ports"][0].update(targetPort="https"),
    "an autoscaler of something else": lambda o: o[SCALED]["spec"]["scaleTargetRef"].update(name="worker"),
    "scaling to zero": lambda o: o[SCALED]["spec"].update(minReplicaCount=0),
    "a metric that does not exist": query("rerank_engine_busy_seconds_total", "rerank_engine_busy_hours_total"),
    "a label that does not exist": query('kind="overloaded"', 'reason="overloaded"'),
    "a label value that never comes": query('stage="queue"', 'stage="wait"'),
    "a query over every namespace": query('{namespace="rerank"}', ""),
}

# What only the scenarios can notice.
SPOILED_QUERIES: dict[str, Callable[[dict], object]] = {
    "waits count for a tenth": query("/ 0.05", "/ 0.5"),
    "any share of refusals will do": query("> bool 0.01 *", "> bool 0.1 *"),
    "one full worker is enough": query("> bool 0.5)", "> bool 0.2)"),
    "a quantile without a stand-in": query('or sum(rerank_group_member{namespace="rerank"}) * 0', ""),
    "microseconds taken for seconds": query("rerank_engine_busy_seconds_total", "rerank_engine_busy_microseconds_total"),
}

# What only the operators' types can notice.
SPOILED_CUSTOM: dict[str, Callable[[dict], object]] = {
    "a field that KEDA does not have": lambda o: o[SCALED]["spec"].update(minReplicas=2),
    "a field of the wrong type": lambda o: o[SCALED]["spec"].update(pollingInterval="15s"),
    "a field that PodMonitor does not have": lambda o: o["PodMonitor", "nats-rerank"]["spec"]["podMetricsEndpoints"][0].update(every="15s"),
    "no selector of pods": lambda o: o["PodMonitor", "nats-rerank"]["spec"].pop("selector"),
}
