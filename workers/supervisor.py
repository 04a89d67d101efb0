"""
The parent of the worker processes: keeps them running, returns the tasks of one that died at once, and sweeps.

One dead child never stops its siblings. A task that took down two processes gets one of its own, a solo child, started
when there is such a task and gone when there is none left.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from queue import Empty, SimpleQueue
from uuid import UUID, uuid4

from core.app import App
from core.connections import autocommit, database_errors
from core.errors import StoreUnavailable
from core.ids import WorkerId
from core.orphans import TiedProcess
from core.settings import child_environment
from core.supervision import Backoff, ChildSpec, Supervisor
from core.tasks import queues
from core.tasks.sweeper import Sweeper
from workers.child import worker_id_of

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 1.0
BROKEN_THREAD = 70
# Short: a task that crashes its process is bounded by its own budget, and its neighbours wait for the restart.
_BACKOFF = Backoff(first=timedelta(seconds=0.2), most=timedelta(seconds=5))


class WorkerSupervisor(Supervisor):
    """The supervision of `core`, with a solo child beside the steady ones. `run` it on the main thread."""

    def __init__(self, app: App) -> None:
        settings = app.settings
        self._id = uuid4()
        self._settings = settings
        self._solo: TiedProcess | None = None
        self._stop_asked = False
        self._caretaker = Caretaker(app)
        super().__init__(
            [self._child(number) for number in range(1, settings.worker_processes + 1)],
            on_exit=lambda _spec, pid, _returncode: self._caretaker.bury(worker_id_of(self._id, pid)),
            on_tick=self._look_around,
            tick=timedelta(seconds=0.5),
            backoff=_BACKOFF,
        )

    def run(self) -> int:
        self._caretaker.start()
        try:
            return super().run()
        finally:
            self._await_solo()
            self._caretaker.close()

    def stop(self, status: int = 0) -> None:
        self._stop_asked = True
        super().stop(status)
        if self._solo is not None:
            self._solo.send_signal(signal.SIGTERM)

    def _child(self, number: int) -> ChildSpec:
        return ChildSpec(
            name=f"worker-{number}",
            argv=_argv(self._id, "--number", str(number)),
            env=child_environment(self._settings),
            stop_timeout=timedelta(seconds=self._settings.shutdown_grace_s),
        )

    def _look_around(self) -> None:
        if not self._caretaker.is_alive():
            logger.critical("the sweeping thread died; stopping")
            self.stop(BROKEN_THREAD)
        solo = self._solo
        if solo is not None and solo.poll() is not None:
            logger.info("solo worker ended", extra={"child_pid": solo.pid, "status": solo.poll()})
            self._caretaker.bury(worker_id_of(self._id, solo.pid))
            self._solo = None
        elif solo is None and self._caretaker.solo_wanted() and not self._stop_asked:
            self._solo = TiedProcess(
                _argv(self._id, "--solo"),
                env=child_environment(self._settings),
                death_signal=signal.SIGKILL,
                stdin=subprocess.DEVNULL,
            )

    def _await_solo(self) -> None:
        """It was told to stop together with the others."""
        if self._solo is None:
            return
        self._solo.send_signal(signal.SIGTERM)
        try:
            self._solo.wait(self._settings.shutdown_grace_s)
        except subprocess.TimeoutExpired:
            self._solo.kill_group()
        self._caretaker.bury(worker_id_of(self._id, self._solo.pid))


class Caretaker:
    """The thread that needs the database: registers queues, sweeps each second, buries dead children at once."""

    def __init__(self, app: App) -> None:
        self._engine = autocommit(app.engine)
        self._sweeper = Sweeper(app.engine, app.copies, app.bells, lease_s=app.settings.lease_s)
        self._renewal = app.access.renewal
        self._queues = app.settings.worker_queues
        self._types = [spec.name for spec in app.types.runnable]
        self._dead: SimpleQueue[WorkerId | None] = SimpleQueue()
        self._unburied: list[WorkerId] = []
        self._registered = False
        self._solo_wanted = False
        self._away = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def bury(self, worker_id: WorkerId) -> None:
        """A child ended: whatever it still held goes back now."""
        self._dead.put(worker_id)

    def solo_wanted(self) -> bool:
        """Whether a task waits that is to run alone; true once per sweep that found one."""
        wanted, self._solo_wanted = self._solo_wanted, False
        return wanted

    def close(self) -> None:
        """Bury who is still to be buried, if the database answers, and end."""
        self._closing = True
        self._dead.put(None)
        self._thread.join(3.0)

    def _run(self) -> None:
        sweep_at = time.monotonic()
        while not self._closing:
            self._collect_dead(sweep_at - time.monotonic())
            if self._unburied:
                self._try(self._bury_all)
            if time.monotonic() >= sweep_at and not self._closing:
                self._try(self._sweep)
                sweep_at = time.monotonic() + SWEEP_EVERY_S
        self._collect_dead(0.0)
        self._try(self._bury_all)

    def _collect_dead(self, timeout_s: float) -> None:
        try:
            first = self._dead.get(timeout=max(0.001, timeout_s))
            while True:
                if first is not None:
                    self._unburied.append(first)
                first = self._dead.get_nowait()
        except Empty:
            return

    def _bury_all(self) -> None:
        while self._unburied:
            self._sweeper.bury_now(self._unburied[0])
            del self._unburied[0]

    def _sweep(self) -> None:
        with database_errors("the queues were not registered"), self._engine.connect() as connection:
            if not self._registered:
                queues.add(connection, self._queues)
                self._registered = True
            waiting = queues.with_solo_tasks(connection, self._types)
        self._solo_wanted = bool(waiting & set(self._queues) if self._queues else waiting)
        self._sweeper.sweep()
        self._renewal.tick()

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except StoreUnavailable as error:
            if not self._away:
                logger.warning("the database is away: %s", error)
            self._away = True
        else:
            if self._away:
                logger.info("the database is back")
            self._away = False


def _argv(supervisor: UUID, *arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", "workers.child", "--supervisor", str(supervisor), *arguments]
