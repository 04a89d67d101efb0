"""A job that raises, hangs, exits, cannot be imported or is gone stops none of the others; its history says why."""

from __future__ import annotations

from core.app import App
from core.schedules.model import Run, RunOutcome, ScheduleKind
from tests.jobs.test_several_schedulers import fires, job, known
from tests.support.schedulers import Jobs, running_scheduler
from tests.support.waiting import wait_until


def newest_end(app: App, name: str) -> Run:
    runs = app.schedules.history(name, ScheduleKind.JOB).runs
    return next(run for run in runs if run.finished_at is not None)


def test_jobs_that_raise_exit_or_hang_are_recorded_and_the_others_go_on(app: App, jobs: Jobs) -> None:
    jobs.write("fine", "every=timedelta(seconds=1)", "ctx.log.info('token sk-abcdefghijklmnop'); return 'all of it'")
    jobs.write("raises", "every=timedelta(seconds=1)", "raise ValueError('no such \\x00 thing')")
    jobs.write("exits", "every=timedelta(seconds=1)", "raise SystemExit(3)")
    jobs.write("chatty", "every=timedelta(seconds=1)", "for n in range(500): ctx.log.info('line %d %s', n, 'x' * 99)")
    jobs.write("hangs", "every=timedelta(seconds=2), timeout=timedelta(seconds=1)", "time.sleep(600)")
    jobs.write("broken", "every=timedelta(seconds=1)", "return 1\nthis is no python")

    with running_scheduler(app, jobs):
        wait_until(lambda: all(fires(app, name) for name in ("raises", "exits", "hangs", "chatty")), 20, what="ends")
        seen = fires(app, "fine")
        wait_until(lambda: fires(app, "fine") >= seen + 2, 10, what="the others go on")

        fine = newest_end(app, "fine")
        assert (fine.outcome, fine.reason) == (RunOutcome.SUCCEEDED, "all of it")
        assert "token sk-***" in (fine.log or "")
        assert fine.took_s is not None
        assert fine.lateness_s is not None
        raises = newest_end(app, "raises")
        assert (raises.outcome, raises.reason) == (RunOutcome.FAILED, "ValueError: no such \\x00 thing")
        assert "Traceback" in (raises.log or "")
        assert newest_end(app, "exits").reason == "SystemExit: 3"
        hangs = newest_end(app, "hangs")
        assert hangs.outcome is RunOutcome.FAILED
        assert (hangs.reason or "").startswith("timed_out")
        chatty = newest_end(app, "chatty").log or ""
        assert len(chatty) <= 4096
        assert "line 499" in chatty
        assert "line 400" not in chatty
        assert not known(app, "broken")


def test_a_process_with_four_hanging_threads_makes_room_for_another(app: App, jobs: Jobs) -> None:
    for number in range(4):
        jobs.write(f"hang{number}", "every=timedelta(seconds=1), timeout=timedelta(seconds=1)", "time.sleep(600)")

    with running_scheduler(app, jobs, shutdown_grace_s=1.0) as process:
        assert process.wait(30) == 70


def test_a_job_that_is_renamed_away_is_disabled_with_the_reason_and_comes_back(app: App, jobs: Jobs) -> None:
    jobs.write("here", "every=timedelta(seconds=1)")
    jobs.write("gone", "every=timedelta(seconds=1)")
    with running_scheduler(app, jobs):
        wait_until(lambda: fires(app, "gone"), 20, what="a fire")
    before = job(app, "gone")
    jobs.rename_away("gone")

    seen = fires(app, "here")
    with running_scheduler(app, jobs):
        wait_until(lambda: fires(app, "here") >= seen + 2, 20, what="the other goes on")
    gone = job(app, "gone")
    assert not gone.enabled
    assert gone.disabled_reason == "no scheduler has its file any more"
    assert gone.runs >= before.runs

    jobs.bring_back("gone")
    with running_scheduler(app, jobs):
        wait_until(lambda: fires(app, "gone") > gone.runs, 20, what="a fire after its return")
    assert job(app, "gone").disabled_reason is None


def test_a_pause_outlives_restarts_and_a_changed_file_changes_the_row(app: App, jobs: Jobs) -> None:
    jobs.write("nightly", "cron='0 2 * * *', timezone='Europe/Berlin'")
    with running_scheduler(app, jobs):
        wait_until(lambda: known(app, "nightly"), 20, what="the row")
    app.schedules.pause("nightly", ScheduleKind.JOB)
    jobs.write("nightly", "cron='0 3 * * *', timezone='Europe/Berlin', overlap=Overlap.QUEUE")

    with running_scheduler(app, jobs):
        wait_until(lambda: job(app, "nightly").timing.cron == "0 3 * * *", 20, what="the new timing")

    assert not job(app, "nightly").enabled
    assert job(app, "nightly").overlap == "queue"
    resumed = app.schedules.resume("nightly", ScheduleKind.JOB)
    assert resumed.next_due is not None
    assert resumed.next_due.hour in (1, 2)


def test_a_second_run_waits_for_the_first_with_queue_and_is_skipped_without(app: App, jobs: Jobs) -> None:
    body = "while not (HERE / 'enough').exists(): ctx.pause(0.02)"
    jobs.write("queued", "every=timedelta(seconds=1), overlap=Overlap.QUEUE", body)
    jobs.write("skipped", "every=timedelta(seconds=1), overlap=Overlap.SKIP", body)
    with running_scheduler(app, jobs):
        wait_until(
            lambda: known(app, "queued") and job(app, "queued").skips >= 1 and job(app, "skipped").skips >= 2,
            20,
            what="due times while the run goes on",
        )
        waiting = [
            [run.outcome for run in app.schedules.history(name, ScheduleKind.JOB).runs if run.id is not None]
            for name in ("queued", "skipped")
        ]
        assert waiting == [[RunOutcome.WAITING, RunOutcome.RUNNING], [RunOutcome.RUNNING]]
        assert len(jobs.marks("queued")) == 1
        (jobs.directory / "enough").touch()
        wait_until(lambda: len(jobs.marks("queued")) >= 2, 10, what="the one that waited")
