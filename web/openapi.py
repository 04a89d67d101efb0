"""
What `/openapi.json` says: the routes' own descriptions, and schemas made from the models that validate.

Each task type of this server, a user's own too, has its input spelled out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi.openapi.utils import get_openapi
from starlette.responses import Response
from starlette.routing import BaseRoute

from core.task_types.spec import TaskSpec, TaskTypes
from core.tasks.acceptance import BULK, MAX_IDEMPOTENCY_KEY
from core.tasks.model import TaskState
from core.tasks.queries import MAX_PAGE
from core.tasks.status import Source
from web.intake import NewTaskBody
from web.parameters import DEFAULT_PAGE, MOST_WAIT_S

Json = dict[str, Any]  # OpenAPI documents are open-ended by nature

Responses = dict[int | str, Json]

VERSION = "1"
_REF = "#/components/schemas/"


def document(routes: Iterable[BaseRoute], types: TaskTypes) -> Json:
    """The whole description, OpenAPI 3.1."""
    described: Json = get_openapi(
        title="Headrace",
        version=VERSION,
        summary="Long tasks of an LLM gateway: enqueue, run, poll.",
        routes=list(routes),
    )
    components = described.setdefault("components", {})
    components["schemas"] = _schemas(types)
    components["securitySchemes"] = {
        "virtualKey": {"type": "http", "scheme": "bearer", "description": "A virtual key, `hr_...`."},
        "adminKey": {"type": "http", "scheme": "bearer", "description": "The admin key, `HEADRACE_ADMIN_KEY`."},
    }
    return described


def _ref(name: str) -> Json:
    return {"$ref": _REF + name}


def _content(name: str, media: str = "application/json") -> Json:
    return {media: {"schema": _ref(name)}}


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
        _parameter("state", "query", "Only tasks in this state.", _ref("TaskState")),
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
    parameters=[_TASK_ID],
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


def _schemas(types: TaskTypes) -> Json:
    schemas: Json = {}
    schemas["NewTask"] = {
        "oneOf": [_ref(_new_task(spec, schemas)) for spec in types],
        "discriminator": {
            "propertyName": "type",
            "mapping": {spec.name: _REF + _variant_name(spec) for spec in types},
        },
    }
    schemas["NewTasks"] = _object(
        {"tasks": {"type": "array", "minItems": 1, "maxItems": BULK, "items": _ref("NewTask")}}
    )
    schemas["TaskState"] = {"type": "string", "enum": [str(state) for state in TaskState]}
    schemas["Task"] = _task()
    schemas["Tasks"] = _object({"tasks": {"type": "array", "items": _ref("Task")}})
    schemas["TaskPage"] = _object(
        {
            "tasks": {"type": "array", "items": _ref("Task")},
            "next_cursor": {"type": ["string", "null"], "description": "null: this is the last page."},
        }
    )
    schemas["Problem"] = _problem()
    schemas["Health"] = _object({"status": {"type": "string"}})
    return schemas


def _variant_name(spec: TaskSpec) -> str:
    return f"NewTask-{spec.name}"


def _new_task(spec: TaskSpec, schemas: Json) -> str:
    """The envelope with this type's input; returns the schema's name."""
    envelope = NewTaskBody.model_json_schema()
    properties = envelope["properties"]
    properties["type"] = {"const": spec.name}
    properties["input"] = _ref(f"Input-{spec.name}")
    properties["run_at"]["anyOf"][0]["format"] = "date-time"
    input_schema = spec.input.model_json_schema(ref_template=f"{_REF}{spec.name}-{{model}}")
    for name, schema in input_schema.pop("$defs", {}).items():
        schemas[f"{spec.name}-{name}"] = schema
    schemas[f"Input-{spec.name}"] = input_schema
    schemas[_variant_name(spec)] = {**envelope, "title": f"{spec.name} task", "description": f"A {spec.name} task."}
    return _variant_name(spec)


def _object(properties: Json, *, required: list[str] | None = None) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def _problem() -> Json:
    text = {"type": "string"}
    properties = {
        "type": text,
        "title": text,
        "status": {"type": "integer"},
        "detail": text,
        "code": {"type": "string", "description": "A stable word for programs."},
        "field": {"type": "string", "description": "What is wrong, e.g. `tasks[3].input.messages[0].role`."},
    }
    required = [name for name in properties if name != "field"]
    return {**_object(properties, required=required), "description": "RFC 9457."}


def _task() -> Json:
    time: Json = {"type": "string", "format": "date-time"}
    time_or_null: Json = {"type": ["string", "null"], "format": "date-time"}
    progress = _object({"percent": {"type": ["number", "null"]}, "message": {"type": ["string", "null"]}})
    error = _object({"code": {"type": "string"}, "message": {"type": "string"}, "retryable": {"type": "boolean"}})
    return _object(
        {
            "id": {"type": "string", "pattern": "^task_[0-9a-f]{32}$"},
            "type": {"type": "string"},
            "queue": {"type": "string"},
            "priority": {"type": "integer", "minimum": 0, "maximum": 9},
            "state": _ref("TaskState"),
            "version": {"type": "integer", "minimum": 1, "description": "+ 1 with every change."},
            "attempt": {"type": "integer", "minimum": 0},
            "max_attempts": {"type": "integer", "minimum": 1},
            "progress": progress,
            "result": {"description": "The provider's answer unchanged, or null."},
            "error": {"oneOf": [error, {"type": "null"}]},
            "retry_of": {"type": ["string", "null"], "description": "Id of the task this one tries again."},
            "created_at": time,
            "run_at": time,
            "started_at": time_or_null,
            "finished_at": time_or_null,
            "metadata": {"type": "object"},
        }
    )
