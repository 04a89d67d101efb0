"""`/v1/admin/jobs`: what operators see of jobs and may do with them, with a real scheduler where one is needed."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from jobs.rows import GONE
from jobs.spec import JobSpec
from tests.support.ticking import greet, refuse, ticking, write_jobs
from tests.support.waiting import wait_until
from tests.web.serving import Caller, Site


@pytest.fixture
def hello() -> JobSpec:
    """Of a name of its own: the site is shared."""
    return JobSpec(name=f"hello-{secrets.token_hex(4)}", run=greet, every=timedelta(hours=1))


@pytest.fixture
def refused() -> JobSpec:
    return JobSpec(name=f"refused-{secrets.token_hex(4)}", run=refuse, cron="30 2 * * *", timezone="Europe/Berlin")


@pytest.fixture
def admin(site: Site) -> Caller:
    assert site.app.settings.admin_key is not None
    return site.caller.with_key(site.app.settings.admin_key.get_secret_value())


def jobs_of(admin: Caller) -> dict[str, dict[str, Any]]:
    return {job["name"]: job for job in admin.get("/v1/admin/jobs").json["jobs"]}


def ended_runs(admin: Caller, name: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = admin.get(f"/v1/admin/jobs/{name}/history").json["runs"]
    return [run for run in runs if run["finished_at"] is not None]


def has_ended(admin: Caller, name: str, count: int) -> bool:
    return len(ended_runs(admin, name)) == count


def test_jobs_are_listed_with_what_is_due_and_what_their_last_run_did(
    site: Site, admin: Caller, hello: JobSpec, refused: JobSpec
) -> None:
    with ticking(site.app, [hello, refused]):
        asked = [admin.post(f"/v1/admin/jobs/{job.name}/run") for job in (hello, refused)]
        wait_until(lambda: all(ended_runs(admin, job.name) for job in (hello, refused)), what="both runs ended")
    listed = jobs_of(admin)

    assert [(reply.status, reply.json["outcome"]) for reply in asked] == [(202, "waiting")] * 2
    good, bad = listed[hello.name], listed[refused.name]
    assert good["schedule"] == "every 3600 s"
    assert bad["schedule"] == "30 2 * * * Europe/Berlin"
    assert good["enabled"]
    assert good["reason"] is None
    assert timedelta() < datetime.fromisoformat(good["next_due"]) - datetime.now(UTC) <= timedelta(hours=1)
    assert good["last_run"]["outcome"] == "succeeded"
    assert good["last_run"]["reason"] == "greeted the world"
    assert good["last_run"]["duration_s"] >= 0
    assert good["last_run"]["lateness_s"] >= 0
    assert bad["last_run"]["outcome"] == "failed"
    assert "no greeting today" in bad["last_run"]["reason"]
    assert "about to fail" in bad["last_run"]["log"]
    assert (good["runs"], bad["failures"]) == (1, 1)


def test_a_paused_job_rests_and_goes_on_from_its_next_due_time(site: Site, admin: Caller, hello: JobSpec) -> None:
    write_jobs(site.app, [hello])

    paused = admin.post(f"/v1/admin/jobs/{hello.name}/pause")
    again = admin.post(f"/v1/admin/jobs/{hello.name}/pause")
    resumed = admin.post(f"/v1/admin/jobs/{hello.name}/resume")

    assert paused.status == again.status == resumed.status == 200
    assert (paused.json["enabled"], paused.json["next_due"]) == (False, None)
    assert again.json == paused.json
    assert resumed.json["enabled"]
    assert datetime.fromisoformat(resumed.json["next_due"]) > datetime.now(UTC)


def test_a_job_whose_file_is_gone_says_so_and_cannot_be_run(
    site: Site, admin: Caller, hello: JobSpec, refused: JobSpec
) -> None:
    write_jobs(site.app, [hello, refused])
    write_jobs(site.app, [refused])

    run = admin.post(f"/v1/admin/jobs/{hello.name}/run")
    resumed = admin.post(f"/v1/admin/jobs/{hello.name}/resume")

    assert run.status == resumed.status == 409
    assert "file" in run.json["detail"]
    listed = jobs_of(admin)
    assert (listed[hello.name]["enabled"], listed[hello.name]["reason"]) == (False, GONE)
    assert listed[refused.name]["enabled"]


def test_a_second_request_for_a_run_that_waits_is_the_same_run(site: Site, admin: Caller, hello: JobSpec) -> None:
    write_jobs(site.app, [hello])

    first = admin.post(f"/v1/admin/jobs/{hello.name}/run")
    second = admin.post(f"/v1/admin/jobs/{hello.name}/run")

    assert first.json == second.json
    assert len(admin.get(f"/v1/admin/jobs/{hello.name}/history").json["runs"]) == 1


def test_the_history_is_paged_newest_first(site: Site, admin: Caller, hello: JobSpec) -> None:
    with ticking(site.app, [hello]):
        for count in range(1, 4):
            admin.post(f"/v1/admin/jobs/{hello.name}/run")
            wait_until(partial(has_ended, admin, hello.name, count), what="the run ended")

    first = admin.get(f"/v1/admin/jobs/{hello.name}/history?limit=2").json
    second = admin.get(f"/v1/admin/jobs/{hello.name}/history?limit=2&cursor={first['next_cursor']}").json

    due = [run["due_at"] for run in first["runs"] + second["runs"]]
    assert len(due) == 3
    assert due == sorted(due, reverse=True)
    assert second["next_cursor"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=1000", "cursor=nonsense", "cursor=%2F", "page=2"])
def test_a_wrong_parameter_is_named(site: Site, admin: Caller, hello: JobSpec, query: str) -> None:
    write_jobs(site.app, [hello])

    reply = admin.get(f"/v1/admin/jobs/{hello.name}/history?{query}")

    assert reply.status == 422
    assert reply.json["field"] == query.partition("=")[0]


def test_a_schedule_is_not_a_job_and_a_job_is_no_schedule(site: Site, admin: Caller, hello: JobSpec) -> None:
    write_jobs(site.app, [hello])
    name = f"mine-{secrets.token_hex(4)}"
    body: dict[str, Any] = {
        "name": name,
        "every_s": 60,
        "owner": site.key_id,
        "task": {"type": "diagnostic.noop", "input": {}},
    }
    assert admin.post("/v1/admin/schedules", body).status == 201

    replies = [
        admin.post(f"/v1/admin/jobs/{name}/run"),
        admin.post(f"/v1/admin/jobs/{name}/pause"),
        admin.get(f"/v1/admin/jobs/{name}/history"),
        admin.get(f"/v1/admin/schedules/{hello.name}"),
        admin.send("DELETE", f"/v1/admin/schedules/{hello.name}"),
        admin.post("/v1/admin/jobs/%00/run"),
        admin.post("/v1/admin/jobs/no%20such/pause"),
    ]

    assert {reply.status for reply in replies} == {404}


def test_a_schedule_fires_its_task_for_its_owner(site: Site, admin: Caller) -> None:
    owner = site.app.keys.create("scheduled")
    producer = site.caller.with_key(owner.clear_key)
    path = f"/v1/admin/schedules/often-{secrets.token_hex(4)}"
    body: dict[str, Any] = {
        "name": path.rpartition("/")[2],
        "every_s": 1,
        "owner": owner.key_id,
        "task": {"type": "diagnostic.noop", "input": {}, "metadata": {"from": "often"}},
    }
    admin.post("/v1/admin/schedules", body)

    with ticking(site.app):
        tasks = wait_until(lambda: producer.get("/v1/tasks").json["tasks"], what="a task of the schedule")
    shown = admin.get(path).json
    admin.send("DELETE", path)

    assert tasks[0]["metadata"] == {"from": "often"}
    enqueued = {run["task_id"] for run in shown["last_runs"] if run["outcome"] == "enqueued"}
    assert tasks[0]["id"] in enqueued
    assert site.caller.get(f"/v1/tasks/{tasks[0]['id']}").status == 404
