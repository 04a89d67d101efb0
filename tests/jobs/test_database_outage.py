"""
PostgreSQL stopped for 30 s and back, with servers of the test's own: schedulers stay, and each due time is accounted
for. That is three times their lease: nobody's silence may be taken for death.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

from core.app import open_app
from core.schedules.model import ScheduleKind
from core.settings import load_settings
from tests.jobs.test_several_schedulers import assert_each_due_time_once, fires, live_schedulers
from tests.support.processes import is_running
from tests.support.schedulers import Jobs, running_scheduler
from tests.support.waiting import wait_until

AWAY = "jobs.scheduler the database is away"
MISSED = 30
"""Due times, one a second, that pass while the database is away."""


def test_runs_go_on_after_the_database_was_away_for_30_seconds(tmp_path: Path, jobs: Jobs) -> None:
    jobs.write("each", "every=timedelta(seconds=1), missed=Missed.ALL")
    # Ends while the database is away: what it did is written when it is back.
    jobs.write("across", "cron='0 0 1 1 *'", "while not (HERE / 'enough').exists(): ctx.pause(0.02)\nreturn 'ended'")
    data_dir = tmp_path / "var"
    with open_app(load_settings({}, data_dir=data_dir)) as app, ExitStack() as stack:
        processes = [stack.enter_context(running_scheduler(app, jobs)) for _ in range(2)]
        wait_until(lambda: live_schedulers(app) == 2, 30, what="the schedulers")
        app.schedules.run_now("across", ScheduleKind.JOB)
        wait_until(lambda: jobs.marks("across") and fires(app, "each") >= 2, 20, what="runs")
        seen = fires(app, "each")

        servers = json.loads((data_dir / "servers.json").read_text())
        os.kill(servers["keeper"], signal.SIGSTOP)  # it would start the server again within a moment
        try:
            os.kill(servers["postgres"]["pid"], signal.SIGQUIT)
            wait_until(lambda: not is_running(servers["postgres"]["pid"]), 10, what="the database is gone")
            back_at = time.monotonic() + MISSED
            log = jobs.directory / "schedulers.log"
            wait_until(lambda: log.read_text().count(AWAY) == 2, 20, what="both schedulers noticed")
            (jobs.directory / "enough").touch()
            wait_until(lambda: time.monotonic() >= back_at, 2 * MISSED, what="the due times have passed")
            assert [process.poll() for process in processes] == [None, None]
        finally:
            os.kill(servers["keeper"], signal.SIGCONT)
        app.engine.dispose()

        def go_on() -> bool:
            try:
                return fires(app, "each") >= seen + MISSED + 5 and fires(app, "across") == 1
            except Exception:  # the database is on its way back
                return False

        wait_until(go_on, 60, what="runs after the outage", every=0.2)
        [run] = app.schedules.history("across", ScheduleKind.JOB).runs
        assert (run.reason, run.attempt) == ("ended", 1)
        assert log.read_text().count(AWAY) == 2
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(20) for process in processes] == [0, 0]
        assert_each_due_time_once(app, jobs, "each")
        assert app.schedules.get("each", ScheduleKind.JOB).skips == 0
