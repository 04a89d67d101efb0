"""
Asking for discoveries: tasks of an internal type, owned by `system`, made in one transaction with the mark that keeps
others from making a second one. Any number of processes that start at once make one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from core.capabilities import store
from core.connections import database_errors
from core.errors import NotFound
from core.ids import KeyId
from core.providers.table import Providers
from core.task_types.capability_discovery import SPEC, CapabilityDiscovery
from core.tasks import accept
from core.tasks.model import NewTask
from core.tasks.validation import TaskOptions, build

logger = logging.getLogger(__name__)

SYSTEM = KeyId("system")
"""Owner of Headrace's own tasks; a virtual key's id has 12 characters, so no caller is ever it."""
PRIORITY = 9  # short and rare; behind a long queue it would be no answer to whoever waits for it

GOOD_FOR = timedelta(hours=24)
PAUSE = timedelta(minutes=5)  # between two tasks for a provider that nobody asked for by hand


class NoEnabledProvider(NotFound):
    """There is nobody to ask."""

    code = "no_enabled_provider"


@dataclass(frozen=True, slots=True)
class Requested:
    """The discovery task of a provider; `is_new` False: one that waits already."""

    provider: str
    task_id: str
    is_new: bool


class DiscoveryRequests:
    """
    Args:
        ring: tells workers that a queue has work; must not raise.
    """

    def __init__(self, engine: sa.Engine, providers: Providers, ring: Callable[[str], None]) -> None:
        self._engine = engine
        self._providers = providers
        self._ring = ring

    def request_stale(self, *, older_than: timedelta = GOOD_FOR) -> list[Requested]:
        """
        Make a task for each enabled provider whose list is that old or absent, or from before the provider was changed.

        Of any number of processes that call this at once one makes the task; for five minutes nobody makes another.

        Raises:
            StoreUnavailable: it is not known whether tasks were made.
        """
        with database_errors("discovery was not requested"):
            rows = [row for row in self._providers.list() if row.enabled]
            found = [self._request_one(row.name, older_than) for row in rows]
        return [request for request in found if request is not None]

    def request_now(self, provider: str | None = None) -> list[Requested]:
        """
        Make a task for this provider, or for every enabled one, however young its list is.

        A task that nobody began yet is as good as a new one and is returned instead.

        Raises:
            ProviderNotFound, NoEnabledProvider: there is nobody to ask.
            StoreUnavailable: it is not known whether tasks were made.
        """
        with database_errors("it is not known whether discovery was requested"):
            if provider is None:
                names = [row.name for row in self._providers.list() if row.enabled]
            else:
                row = self._providers.get(provider)
                names = [row.name] if row.enabled else []
            if not names:
                raise NoEnabledProvider("no provider to ask is enabled; `headrace providers list` shows them")
            return [self._request_anyway(name) for name in names]

    def _request_one(self, provider: str, older_than: timedelta) -> Requested | None:
        task = _task(provider)
        with self._engine.begin() as connection:
            if store.request(connection, provider, task.id, older_than=older_than, pause=PAUSE) is None:
                return None
            accept.insert(connection, [task])
        return self._made(task, provider)

    def _request_anyway(self, provider: str) -> Requested:
        task = _task(provider)
        with self._engine.begin() as connection:
            waiting = store.waiting(connection, provider)
            if waiting is not None:
                return Requested(provider, waiting, is_new=False)
            store.requested(connection, provider, task.id)
            accept.insert(connection, [task])
        return self._made(task, provider)

    def _made(self, task: NewTask, provider: str) -> Requested:
        logger.info("discovery requested", extra={"provider": provider, "discovery_task": task.public_id})
        self._ring(task.queue)
        return Requested(provider, task.public_id, is_new=True)


def _task(provider: str) -> NewTask:
    return build(SPEC, CapabilityDiscovery(provider=provider), owner=SYSTEM, options=TaskOptions(priority=PRIORITY))
