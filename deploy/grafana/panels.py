"""What the dashboards show: the one source of deploy/grafana/dashboards, from which `deploy/grafana/generate` makes the JSON.

A panel's queries are pairs of PromQL and legend. WORKERS and GATEWAYS select by the dashboard's variables. deploy/check/dashboards
runs every query against a Prometheus that has scraped a load run."""

from __future__ import annotations

from typing import NamedTuple

WORKERS = 'namespace=~"$namespace",pod=~"$pod"'
# A gateway has no model, so the variables that are read from workers' labels do not know it.
GATEWAYS = 'namespace=~"$namespace"'
NATS = 'server_id=~"$server"'


class Panel(NamedTuple):
    """One panel; it stands to the right of the one before, or below where there is no room (24 columns are a line)."""

    title: str
    about: str
    unit: str
    queries: list[tuple[str, str]]
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    # Shares are drawn from 0 to this; None: as the values are, from 0.
    top: float | None = None
    # Where there is data: anywhere, "cuda" (of a CUDA device alone), "nats" (of prometheus-nats-exporter alone).
    where: str = "anywhere"


class Row(NamedTuple):
    title: str
    panels: list[Panel]


class Dashboard(NamedTuple):
    uid: str
    title: str
    about: str
    # Name, label, PromQL of the values.
    variables: list[tuple[str, str, str]]
    rows: list[Row]


def rate(metric: str, by: str = "", more: str = "", where: str = WORKERS) -> str:
    selector = where + ("," + more if more else "")
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", more: str = "", where: str = WORKERS) -> str:
    return f"histogram_quantile({share:g}, {rate(metric + '_bucket', ', '.join(filter(None, ['le', by])), more, where)})"


def quantiles(metric: str, more: str = "", where: str = WORKERS) -> list[tuple[str, str]]:
    return [(quantile(share, metric, more=more, where=where), f"p{share * 100:g}") for share in (0.5, 0.9, 0.99)]


def mean(metric: str) -> str:
    return f"{rate(metric + '_sum')} / ({rate(metric + '_count')} > 0)"


IS_SCORED, IS_RERANKED = 'outcome="scored"', 'outcome="reranked"'
SCORED = f"{rate('rerank_requests_total', more=IS_SCORED)} / ({rate('rerank_requests_total')} > 0)"
# Of those that a ranking was due to: not the wrong, the forbidden, and those who hung up.
GATEWAY_DUE = rate("rerank_gateway_requests_total", more='outcome!~"invalid|unauthorized|cancelled"', where=GATEWAYS)
GATEWAY_RERANKED = f"{rate('rerank_gateway_requests_total', more=IS_RERANKED, where=GATEWAYS)} / ({GATEWAY_DUE} > 0)"
EVENTS = [
    ("rerank_nats_reconnects_total", "reconnects"),
    ("rerank_nats_slow_consumer_total", "slow consumer"),
    ("rerank_nats_lame_duck_total", "server about to stop"),
    ("rerank_nats_permission_violations_total", "not permitted"),
    ("rerank_replies_dropped_total", "answers dropped"),
    ("rerank_tickets_dropped_total", "requests lost inside"),
    ("rerank_messages_without_reply_total", "nobody waits"),
]
SEEN_BY_WORKERS = Panel(
    "What workers met", "Events a second; every line should lie at zero.", "short", [(rate(metric), legend) for metric, legend in EVENTS]
)

