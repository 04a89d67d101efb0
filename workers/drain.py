"""
What a bell starts: claim, run and finish until nothing is ready, the slice ends or the process stops.

A drain holds one slot and one thread. What it claimed ahead is its own, first in first out; the watch thread returns
the rest when the task at hand turns out slow, and so does the drain when it ends.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from core.errors import Unavailable
from core.tasks.model import Claimed
from core.tasks.writer import TaskWriter
from workers.broker import Doubts
from workers.ears import Ringer
from workers.execution import Execution
from workers.look_ahead import WORK_S, Pace
from workers.slots import Slots

logger = logging.getLogger(__name__)

SLICE_S = 1.0
CLAIM_TIMEOUT_S = 5.0


class Drain:
    """One drain at work. `ahead` is popped by its thread from the left and by others from the right."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.ahead: deque[Claimed] = deque()
        self.began_at = 0.0
        """When the task at hand was started; 0 between tasks."""

    def take_rest(self) -> list[Claimed]:
        """What was claimed and not started; the caller gives it back."""
        rest: list[Claimed] = []
        while self.ahead:
            try:
                rest.append(self.ahead.pop())
            except IndexError:  # its thread was faster
                break
        return rest


class Drains:
    """
    All drains of this process.

    Args:
        may_claim: False while nobody knows whether this process still counts as alive.
        on_begin: called at the start of each drain.
    """

    def __init__(
        self,
        *,
        writer: TaskWriter,
        execution: Execution,
        slots: Slots,
        ringer: Ringer,
        doubts: Doubts,
        may_claim: Callable[[], bool],
        on_begin: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._execution = execution
        self._slots = slots
        self._ringer = ringer
        self._doubts = doubts
        self._may_claim = may_claim
        self._on_begin = on_begin
        self._paces: dict[str, Pace] = {}
        self._active: set[Drain] = set()
        self._stopping = False
        self._is_failing = False

    def drain(self, queue: str) -> None:
        """The body of Dramatiq's actor `bell`: the slot was taken by the consumer and is released here."""
        drain = Drain(queue)
        self._active.add(drain)
        self._on_begin()
        done = handed_over = False
        try:
            handed_over = self._work_off(drain)
            done = True
        except Unavailable as error:
            # Each queue tries again each second: an outage is told once.
            logger.log(logging.DEBUG if self._is_failing else logging.INFO, "drain ended: %s", error)
            self._is_failing = True
        finally:
            if not done:  # whatever cut it short, its bell is not lost
                self._doubts.claim_failed(queue)
            self._active.discard(drain)
            self._return(drain)
            if not handed_over:
                self._slots.release(queue)

    def active(self) -> list[Drain]:
        return list(self._active)

    def is_busy(self) -> bool:
        return bool(self._active)

    def stop(self) -> None:
        """Let each drain end after the task at hand; what it claimed ahead goes back at once."""
        self._stopping = True
        for drain in self.active():
            self._return(drain)

    def return_behind_slow(self) -> None:
        """Give back what waits behind a task that takes longer than look-ahead allows; called by the watch thread."""
        now = time.monotonic()
        for drain in self.active():
            began_at = drain.began_at
            if drain.ahead and began_at and now - began_at > WORK_S:
                self._return(drain)

    def _return(self, drain: Drain) -> None:
        rest = drain.take_rest()
        if rest:
            self._writer.give_back(rest)
            self._ringer.soon(drain.queue)

    def _work_off(self, drain: Drain) -> bool:
        """True when the slot was handed over to another queue."""
        queue = drain.queue
        pace = self._paces.setdefault(queue, Pace())
        slice_ends = time.monotonic() + SLICE_S
        while not self._stopping:
            if not self._may_claim():
                raise Unavailable("no heartbeat was answered for a lease; claiming again after the next")
            limit = pace.limit()
            claimed = self._writer.claim(queue, limit=limit, timeout_s=CLAIM_TIMEOUT_S)
            self._is_failing = False
            self._doubts.claim_answered(queue)
            if not claimed:
                return False
            drain.ahead.extend(claimed)
            if len(claimed) == limit:
                self._ringer.more(queue)
            self._run_all(drain, pace)
            if time.monotonic() >= slice_ends:
                if self._slots.hand_over(queue):
                    self._ringer.again(queue)
                    return True
                slice_ends = time.monotonic() + SLICE_S
        return False

    def _run_all(self, drain: Drain, pace: Pace) -> None:
        claimed_at = began_at = time.monotonic()
        while not self._stopping:
            try:
                claimed = drain.ahead.popleft()
            except IndexError:
                break
            drain.began_at = began_at
            self._execution.run(claimed, claimed_at)
            ended_at = time.monotonic()
            pace.note(ended_at - began_at)
            began_at = ended_at
        drain.began_at = 0.0
