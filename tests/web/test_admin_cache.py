"""`/v1/admin/cache` of a real web process: figures, a reset, drops, and what bad input gets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.waiting import wait_until
from tests.web.moves import claim, finish
from tests.web.serving import Caller, Reply, Site

STATS, RESET = "/v1/admin/cache/stats", "/v1/admin/cache/stats/reset"


def admin_of(site: Site) -> Caller:
    assert site.app.settings.admin_key is not None
    return site.caller.with_key(site.app.settings.admin_key.get_secret_value())


@pytest.fixture
def admin(site: Site) -> Caller:
    return admin_of(site)


def cache(reply: Reply, name: str) -> dict[str, Any]:
    assert reply.status == 200, reply
    found: dict[str, Any] = next(entry for entry in reply.json["caches"] if entry["name"] == name)
    return found


def test_polls_are_counted_by_where_they_were_answered_and_a_reset_begins_at_zero(own_site: Site) -> None:
    admin = admin_of(own_site)
    task_id = own_site.caller.enqueue()
    finish(own_site.app, claim(own_site.app))
    admin.post(RESET)

    for _ in range(20):
        assert own_site.caller.get(f"/v1/tasks/{task_id}").status == 200

    shown = admin.get(STATS)
    status = cache(shown, "task_status")
    assert status["hits"] + status["misses"] == 20
    assert status["from"]["memory"] >= 19
    assert shown.json["hits"] >= 19
    assert shown.json["is_complete"] is True
    assert {"task_status", "provider_capabilities"} <= {entry["name"] for entry in shown.json["caches"]}
    previous = admin.post(RESET)
    assert cache(previous, "task_status")["hits"] == status["hits"]
    after = admin.get(STATS)
    assert (after.json["hits"], after.json["misses"]) == (0, 0)
    assert after.json["reset_time"] >= previous.json["reset_time"]


def test_it_is_shown_how_late_the_process_hears_of_changes_and_how_old_its_limits_are(own_site: Site) -> None:
    admin = admin_of(own_site)
    own_site.app.access.watch.start()  # another process, whose canaries this one hears

    def heard() -> dict[str, Any]:
        found: dict[str, Any] = admin.get(STATS).json["this_process"]
        return found if found["canaries"] else {}

    here = wait_until(heard, 10, what="a canary is heard")

    assert 0 <= here["lag_p50_ms"] <= here["lag_p99_ms"] <= here["lag_max_ms"] < 5000
    assert 0 <= here["limits_age_s"] < 60


def test_a_process_sends_its_figures_by_itself(own_site: Site) -> None:
    task_id = own_site.caller.enqueue()
    for _ in range(10):
        own_site.caller.get(f"/v1/tasks/{task_id}")

    def sent() -> int:
        totals = (own_site.app.cache.client.get(f"conduit:cache:stats:{name}") for name in ("hits", "misses"))
        return sum(int(total) for total in totals if isinstance(total, bytes))

    wait_until(lambda: sent() >= 10, 12, what="the figures of ten polls")


def test_a_dropped_final_status_is_read_from_its_row_again(own_site: Site) -> None:
    admin = admin_of(own_site)
    task_id = own_site.caller.enqueue()
    finish(own_site.app, claim(own_site.app))
    path = f"/v1/tasks/{task_id}"
    own_site.caller.get(path)
    assert own_site.caller.get(path).headers["headrace-status-from"] == "memory"

    dropped = admin.post("/v1/admin/cache/task_status/drop", {"ids": [task_id, "task_" + "0" * 32]})

    assert dropped.json == {"cache": "task_status", "ids": 2, "everywhere": True}
    assert own_site.caller.get(path).headers["headrace-status-from"] == "database"


def test_an_unknown_cache_is_404_with_the_names_there_are(admin: Caller) -> None:
    reply = admin.post("/v1/admin/cache/nothing/drop", {"ids": ["a"]})

    assert (reply.status, reply.json["code"]) == (404, "cache_not_found")
    assert "provider_capabilities, task_status" in reply.json["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "ids"),
        ({"ids": "a"}, "ids"),
        ({"ids": []}, "ids"),
        ({"ids": ["a"] * 1001}, "ids"),
        ({"ids": [1]}, "ids[0]"),
        ({"ids": ["a", ""]}, "ids[1]"),
        ({"ids": ["a b"]}, "ids[0]"),
        ({"ids": ["a\n"]}, "ids[0]"),
        ({"ids": ["a"], "id": "a"}, "id"),
    ],
)
def test_bad_ids_are_422_and_named(admin: Caller, body: object, field: str) -> None:
    reply = admin.post("/v1/admin/cache/task_status/drop", body)

    assert (reply.status, reply.json.get("field")) == (422, field), reply


def test_only_operators_see_and_reset(site: Site) -> None:
    for method, path in (("GET", STATS), ("POST", RESET), ("POST", "/v1/admin/cache/task_status/drop")):
        assert site.caller.send(method, path).status == 401, path


def test_answers_about_caches_are_as_described(admin: Caller) -> None:
    paths = admin.get("/openapi.json").json["paths"]

    for path, method in ((STATS, "get"), (RESET, "post"), ("/v1/admin/cache/{name}/drop", "post")):
        assert "200" in paths[path][method]["responses"], path
    figures = paths[STATS]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    shown = admin.get(STATS).json
    assert set(shown) == set(figures["required"])
    assert set(shown["this_process"]) == set(figures["properties"]["this_process"]["required"])
    for entry in shown["caches"]:
        assert set(entry) == set(figures["properties"]["caches"]["items"]["required"])
