"""Is every object one that the API servers would take? Kubernetes' own kinds by the OpenAPI schemas in kubernetes-validate, without
a field more than they have; ScaledObject and PodMonitor by the types that are made from the operators' sources, by tsc."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
from cache import SetupError
from cluster import title
from made import made
from report import ROOT, say

# The oldest that has all we use (the sleep action of preStop), and the newest that the package knows.
VERSIONS = ["1.30", "1.37"]
TYPES = ROOT / "deploy" / "check" / "types"
CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"): "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    ("monitoring.coreos.com/v1", "PodMonitor"): "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
}


def is_custom(document: dict) -> bool:
    return (document["apiVersion"], document["kind"]) in CUSTOM


def problems(documents: list[dict]) -> list[str]:
    """Of Kubernetes' own kinds."""
    own = [document for document in documents if not is_custom(document)]
    return [problem for document in own for problem in problems_of(json.dumps(document))]


# Most objects are the same in most renderings, and reading a schema takes most of the time.
@functools.lru_cache(maxsize=512)
def problems_of(written: str) -> tuple[str, ...]:
    document = json.loads(written)
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(str(step) for step in error.path)
            found.append(f"{title(document)} is not valid in Kubernetes {version}: {place}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(f"{title(document)}: {error.message}")
    return tuple(found)


def node_modules() -> Path | None:
    """The folder of packages that the lock in `types` names, made if missing (61 MB on disk); None without node 20 and npm."""
    if not (shutil.which("node") and shutil.which("npm")):
        return None
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < 20:
        return None

    def make(folder: Path) -> None:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy2(TYPES / name, folder / name)
        command = ["npm", "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]
        environment = os.environ | {"npm_config_update_notifier": "false"}
        if subprocess.run(command, cwd=folder, env=environment).returncode:
            raise SetupError("npm could not install what deploy/check/types names")

    return made("deploy-node", f"{version}\0{(TYPES / 'package-lock.json').read_text()}", make, say)


def custom_problems(documents: list[dict], modules: Path) -> list[str]:
    """Of the operators' kinds: each as a constant of its type, which must have no field that the type does not know."""
    lines, titles = [], {}
    for number, document in enumerate(document for document in documents if is_custom(document)):
        module = CUSTOM[document["apiVersion"], document["kind"]]
        interface = f"I{document['kind']}"
        lines.append(f'import type {{ {interface} as T{number} }} from "{module}"; export const v{number}: T{number} = {json.dumps(document)};')
        titles[len(lines)] = title(document)
    if not lines:
        return []
    # Beside the packages, since that is where an import is looked for.
    source = modules / f"objects-{os.getpid()}.ts"
    try:
        source.write_text("\n".join(lines) + "\n")
        options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022", "--pretty", "false"]
        result = subprocess.run(["node", "node_modules/typescript/bin/tsc", *options, source.name], cwd=modules, capture_output=True, text=True, timeout=300)
    finally:
        source.unlink(missing_ok=True)
    found = []
    for line in result.stdout.splitlines():
        match = re.match(r"objects-\d+\.ts[(:](\d+)", line)
        found.append(f"{titles.get(int(match.group(1)), '?')}: {line.split(': ', 1)[-1]}" if match else line)
    if result.returncode and not found:
        found.append(f"tsc failed: {result.stderr.strip()}")
    return found