FLEET = Dashboard(
    "nats-rerank-fleet",
    "nats-rerank: fleet",
    "Workers, their devices, gateways and callers. What to do when something looks wrong: docs/operations.md.",
    [
        ("namespace", "Namespace", 'label_values({__name__=~"rerank_build_info|rerank_gateway_connected"}, namespace)'),
        ("model", "Model", 'label_values(rerank_build_info{namespace=~"$namespace"}, model)'),
        ("pod", "Worker", 'label_values(rerank_build_info{namespace=~"$namespace",model=~"$model"}, pod)'),
    ],
    [
        Row(
            "At a glance",
            [
                Panel("Workers", "In the queue group now, and out of it on purpose.", "short", [(f"sum(rerank_group_member{{{WORKERS}}})", "in the group"), (f"sum(rerank_switched_off{{{WORKERS}}})", "switched off")], "stat", 4),
                Panel("Requests", "Requests a second that workers ended.", "reqps", [(rate("rerank_requests_total"), "")], "stat", 4),
                Panel("In time", "Share of requests that workers answered with a ranking.", "percentunit", [(SCORED, "")], "stat", 4),
                Panel("p99", "Time in the worker, from receipt to answer.", "s", [(quantile(0.99, "rerank_request_stage_seconds", more='stage="total"'), "")], "stat", 4),
                Panel(
                    "Devices busy", "Share of the time that devices compute: beyond 70 % the wait grows fast.", "percentunit",
                    [(f"avg(rate(rerank_engine_busy_seconds_total{{{WORKERS}}}[$__rate_interval]))", "")], "stat", 4,
                ),
                Panel("Alerts", "Alerts of ours that fire now.", "short", [('count(ALERTS{alertname=~"NatsRerank.*",alertstate="firing"}) or vector(0)', "")], "stat", 4),
            ],
        ),
        Row(
            "Traffic",
            [
                Panel("Requests by outcome", "Requests that ended, a second. dropped: the answer could not be sent.", "reqps", [(rate("rerank_requests_total", "outcome"), "{{outcome}}")], stacked=True),
                Panel("Deadlines met", "Share of requests that got a ranking within their budget; the gateway counts those that nobody was asked for as well.", "percentunit", [(SCORED, "of requests to workers"), (GATEWAY_RERANKED, "of requests to gateways")], top=1),
                Panel("Refusals", "By kind, a second. A full fleet is not asked, so its refusals stop: see callers and leaves for fullness.", "reqps", [(rate("rerank_refusals_total", "kind"), "{{kind}}")], stacked=True),
                Panel("Time in the worker", "From receipt to answer, refused requests too.", "s", quantiles("rerank_request_stage_seconds", 'stage="total"')),
                Panel("Queue wait", "Time of a scored request before the device began with it. Scaling aims at p90 below 50 ms.", "s", quantiles("rerank_request_stage_seconds", 'stage="queue"')),
                Panel("Stages, p90", "Where a scored request spends its time.", "s", [(quantile(0.9, "rerank_request_stage_seconds", "stage", 'stage!="total"'), "{{stage}}")]),
                Panel("Requests in workers", "Admitted and not answered yet.", "short", [(f"rerank_queue_requests{{{WORKERS}}}", "{{pod}}")], stacked=True),
                Panel("Predicted wait", "What admission would tell a request that comes now and is due last.", "s", [(f"rerank_predicted_wait_seconds{{{WORKERS}}}", "{{pod}}")]),
                Panel("Tokens that wait", "Of admitted requests, not begun with yet.", "short", [(f"rerank_queue_tokens{{{WORKERS}}}", "{{pod}}")], stacked=True),
            ],
        ),
        Row(
            "Devices",
            [
                Panel("Device busy", "Share of the time that each worker's device computes.", "percentunit", [(f"rate(rerank_engine_busy_seconds_total{{{WORKERS}}}[$__rate_interval])", "{{pod}}")], top=1),
                Panel("Device time wasted", "Share of the busy time that went to requests which got no scores in time. Should stay at zero.", "percentunit", [(f"{rate('rerank_engine_wasted_seconds_total', 'pod')} / ({rate('rerank_engine_busy_seconds_total', 'pod')} > 0)", "{{pod}}")]),
                Panel("Tokens", "Tokens computed a second, and what the workers measured that full batches would do.", "short", [(rate("rerank_batch_tokens_sum"), "computed"), (f"sum(rerank_engine_tokens_per_second{{{WORKERS}}})", "measured capacity")]),
                Panel("Batch fill", "Tokens of a batch as a share of the token budget in force. Low is right while devices idle: nothing waits to be gathered.", "percentunit", [(mean("rerank_batch_fill_ratio"), "mean"), (quantile(0.9, "rerank_batch_fill_ratio"), "p90")], top=1),
                Panel("Pairs of a batch", "Query and document pairs that go through the model together.", "short", [(mean("rerank_batch_pairs"), "mean"), (quantile(0.9, "rerank_batch_pairs"), "p90")]),
                Panel("Token budget and out of memory", "The budget in force, and how often the device had no memory for a batch, a minute.", "short", [(f"rerank_batch_tokens_max{{{WORKERS}}}", "budget {{pod}}"), (f"60 * rate(rerank_out_of_memory_total{{{WORKERS}}}[$__rate_interval])", "out of memory {{pod}}")]),
                Panel("Device memory", "Taken, by whomever, as a share of what the CUDA device has. Empty on other devices.", "percentunit", [(f"rerank_device_memory_used_bytes{{{WORKERS}}} / (rerank_device_memory_total_bytes{{{WORKERS}}} > 0)", "{{pod}}")], top=1, where="cuda"),
                Panel("Time to load the model", "Download, reading and warm-up of the model now served.", "s", [(f"rerank_model_load_seconds{{{WORKERS}}}", "{{pod}}")]),
                Panel("What runs", "Workers by version, device and precision: one line, but for a roll-out.", "short", [(f"count by (version, model, device, precision) (rerank_build_info{{{WORKERS}}})", "{{version}} {{model}} {{device}} {{precision}}")], stacked=True),
            ],
        ),
        Row(
            "The queue group",
            [
                Panel("Members", "1 while the worker is in the queue group.", "short", [(f"rerank_group_member{{{WORKERS}}}", "{{pod}}")], stacked=True),
                Panel("Switched off", "1 while the worker is out of the group on purpose: by the live switch, or by its settings.", "short", [(f"rerank_switched_off{{{WORKERS}}}", "{{pod}}")], stacked=True),
                Panel("Joins and leaves", "A minute. full: not asked until it has room; off: the live switch; end: stopped.", "short", [(f"60 * {rate('rerank_group_joins_total')}", "join"), (f"60 * {rate('rerank_group_leaves_total', 'reason')}", "leave, {{reason}}")]),
                SEEN_BY_WORKERS,
            ],
        ),
        Row(
            "Gateways and callers",
            [
                Panel("Gateway: requests by outcome", "HTTP requests a second, of every gateway in the namespace.", "reqps", [(rate("rerank_gateway_requests_total", "outcome", where=GATEWAYS), "{{outcome}}")], stacked=True),
                Panel("Gateway: time", "From a request's head to its answer.", "s", quantiles("rerank_gateway_request_seconds", where=GATEWAYS)),
                Panel("Gateway: open requests", "HTTP requests at work; past gateway.requests_max they are turned away.", "short", [(f"rerank_gateway_requests_open{{{GATEWAYS}}}", "{{pod}}")], stacked=True),
                Panel("Calls without the model's order", "Why a call kept its ANN order or a part of it, a second; of gateways and of programs with the Rust client.", "reqps", [(rate("rerank_client_calls_total", "reason", 'reason!="none"', GATEWAYS), "{{reason}}")], stacked=True),
                Panel("Requests of a call", "What callers sent: first, a retry after a refusal, a hedge for what is late.", "reqps", [(rate("rerank_client_requests_total", "kind", where=GATEWAYS), "{{kind}}")]),
                Panel("Circuit breaker", "Turns a minute, by the new state. Any opening means that calls failed in a row.", "short", [(f"60 * {rate('rerank_client_circuit_turns_total', 'to', where=GATEWAYS)}", "{{to}}")]),
            ],
        ),
    ],
)


