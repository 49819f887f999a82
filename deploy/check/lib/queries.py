"""The queries that scaling stands on: are they PromQL, of metrics and labels that the program has, and do they say what they
should? The last is a unit test that promtool runs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import yaml
from cluster import of_kind, title

# Made by Prometheus, of a histogram.
SUFFIXES = ("_bucket", "_sum", "_count")
# Labels that scraping adds.
SCRAPED = {"namespace", "pod", "le"}
SOURCES = ("names.rs", "caller_names.rs", "gateway_names.rs")
# A metric of ours with its selector; not the name of a recorded series, which has a colon before it.
NAMED = re.compile(r"(?<![:\w])(rerank_[a-z_]+)(\{[^}]*\})?")


def known_metrics(root: Path) -> dict[str, dict[str, set[str]]]:
    """Every metric of workers, callers and gateways with its labels and their values, by the tables of docs/metrics.md, which a
    test of the program holds to the source; the source is looked at again here."""
    source = "".join((root / "src/telemetry" / name).read_text() for name in SOURCES)
    names = set(re.findall(r'pub const [A-Z_]+: &str = "(rerank_[a-z_]+)";', source))
    metrics: dict[str, dict[str, set[str]]] = {}
    for line in (root / "docs/metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 5 or cells[1].strip("`") not in names:
            continue
        labels = {}
        for label in cells[3].split(";"):
            if ":" in label:
                key, values = label.split(":", 1)
                labels[key.strip(" `")] = {value.strip() for value in values.split(",")}
        metrics[cells[1].strip("`")] = labels
    missing = names - set(metrics)
    if missing or not names:
        raise ValueError(f"docs/metrics.md lacks {sorted(missing)}, or src/telemetry was not understood")
    return metrics


def label_problems(where: str, query: str, metrics: dict[str, dict[str, set[str]]]) -> list[str]:
    """Does the program have each metric of ours that the query names, with the labels and values that it asks for?"""
    found = []
    for name, selector in NAMED.findall(query):
        base = next((name[: -len(s)] for s in SUFFIXES if name.endswith(s) and name not in metrics), name)
        if base not in metrics:
            found.append(f"{where}: there is no metric {name}")
            continue
        for label, operator, value in re.findall(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selector):
            if label not in metrics[base] and label not in SCRAPED:
                found.append(f"{where}: {name} has no label {label}")
            elif label in metrics[base] and not set(value.split("|") if "~" in operator else [value]) <= metrics[base][label]:
                found.append(f"{where}: {name} never has {label}={value!r}")
    return found


def query_problems(where: str, query: str, metrics: dict[str, dict[str, set[str]]]) -> list[str]:
    """Of a query that stands for itself, outside a dashboard: it has to say whose metrics it asks for."""
    named = NAMED.findall(query)
    found = label_problems(where, query, metrics) + ([] if named else [f"{where}: names no metric of ours"])
    return found + [f"{where}: {name} is asked of every namespace" for name, selector in named if 'namespace="' not in selector]


def scaled_object_problems(documents: list[dict], metrics: dict) -> list[str]:
    found = []
    for scaled in of_kind(documents, "ScaledObject"):
        seen = set()
        for trigger in scaled["spec"]["triggers"]:
            where = f"{title(scaled)}, trigger {trigger.get('name')}"
            # What KEDA's Prometheus scaler reads; all of it is text.
            needed, allowed = {"serverAddress", "query", "threshold", "ignoreNullValues"}, {"activationThreshold", "namespace", "unsafeSsl", "timeout"}
            keys = set(trigger["metadata"])
            if trigger["type"] != "prometheus" or not needed <= keys or keys - needed - allowed:
                found.append(f"{where}: is no trigger on Prometheus as it should be: {sorted(keys)}")
                continue
            if not all(isinstance(value, str) for value in trigger["metadata"].values()):
                found.append(f"{where}: every value has to be text")
            if trigger.get("metricType") not in ("AverageValue", "Value") or trigger.get("name") in seen:
                found.append(f"{where}: metricType or name")
            seen.add(trigger.get("name"))
            float(trigger["metadata"]["threshold"])
            found += query_problems(where, trigger["metadata"]["query"], metrics)
            if f'namespace="{scaled["metadata"]["namespace"]}"' not in trigger["metadata"]["query"]:
                found.append(f"{where}: looks at another namespace")
        if scaled["spec"].get("minReplicaCount", 0) < 1:
            found.append(f"{title(scaled)}: scales to zero, from where no metric brings it back")
    return found


def run_queries(documents: list[dict], scenarios: Path, promtool: Path, folder: Path) -> list[str]:
    """The triggers' queries as recording rules, in the scenarios of that file."""
    (scaled,) = of_kind(documents, "ScaledObject")
    rules = [{"record": f"trigger:{t['name'].replace('-', '_')}", "expr": t["metadata"]["query"]} for t in scaled["spec"]["triggers"]]
    (folder / "rules.yml").write_text(json.dumps({"groups": [{"name": "triggers", "rules": rules}]}))
    tests = yaml.safe_load(scenarios.read_text())
    tests["rule_files"] = ["rules.yml"]
    tested = {match for t in tests["tests"] for e in t["promql_expr_test"] for match in re.findall(r"trigger:[a-z_]+", e["expr"])}
    untested = {rule["record"] for rule in rules} - tested
    (folder / "test.yml").write_text(json.dumps(tests))
    result = subprocess.run([str(promtool), "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, timeout=120)
    found = [f"no scenario looks at {name}" for name in sorted(untested)]
    if result.returncode:
        found.append(f"promtool test rules ({scenarios.name}):\n{(result.stdout + result.stderr).strip()}")
    return found
