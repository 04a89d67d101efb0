"""
What stands before every admin route: the client's address, its ban, the IP filters, the admin key, and the record of
what is done. In that order: a banned client learns nothing about the key, and its guesses cost nothing.

A failed log-in counts like any other. Every request that may change something is written down before it is done; when
it cannot be written down it is not done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import unquote
from uuid import UUID

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.access.addresses.addresses import Client
from core.access.audit import ADMIN_KEY, AuditLog
from core.access.limits.limits_of import LimitKeys, ask_of_admin
from core.connections import database_errors
from core.errors import HeadraceError, Unavailable
from web.admin_door import AdminDoor
from web.door import Door
from web.problems import Unauthenticated, problem_of
from web.threads import Threads

logger = logging.getLogger(__name__)

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class AdminGate:
    """
    Args:
        admin_rpm: requests a minute with the admin key to one route; 0: no limit.
    """

    def __init__(
        self,
        admin_door: AdminDoor,
        door: Door,
        *,
        audit: AuditLog,
        limit_keys: LimitKeys,
        admin_rpm: int,
        threads: Threads,
    ) -> None:
        self._admin_door = admin_door
        self._door = door
        self._audit = audit
        self._limit_keys = limit_keys
        self._admin_rpm = admin_rpm
        self._threads = threads

    def stand_before(self, app: FastAPI, add: Callable[[FastAPI], None]) -> None:
        """Let `add` put its routes on `app`; nobody reaches one of them but through here."""
        before = {id(route) for route in app.routes}
        add(app)
        for route in app.routes:
            if id(route) not in before and isinstance(route, APIRoute):
                route.app = self._guarded(route.app, route.path_format)

    async def enter(self, scope: Scope, route: str) -> Client:
        """
        Args:
            route: its template, which the limit is counted by.

        Raises:
            Forbidden: banned, refused by an IP filter, or no admin key is set.
            Unauthenticated: not the admin key; it was counted.
            RateLimited: too many requests with the admin key.
            Unavailable: the IP filters are not known, or too many failures wait to be counted.
        """
        shown = self._door.look(scope)
        try:
            self._admin_door.enter(shown.authorization)
        except Unauthenticated:
            if shown.authorization is not None:
                await self._door.fail(shown.client, "admin key")
            raise
        caller = self._door.caller(shown.client, route)
        await self._door.take(ask_of_admin(self._limit_keys, caller, admin_rpm=self._admin_rpm))
        return shown.client

    def _guarded(self, app: ASGIApp, path: str) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                client = await self.enter(scope, path)
                if scope["method"] in _READING:
                    act = None
                else:
                    act = await self._begin(scope, path, client)
            except HeadraceError as error:
                await problem_of(error)(scope, receive, send)
                return
            if act is None:
                await app(scope, receive, send)
            else:
                await self._recorded(act, app, scope, receive, send)

        return guarded

    async def _recorded(self, act: UUID, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """The outcome is written before the client hears of it, so that who asks for the log finds it there."""
        ended = False

        async def watched(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start" and not ended:
                ended = True
                await self._end(act, str(message["status"]), _made(message))
            await send(message)

        try:
            await app(scope, receive, watched)
        except Exception:
            if not ended:
                await self._end(act, "500", None)
            raise

    async def _begin(self, scope: Scope, path: str, client: Client) -> UUID:
        subject = ", ".join(str(value) for value in scope.get("path_params", {}).values()) or None

        def begin() -> UUID:
            with database_errors("the act could not be written down, so it was not done"):
                return self._audit.begin(
                    actor=ADMIN_KEY, address=str(client.address), action=f"{scope['method']} {path}", subject=subject
                )

        return await self._threads.run(begin, failure="the act could not be written down, so it was not done")

    async def _end(self, act: UUID, outcome: str, made: str | None) -> None:
        def end() -> None:
            with database_errors("the outcome was not written down"):
                self._audit.end(act, outcome, subject=made)

        try:
            await self._threads.run(end, failure="the outcome was not written down")
        except Unavailable:
            logger.warning("the outcome of an act was not written down", extra={"act": str(act), "outcome": outcome})


class Routes(Protocol):
    """The endpoints of one resource."""

    def add_to(self, app: FastAPI) -> None: ...


class Gated:
    """Routes behind the gate."""

    def __init__(self, gate: AdminGate, routes: Routes) -> None:
        self._gate = gate
        self._routes = routes

    def add_to(self, app: FastAPI) -> None:
        self._gate.stand_before(app, self._routes.add_to)


def gated(gate: AdminGate, routes: Iterable[Routes]) -> list[Gated]:
    return [Gated(gate, each) for each in routes]


def _made(start: Message) -> str | None:
    """What was made: the end of its address."""
    for name, value in start.get("headers", ()):
        if name == b"location":
            return unquote(bytes(value).decode("ascii", "replace").rpartition("/")[2]) or None
    return None
