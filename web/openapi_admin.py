"""
Descriptions of the admin API for `/openapi.json`: each route file says what its endpoints take and answer.

    LIST = admin_route(operation="listJobs", summary="All jobs", answers={200: answered("The jobs.", schema)})
    app.add_api_route("/v1/admin/jobs", self.list, methods=["GET"], **LIST)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel
from starlette.responses import Response

Json = dict[str, Any]  # OpenAPI documents are open-ended by nature

_BODY_PROBLEMS = (400, 408, 413, 415)
_MEANINGS = {
    400: "The body is not JSON.",
    401: "Not the admin key.",
    403: "The address is banned or refused by an IP filter, or no admin key is set for this server.",
    404: "There is none of this name or id.",
    408: "The body did not arrive in time.",
    409: "The present state does not allow it.",
    412: "It is not the version of If-Match any more.",
    413: "The body is too large.",
    415: "The body is not sent as plain JSON.",
    422: "A field or parameter is wrong; `field` names it. Nothing was changed.",
    503: "Try again later: the truth could not be read or written in time.",
}
_HEADERS: dict[int, Json] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
}


def admin_route(
    *,
    operation: str,
    summary: str,
    answers: Mapping[int, Json],
    problems: Sequence[int] = (),
    parameters: Sequence[Json] = (),
    body: type[BaseModel] | None = None,
) -> Json:
    """
    Arguments of `add_api_route` but for path, endpoint and method.

    Args:
        answers: by status, the first is the usual one; see `answered`.
        problems: statuses beside 401, 403, 422, 503 and those of a body, e.g. 404.
    """
    extra: Json = {"security": [{"adminKey": []}]}
    if parameters:
        extra["parameters"] = list(parameters)
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema_of(body)}}}
    refusals = sorted({*problems, 401, 403, 422, 503, *(_BODY_PROBLEMS if body is not None else ())})
    return {
        "operation_id": operation,
        "summary": summary,
        "tags": ["admin"],
        "status_code": next(iter(answers)),
        "responses": {**answers, **{status: _refused(status) for status in refusals}},
        "response_class": Response,
        "response_model": None,
        "openapi_extra": extra,
    }


def answered(description: str, schema: Json | None = None, *, headers: Json | None = None) -> Json:
    """One answer; no schema: it has no body."""
    found: Json = {"description": description}
    if schema is not None:
        found["content"] = {"application/json": {"schema": schema}}
    if headers:
        found["headers"] = headers
    return found


def an_object(properties: Json, *, required: Sequence[str] | None = None) -> Json:
    """A JSON object with these members and no others; all are always there unless `required` says which."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else list(required),
        "additionalProperties": False,
    }


def a_list(of: Json) -> Json:
    return {"type": "array", "items": of}


def or_null(schema: Json) -> Json:
    return {"oneOf": [schema, {"type": "null"}]}


def path_parameter(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "description": description, "required": True, "schema": schema}


def query_parameter(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": description, "required": False, "schema": schema}


TEXT: Json = {"type": "string"}
TIME: Json = {"type": "string", "format": "date-time"}
WHOLE: Json = {"type": "integer"}
NUMBER: Json = {"type": "number"}
YES_OR_NO: Json = {"type": "boolean"}


def schema_of(model: type[BaseModel]) -> Json:
    """The model's schema in one piece: a reference to a part of its own would not be found inside the document."""
    schema = model.model_json_schema()
    parts: Json = schema.pop("$defs", {})
    whole: Json = _inlined(schema, parts)
    return whole


def _inlined(value: Any, parts: Json) -> Any:
    if isinstance(value, dict):
        found = cast("Json", value)
        if "$ref" in found:
            return _inlined(parts[str(found["$ref"]).rpartition("/")[2]], parts)
        return {name: _inlined(inner, parts) for name, inner in found.items()}
    if isinstance(value, list):
        return [_inlined(inner, parts) for inner in cast("Sequence[Any]", value)]
    return value


def _refused(status: int) -> Json:
    refused: Json = {
        "description": _MEANINGS[status],
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in _HEADERS:
        refused["headers"] = _HEADERS[status]
    return refused
