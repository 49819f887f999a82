"""What has to hold between the objects of one rendering, and between them and the program. Schemas are checked elsewhere."""

from __future__ import annotations

from pathlib import Path

from settings import started_with

# Longest times of a stop that no setting bounds, in seconds. Worker: leaving the queue group, sending the last answers,
# flushing them, 5 s each (src/worker/mod.rs). Gateway: closing its connection.
STOP_EXTRA_SECONDS = {"worker": 15, "gateway": 5}
LISTEN = {"worker": "health.listen", "gateway": "gateway.listen"}
FILE_SETTINGS = ["nats.credentials_file", "nats.nkey_seed_file", "nats.tls_ca_file", "nats.tls_cert_file", "nats.tls_key_file", "gateway.token_file"]


def of_kind(documents: list[dict], *kinds: str) -> list[dict]:
    return [document for document in documents if document["kind"] in kinds]


def title(document: dict) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def selects(selector: dict, labels: dict) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def problems(documents: list[dict], program: Path, defaults: dict) -> list[str]:
    """Everything that is wrong in one rendering."""
    found: list[str] = []
    deployments = of_kind(documents, "Deployment")
    if not deployments:
        return ["there is no Deployment"]
    for deployment in deployments:
        wrong = pod_problems(deployment) + stop_and_settings(deployment, documents, program, defaults)
        found += [f"{title(deployment)}: {problem}" for problem in wrong]
    encrypted = {"--set=nats.tls_required=true" in d["spec"]["template"]["spec"]["containers"][0]["args"] for d in deployments}
    if len(encrypted) > 1:
        found.append("some speak TLS to NATS and others do not: is nats-tls listed before gateway?")
    found += references(documents, deployments)
    return found


# --- the pod ---------------------------------------------------------------------------------------------------------


