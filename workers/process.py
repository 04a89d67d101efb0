"""
One worker process from registration to its end: its parts, their threads, and the order in which they stop.

A dead thread ends the process; the supervisor starts another (law 10). Stopping in order: claim nothing more, let
handlers end, interrupt those that do not, write every finish, and only then end the lease.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import sqlalchemy as sa

from core.app import App
from core.connections import autocommit, database_errors
from core.errors import StoreUnavailable
from core.ids import WorkerId
from core.tasks import leases
from core.tasks import queues as queue_rows
from core.tasks.leases import WorkerRow
from core.tasks.queues import Queue
from core.tasks.writer import TaskWriter
from workers import outcomes
from workers.crew import BellCrew, Crew
from workers.ears import Ears
from workers.execution import Execution
from workers.handler_lookup import load_handlers
from workers.handler_loop import HandlerLoop
from workers.heartbeat import HeartbeatThread
from workers.providers import WorkerProviders
from workers.run import Interruption
from workers.solo import SoloCrew
from workers.watch import Watch

logger = logging.getLogger(__name__)

LOOK_S = 0.5  # how soon a dead thread or a dead parent is noticed
INTERRUPTED_S = 2.0  # what interrupted handlers get to clean up
CLAIMED_S = 0.5  # what a claim on its way gets to be answered; a thread left behind costs it once
WRITING_S = 3.0  # what the last finishes get to become durable
RECYCLE_GRACE_S = 120.0  # a stuck handler costs one thread; what the others do may be expensive to do again

OVERDUE = 1
BROKEN_THREAD = 70  # EX_SOFTWARE
DECLARED_DEAD = 75  # EX_TEMPFAIL
STUCK_HANDLER = 76


@dataclass(frozen=True, slots=True)
class End:
    """
    Why the process ends.

    Args:
        status: its exit status.
        grace_s: what running handlers get to end by themselves; None: what a stop gives them.
    """

    status: int
    reason: str
    grace_s: float | None = None


class WorkerProcess:
    """
    Args:
        name: the process title.
        solo: run only tasks that crashed twice, one at a time, and end when there are none.
        parent: process that this one must not outlive; None: any.
    """

    def __init__(
        self, app: App, *, worker_id: WorkerId, name: str, solo: bool = False, parent: int | None = None
    ) -> None:
        settings = app.settings
        self._app = app
        self._settings = settings
        self._engine = autocommit(app.engine)
        self._worker_id = worker_id
        self._name = name
        self._parent = parent
        self._ends: SimpleQueue[End] = SimpleQueue()
        providers = WorkerProviders(app)
        handlers = load_handlers(app)
        self._writer = TaskWriter(app.engine, app.copies, worker_id=worker_id, types=list(handlers), solo=solo)
        self._loop = HandlerLoop()
        self._execution = Execution(
            handlers,
            writer=self._writer,
            loop=self._loop,
            get_provider=providers.router,
            result_limit_bytes=settings.result_limit_bytes,
        )
        self._ears = Ears(
            app.bells,
            worker_id=worker_id,
            on_cancel=self._execution.cancel,
            standing={providers.channel: providers.forget},
        )
        self._heartbeat = HeartbeatThread(
            self._engine,
            worker_id=worker_id,
            every_s=settings.heartbeat_s,
            lease_s=settings.lease_s,
            on_cancel=self._execution.cancel,
            on_dead=lambda: self.end(End(DECLARED_DEAD, "declared dead: silent for its lease")),
            on_beat=lambda connection: self._crew.serve(self._served(connection)),
        )
        self._watch = Watch(
            self._execution,
            on_stuck=lambda: self.end(End(STUCK_HANDLER, "a handler does not end", RECYCLE_GRACE_S)),
        )
        self._crew: Crew = self._solo_crew() if solo else self._bell_crew()

    def end(self, end: End) -> None:
        """Ask the process to end; the first one counts. Callable from threads and signal handlers."""
        self._ends.put(end)

    def run(self) -> int:
        """
        Work until asked to end; returns the exit status. The caller then leaves without waiting for threads.

        Raises:
            StoreUnavailable: not registered; nothing was started.
        """
        self._start(self._register())
        logger.info("worker started", extra={"worker_id": str(self._worker_id)})
        end = self._look_after()
        logger.info("worker stopping", extra={"reason": end.reason})
        status = self._stop(end)
        logger.info("worker stopped", extra={"status": status})
        return status

    def _bell_crew(self) -> Crew:
        return BellCrew(
            threads=self._settings.worker_threads,
            bells=self._app.bells,
            ears=self._ears,
            writer=self._writer,
            execution=self._execution,
            may_claim=self._heartbeat.is_fresh,
            on_begin=self._watch.notice,
        )

    def _solo_crew(self) -> Crew:
        return SoloCrew(
            writer=self._writer,
            execution=self._execution,
            may_claim=self._heartbeat.is_fresh,
            on_begin=self._watch.notice,
        )

    def _register(self) -> list[Queue]:
        with database_errors("the worker was not registered"), self._engine.connect() as connection:
            served = self._served(connection)
            row = WorkerRow(
                id=self._worker_id,
                name=self._name,
                host=socket.gethostname(),
                pid=os.getpid(),
                queues=[queue.name for queue in served],
                lease_s=self._settings.lease_s,
            )
            leases.register(connection, row)
        return served

    def _served(self, connection: sa.Connection) -> list[Queue]:
        """The named queues, or all there are."""
        known = queue_rows.load(connection)
        names = self._settings.worker_queues
        if not names:
            return known
        by_name = {queue.name: queue for queue in known}
        return [by_name.get(name, Queue(name, 0, None)) for name in names]

    def _start(self, queues: list[Queue]) -> None:
        self._writer.start()
        self._loop.start()
        self._heartbeat.start()
        self._watch.start(self._crew)
        self._crew.start(queues)
        self._ears.start()
        self._app.watch.start()

    def _look_after(self) -> End:
        while True:
            try:
                return self._ends.get(timeout=LOOK_S)
            except Empty:
                pass
            dead = [name for name, is_alive in self._threads() if not is_alive()]
            if dead:
                return End(BROKEN_THREAD, f"threads died: {', '.join(dead)}", 0.0)
            if self._crew.is_done():
                return End(0, "nothing is left to run alone")
            if self._parent is not None and os.getppid() != self._parent:
                return End(0, "the supervisor is gone")

    def _threads(self) -> list[tuple[str, Callable[[], bool]]]:
        return [
            ("writer", self._writer.is_alive),
            ("handlers", self._loop.is_alive),
            ("heartbeat", self._heartbeat.is_alive),
            ("ears", self._ears.is_alive),
            ("watch", self._watch.is_alive),
            ("crew", self._crew.is_alive),
            ("watch of rights", self._app.watch.is_alive),
        ]

    def _stop(self, end: End) -> int:
        total_s = self._settings.shutdown_grace_s * 0.9 if end.grace_s is None else end.grace_s + WRITING_S
        deadline = time.monotonic() + total_s
        last_resort = threading.Timer(total_s, _leave_overdue)
        last_resort.daemon = True
        last_resort.start()
        try:
            return self._end_work(end, deadline, total_s)
        finally:
            last_resort.cancel()

    def _end_work(self, end: End, deadline: float, total_s: float) -> int:
        self._crew.stop()
        if end.status == DECLARED_DEAD:
            self._execution.interrupt_all(Interruption.LOST)
            self._wait_idle(time.monotonic() + INTERRUPTED_S)
            return end.status
        if end.status == BROKEN_THREAD:
            # What is done is written. What runs counts as crashed: it may be why, and would do it for ever.
            self._writer.close(WRITING_S - 1.0)
            return end.status
        return self._hand_over(end, deadline, writing_s=min(WRITING_S, total_s * 0.4))

    def _hand_over(self, end: End, deadline: float, *, writing_s: float) -> int:
        """End what can end, give back the rest, and end the lease; all of it before the deadline."""
        interrupting_s = min(INTERRUPTED_S, writing_s)
        self._wait_idle(deadline - writing_s - interrupting_s)
        self._take_back(time.monotonic() + interrupting_s)
        self._wait_for_claims(min(deadline, time.monotonic() + CLAIMED_S))
        flushed = self._writer.close(max(0.5, deadline - time.monotonic() - 1.0))
        self._heartbeat.close()
        if not flushed:
            logger.error("finishes were not written in time; their tasks run again")
            return end.status or OVERDUE
        self._end_lease()
        self._ears.close()
        self._watch.close()
        self._app.watch.close()
        return end.status

    def _take_back(self, until: float) -> None:
        """Interrupt the handlers that still run; who does not end by then is left behind, and its task goes back."""
        self._execution.interrupt_all(Interruption.STOPPING)
        self._wait_idle(until)
        for run in self._execution.running():
            self._execution.abandon(run, outcomes.of_interruption(run.interruption or Interruption.STOPPING, run))

    def _wait_idle(self, until: float) -> None:
        while self._execution.running() and time.monotonic() < until:
            time.sleep(0.01)

    def _wait_for_claims(self, until: float) -> None:
        """A claim that is answered after the last finish was written would leave its tasks with a dead process."""
        while self._crew.is_busy() and time.monotonic() < until:
            time.sleep(0.01)

    def _end_lease(self) -> None:
        try:
            with (
                database_errors("the lease runs out by itself"),
                self._engine.connect() as connection,
            ):
                leases.stop(connection, self._worker_id)
        except StoreUnavailable as error:
            logger.warning("%s", error)


def _leave_overdue() -> None:
    logger.error("the stop took too long; leaving")
    os._exit(OVERDUE)
