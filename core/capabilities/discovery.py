"""
One discovery: ask a provider what it serves, describe it, keep it, copy it, tell everybody. Never a paid call.

Whatever goes wrong, the last good list stays and the reason stands beside it. Runs twice without harm: the list that
was asked for later stays.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from core.capabilities import store
from core.capabilities.copies import CapabilityCopies
from core.capabilities.describe import describe
from core.capabilities.difference import Difference
from core.capabilities.listing import Listing, read_listing
from core.capabilities.model import ListedModel, ModelList
from core.capabilities.price_process import look_up_all
from core.connections import autocommit, database_errors
from core.providers.errors import ProviderFailure
from core.providers.model import ProviderRow
from core.providers.openai_compatible import Provider
from core.providers.table import Providers
from core.sealing import Unsealable

logger = logging.getLogger(__name__)

ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
TIMEOUT = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Discovered:
    """
    What came of it.

    Args:
        models: how many are listed now; 0 with `is_current` False.
        skipped: entries of the list that were no use.
        is_current: False: a later list is there already, or the provider was changed, disabled or removed meanwhile.
    """

    provider: str
    models: int = 0
    skipped: int = 0
    is_current: bool = False


class Discoverer:
    """
    Args:
        timeout: of the whole answer, however slowly it comes.
    """

    def __init__(
        self, engine: sa.Engine, providers: Providers, copies: CapabilityCopies, *, timeout: timedelta = TIMEOUT
    ) -> None:
        self._engine = engine
        self._direct = autocommit(engine)
        self._providers = providers
        self._copies = copies
        self._timeout = timeout

    async def discover(self, name: str) -> Discovered:
        """
        Raises:
            ProviderNotFound: it was removed.
            ProviderFailure: there is no new list; the reason is kept.
            StoreUnavailable: not known whether the list was kept.
        """
        row, asked_at = await asyncio.to_thread(self._begin, name)
        if not row.enabled:
            return Discovered(name)
        try:
            listing = await self._ask(row)
        except ProviderFailure as failure:
            await asyncio.to_thread(self._fail, row, str(failure), asked_at)
            logger.warning("discovery failed", extra={"provider": name, "code": failure.code})
            raise
        return await asyncio.to_thread(self._keep, row, listing, asked_at)

    def _begin(self, name: str) -> tuple[ProviderRow, datetime]:
        with database_errors("discovery did not begin"):
            row = self._providers.get(name)
            with self._direct.connect() as connection:
                return row, store.now(connection)

    async def _ask(self, row: ProviderRow) -> Listing:
        try:
            key = self._providers.api_key(row)
        except Unsealable as error:
            raise ProviderFailure(f"its API key: {error}", code="provider_not_configured", retryable=False) from None
        provider = Provider(row.base_url, key, answer_limit_bytes=ANSWER_LIMIT_BYTES, connections=1)
        try:
            answer = await provider.models(timeout=self._timeout)
        finally:
            await provider.close()
        return read_listing(answer.body)

    def _fail(self, row: ProviderRow, error: str, asked_at: datetime) -> None:
        with database_errors("the failure was not kept"), self._engine.begin() as connection:
            store.fail(connection, row.name, error, asked_at=asked_at, row_version=row.version)

    def _keep(self, row: ProviderRow, listing: Listing, asked_at: datetime) -> Discovered:
        prices = look_up_all(row.name, row.base_url, list(listing.entries))
        models: list[ListedModel] = list(describe(listing, prices))
        before = self._before(row.name)
        with database_errors("it is not known whether the list was kept"), self._engine.begin() as connection:
            if not store.save(connection, row.name, models, asked_at=asked_at, row_version=row.version):
                return Discovered(row.name)
            found: ModelList = store.load(connection, row.name, asked_at)
            # Written down before the commit: from then on others wait for it.
            copy = found.to_json()
            difference = None if before is None else Difference.between(before, found)
        self._copies.announce(found, copy, difference)
        logger.info(
            "models discovered", extra={"provider": row.name, "models": len(models), "skipped": listing.skipped}
        )
        return Discovered(row.name, len(models), listing.skipped, is_current=True)

    def _before(self, name: str) -> ModelList | None:
        """The list that is served until now; None: there is none, or it was replaced while it was read."""
        with database_errors("the list before was not read"), self._direct.connect() as connection:
            known = store.discoveries(connection).get(name)
            if known is None or known.discovered_at is None:
                return None
            models = store.load(connection, name, known.discovered_at)
            return models if store.discoveries(connection).get(name) == known else None