def pod_problems(deployment: dict) -> list[str]:
    found: list[str] = []
    template = deployment["spec"]["template"]
    pod = template["spec"]
    if not selects(deployment["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]):
        found.append("its selector does not match its own pods")
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        found.append("the pod may run as root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("no seccompProfile RuntimeDefault")
    if pod.get("automountServiceAccountToken") is not False:
        found.append("a service account token is mounted")
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            found.append(f"{field} is set")
    for constraint in pod.get("topologySpreadConstraints", []):
        if not selects(constraint["labelSelector"]["matchLabels"], template["metadata"]["labels"]):
            found.append("a topologySpreadConstraint does not count its own pods")
    if not pod.get("topologySpreadConstraints"):
        found.append("nothing spreads the pods")
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    for name, volume in volumes.items():
        if "hostPath" in volume or len(volume) != 2:
            found.append(f"volume {name} is of another kind than it should be: {sorted(volume)}")
    for container in pod["containers"]:
        found += container_problems(container, volumes)
    used = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
    found += [f"volume {name} is mounted nowhere" for name in volumes if name not in used]
    return found


def container_problems(container: dict, volumes: dict) -> list[str]:
    found: list[str] = []
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        found.append("privileges may grow")
    if security.get("readOnlyRootFilesystem") is not True:
        found.append("the root file system can be written")
    if security.get("capabilities") != {"drop": ["ALL"]}:
        found.append("capabilities are not dropped, or some are added")
    ports = {port["name"] for port in container.get("ports", [])}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        http = container.get(probe, {}).get("httpGet")
        if http is None:
            found.append(f"no {probe} over HTTP")
        elif http["port"] not in ports:
            found.append(f"{probe} asks port {http['port']}, which is none of its ports")
        elif http["path"] != ("/readyz" if probe == "readinessProbe" else "/livez"):
            found.append(f"{probe} asks {http['path']}")
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            found.append(f"{mount['name']} is mounted and no volume")
    resources = container.get("resources", {})
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    if "memory" not in limits or "cpu" not in requests or "memory" not in requests:
        found.append("requests of cpu and memory and a limit of memory are needed")
    if container["name"] == "worker":
        # A share of a core is lost, and threads are counted from the limit.
        if not str(limits.get("cpu", "")).isdigit() or limits.get("cpu") != requests.get("cpu"):
            found.append(f"cpu: request {requests.get('cpu')} and limit {limits.get('cpu')} should be one whole number")
        cuda = "gpu" in container.get("args", [])
        if limits.get("nvidia.com/gpu") != ("1" if cuda else None):
            found.append(f"profile gpu: {cuda}; GPUs: {limits.get('nvidia.com/gpu', 0)}")
        if cuda != container["image"].endswith("cuda"):
            found.append(f"profile gpu: {cuda}; image: {container['image']}")
    return found


# --- settings and the end --------------------------------------------------------------------------------------------


def stop_and_settings(deployment: dict, documents: list[dict], program: Path, defaults: dict) -> list[str]:
    found: list[str] = []
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    kind, arguments = container["args"][0], container["args"][1:]
    if container.get("command") != ["nats-rerank"] or kind not in LISTEN:
        return [f"starts {container.get('command')} {container['args']}"]
    environment = {}
    for variable in container.get("env", []):
        environment[variable["name"]] = variable.get("value", "secret")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: (mount, volumes.get(mount["name"], {})) for mount in container["volumeMounts"]}
    config_maps = {document["metadata"]["name"]: document for document in of_kind(documents, "ConfigMap")}
    files: dict[str, str] = {}
    for path, (_, volume) in mounts.items():
        name = volume.get("configMap", {}).get("name")
        for key, content in config_maps.get(name, {}).get("data", {}).items():
            files[f"{path}/{key}"] = content
    started = started_with(program, arguments, environment, files)
    found += started.problems
    values = started.values
    if not values:
        return found
    # Files that the settings name come from a Secret or a ConfigMap; the read-only ones have to be mounted so.
    for key in FILE_SETTINGS:
        path = values.get(key)
        if path:
            mount, volume = mounts.get(path.rsplit("/", 1)[0], ({}, {}))
            if not mount.get("readOnly") or not ({"secret", "configMap"} & set(volume)):
                found.append(f"{key} = {path} lies in no mounted Secret or ConfigMap")
    writable = [path for path, (_, volume) in mounts.items() if {"emptyDir", "persistentVolumeClaim"} & set(volume)]
    cache = values["model.hub_cache_dir"]
    if kind == "worker" and not any(cache.startswith(f"{path}/") for path in writable):
        found.append(f"model.hub_cache_dir = {cache!r} lies on no volume that can be written")
    # An optional Secret is how the component nats-open says that there is none on purpose.
    open_nats = any(volume.get("secret", {}).get("optional") for volume in volumes.values())
    if not open_nats and not (values["nats.credentials_file"] or values["nats.nkey_seed_file"] or values["nats.user"] or values["nats.token"]):
        found.append("no login to NATS")
    # The port that is listened on, opened and probed is one; so is the default, which docs and dashboards name.
    address, port = values[LISTEN[kind]].rsplit(":", 1)
    opened = [str(entry["containerPort"]) for entry in container["ports"]]
    if address != "[::]":
        found.append(f"{LISTEN[kind]} = {address}:{port} is out of the kubelet's reach")
    if opened != [port] or defaults[LISTEN[kind]].rsplit(":", 1)[1] != port:
        found.append(f"listens on {port}, opens {opened}, and the default is {defaults[LISTEN[kind]]}")
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    needed = pause + values["shutdown.grace_ms"] / 1000 + STOP_EXTRA_SECONDS[kind]
    given = pod["terminationGracePeriodSeconds"]
    if given < needed:
        found.append(f"a stop may take {needed:g} s (preStop {pause}, grace {values['shutdown.grace_ms']} ms, the rest), and it is killed after {given} s")
    if pause == 0:
        found.append("no preStop")
    return found


# --- from one object to another --------------------------------------------------------------------------------------


def references(documents: list[dict], deployments: list[dict]) -> list[str]:
    found: list[str] = []
    pods = [deployment["spec"]["template"]["metadata"]["labels"] for deployment in deployments]
    names = {deployment["metadata"]["name"] for deployment in deployments}
    ports = {port["name"] for d in deployments for c in d["spec"]["template"]["spec"]["containers"] for port in c["ports"]}
    selectors = {
        "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
        "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
        "Service": lambda spec: spec["selector"],
        "PodMonitor": lambda spec: spec["selector"]["matchLabels"],
    }
    for document in documents:
        kind, spec = document["kind"], document.get("spec", {})
        if kind in selectors and not any(selects(selectors[kind](spec), labels) for labels in pods):
            found.append(f"{title(document)} selects no pod")
        if kind in ("HorizontalPodAutoscaler", "ScaledObject") and spec["scaleTargetRef"]["name"] not in names:
            found.append(f"{title(document)} scales what is not there")
        if kind == "Service":
            found += [f"{title(document)} leads to port {p['targetPort']}" for p in spec["ports"] if p["targetPort"] not in ports]
        if kind == "PodMonitor" and "health" not in [end["port"] for end in spec["podMetricsEndpoints"]]:
            found.append(f"{title(document)} does not scrape the workers' port")
        if kind != "Namespace" and document["metadata"].get("namespace") != "rerank":
            found.append(f"{title(document)} is in another namespace")
    for labels, deployment in zip(pods, deployments):
        for kind in ("PodDisruptionBudget", "NetworkPolicy"):
            if not any(selects(selectors[kind](d["spec"]), labels) for d in of_kind(documents, kind)):
                found.append(f"{title(deployment)} has no {kind}")
        scalers = [d for d in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject") if d["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]]
        if len(scalers) > 1:
            found.append(f"{title(deployment)} is scaled by {len(scalers)} at once")
        if bool(scalers) == ("replicas" in deployment["spec"]):
            found.append(f"{title(deployment)}: replicas belong to the manifest or to an autoscaler, to one of them")
    claims = {document["metadata"]["name"] for document in of_kind(documents, "PersistentVolumeClaim")}
    for deployment in deployments:
        for volume in deployment["spec"]["template"]["spec"]["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in claims:
                found.append(f"{title(deployment)}: the claim {claim} is not there")
    for policy in of_kind(documents, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            if not rule.get("to") or not rule.get("ports"):
                found.append(f"{title(policy)} lets traffic out to anywhere")
    return found
