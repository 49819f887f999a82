"""What a dashboard must be, and its queries as Grafana would send them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from live import NAMESPACE, WORKERS, Run
from report import ROOT

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
# As a panel of this run's length would ask, with a scrape a second.
GIVEN = {"$namespace": NAMESPACE, "$pod": "|".join(WORKERS), "$model": ".+", "$server": ".+", "$__rate_interval": "10s", "$__interval": "2s"}
TYPES = "@grafana/schema"
# By path, since the package does not export them by name.
PARTS = f"./node_modules/{TYPES}/dist/esm/raw/composable"
# String enumerations as the words that JSON has for them.
PLAIN = "type Plain<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;"


def filled_in(query: str) -> str:
    """The query with the dashboard's variables replaced; an unknown one is left and will not parse."""
    for name in sorted(GIVEN, key=len, reverse=True):
        query = query.replace(name, GIVEN[name])
    return query


def shape_problems(name: str, dashboard: dict) -> list[str]:
    found = []
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    if len(ids) != len(set(ids)):
        found.append("panels share an id")
    if len(dashboard["uid"]) > 40 or not re.fullmatch(r"[a-z-]+", dashboard["uid"]):
        found.append(f"uid {dashboard['uid']}")
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    texts = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    texts += [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    used = {match for text in texts for match in re.findall(r"\$([a-z]+)\b", text)}
    found += [f"no variable is called {missing}" for missing in sorted(used - variables)]
    found += [f"nothing asks for the variable {unused}" for unused in sorted(variables - used - {"datasource"})]
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place, title = panel["gridPos"], panel["title"]
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
            if cell[0] >= 24 or cell in taken:
                found.append(f"{title} lies over {taken.get(cell, 'the edge')}")
                break
            taken[cell] = title
        if panel["type"] == "row":
            continue
        refs = [target["refId"] for target in panel["targets"]]
        if not panel.get("description") or not refs or len(refs) != len(set(refs)):
            found.append(f"{title}: no description, or queries are missing or share a name")
        if any(source["uid"] != "${datasource}" for source in [panel["datasource"], *(target["datasource"] for target in panel["targets"])]):
            found.append(f"{title}: another source than the variable")
    return [f"{name}: {problem}" for problem in found]


def type_problems(dashboards: dict[str, dict], modules: Path) -> list[str]:
    """By the types of Grafana's own package, read by tsc: no field that they do not have, no word that they do not know."""
    lines = [
        f'import type {{ Dashboard, Panel, RowPanel, VariableModel }} from "{TYPES}";',
        f'import type {{ Options as TimeSeries, FieldConfig as Drawn }} from "{PARTS}/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";',
        f'import type {{ Options as Stat }} from "{PARTS}/stat/panelcfg/x/StatPanelCfg_types.gen";',
        PLAIN,
    ]
    said: dict[int, str] = {}

    def expect(kind: str, value: object, what: str) -> None:
        lines.append(f"export const v{len(lines)}: Plain<{kind}> = {json.dumps(value)};")
        said[len(lines)] = what

    for name, dashboard in dashboards.items():
        expect("Omit<Dashboard, 'panels' | 'templating'>", {key: value for key, value in dashboard.items() if key not in ("panels", "templating")}, name)
        for variable in dashboard["templating"]["list"]:
            # `definition` is Grafana's own, and its schema lacks it.
            expect("VariableModel", {key: value for key, value in variable.items() if key != "definition"}, f"{name}: variable {variable['name']}")
        for panel in dashboard["panels"]:
            what = f"{name}: {panel['title']}"
            if panel["type"] == "row":
                expect("RowPanel", panel, what)
                continue
            expect("Omit<Panel, 'options' | 'fieldConfig'>", {key: value for key, value in panel.items() if key not in ("options", "fieldConfig")}, what)
            expect({"timeseries": "Partial<TimeSeries>", "stat": "Partial<Stat>"}[panel["type"]], panel["options"], what)
            defaults = dict(panel["fieldConfig"]["defaults"])
            expect("Partial<Drawn>", defaults.pop("custom", {}), what)
            expect("NonNullable<Panel['fieldConfig']>['defaults']", defaults, what)
    source = modules / "dashboards-check.ts"
    try:
        source.write_text("\n".join(lines) + "\n")
        options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022", "--pretty", "false"]
        result = subprocess.run(["node", "node_modules/typescript/bin/tsc", *options, source.name], cwd=modules, capture_output=True, text=True, timeout=1200)
    finally:
        source.unlink(missing_ok=True)
    found = []
    for line in result.stdout.splitlines():
        match = re.match(r"dashboards-check\.ts[(:](\d+)", line)
        found.append(f"{said.get(int(match.group(1)), '?')}: {line.split(': ', 1)[-1][:400]}" if match else line[:400])
    return found or ([f"tsc failed: {result.stderr.strip()}"] if result.returncode else [])


def queries() -> list[tuple[str, str, str, str]]:
    """Every query of panels.py: dashboard and panel, query, legend, and where there is data."""
    import sys

    sys.path.insert(0, str(FOLDER.parent))
    from panels import DASHBOARDS

    found = []
    for name, dashboard in DASHBOARDS.items():
        for panel in (panel for row in dashboard.rows for panel in row.panels):
            found += [(f"{name}: {panel.title}", query, legend, panel.where) for query, legend in panel.queries]
    return found


def answer_problems(run: Run) -> tuple[int, list[str]]:
    """Every query over the run: is it taken, and is there data where there should be?"""
    found, asked = [], 0
    for where, query, _, data in queries():
        asked += 1
        try:
            series = run.series(filled_in(query))
        except ValueError as error:
            found.append(f"{where}: {error}\n  {query}")
            continue
        if bool(series) != (data == "anywhere"):
            found.append(f"{where}: {'no data' if data == 'anywhere' else 'data, where there should be none'}\n  {filled_in(query)}")
    return asked, found


def variable_problems(dashboards: dict[str, dict], run: Run) -> list[str]:
    """The values that each variable of ours would have."""
    found = []
    for name, dashboard in dashboards.items():
        for variable in dashboard["templating"]["list"]:
            match = re.fullmatch(r"label_values\((.+), ([a-z_]+)\)", variable.get("definition", ""))
            if not match or "gnatsd_" in match.group(1):
                continue
            values = {labels.get(match.group(2)) for labels, _ in run.series(filled_in(match.group(1)))} - {None}
            if not values:
                found.append(f"{name}: the variable {variable['name']} has no values")
    return found


def rule_problems(run: Run) -> tuple[int, list[str]]:
    """Rules as Prometheus saw them, templates included, and data of every recording rule but those of NATS' servers."""
    found, count = [], 0
    for group in run.ask("rules")["groups"]:
        for rule in group["rules"]:
            count += 1
            if rule["health"] != "ok" or rule.get("lastError"):
                found.append(f"{rule['name']}: {rule['health']}: {rule.get('lastError')}")
            elif rule["type"] == "recording" and not run.series(rule["name"]):
                found.append(f"{rule['name']}: no data")
    return count, found


def exporter_names(run: Run) -> list[str]:
    """Metrics of prometheus-nats-exporter by its rule, as read: a number at the top of /varz is gnatsd_varz_<key>. The others
    that we ask for are named one by one in its source."""
    import urllib.request

    with urllib.request.urlopen(f"{run.monitoring}/varz", timeout=60) as answer:
        varz = json.load(answer)
    known = {f"gnatsd_varz_{key}" for key, value in varz.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    known |= {"gnatsd_healthz_status", "gnatsd_connz_pending_bytes"}
    rules = [rule["query"] for group in run.ask("rules")["groups"] for rule in group["rules"]]
    asked = [query for _, query, _, _ in queries()] + rules
    return [f"prometheus-nats-exporter has no {name}" for name in sorted({name for query in asked for name in re.findall(r"\bgnatsd_\w+", query)} - known)]


def answers(run: Run) -> list[dict]:
    """What the panels of the fleet would show, for the picture."""
    import sys

    sys.path.insert(0, str(FOLDER.parent))
    from panels import FLEET

    found = []
    for row in FLEET.rows:
        for panel in row.panels:
            lines = []
            for query, legend in panel.queries:
                for labels, points in run.series(filled_in(query)):
                    lines.append({"legend": re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match.group(1), ""), legend), "points": points})
            found.append({"row": row.title, "title": panel.title, "unit": panel.unit, "kind": panel.kind, "stacked": panel.stacked, "top": panel.top, "lines": lines})
    return found
