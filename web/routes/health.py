"""`/live` touches nothing; `/ready` says whether this process can accept and answer now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fastapi import FastAPI, Request
from starlette.responses import Response

from core.errors import Misconfigured, Unavailable
from web.answers import Answer
from web.openapi import LIVE, READY
from web.threads import Threads

FRESH_S = 0.5  # a check is good for this long: probes of many load balancers cost two queries a second


class HealthRoutes:
    """
    Args:
        check: raises when the database is away or at another revision. Redis away does not make us unready (law 9).
    """

    def __init__(self, check: Callable[[], None], threads: Threads) -> None:
        self._check = check
        self._threads = threads
        self._checked_at = float("-inf")
        self._checking: asyncio.Task[None] | None = None
        self._draining = False

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/live", self.live, methods=["GET"], **LIVE)
        app.add_api_route("/ready", self.ready, methods=["GET"], **READY)

    def drain(self) -> None:
        self._draining = True

    async def live(self, request: Request) -> Response:
        return Answer(b'{"status":"live"}', headers=[])

    async def ready(self, request: Request) -> Response:
        if self._draining:
            raise Unavailable("this process is stopping")
        if time.monotonic() - self._checked_at > FRESH_S:
            if self._checking is None:
                self._checking = asyncio.create_task(self._run_check())
            await asyncio.shield(self._checking)
        return Answer(b'{"status":"ready"}', headers=[])

    async def _run_check(self) -> None:
        began = time.monotonic()
        try:
            await self._threads.run(self._check, failure="readiness is not known")
            self._checked_at = began
        except Misconfigured as error:
            raise Unavailable(str(error), retry_after_s=5) from error
        finally:
            self._checking = None
