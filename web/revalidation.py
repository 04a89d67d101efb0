"""
Asks for a discovery when what is served is stale: at the start of the process, and every ten minutes.

Stale answers are served meanwhile. Of any number of processes one makes the task (core/capabilities/requests.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from core.errors import Unavailable
from web.threads import Threads

EVERY_S = 600.0
AGAIN_S = 5.0  # while the database is away

logger = logging.getLogger(__name__)


class Revalidation:
    """
    Args:
        request_stale: makes what tasks are needed; raises Unavailable.
    """

    def __init__(self, request_stale: Callable[[], object], threads: Threads) -> None:
        self._request_stale = request_stale
        self._threads = threads
        self._runner: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._runner = asyncio.create_task(self._run(), name="revalidation")

    async def close(self) -> None:
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._threads.run(self._request_stale, failure="discovery was not requested")
            except Unavailable:
                await asyncio.sleep(AGAIN_S)
            else:
                await asyncio.sleep(EVERY_S)
