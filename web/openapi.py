"""
What `/openapi.json` says: the routes' own descriptions, and schemas made from the models that validate.

Each task type of this server, a user's own too, has its input spelled out.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi.openapi.utils import get_openapi
from starlette.responses import Response
from starlette.routing import BaseRoute

from core.task_types.spec import TaskTypes
from core.tasks.acceptance import MAX_IDEMPOTENCY_KEY
from core.tasks.queries import MAX_PAGE
from core.tasks.status import Source
from web.parameters import DEFAULT_PAGE, MOST_WAIT_S
from web.schemas import Json, ref, schemas_of

Responses = dict[int | str, Json]

VERSION = "1"


def document(routes: Iterable[BaseRoute], types: TaskTypes) -> Json:
    """The whole description, OpenAPI 3.1."""
    described: Json = get_openapi(
        title="Headrace",
        version=VERSION,
        summary="Long tasks of an LLM gateway: enqueue, run, poll.",
        routes=list(routes),
    )
    components = described.setdefault("components", {})
    components["schemas"] = schemas_of(types)
    components["securitySchemes"] = {
        "virtualKey": {"type": "http", "scheme": "bearer", "description": "A virtual key, `hr_...`."},
        "adminKey": {"type": "http", "scheme": "bearer", "description": "The admin key, `HEADRACE_ADMIN_KEY`."},
    }
    return described


def _content(name: str, media: str = "application/json") -> Json:
    return {media: {"schema": ref(name)}}


def _problems(*statuses: int) -> Responses:
    meanings = {
        400: "The body is not JSON.",
        401: "No key, or not a valid one.",
        404: "No such task, or another key's.",
        408: "The body did not arrive in time.",
        409: "The task's state, or the use of the Idempotency-Key, does not allow it.",
        413: "The body is too large.",
        415: "The body is not sent as plain JSON.",
        422: "A field is wrong; `field` names it. Nothing was stored.",
        503: "Try again later: the truth could not be read or written in time.",
    }
    headers: dict[int, Json] = {
        401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
        503: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
    }
    return {
        status: {
            "description": meanings[status],
            "content": _content("Problem", "application/problem+json"),
            **({"headers": headers[status]} if status in headers else {}),
        }
        for status in statuses
    }


_TEXT = {"schema": {"type": "string"}}
_ETAG = {"ETag": {"description": "The task's version and the time of its change.", **_TEXT}}
_LOCATION = {"Location": {"description": "Where to poll the task.", **_TEXT}}
_REPLAYED = {
    "Idempotency-Replayed": {
        "description": "`true`: accepted before with this key; these are the tasks as they are now.",
        **_TEXT,
    }
}
_STATUS_HEADERS = {
    **_ETAG,
    "Headrace-Status-From": {
        "description": "Where the answer comes from.",
        "schema": {"enum": [str(source) for source in Source]},
    },
    "Retry-After": {"description": "Not final yet: seconds until the next poll.", "schema": {"type": "integer"}},
}


def _route(
    *,
    operation: str,
    summary: str,
    status: int = 200,
    responses: Responses,
    parameters: list[Json] | None = None,
    body: str | None = None,
    is_open: bool = False,
) -> Json:
    """Arguments of `add_api_route` but for path, endpoint and method."""
    extra: Json = {} if is_open else {"security": [{"virtualKey": []}]}
    if parameters:
        extra["parameters"] = parameters
    if body:
        extra["requestBody"] = {"required": True, "content": _content(body)}
    return {
        "operation_id": operation,
        "summary": summary,
        "status_code": status,
        "responses": responses,
        "response_class": Response,
        "response_model": None,
        "openapi_extra": extra,
    }


def _parameter(name: str, place: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": place, "description": description, "required": place == "path", "schema": schema}


_TASK_ID = _parameter("task_id", "path", "Id of a task.", {"type": "string", "pattern": "^task_[0-9a-f]{32}$"})
_NAME_SCHEMA = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}
_IDEMPOTENCY_KEY = _parameter(
    "Idempotency-Key",
    "header",
    "Your name for this request, remembered for 24 hours: sent again it makes no second task.",
    {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY, "pattern": "^[!-~]([ -~]*[!-~])?$"},
)

CREATE = _route(
    operation="createTask",
    summary="Accept a task",
    status=202,
    parameters=[_IDEMPOTENCY_KEY],
    body="NewTask",
    responses={
        202: {
            "description": "Accepted: it is stored, and reaches exactly one final state.",
            "content": _content("Task"),
            "headers": {**_LOCATION, **_ETAG, **_REPLAYED},
        },
        **_problems(400, 401, 408, 409, 413, 415, 422, 503),
    },
)
CREATE_BATCH = _route(
    operation="createTasks",
    summary="Accept several tasks, all or none",
    status=202,
    parameters=[_IDEMPOTENCY_KEY],
    body="NewTasks",
    responses={
        202: {"description": "Accepted, in this order.", "content": _content("Tasks"), "headers": _REPLAYED},
        **_problems(400, 401, 408, 409, 413, 415, 422, 503),
    },
)
LIST = _route(
    operation="listTasks",
    summary="Your tasks, newest first",
    parameters=[
        _parameter("state", "query", "Only tasks in this state.", ref("TaskState")),
        _parameter("type", "query", "Only tasks of this type.", _NAME_SCHEMA),
        _parameter("queue", "query", "Only tasks of this queue.", _NAME_SCHEMA),
        _parameter(
            "limit",
            "query",
            "Tasks in a page.",
            {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
        ),
        _parameter(
            "cursor", "query", "`next_cursor` of the page before.", {"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"}
        ),
    ],
    responses={
        200: {"description": "A page.", "content": _content("TaskPage")},
        **_problems(401, 422, 503),
    },
)
SHOW = _route(
    operation="getTask",
    summary="The status of a task",
    parameters=[
        _TASK_ID,
        _parameter(
            "wait",
            "query",
            "Seconds to wait: with If-None-Match for the next version, without for the final state.",
            {"type": "integer", "minimum": 0, "maximum": MOST_WAIT_S, "default": 0},
        ),
        _parameter("If-None-Match", "header", "ETags seen before.", {"type": "string"}),
    ],
    responses={
        200: {"description": "The task.", "content": _content("Task"), "headers": _STATUS_HEADERS},
        304: {"description": "Still the version of If-None-Match.", "headers": _STATUS_HEADERS},
        **_problems(401, 404, 422, 503),
    },
)
CANCEL = _route(
    operation="cancelTask",
    summary="Cancel a task",
    parameters=[_TASK_ID],
    responses={
        200: {"description": "It is cancelled.", "content": _content("Task"), "headers": _ETAG},
        202: {
            "description": "A worker runs it and was asked to stop; a finish on its way still wins.",
            "content": _content("Task"),
            "headers": _ETAG,
        },
        **_problems(401, 404, 409, 422, 503),
    },
)
RETRY = _route(
    operation="retryTask",
    summary="Run a failed, cancelled or timed-out task again, as a new task",
    status=202,
    parameters=[_TASK_ID, _IDEMPOTENCY_KEY],
    responses={
        202: {"description": "The new task.", "content": _content("Task"), "headers": {**_LOCATION, **_ETAG}},
        **_problems(401, 404, 409, 422, 503),
    },
)
LIVE = _route(
    operation="live",
    summary="The process answers",
    is_open=True,
    responses={200: {"description": "It does.", "content": _content("Health")}},
)
READY = _route(
    operation="ready",
    summary="The process can accept and answer requests now",
    is_open=True,
    responses={200: {"description": "It can.", "content": _content("Health")}, **_problems(503)},
)
