"""`/v1/tasks`: accept, read, list, cancel, retry. Every answer is scoped to the key's owner (law 11)."""

from __future__ import annotations

import time
from http import HTTPStatus

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from core.errors import Conflict, RateLimited
from core.ids import KeyId
from core.tasks.acceptance import Accepted
from core.tasks.client import TaskClient
from core.tasks.model import Task
from core.tasks.status import Status
from web import deadline, parameters
from web.answers import Answer, Headers, NotModified
from web.bodies import header, read_body
from web.door import Door, Visitor
from web.intake import Intake, Prepared
from web.openapi import CANCEL, CREATE, CREATE_BATCH, LIST, RETRY, SHOW
from web.status import Statuses
from web.threads import Threads
from web.waiting import Conditions, Waiting

ACCEPT_ROUTE = "/v1/tasks"  # batches and retries count here too, or they would be a way around the limits
SHOW_ROUTE = "/v1/tasks/{task_id}"
CANCEL_ROUTE = "/v1/tasks/{task_id}/cancel"

_SHOW_PARAMETERS = frozenset({"wait"})
_LIST_PARAMETERS = frozenset({"state", "type", "queue", "limit", "cursor"})
_NO_PARAMETERS: frozenset[str] = frozenset()

# Between any two looks a copy may change: caches must ask again.
_PRIVATE = (b"cache-control", b"private, no-cache")
_POLL_AGAIN = (b"retry-after", b"1")
_REPLAYED = (b"idempotency-replayed", b"true")
_FROM = b"headrace-status-from"


