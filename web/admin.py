"""
What every admin endpoint does first and last: the admin key, strict parameters and bodies, calls in threads, JSON.

A route file of the admin API is a class with `add_to(app)` that is given an `Admin`; `web/app.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import Response

from core.connections import database_errors
from core.tasks.validation import check_storable, first_problem
from web import deadline, parameters
from web.admin_door import AdminDoor
from web.answers import Answer, Headers
from web.bodies import header, parse, read_body
from web.deadline import ANSWER_S
from web.parameters import Parameters
from web.threads import Threads

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_NO_PARAMETERS: frozenset[str] = frozenset()
_NOT_KEPT = (b"cache-control", b"no-store")


class AdminBody(BaseModel):
    """What an operator sends: unknown members are refused, so that a typo is told and not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Admin:
    """The front of the admin API; one for all its routes."""

    def __init__(self, door: AdminDoor, threads: Threads, *, body_limit_bytes: int) -> None:
        self._door = door
        self._threads = threads
        self._body_limit_bytes = body_limit_bytes

    def enter(self, request: Request, known: frozenset[str] = _NO_PARAMETERS) -> Parameters:
        """
        The query parameters of an operator's request; to be called before anything else.

        Raises:
            Unauthenticated, Forbidden: not an operator.
            InvalidRequest: a parameter is not one of `known`.
        """
        self._door.enter(header(request.scope, b"authorization"))
        return parameters.read_parameters(request.scope["query_string"], known)

    async def body(self, request: Request, model: type[M]) -> M:
        """
        The request's JSON object, strictly as `model` has it.

        Raises:
            InvalidRequest: names the first bad field, e.g. `task.input.messages`.
        """
        raw = await read_body(request.scope, request.receive, limit_bytes=self._body_limit_bytes)
        value = parse(raw)
        try:
            body = model.model_validate(value)
        except ValidationError as error:
            raise first_problem(error, at="") from None
        for name, inner in value.items():
            check_storable(inner, field=name)
        return body

    async def optional_body(self, request: Request, model: type[M]) -> M:
        """As `body`, where a request without one says that nothing differs from what is usual."""
        length = header(request.scope, b"content-length")
        if header(request.scope, b"transfer-encoding") is None and (length is None or int(length) == 0):
            return model()
        return await self.body(request, model)

    async def call(self, function: Callable[[], T], *, failure: str, deadline_s: float = ANSWER_S) -> T:
        """
        Call synchronous code of core in a thread; more than a request's time is added to it.

        Args:
            failure: what was not done, or is not known, when the database does not answer: "the job was not paused".

        Raises:
            StoreUnavailable: it did not.
        """

        def run() -> T:
            with database_errors(failure):
                return function()

        deadline.forgive(max(0.0, deadline_s - ANSWER_S))
        return await self._threads.run(run, failure=failure, deadline_s=deadline_s)


def answer(document: object, *, status: HTTPStatus = HTTPStatus.OK, headers: Headers | None = None) -> Answer:
    """The document as JSON; times become RFC 3339 with `Z`. No cache keeps it."""
    body = orjson.dumps(document, option=orjson.OPT_UTC_Z)
    return Answer(body, status=status, headers=[_NOT_KEPT, *(headers or [])])


def nothing() -> Response:
    """204: done, and there is nothing to show."""
    response = Response(status_code=HTTPStatus.NO_CONTENT)
    response.raw_headers.append(_NOT_KEPT)
    return response
