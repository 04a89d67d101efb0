"""Law 8: one fire per due time, or a recorded skip, with any number of schedulers, dead, stopped or out of time."""

from __future__ import annotations

import math
import signal
import time
from contextlib import ExitStack
from datetime import timedelta

from core.app import App
from core.connections import autocommit
from core.schedules.model import RunOutcome, Schedule, ScheduleKind
from core.tasks.sweeper import SWEEP_LOCK
from tests.support.schedulers import Jobs, running_scheduler
from tests.support.waiting import wait_until
from tests.support.worker_processes import query


def job(app: App, name: str) -> Schedule:
    return app.schedules.get(name, ScheduleKind.JOB)


def fires(app: App, name: str) -> int:
    return query(app, "SELECT runs FROM schedules WHERE name = :name", name=name)[0][0] if known(app, name) else 0


def known(app: App, name: str) -> bool:
    return bool(query(app, "SELECT 1 FROM schedules WHERE name = :name", name=name))


def live_schedulers(app: App) -> int:
    rows = query(app, "SELECT count(*) FROM workers WHERE name = 'headrace-scheduler' AND died_at IS NULL")
    count: int = rows[0][0]
    return count


def assert_each_due_time_once(app: App, jobs: Jobs, name: str) -> None:
    """Runs, skips and what is open make up all due times since the job is there, and no run began twice."""
    row = job(app, name)
    period = row.timing.every_s
    assert row.last_due is not None
    assert period is not None
    marks = jobs.marks(name)
    first_attempts = [due_at for due_at, attempt, _ in marks if attempt == 1]
    assert len(first_attempts) == len(set(first_attempts))
    made_at = query(app, "SELECT created_at FROM schedules WHERE id = :id", id=row.id)[0][0]
    # The very first may be among the skipped ones.
    before = math.floor((made_at - row.timing.anchor_at).total_seconds() / period)
    due_times = round((row.last_due - row.timing.anchor_at).total_seconds() / period) - before
    open_runs = query(app, "SELECT count(*) FROM schedule_runs WHERE schedule_id = :id", id=row.id)[0][0]
    assert row.runs + row.skips + open_runs == due_times


def test_three_schedulers_one_killed_one_stopped_one_with_a_wrong_clock(app: App, jobs: Jobs) -> None:
    jobs.write("each", "every=timedelta(seconds=1), missed=Missed.ALL")
    jobs.write("newest", "every=timedelta(seconds=1), missed=Missed.SKIP")
    jobs.write("long", "cron='0 0 1 1 *'", "while not (HERE / 'enough').exists(): ctx.pause(0.05)")
    with ExitStack() as stack:
        killed = stack.enter_context(running_scheduler(app, jobs))
        wait_until(lambda: live_schedulers(app) == 1, 20, what="the first scheduler")
        app.schedules.run_now("long", ScheduleKind.JOB)
        wait_until(lambda: jobs.marks("long"), 20, what="the long run")
        stopped = stack.enter_context(running_scheduler(app, jobs))
        wrong = stack.enter_context(running_scheduler(app, jobs, clock_off_s=-600))
        wait_until(lambda: live_schedulers(app) == 3, 20, what="three schedulers")
        wait_until(lambda: fires(app, "each") >= 3, 20, what="some fires")

        with autocommit(app.engine).connect() as sweep:
            # As if the one that is stopped had been in the middle of a sweep: nobody else can.
            sweep.exec_driver_sql("SELECT pg_advisory_lock(%(lock)s)", {"lock": SWEEP_LOCK})
            stopped.send_signal(signal.SIGSTOP)
            killed.kill()
            killed_at = time.monotonic()
            wait_until(lambda: len(jobs.marks("long")) == 2, 20, what="the long run is taken over")
            taken_over_s = time.monotonic() - killed_at
            sweep.exec_driver_sql("SELECT pg_advisory_unlock(%(lock)s)", {"lock": SWEEP_LOCK})
        wait_until(lambda: live_schedulers(app) == 1, 20, what="the stopped one is declared dead")
        seen = fires(app, "each")
        wait_until(lambda: fires(app, "each") >= seen + 2, 20, what="fires while one is stopped")
        stopped.send_signal(signal.SIGCONT)
        wait_until(lambda: live_schedulers(app) == 2, 20, what="the stopped one begins anew")
        (jobs.directory / "enough").touch()
        wait_until(lambda: fires(app, "long"), 10, what="the end of the long run")
        seen = fires(app, "each")
        wait_until(lambda: fires(app, "each") >= seen + 2, 20, what="fires after it all")
        for process in (stopped, wrong):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(20) for process in (stopped, wrong)] == [0, 0]

    assert taken_over_s < 15
    assert jobs.marks("long")[1][1:] == (2, wrong.pid)
    [run] = app.schedules.history("long", ScheduleKind.JOB).runs
    assert (run.outcome, run.attempt) == (RunOutcome.SUCCEEDED, 2)
    for name in ("each", "newest"):
        assert_each_due_time_once(app, jobs, name)
    assert job(app, "each").skips == 0


