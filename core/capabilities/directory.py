"""
The capabilities as this process knows them: a snapshot in memory, asked before each task is accepted without any I/O.

Fresh by the announcements of changes, and where those are lost by comparing with the tables at most every five seconds
while it is used. A refresh reads three small tables; a list whose version changed comes from its copy in Redis, or from
its rows. While the database is away the last snapshot serves on (open: what was known to be impossible stays so).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from core.capabilities import overrides, store
from core.capabilities.copies import CapabilityCopies
from core.capabilities.model import ModelList, version_of
from core.capabilities.needs import model_of, needs
from core.capabilities.snapshot import Snapshot, by_model
from core.connections import autocommit, database_errors
from core.errors import InvalidRequest, StoreUnavailable
from core.providers.model import ProviderRow
from core.task_types.spec import TaskInput

logger = logging.getLogger(__name__)

FRESH_S = 5.0  # how old a snapshot may be when every announcement is lost
AWAY_PAUSE_S = 1.0  # a database that did not answer is left alone this long


class ModelCannot(InvalidRequest):
    """Every provider that serves the model is known not to do this with it."""

    code = "model_cannot"


class Capabilities:
    """
    Thread-safe.

    Args:
        read_providers: all of them, in the order in which they are asked.
    """

    def __init__(
        self,
        engine: sa.Engine,
        copies: CapabilityCopies,
        read_providers: Callable[[], Sequence[ProviderRow]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._direct = autocommit(engine)
        self._copies = copies
        self._read_providers = read_providers
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._fresh_until = float("-inf")
        self._reading = threading.Lock()
        self._state = threading.Lock()
        self._asked = 0
        self._runner: threading.Thread | None = None
        self._closed = False

    def check(self, input: TaskInput) -> None:
        """
        Whether the input's model may be able to do it; memory only. What is unknown passes.

        Raises:
            ModelCannot: it is known that it cannot; `field` is `input.model`.
        """
        model = model_of(input)
        if model is None:
            return
        if self._clock() > self._fresh_until:
            self.hear()
        snapshot = self._snapshot
        refusals = None if snapshot is None else snapshot.refusals(model)
        if not refusals:
            return
        for ability in needs(input):
            if ability in refusals:
                raise ModelCannot(
                    f"input.model: {refusals[ability]}; GET /v1/models tells what each model can do",
                    field="input.model",
                )

    def check_loaded(self, input: TaskInput) -> None:
        """As `check`, for callers who may wait: the first one in a process reads the tables."""
        if self._snapshot is None and model_of(input) is not None and self._clock() > self._fresh_until:
            try:
                self.refresh()
            except StoreUnavailable:
                logger.warning("what models can do was not read; the task is accepted as unknown")
        self.check(input)

    def current(self) -> Snapshot:
        """
        A snapshot at most five seconds old, or the last one while the database is away.

        Raises:
            StoreUnavailable: there is none, and the database does not answer.
        """
        snapshot = self._snapshot
        if snapshot is not None and self._clock() <= self._fresh_until:
            return snapshot
        try:
            return self.refresh()
        except StoreUnavailable:
            if self._snapshot is None:
                raise
            return self._snapshot

    def refresh(self) -> Snapshot:
        """
        Read what changed; others who wait meanwhile get a reading of their own.

        Raises:
            StoreUnavailable: nothing changed in memory.
        """
        with self._reading:
            began = self._clock()
            try:
                with database_errors("the capabilities were not read"):
                    self._snapshot = self._read(began)
            except StoreUnavailable:
                self._fresh_until = self._clock() + AWAY_PAUSE_S
                raise
            self._fresh_until = began + FRESH_S
            return self._snapshot

    def hear(self) -> None:
        """Something changed, or may have: read soon, in a thread. Returns at once; many calls make one reading."""
        with self._state:
            self._asked += 1
            if self._runner is not None or self._closed:
                return
            self._runner = threading.Thread(target=self._run, name="capabilities", daemon=True)
            self._runner.start()

    def close(self) -> None:
        with self._state:
            self._closed = True
            runner = self._runner
        if runner is not None:
            runner.join(2.0)

    def _run(self) -> None:
        while True:
            with self._state:
                asked = self._asked
            try:
                self.refresh()
            except StoreUnavailable:
                logger.warning("the capabilities were not read; the last reading serves on")
            with self._state:
                if asked == self._asked or self._closed:
                    self._runner = None
                    return

    def _read(self, began: float) -> Snapshot:
        rows = self._read_providers()
        with self._direct.connect() as connection:
            read_at = store.now(connection)
            discoveries = store.discoveries(connection)
            said = overrides.load(connection)
            lists: dict[str, ModelList] = {}
            for row in rows:
                found = discoveries.get(row.name)
                if found is not None and found.discovered_at is not None:
                    lists[row.name] = self._list(connection, found)
        return Snapshot(rows, discoveries, lists, by_model(said), read_at, began, self._clock)

    def _list(self, connection: sa.Connection, found: store.Discovery) -> ModelList:
        known = None if self._snapshot is None else self._snapshot.lists.get(found.provider)
        if known is not None and known.discovered_at == found.discovered_at:
            return known
        if found.discovered_at is None:
            raise ValueError("only a provider with a good list has one to read")
        copy = self._copies.get(found.provider, version_of(found.discovered_at))
        if copy is not None:
            return copy
        began = time.monotonic()
        read = store.load(connection, found.provider, found.discovered_at)
        self._copies.counters.loaded(time.monotonic() - began)
        self._copies.put(read)
        return read
