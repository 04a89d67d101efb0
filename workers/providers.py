"""The providers as a worker process calls them: one router for all its handlers, built when the first one asks."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from core.app import App
from core.connections import autocommit, database_errors
from core.events.providers import channel
from core.schema import provider_models

if TYPE_CHECKING:
    from core.providers.model import ProviderRow
    from core.providers.roster import Roster
    from core.providers.routing import Router


class WorkerProviders:
    """Thread-safe. A process whose handlers call nobody reads nothing and imports nothing."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._roster: Roster | None = None
        self._router: Router | None = None
        self.channel = channel(app.settings.instance_name)

    def router(self) -> Router:
        with self._lock:
            if self._router is None:
                from core.providers.roster import Roster  # noqa: PLC0415 (only when a handler needs it)
                from core.providers.routing import Router  # noqa: PLC0415 (heavy: only when used)

                self._roster = Roster(
                    self._read,
                    self._app.providers.api_key,
                    read_models=self._read_models,
                    answer_limit_bytes=self._app.settings.result_limit_bytes,
                )
                self._router = Router(self._roster.endpoints)
            return self._router

    def forget(self) -> None:
        """A provider changed; callable from any thread."""
        if self._roster is not None:
            self._roster.forget()

    def _read(self) -> Sequence[ProviderRow]:
        with database_errors("the providers were not read"):
            return self._app.providers.list()

    def _read_models(self, names: Sequence[str]) -> Mapping[str, frozenset[str]]:
        c = provider_models.c
        found: dict[str, set[str]] = {name: set() for name in names}
        query = sa.select(c.provider, c.model).where(c.provider.in_(names), c.listed)
        with database_errors("the models were not read"), autocommit(self._app.engine).connect() as connection:
            for provider, model in connection.execute(query):
                found[provider].add(model)
        return {name: frozenset(models) for name, models in found.items()}
