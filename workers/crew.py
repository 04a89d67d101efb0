"""
Who does the work of a worker process: Dramatiq's threads, each started by a bell into a drain.

`SoloCrew` (`workers/solo.py`) is the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from dramatiq import Worker
from dramatiq.worker import ConsumerThread, WorkerThread

from core.tasks.bells import RedisBells
from core.tasks.queues import Queue
from core.tasks.writer import TaskWriter
from workers.broker import BellBroker
from workers.drain import Drains
from workers.ears import Ears, Ringer
from workers.execution import Execution
from workers.slots import Slots


class Crew(Protocol):
    """The threads that claim and run; started once, stopped once."""

    def start(self, queues: Sequence[Queue]) -> None: ...

    def serve(self, queues: Sequence[Queue]) -> None:
        """The queues as they are now; new ones are served from now on."""
        ...

    def is_alive(self) -> bool: ...

    def is_busy(self) -> bool: ...

    def is_done(self) -> bool:
        """Nothing is left to do, and nothing will come."""
        ...

    def tick(self) -> None:
        """Called every 25 ms while the crew is busy."""
        ...

    def stop(self) -> None:
        """Claim nothing more; does not wait for handlers."""
        ...


class BellCrew:
    """Dramatiq's worker over our broker, with no middleware of its own: no time limit over a drain, no retries."""

    def __init__(
        self,
        *,
        threads: int,
        bells: RedisBells,
        ears: Ears,
        writer: TaskWriter,
        execution: Execution,
        may_claim: Callable[[], bool],
        on_begin: Callable[[], None],
    ) -> None:
        self._threads = threads
        self._slots = Slots(threads)
        self._broker = BellBroker(bells, ears, self._slots)
        self._ringer = Ringer(bells, ears, has_room=self._slots.has_room)
        self._drains = Drains(
            writer=writer,
            execution=execution,
            slots=self._slots,
            ringer=self._ringer,
            doubts=self._broker.doubts,
            may_claim=may_claim,
            on_begin=on_begin,
        )
        self._ears = ears
        self._worker = Worker(self._broker, worker_threads=threads)

    def start(self, queues: Sequence[Queue]) -> None:
        self._slots.serve(queues)
        self._broker.hear(self._drains.drain, [queue.name for queue in queues])
        self._worker.start()

    def serve(self, queues: Sequence[Queue]) -> None:
        self._slots.serve(queues)
        for queue in queues:
            self._broker.declare_queue(queue.name)

    def is_alive(self) -> bool:
        if self._slots.is_closed:  # they are ending on purpose
            return True
        return len(self._worker.workers) == self._threads and all(thread.is_alive() for thread in self._all_threads())

    def is_busy(self) -> bool:
        return self._drains.is_busy() or self._ringer.holds_back()

    def is_done(self) -> bool:
        return False

    def tick(self) -> None:
        self._drains.return_behind_slow()
        self._ringer.ring_held_back()

    def stop(self) -> None:
        # Not Worker.stop(): it waits for the threads, and the time for handlers is ours to share out (2.2.1). They end
        # by themselves within a second of their last drain; no bell is left between them, for each had a free thread.
        self._slots.close()
        for thread in self._all_threads():
            thread.stop()
        self._ears.wake_all()
        self._drains.stop()

    def _all_threads(self) -> list[WorkerThread | ConsumerThread]:
        return [*self._worker.workers, *self._worker.consumers.values()]