class TaskRoutes:
    """The endpoints, with what they need; `create` and `show` are also called without the router (web/front.py)."""

    def __init__(
        self,
        *,
        door: Door,
        intake: Intake,
        statuses: Statuses,
        waiting: Waiting,
        tasks: TaskClient,
        threads: Threads,
        body_limit_bytes: int,
    ) -> None:
        self._door = door
        self._intake = intake
        self._statuses = statuses
        self._waiting = waiting
        self._tasks = tasks
        self._threads = threads
        self._body_limit_bytes = body_limit_bytes

    def add_to(self, app: FastAPI) -> None:
        add = app.add_api_route
        add("/v1/tasks", self.create, methods=["POST"], **CREATE)
        add("/v1/tasks", self.list, methods=["GET"], **LIST)
        add("/v1/tasks/batch", self.create_batch, methods=["POST"], **CREATE_BATCH)
        add("/v1/tasks/batch", self.refuse_method, methods=["GET"], include_in_schema=False)
        add("/v1/tasks/{task_id}", self.show, methods=["GET"], **SHOW)
        add("/v1/tasks/{task_id}/cancel", self.cancel, methods=["POST"], **CANCEL)
        add("/v1/tasks/{task_id}/retry", self.retry, methods=["POST"], **RETRY)

    async def create(self, request: Request) -> Response:
        visitor, prepared = await self._prepare(request)
        accepted, left = await self._accept(visitor, prepared)
        return _one_accepted(accepted, left)

    async def create_batch(self, request: Request) -> Response:
        visitor, prepared = await self._prepare(request, is_batch=True)
        accepted, left = await self._accept(visitor, prepared)
        tasks = b'{"tasks":[%s]}' % b",".join(task.to_json() for task in accepted.tasks)
        headers = [*left, _REPLAYED] if accepted.replayed else left
        return Answer(tasks, status=HTTPStatus.ACCEPTED, headers=headers)

    async def _prepare(self, request: Request, *, is_batch: bool = False) -> tuple[Visitor, Prepared]:
        visitor = await self._door.enter(request.scope)
        _query(request)
        body = await self._body(request)
        prepared = await self._intake.prepare(
            body, key=visitor.key, idempotency_key=_idempotency_key(request), is_batch=is_batch
        )
        return visitor, prepared

    async def _accept(self, visitor: Visitor, prepared: Prepared) -> tuple[Accepted, Headers]:
        """Limits last of all: what is refused for any other reason consumes none, and what is sent again needs none."""
        try:
            left = await self._door.admit(visitor, ACCEPT_ROUTE, requests=len(prepared.tasks), tasks=prepared.tasks)
        except RateLimited:
            known = await self._replay(visitor, prepared)
            if known is None:
                raise
            return known, []
        try:
            accepted = await self._intake.accept(prepared)
        except Conflict:
            await self._door.give_back(visitor, prepared.tasks)
            raise
        if accepted.replayed:
            await self._door.give_back(visitor, prepared.tasks)
        return accepted, left

    async def _replay(self, visitor: Visitor, prepared: Prepared) -> Accepted | None:
        idempotency = prepared.idempotency
        if idempotency is None:
            return None
        return await self._threads.run(
            lambda: self._tasks.replay(idempotency, owner=visitor.owner), failure="the request was not accepted"
        )

    async def refuse_method(self, request: Request) -> Response:
        """`batch` is no task's id: without this route, GET would look for it."""
        raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED)

    async def show(self, request: Request) -> Response:
        owner = await self._enter_freely(request, SHOW_ROUTE)
        task_id: str = request.path_params["task_id"]
        found = _query(request, _SHOW_PARAMETERS)
        wait_s = parameters.whole_number(found, "wait", least=0, most=parameters.MOST_WAIT_S, default=0)
        conditions = Conditions.of(header(request.scope, b"if-none-match"))
        if wait_s == 0:
            status = await self._statuses.read(task_id, owner=owner, at_least=conditions.newest)
        else:
            status = await self._waiting.read(
                task_id, owner=owner, conditions=conditions, wait_s=wait_s, receive=request.receive
            )
        return _shown(status, conditions)

    async def list(self, request: Request) -> Response:
        visitor = await self._door.enter(request.scope)
        owner = visitor.owner
        found = _query(request, _LIST_PARAMETERS)
        state = parameters.state(found)
        type, queue = parameters.name(found, "type"), parameters.name(found, "queue")
        limit, cursor = parameters.page_size(found), parameters.cursor(found)

        def read() -> bytes:
            page = self._tasks.list(owner=owner, state=state, type=type, queue=queue, limit=limit, cursor=cursor)
            tasks = b",".join(task.to_json() for task in page.tasks)
            # A cursor is base64 of our own making: nothing in it needs escaping.
            next_cursor = b"null" if page.next_cursor is None else b'"%s"' % page.next_cursor.encode()
            return b'{"tasks":[%s],"next_cursor":%s}' % (tasks, next_cursor)

        left = await self._door.admit(visitor, ACCEPT_ROUTE)
        return Answer(await self._threads.run(read, failure="the tasks were not read"), headers=[_PRIVATE, *left])

    async def cancel(self, request: Request) -> Response:
        owner = await self._enter_freely(request, CANCEL_ROUTE)
        _query(request)
        task_id: str = request.path_params["task_id"]
        receipt = await self._threads.run(
            lambda: self._tasks.cancel(task_id, owner=owner), failure="it is not known whether the task was cancelled"
        )
        self._statuses.learn(receipt.task)
        status = HTTPStatus.OK if receipt.took_effect else HTTPStatus.ACCEPTED
        return Answer(receipt.task.to_json(), status=status, headers=[_etag(receipt.task)])

    async def retry(self, request: Request) -> Response:
        visitor = await self._door.enter(request.scope)
        _query(request)
        task_id: str = request.path_params["task_id"]
        idempotency_key = _idempotency_key(request)
        task, idempotency = await self._threads.run(
            lambda: self._tasks.prepare_retry(task_id, owner=visitor.owner, idempotency_key=idempotency_key),
            failure="the task was not retried",
        )
        accepted, left = await self._accept(visitor, Prepared([task], idempotency))
        return _one_accepted(accepted, left)

    async def _body(self, request: Request) -> bytes:
        began = time.monotonic()
        body = await read_body(request.scope, request.receive, limit_bytes=self._body_limit_bytes)
        deadline.forgive(time.monotonic() - began)
        return body

    async def _enter_freely(self, request: Request, route: str) -> KeyId:
        """Where a key has no limits, only its address: a client must be able to look, and to stop what it began."""
        visitor = await self._door.enter(request.scope)
        await self._door.admit_address(visitor.client, route)
        return visitor.owner


def _query(request: Request, known: frozenset[str] = _NO_PARAMETERS) -> parameters.Parameters:
    return parameters.read_parameters(request.scope["query_string"], known)


def _one_accepted(accepted: Accepted, left: Headers) -> Response:
    task = accepted.tasks[0]
    headers = [_location(task), _etag(task), *left]
    if accepted.replayed:
        headers.append(_REPLAYED)
    return Answer(task.to_json(), status=HTTPStatus.ACCEPTED, headers=headers)


def _shown(status: Status, conditions: Conditions) -> Response:
    headers: Headers = [(b"etag", status.stamp.etag.encode()), _PRIVATE, (_FROM, status.source.encode())]
    if not status.is_final:
        headers.append(_POLL_AGAIN)
    if conditions.match(status.stamp):
        return NotModified(headers)
    return Answer(status.body, headers=headers)


def _idempotency_key(request: Request) -> str | None:
    value = header(request.scope, b"idempotency-key")
    return None if value is None else value.decode("latin-1")


def _location(task: Task) -> tuple[bytes, bytes]:
    return b"location", b"/v1/tasks/" + task.public_id.encode()


def _etag(task: Task) -> tuple[bytes, bytes]:
    return b"etag", task.stamp.etag.encode()
