"""PostgreSQL gone and back, with servers of the test's own: the scheduler stays, and each due time is accounted for."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from core.app import open_app
from core.schedules.model import ScheduleKind
from core.settings import load_settings
from tests.jobs.test_several_schedulers import assert_each_due_time_once, fires, live_schedulers
from tests.support.processes import is_running
from tests.support.schedulers import Jobs, running_scheduler
from tests.support.waiting import wait_until


def test_runs_go_on_after_the_database_was_away(tmp_path: Path, jobs: Jobs) -> None:
    jobs.write("each", "every=timedelta(seconds=1), missed=Missed.ALL")
    # Ends while the database is away: what it did is written when it is back.
    jobs.write("across", "cron='0 0 1 1 *'", "while not (HERE / 'enough').exists(): ctx.pause(0.02)\nreturn 'ended'")
    data_dir = tmp_path / "var"
    with open_app(load_settings({}, data_dir=data_dir)) as app, running_scheduler(app, jobs) as process:
        wait_until(lambda: live_schedulers(app) == 1, 30, what="the scheduler")
        app.schedules.run_now("across", ScheduleKind.JOB)
        wait_until(lambda: jobs.marks("across") and fires(app, "each") >= 2, 20, what="runs")
        seen = fires(app, "each")

        servers = json.loads((data_dir / "servers.json").read_text())
        os.kill(servers["keeper"], signal.SIGSTOP)  # it would start the server again within a moment
        try:
            os.kill(servers["postgres"]["pid"], signal.SIGQUIT)
            wait_until(lambda: not is_running(servers["postgres"]["pid"]), 10, what="the database is gone")
            log = jobs.directory / "schedulers.log"
            wait_until(lambda: "the database is away" in log.read_text(), 20, what="the scheduler noticed")
            (jobs.directory / "enough").touch()
            assert process.poll() is None
        finally:
            os.kill(servers["keeper"], signal.SIGCONT)
        app.engine.dispose()

        def go_on() -> bool:
            try:
                return fires(app, "each") >= seen + 5 and fires(app, "across") == 1
            except Exception:  # the database is on its way back
                return False

        wait_until(go_on, 60, what="runs after the outage", every=0.2)
        assert process.poll() is None
        [run] = app.schedules.history("across", ScheduleKind.JOB).runs
        assert (run.reason, run.attempt) == ("ended", 1)
        assert log.read_text().count("jobs.scheduler the database is away") == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert_each_due_time_once(app, jobs, "each")