def test_a_run_that_kills_three_schedulers_is_failed(app: App, jobs: Jobs) -> None:
    jobs.write("killer", "cron='0 0 1 1 *'", "os.kill(os.getpid(), 9)")
    jobs.write("other", "every=timedelta(seconds=1)")
    for attempt in (1, 2, 3):
        with running_scheduler(app, jobs) as process:
            if attempt == 1:
                wait_until(lambda: known(app, "killer"), 20, what="the job's row")
                app.schedules.run_now("killer", ScheduleKind.JOB)
            process.wait(30)
            assert len(jobs.marks("killer")) == attempt
        # As its lease would, but now.
        with app.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE workers SET died_at = now() WHERE died_at IS NULL")

    with running_scheduler(app, jobs):
        wait_until(lambda: fires(app, "killer"), 20, what="the run is given up")

    [run] = app.schedules.history("killer", ScheduleKind.JOB).runs
    assert run.outcome is RunOutcome.FAILED
    assert (run.reason or "").startswith("scheduler_lost")
    assert len(jobs.marks("killer")) == 3


def test_sigterm_gives_back_a_run_that_does_not_end(app: App, jobs: Jobs) -> None:
    jobs.write("long", "cron='0 0 1 1 *'", "while not (HERE / 'enough').exists(): time.sleep(0.05)")
    with running_scheduler(app, jobs, shutdown_grace_s=1.0) as first:
        wait_until(lambda: known(app, "long"), 20, what="the job's row")
        app.schedules.run_now("long", ScheduleKind.JOB)
        wait_until(lambda: jobs.marks("long"), 20, what="the run")
        first.send_signal(signal.SIGTERM)
        first.send_signal(signal.SIGTERM)
        assert first.wait(10) == 0

    assert [run.outcome for run in app.schedules.history("long", ScheduleKind.JOB).runs] == [RunOutcome.WAITING]

    (jobs.directory / "enough").touch()
    with running_scheduler(app, jobs):
        wait_until(lambda: fires(app, "long"), 20, what="another scheduler runs it")
    assert [attempt for _, attempt, _ in jobs.marks("long")] == [1, 1]


def test_a_run_that_heeds_a_stop_ends_at_once_and_is_run_again(app: App, jobs: Jobs) -> None:
    jobs.write("long", "cron='0 0 1 1 *'", "if not (HERE / 'enough').exists(): ctx.pause(300)")
    with running_scheduler(app, jobs) as first:
        wait_until(lambda: known(app, "long"), 20, what="the job's row")
        app.schedules.run_now("long", ScheduleKind.JOB)
        wait_until(lambda: jobs.marks("long"), 20, what="the run")
        asked_at = time.monotonic()
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
        assert timedelta(seconds=time.monotonic() - asked_at) < timedelta(seconds=8)

    (jobs.directory / "enough").touch()
    with running_scheduler(app, jobs):
        wait_until(lambda: fires(app, "long"), 20, what="another scheduler runs it")
