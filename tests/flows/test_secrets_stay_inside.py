"""Law 12: no secret, key or prompt in logs, errors, Redis names or Dramatiq messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa

from core.app import App
from core.settings import Settings
from core.testing import FakeProvider, Fault
from tests.flows.conftest import PROVIDER_KEY
from tests.support.waiting import wait_until
from tests.support.worker_processes import query, running_workers
from tests.web.serving import Site

PROMPT = "canary-prompt-b41c6e"
METADATA = "canary-metadata-77aa01"


def test_a_canary_prompt_and_every_key_stay_out_of_logs_errors_and_redis(
    app: App, site: Site, provider: FakeProvider, settings: Settings, tmp_path: Path
) -> None:
    echo = json.dumps({"error": {"message": f"bad request: {PROMPT} with key {PROVIDER_KEY}"}}).encode()
    provider.fail("/chat/completions", Fault(status=400, body=echo), times=1)
    provider.fail("/embeddings", Fault(status=503, body=echo), times=None)
    chat = {"model": "m", "messages": [{"role": "user", "content": PROMPT}]}
    bodies = [
        {"type": "chat.completion", "input": chat, "metadata": {"note": METADATA}},
        {"type": "chat.completion", "input": chat},
        {"type": "embedding", "input": {"model": "m", "input": PROMPT}, "max_attempts": 2},
        {"type": "diagnostic.exit", "input": {"code": 9, "times": 1}},
    ]
    # Bells first, while nobody takes them: what Dramatiq would see.
    ids = [site.caller.enqueue(body, **{"Idempotency-Key": f"key-{n}"}) for n, body in enumerate(bodies)]
    before = everything_in(settings)
    refused = [
        site.caller.post("/v1/tasks", {"type": "chat.completion", "input": {**chat, "temperature": PROMPT}}),
        site.caller.post("/v1/tasks", {"type": PROMPT[:10], "input": {}, PROMPT: 1}),
        site.caller.with_key("hr_" + PROMPT).get("/v1/tasks"),
        site.caller.get(f"/v1/tasks?state={PROMPT}"),
    ]
    with running_workers(app, log=tmp_path / "workers.log") as workers:
        wait_until(lambda: unfinished(app) == 0, 60, what="all tasks end")
        errors = [site.caller.get(f"/v1/tasks/{task_id}").json["error"] for task_id in ids]
        during = everything_in(settings)
        assert workers.stop() == 0

    places = {
        "web log": site.web.text(),
        "worker log": workers.text(),
        "redis": before + during,
        "errors of tasks": repr(errors),
        "refusals": repr([(reply.status, reply.body) for reply in refused[:1]]),
    }
    clear_key = site.caller.key
    for place, text in places.items():
        assert text, f"{place}: nothing was looked at"
        for secret in (PROMPT, PROVIDER_KEY, clear_key, clear_key[16:59], *secrets_of(app)):
            assert secret not in text, f"{place} shows {secret[:12]}..."
    assert {error["code"] for error in errors if error} >= {"provider_rejected"}


def secrets_of(app: App) -> list[str]:
    settings = app.settings
    held = (
        settings.key_pepper,
        settings.admin_key,
        settings.encryption_key,
        settings.database_url,
        settings.redis_url,
    )
    return [value.get_secret_value() for value in held if value is not None]


def unfinished(app: App) -> int:
    return int(query(app, "SELECT count(*) FROM tasks WHERE finished_at IS NULL")[0][0])


def everything_in(settings: Settings) -> str:
    """Names and values of both Redis databases, results of tasks and their metadata apart: those are the owner's."""
    found: list[str] = []
    for url in (settings.redis_url, settings.broker_url):
        assert url is not None
        with redis.Redis.from_url(url.get_secret_value(), decode_responses=True) as client:
            for name in client.scan_iter():
                found.append(name)
                kind = client.type(name)
                if kind == "string" and "async:task:" not in name:
                    found.append(str(client.get(name)))
                elif kind == "list":
                    found.append(repr(client.lrange(name, 0, -1)))
                elif kind == "hash":
                    found.append(repr(client.hgetall(name)))
    return "\n".join(found)


def test_what_the_database_refuses_is_told_without_its_values(app: App) -> None:
    with pytest.raises(sa.exc.DBAPIError) as refused, app.engine.connect() as connection:
        connection.execute(
            sa.text("SELECT CAST(:prompt AS uuid) IS NULL OR :other = 'x'"), {"prompt": "1", "other": PROMPT}
        )

    assert PROMPT not in str(refused.value)
