"""Scenarios of alert-scenarios.yml as unit tests that promtool runs, and what every alert must have."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path

import yaml
from report import ROOT

SCENARIOS = ROOT / "deploy" / "check" / "alert-scenarios.yml"
RULES = ROOT / "deploy" / "prometheus"
SEVERITIES = {"critical", "warning"}
# An hour at 30 s, less a sample: at the end of every series.
AT = "59m30s"


def read_rules() -> dict[str, dict]:
    """Every file of rules."""
    return {path.name: yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.rules.yml"))}


def each(files: dict[str, dict], kind: str) -> list[dict]:
    """The rules with this key: `alert` or `record`."""
    return [rule for file in files.values() for group in file["groups"] for rule in group["rules"] if kind in rule]


def shape_problems(files: dict[str, dict]) -> list[str]:
    """What an operator needs of an alert, and rows of the failure table that no alert leads to by mistake."""
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = set(re.findall(r'^\| <a id="([a-z-]+)"></a>', page, re.M))
    names = [rule["alert"] for rule in each(files, "alert")]
    found = [f"{name} is there twice" for name in sorted({name for name in names if names.count(name) > 1})]
    for rule in each(files, "alert"):
        name, annotations = rule["alert"], rule.get("annotations", {})
        if rule.get("labels", {}).get("severity") not in SEVERITIES:
            found.append(f"{name}: severity")
        if not {"summary", "description", "runbook"} <= set(annotations):
            found.append(f"{name}: summary, description or runbook is missing")
        file, _, row = annotations.get("runbook", "").partition("#")
        if file != "docs/operations.md" or row not in rows:
            found.append(f"{name}: its runbook leads to no row of the failure table: {annotations.get('runbook')}")
        elif not re.search(rf'^\| <a id="{row}"></a>.*`{name}`', page, re.M):
            found.append(f"{name}: the row that its runbook leads to does not name it")
    for name in sorted(set(re.findall(r"`(Nats(?:Rerank|Server)[A-Z][A-Za-z]+)`", page)) - set(names)):
        found.append(f"docs/operations.md names {name}, which is no alert")
    return found


def scenario_tests(scenarios: dict) -> dict:
    tests = []
    for scenario in scenarios["scenarios"]:
        series = scenarios["well"] | scenario.get("series", {})
        firing = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in scenario["fires"]]
        looks = [{"expr": 'group by (alertname) (ALERTS{alertstate="firing"})', "eval_time": AT, "exp_samples": firing}]
        for look in scenario.get("values", []):
            samples = [{"labels": "{}", "value": look["value"]}] if "value" in look else []
            # Without its name and labels: what it is, and not of whom.
            looks.append({"expr": f"sum({look['expr']})", "eval_time": AT, "exp_samples": samples})
        inputs = [{"series": name, "values": values} for name, values in series.items() if values is not None]
        tests.append({"name": scenario["name"], "interval": scenarios["interval"], "input_series": inputs, "promql_expr_test": looks})
    return {"rule_files": ["rules.yml"], "evaluation_interval": scenarios["interval"], "tests": tests}


def run(files: dict[str, dict], tests: dict, promtool: Path, folder: Path) -> str:
    """What promtool has to say against it; empty if nothing."""
    groups = [group for file in files.values() for group in file["groups"]]
    # Groups are evaluated side by side in their order here, so what is recorded comes first.
    groups.sort(key=lambda group: not any("record" in rule for rule in group["rules"]))
    (folder / "rules.yml").write_text(json.dumps({"groups": groups}))
    (folder / "test.yml").write_text(json.dumps(tests))
    result = subprocess.run([str(promtool), "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, timeout=1200)
    return (result.stdout + result.stderr).strip() if result.returncode else ""


def scenario_problems(files: dict[str, dict], promtool: Path, folder: Path) -> list[str]:
    scenarios = yaml.safe_load(SCENARIOS.read_text())
    raised = {name for scenario in scenarios["scenarios"] for name in scenario["fires"]}
    looked = " ".join(look["expr"] for scenario in scenarios["scenarios"] for look in scenario.get("values", []))
    found = [f"no scenario raises {rule['alert']}" for rule in each(files, "alert") if rule["alert"] not in raised]
    found += [f"no scenario looks at {rule['record']}" for rule in each(files, "record") if rule["record"] not in looked]
    for scenario in scenarios["scenarios"]:
        unknown = [name for name, values in scenario.get("series", {}).items() if values is None and name not in scenarios["well"]]
        found += [f"{scenario['name']}: takes away {name}, which is not there" for name in unknown]
    said = run(files, scenario_tests(scenarios), promtool, folder)
    return found + ([f"promtool test rules ({SCENARIOS.name}):\n{said}"] if said else [])


def unnoticed_mistakes(files: dict[str, dict], promtool: Path, folder: Path) -> tuple[int, list[str]]:
    """Each alert in turn never fires: do the scenarios notice? And all fire always: does the healthy one?"""
    tests, missed = scenario_tests(yaml.safe_load(SCENARIOS.read_text())), []
    names = [rule["alert"] for rule in each(files, "alert")]
    for name in names:
        spoiled = copy.deepcopy(files)
        for rule in each(spoiled, "alert"):
            if rule["alert"] == name:
                rule["expr"] = "vector(0) > 1"
        raising = [test for test in tests["tests"] if any(name in sample["labels"] for look in test["promql_expr_test"] for sample in look["exp_samples"])]
        if not run(spoiled, tests | {"tests": raising[:1]}, promtool, folder):
            missed.append(f"not noticed: {name} never fires")
    spoiled = copy.deepcopy(files)
    for rule in each(spoiled, "alert"):
        rule["expr"], rule["for"] = "vector(1)", "0s"
    if not run(spoiled, tests | {"tests": tests["tests"][:1]}, promtool, folder):
        missed.append("not noticed: every alert fires always")
    return len(names) + 1, missed
