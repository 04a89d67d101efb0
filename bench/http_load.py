"""One web process under load: accepts counted as committed rows, status reads of a live and of a final task."""

from __future__ import annotations

import json
import time

from bench.figures import Report, percentile
from bench.load import CONNECTIONS, Request, has_wrk, latencies_ms, requests_per_s
from bench.size import Size
from bench.system import PAYLOAD, Servers, connect, noop_type, number, web
from headrace import open_app

STATUS_RATE = 500
NO_WRK = (
    "http: wrk is not on PATH (Debian: apt-get install wrk); a slower client of ours made the load, so rates are low"
)


def expect_accepts(report: Report) -> None:
    report.expect("http_accepts_per_s", ">=", 3_000)


def expect_status(report: Report) -> None:
    report.expect("http_status_live_per_s", ">=", 5_000)
    report.expect("http_status_final_per_s", ">=", 5_000)
    report.expect("http_status_p99_ms_at_500_per_s", "<", 5)


def run_accepts(servers: Servers, size: Size, report: Report) -> None:
    """64 connections, each sends the next task when the last one was answered; no worker runs."""
    _say_what_loads(report)
    settings = servers.fresh("bench_accept")
    with open_app(settings) as app:
        key = app.keys.create(name="bench").clear_key
    body = json.dumps({"type": "diagnostic.noop", "input": {"payload": PAYLOAD}})
    request = Request(settings.port, "POST", ("/v1/tasks",), key, body)
    with web(settings, servers.logs), connect(settings) as connection:
        requests_per_s(request, 1)
        for _ in range(size.rounds):
            before, started = number(connection, "SELECT count(*) FROM tasks"), time.perf_counter()
            answered = requests_per_s(request, size.load_s)
            took = time.perf_counter() - started
            stored = number(connection, "SELECT count(*) FROM tasks") - before
            if stored < answered * size.load_s * 0.99:
                raise RuntimeError(f"{answered:.0f}/s answered, but only {stored} rows in {took:.1f} s")
            report.add("http_accepts_per_s", min(answered, stored / size.load_s))


def run_status(servers: Servers, size: Size, report: Report) -> None:
    """Full speed on live and on final tasks, as many as there are clients; then the live ones at a constant 500/s."""
    _say_what_loads(report)
    settings = servers.fresh("bench_http_status")
    noop = noop_type()
    with open_app(settings) as app:
        created = app.keys.create(name="bench")
        inputs = [noop.model_validate({"payload": PAYLOAD}) for _ in range(CONNECTIONS)]
        live, final = (app.tasks.enqueue_many(inputs, owner=created.key_id) for _ in range(2))
        for task in final:
            app.tasks.cancel(task.public_id, owner=created.key_id)
    requests = {
        kind: Request(settings.port, "GET", tuple(f"/v1/tasks/{task.public_id}" for task in tasks), created.clear_key)
        for kind, tasks in (("live", live), ("final", final))
    }
    nothing = Request(settings.port, "GET", ("/live",), created.clear_key)
    with web(settings, servers.logs):
        for request in requests.values():
            requests_per_s(request, 1)
        for _ in range(size.rounds):
            for kind, request in requests.items():
                report.add(f"http_status_{kind}_per_s", requests_per_s(request, size.load_s))
            latencies = latencies_ms(requests["live"], rate=STATUS_RATE, seconds=size.load_s)
            report.add("http_status_p50_ms_at_500_per_s", percentile(latencies, 0.5))
            report.add("http_status_p99_ms_at_500_per_s", percentile(latencies, 0.99))
            # What this machine and this client add to any answer: the endpoint that touches nothing, at the same rate.
            floor = latencies_ms(nothing, rate=STATUS_RATE, seconds=size.load_s)
            report.add("http_live_p99_ms_at_500_per_s", percentile(floor, 0.99))


def _say_what_loads(report: Report) -> None:
    if not has_wrk() and NO_WRK not in report.notes:
        report.notes.append(NO_WRK)
