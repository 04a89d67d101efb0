"""
The outermost layer: the two hot routes straight to their endpoints, everything else through the router.

Also the one place where an unexpected error becomes a 500, logged once, and where HEAD is answered like GET.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import HeadraceError
from web import deadline
from web.problems import problem, problem_of
from web.routes.tasks import TaskRoutes

logger = logging.getLogger(__name__)

_TASKS = "/v1/tasks"
_ONE_TASK = "/v1/tasks/task_"

Endpoint = Callable[[Request], Awaitable[Response]]


class Front:
    """An ASGI application around the router's."""

    def __init__(self, app: ASGIApp, tasks: TaskRoutes) -> None:
        self._app = app
        self._create = tasks.create
        self._show = tasks.show

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        deadline.begin()
        method: str = scope["method"]
        path: str = scope["path"]
        if method == "HEAD":
            method = "GET"  # the server leaves the body out, by its own copy of the scope
            scope = {**scope, "method": method}
        if method == "GET" and path.startswith(_ONE_TASK) and path.find("/", len(_ONE_TASK)) < 0:
            scope["path_params"] = {"task_id": path[len(_TASKS) + 1 :]}
            await _answer(self._show, scope, receive, send)
        elif method == "POST" and path == _TASKS:
            await _answer(self._create, scope, receive, send)
        else:
            await self._route(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            logger.exception("a request failed", extra={"method": scope["method"]})
            if not started:
                await problem_of(error)(scope, receive, send)


async def _answer(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        response = await endpoint(Request(scope, receive, send))
    except HeadraceError as error:
        response = problem_of(error)
    except Exception as error:
        logger.exception("a request failed", extra={"method": scope["method"]})
        response = problem_of(error)
    await response(scope, receive, send)


async def answer_error(request: Request, error: Exception) -> Response:
    """For the router: our own errors as problem documents."""
    return problem_of(error)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """For the router: what Starlette itself refuses, with all methods of the path in Allow."""
    if not isinstance(error, HTTPException):
        raise error
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.NOT_FOUND:
        return problem(status, "no such path; /openapi.json lists them", code="no_such_path")
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        methods = _methods(request)
        return problem(
            status,
            f"this path knows {methods}",
            code="method_not_allowed",
            headers=[(b"allow", methods.encode())],
        )
    return problem(status, status.phrase, code="refused")


def _methods(request: Request) -> str:
    """Of the path as it is described: `/v1/tasks/batch` is not a task's id."""
    app = request.scope["app"]
    routes = [route for route in app.routes if isinstance(route, Route)] if isinstance(app, FastAPI) else []
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    same = [route for route in matching if route.path == matching[0].path and route.include_in_schema]
    found = {method for route in same for method in route.methods or ()}
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))
