"""
How soon two web processes serve a model that a discovery found, when its provider lists 10,000 others; and beside it
ten others, which shows what the machine and the looking add.

From the commit of the list to the first `200` of `GET /v1/models/{id}`, in each of two processes: the copy in Redis,
the announcement, the reading and the request are in it. The looking costs both of them time, and counts.
"""

from __future__ import annotations

import http.client
import threading
import time

from bench.figures import Report, percentile
from bench.processes import free_port
from bench.system import Servers, web
from core.app import App, open_app
from core.capabilities import store
from core.capabilities.difference import Difference
from core.capabilities.model import ListedModel, ModelList
from core.capabilities.names import findings_of_name
from core.providers.model import NewProvider

MODELS, FEW = 10_000, 10
LOOK_S = 0.002
GIVE_UP_S = 10.0
TARGET_MS = 50
PROVIDER = "acme"

_PRICES = {"source": "genai-prices", "vendor": "vendor", "model": "model", "by": "model"}
_USD = {"input_mtok": "2.5", "output_mtok": "10"}


class NotServed(RuntimeError):
    """A process did not serve a new model in time."""


def expect(report: Report) -> None:
    report.expect("new_model_p99_ms", "<", TARGET_MS)


def run(servers: Servers, report: Report, *, rounds: int) -> None:
    """Args: rounds: lists of each size, each with one model more."""
    for name, count in (("new_model_of_ten", FEW), ("new_model", MODELS)):
        took = _rounds(servers, count, rounds)
        report.add(f"{name}_p50_ms", 1000 * percentile(took, 0.5))
        report.add(f"{name}_p99_ms", 1000 * percentile(took, 0.99))


def _rounds(servers: Servers, count: int, rounds: int) -> list[float]:
    first = servers.fresh("bench_capabilities")
    second = first.model_copy(update={"port": free_port()})
    logs = servers.logs / "second"
    logs.mkdir(exist_ok=True)
    with open_app(first) as app, web(first, servers.logs), web(second, logs):
        app.providers.add(NewProvider(name=PROVIDER, base_url="http://127.0.0.1:9/v1"))
        key = app.keys.create(name="bench").clear_key
        models = [_model(f"vendor-{number % 40}/model-{number:05}-instruct") for number in range(count)]
        took: list[float] = []
        before: ModelList | None = None
        for number in range(rounds + 1):
            models.append(_model(f"zzz/new-{number:03}"))
            before, seen = _round(app, before, models, [first.port, second.port], key)
            if number > 0:  # at the first one the processes and their looks begin
                took += seen
    return took


def _model(name: str) -> ListedModel:
    """As a gateway's models are: known by name, priced, with a context size."""
    prices = {**_PRICES, "usd": _USD}
    findings = findings_of_name(name)
    return ListedModel(id=name, created=1_715_367_049, findings=findings, context_tokens=128_000, prices=prices)


def _round(
    app: App, before: ModelList | None, models: list[ListedModel], ports: list[int], key: str
) -> tuple[ModelList, list[float]]:
    """The new list, and seconds from its commit until each process serves the newest model."""
    with app.engine.begin() as connection:
        asked_at = store.now(connection)
        version = app.providers.get(PROVIDER).version
        if not store.save(connection, PROVIDER, models, asked_at=asked_at, row_version=version):
            raise NotServed("the list was not kept")
        found = store.load(connection, PROVIDER, asked_at)
        copy = found.to_json()
        difference = None if before is None else Difference.between(before, found)
    began = time.monotonic()
    seen: list[float] = []
    looks = [threading.Thread(target=_look, args=(port, models[-1].id, key, seen)) for port in ports]
    for look in looks:
        look.start()
    app.capability_copies.announce(found, copy, difference)
    for look in looks:
        look.join()
    if len(seen) != len(ports):
        raise NotServed(f"{models[-1].id} was not served within {GIVE_UP_S:g} s")
    return found, [moment - began for moment in seen]


def _look(port: int, model: str, key: str, seen: list[float]) -> None:
    """Ask again and again, on one connection; the moment of the first success goes to `seen`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GIVE_UP_S)
    give_up = time.monotonic() + GIVE_UP_S
    try:
        while time.monotonic() < give_up:
            connection.request("GET", f"/v1/models/{model}", headers={"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                seen.append(time.monotonic())
                return
            time.sleep(LOOK_S)
    finally:
        connection.close()
