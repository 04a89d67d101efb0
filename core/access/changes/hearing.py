"""Who listens to changes of rights in this process, and what was heard."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from core.events.access import Change

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Change)

CURRENT_S = 4.0  # what was heard counts so long: with the time of a look, inside the five seconds of law 6

_REMEMBERED = 10_000  # ids of rows heard; one that fell out is heard twice, which does no harm
_REMEMBERED_S = 30.0  # longer than the backstop looks back

# Time goes on while this process is stopped (SIGSTOP), and with this clock also while its machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_s() -> float:
    return time.clock_gettime(_CLOCK)


class Hearing:
    """
    Handlers, called one at a time by whichever thread of the watch has something to say.

    A handler must be quick: while it runs nothing else is heard, and after four seconds nothing in memory is trusted.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._handlers: list[tuple[type, Callable[[Any], object]]] = []
        self._gap_handlers: list[Callable[[], object]] = []
        self._known: OrderedDict[UUID, float] = OrderedDict()

    def listen(self, kind: type[C], hear: Callable[[C], object]) -> None:
        with self.lock:
            self._handlers.append((kind, hear))

    def on_gap(self, hear: Callable[[], object]) -> None:
        with self.lock:
            self._gap_handlers.append(hear)

    def tell(self, change: Change) -> None:
        with self.lock:
            for kind, hear in self._handlers:
                if isinstance(change, kind):
                    self._call(partial(hear, change), type(change).__name__)

    def tell_gap(self) -> None:
        with self.lock:
            for hear in self._gap_handlers:
                self._call(hear, "gap")

    def know(self, ids: Sequence[UUID]) -> None:
        """These rows were told, and no copy in Redis is left of what was before them."""
        with self.lock:
            heard_at = now_s()
            for id in ids:
                self._known[id] = heard_at
                self._known.move_to_end(id)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def known(self) -> list[UUID]:
        with self.lock:
            while self._known and next(iter(self._known.values())) < now_s() - _REMEMBERED_S:
                self._known.popitem(last=False)
            return list(self._known)

    def _call(self, hear: Callable[[], object], what: str) -> None:
        try:
            hear()
        except Exception:
            # The others must hear of it all the same.
            logger.exception("a listener failed", extra={"change": what})
