"""
The providers as this process knows them: the rows with their keys opened, ready to be called.

Read when a call needs them and the last reading is over three seconds old, or a change was announced; so a change
binds every call after five seconds at the latest, and a process that calls nobody reads nothing. While the database is
away the last reading serves on: who was allowed stays allowed (open: tasks that run must not fail for it).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from core.errors import Unavailable
from core.providers.errors import ProviderFailure
from core.providers.model import ProviderRow
from core.providers.openai_compatible import Provider
from core.sealing import Unsealable

logger = logging.getLogger(__name__)

FRESH_S = 3.0  # with the longest wait for a reading (1.5 s for a connection) still under five seconds
AWAY_PAUSE_S = 1.0  # a database that did not answer is left alone this long


@dataclass(slots=True, eq=False)
class Endpoint:
    """
    One provider to call.

    Args:
        provider: None: it cannot be called, `problem` says why.
        lists: the models it says it serves; None: not known, or nobody needs to know.
        calls: in flight.
        is_retired: the row changed or went; the last call in flight closes the connections.
    """

    row: ProviderRow
    provider: Provider | None
    problem: str | None = None
    lists: frozenset[str] | None = None
    calls: int = 0
    is_retired: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        return self.row.name

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        if self.provider is not None:
            await self.provider.close()


class Roster:
    """
    Thread-safe, and for any event loop.

    Args:
        read: the rows, in the order in which they are asked; raises Unavailable.
        open_key: the clear key of one; raises Unsealable.
        read_models: the models each of the named providers lists.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[ProviderRow]],
        open_key: Callable[[ProviderRow], str | None],
        *,
        read_models: Callable[[Sequence[str]], Mapping[str, frozenset[str]]],
        answer_limit_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._open_key = open_key
        self._read_models = read_models
        self._answer_limit_bytes = answer_limit_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._known: tuple[Endpoint, ...] | None = None
        self._fresh_until = float("-inf")
        self._changes = 0
        self._retired: list[Endpoint] = []

    async def endpoints(self) -> Sequence[Endpoint]:
        """
        All providers, enabled or not, in the order in which they are asked.

        Raises:
            ProviderFailure: they were never read, and the database does not answer; retryable.
        """
        known = self._known
        if known is not None and self._clock() < self._fresh_until:
            return known
        found = await asyncio.to_thread(self._refreshed)
        for endpoint in [gone for gone in self._retired if gone.calls == 0]:
            with suppress(ValueError):  # another loop was faster
                self._retired.remove(endpoint)
                await endpoint.close()
        return found

    def forget(self) -> None:
        """A change was announced: the next call reads."""
        self._changes += 1
        self._fresh_until = float("-inf")

    def _refreshed(self) -> Sequence[Endpoint]:
        with self._lock:  # many calls come together; one of them reads
            if self._known is not None and self._clock() < self._fresh_until:
                return self._known
            changes, began = self._changes, self._clock()
            try:
                rows = self._read()
                models = self._models_of(rows)
            except Unavailable as error:
                self._fresh_until = self._clock() + AWAY_PAUSE_S
                if self._known is None:
                    raise _unreadable(error) from None
                logger.warning("the providers were not read; the last reading serves on")
                return self._known
            self._known = self._merged(rows, models)
            if changes == self._changes:  # else something changed while we read
                self._fresh_until = began + FRESH_S
            return self._known

    def _models_of(self, rows: Sequence[ProviderRow]) -> Mapping[str, frozenset[str]]:
        """What was discovered since the last reading; nothing when there is no choice between providers."""
        enabled = [row for row in rows if row.enabled]
        if len(enabled) < 2:
            return {}
        known = {endpoint.name: endpoint for endpoint in self._known or ()}
        stale = [
            row.name
            for row in enabled
            if row.discovered_at is not None
            and (
                row.name not in known
                or known[row.name].lists is None
                or known[row.name].row.discovered_at != row.discovered_at
            )
        ]
        return self._read_models(stale) if stale else {}

    def _merged(self, rows: Sequence[ProviderRow], models: Mapping[str, frozenset[str]]) -> tuple[Endpoint, ...]:
        """The new endpoints. A row that did not change keeps its connections; what went is retired."""
        before = {endpoint.name: endpoint for endpoint in self._known or ()}
        merged: list[Endpoint] = []
        for row in rows:
            old = before.get(row.name)
            if old is not None and _same(old.row, row):
                endpoint = before.pop(row.name)
                endpoint.row = row
            else:
                endpoint = self._opened(row)
            known = old.lists if old is not None and row.discovered_at is not None else None
            endpoint.lists = models.get(row.name, known)
            merged.append(endpoint)
        for gone in before.values():
            gone.is_retired = True
        self._retired += before.values()
        return tuple(merged)

    def _opened(self, row: ProviderRow) -> Endpoint:
        try:
            key = self._open_key(row)
        except Unsealable as error:
            logger.error("a provider cannot be called: %s", error, extra={"provider": row.name})
            # The task's owner reads this; what is wrong with our keys is the operator's to know.
            return Endpoint(row, None, f"the API key of provider {row.name} cannot be used; the worker's log says why")
        return Endpoint(row, Provider(row.base_url, key, answer_limit_bytes=self._answer_limit_bytes))


def _same(old: ProviderRow, new: ProviderRow) -> bool:
    """Whether nothing changed that a connection depends on."""
    return (old.base_url, old.key_source, old.api_key_env, old.sealed_key) == (
        new.base_url,
        new.key_source,
        new.api_key_env,
        new.sealed_key,
    )


def _unreadable(error: Unavailable) -> ProviderFailure:
    return ProviderFailure(f"the providers could not be read: {error}", code="provider_unavailable", retryable=True)
