"""`headrace jobs`: with a real scheduler ticking where a run is awaited."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from core.app import App
from jobs.spec import JobSpec
from tests.headrace.command import Command
from tests.support.ticking import greet, refuse, ticking, write_jobs

HELLO = JobSpec(name="hello", run=greet, every=timedelta(hours=1))
OFTEN = JobSpec(name="often", run=greet, every=timedelta(seconds=5))
NIGHTLY = JobSpec(name="nightly", run=refuse, cron="30 2 * * *", timezone="Europe/Berlin")


def test_before_a_scheduler_started_there_are_no_jobs_and_it_says_why(headrace: Command, app: App) -> None:
    ran = headrace("jobs", "list")

    assert ran.code == 0
    assert "scheduler" in ran.err
    assert headrace("jobs", "list", "--json").json == {"jobs": []}


def test_jobs_are_listed_for_people_and_for_programs(headrace: Command, app: App) -> None:
    write_jobs(app, [HELLO, NIGHTLY])

    listed = headrace("jobs", "list")
    jobs = headrace("jobs", "list", "--json").json["jobs"]

    assert "every 3600 s" in listed.out
    assert "30 2 * * * Europe/Berlin" in listed.out
    assert [(job["name"], job["enabled"], job["last_run"]) for job in jobs] == [
        ("hello", True, None),
        ("nightly", True, None),
    ]


def test_next_shows_the_soonest_first_and_ten_of_one(headrace: Command, app: App) -> None:
    write_jobs(app, [HELLO, NIGHTLY])

    everything = headrace("jobs", "next", "--json").json["jobs"]
    one = headrace("jobs", "next", "hello", "--json").json["fires"]
    told = headrace("jobs", "next", "nightly")

    assert [job["next_due"] for job in everything] == sorted(job["next_due"] for job in everything)
    fires = [datetime.fromisoformat(fire) for fire in one]
    assert len(fires) == 10
    assert {later - earlier for earlier, later in itertools.pairwise(fires)} == {timedelta(hours=1)}
    assert datetime.now(UTC) < fires[0]
    assert "02:30:00 CE" in told.out


def test_a_run_that_is_waited_for_says_how_it_ended(headrace: Command, app: App) -> None:
    with ticking(app, [HELLO, NIGHTLY]):
        good = headrace("jobs", "run", "hello", "--wait")
        bad = headrace("jobs", "run", "nightly", "--wait")
        as_json = headrace("jobs", "run", "hello", "--wait", "--json")

    assert good.code == 0
    assert "succeeded" in good.out
    assert "greeted the world" in good.out
    assert bad.code == 1
    assert "no greeting today" in bad.out
    assert as_json.json["outcome"] == "succeeded"


def test_a_run_of_a_frequent_job_can_be_waited_for(headrace: Command, app: App) -> None:
    with ticking(app, [OFTEN]):
        ran = headrace("jobs", "run", "often", "--wait", "--timeout-s", "20")

    assert ran.code == 0, ran
    assert "often: succeeded" in ran.out


def test_with_no_scheduler_a_run_is_asked_for_and_waiting_for_it_exits_3(headrace: Command, app: App) -> None:
    write_jobs(app, [HELLO])

    asked = headrace("jobs", "run", "hello")
    waited = headrace("jobs", "run", "hello", "--wait", "--timeout-s", "0.1")

    assert asked.code == 0
    assert "headrace jobs history hello" in asked.out
    assert waited.code == 3
    assert "scheduler" in waited.err


def test_the_history_shows_newest_first_with_a_cursor_for_more(headrace: Command, app: App) -> None:
    with ticking(app, [HELLO]):
        for _ in range(3):
            assert headrace("jobs", "run", "hello", "--wait").code == 0

    first = headrace("jobs", "history", "hello", "--limit", "2", "--json").json
    rest = headrace("jobs", "history", "hello", "--cursor", first["next_cursor"], "--json").json
    told = headrace("jobs", "history", "hello", "--limit", "2")

    assert [run["reason"] for run in first["runs"] + rest["runs"]] == ["greeted the world"] * 3
    assert rest["next_cursor"] is None
    assert told.out.count("succeeded") == 2
    assert "--cursor" in told.err


def test_a_paused_job_is_shown_as_such_until_it_is_resumed(headrace: Command, app: App) -> None:
    write_jobs(app, [HELLO])

    paused = headrace("jobs", "pause", "hello")
    listed = headrace("jobs", "list")
    due = headrace("jobs", "next", "--json").json["jobs"]
    resumed = headrace("jobs", "resume", "hello", "--json")

    assert paused.code == 0
    assert "paused" in paused.out
    assert "paused" in listed.out
    assert due == []
    assert resumed.json["enabled"]


def test_a_job_whose_file_is_gone_tells_the_reason(headrace: Command, app: App) -> None:
    write_jobs(app, [HELLO])
    write_jobs(app, [NIGHTLY])

    listed = headrace("jobs", "list")
    run = headrace("jobs", "run", "hello")

    assert "disabled: no scheduler has its file" in listed.out
    assert run.code == 1
    assert "file" in run.err


@pytest.mark.parametrize("verb", ["run", "pause", "resume", "history", "next"])
def test_an_unknown_job_exits_4(headrace: Command, verb: str) -> None:
    ran = headrace("jobs", verb, "no-such")

    assert ran.code == 4
    assert "no-such" in ran.err


def test_a_cursor_that_is_not_ours_is_refused(headrace: Command, app: App) -> None:
    write_jobs(app, [HELLO])

    assert headrace("jobs", "history", "hello", "--cursor", "nonsense").code == 1