def nats(title: str, about: str, unit: str, queries: list[tuple[str, str]]) -> Panel:
    return Panel(title, about, unit, queries, where="nats")


def gauge_rate(name: str) -> str:
    return f"rate(gnatsd_varz_{name}{{{NATS}}}[$__rate_interval])"


SERVERS = Dashboard(
    "nats-rerank-nats",
    "nats-rerank: NATS",
    "The servers, by prometheus-nats-exporter (-varz -connz -routez -healthz), beside what workers and gateways see of them.",
    [
        ("namespace", "Namespace", 'label_values({__name__=~"rerank_build_info|rerank_gateway_connected"}, namespace)'),
        ("pod", "Worker", 'label_values(rerank_build_info{namespace=~"$namespace"}, pod)'),
        ("server", "NATS server", "label_values(gnatsd_varz_connections, server_id)"),
    ],
    [
        Row(
            "Servers",
            [
                nats("Health", "0: healthy; 1: not. No value: the server does not answer.", "short", [(f"gnatsd_healthz_status{{{NATS}}}", "{{server_id}}")]),
                nats("Connections", "Clients connected, of all kinds.", "short", [(f"gnatsd_varz_connections{{{NATS}}}", "{{server_id}}")]),
                nats("New connections", "A minute. Many without many clients: they are cut off and come back.", "short", [(f"60 * {gauge_rate('total_connections')}", "{{server_id}}")]),
                nats("Slow consumers", "Clients cut off a minute because they read too slowly. Should stay at zero.", "short", [(f"60 * {gauge_rate('slow_consumers')}", "{{server_id}}")]),
                nats("Bytes that wait for clients", "In the server, of all connections it listed: what grows here ends as a slow consumer.", "bytes", [(f"gnatsd_connz_pending_bytes{{{NATS}}}", "{{server_id}}")]),
                nats("Subscriptions", "Of clients and routes.", "short", [(f"gnatsd_varz_subscriptions{{{NATS}}}", "{{server_id}}")]),
                nats("Messages", "A second, in and out.", "short", [(gauge_rate("in_msgs"), "in {{server_id}}"), (gauge_rate("out_msgs"), "out {{server_id}}")]),
                nats("Bytes", "A second, in and out.", "Bps", [(gauge_rate("in_bytes"), "in {{server_id}}"), (gauge_rate("out_bytes"), "out {{server_id}}")]),
                nats("Routes and leaf nodes", "Connections to other servers. Fewer routes than before: the cluster fell apart or shrunk.", "short", [(f"gnatsd_varz_routes{{{NATS}}}", "routes {{server_id}}"), (f"gnatsd_varz_leafnodes{{{NATS}}}", "leaf nodes {{server_id}}")]),
                nats("Memory", "Of the server's process.", "bytes", [(f"gnatsd_varz_mem{{{NATS}}}", "{{server_id}}")]),
                nats("CPU", "Per cent of one core.", "percent", [(f"gnatsd_varz_cpu{{{NATS}}}", "{{server_id}}")]),
            ],
        ),
        Row(
            "As workers and gateways see them",
            [
                SEEN_BY_WORKERS,
                Panel("Workers in the group", "A full worker, and one that is switched off, has left it.", "short", [(f"sum(rerank_group_member{{{WORKERS}}})", "in the group"), (f"sum(rerank_switched_off{{{WORKERS}}})", "switched off")]),
                Panel("Gateways connected", "1 while there is a connection.", "short", [(f"rerank_gateway_connected{{{GATEWAYS}}}", "{{pod}}")]),
                Panel("Requests", "A second, ended by workers.", "reqps", [(rate("rerank_requests_total", "outcome"), "{{outcome}}")], stacked=True),
                Panel("Joins and leaves", "Of the queue group, a minute.", "short", [(f"60 * {rate('rerank_group_joins_total')}", "join"), (f"60 * {rate('rerank_group_leaves_total', 'reason')}", "leave, {{reason}}")]),
                Panel("Calls that reached nobody", "A second: no responders (nobody is in the group), disconnected, timed out.", "reqps", [(rate("rerank_client_calls_total", "reason", 'reason=~"no_responders|disconnected|timed_out"', GATEWAYS), "{{reason}}")]),
            ],
        ),
    ],
)

DASHBOARDS = {"fleet.json": FLEET, "nats.json": SERVERS}
