"""Descriptions of `/v1/models` for `/openapi.json`."""

from __future__ import annotations

from starlette.responses import Response

from core.capabilities.model import Ability, Answer, Source
from web.openapi_admin import TEXT, WHOLE, Json, a_list, an_object, answered, or_null, path_parameter

_REFUSALS = {
    401: "No key, or not a valid one.",
    404: "No provider lists it.",
    422: "A parameter is wrong; `field` names it.",
    503: "Try again later: the truth could not be read in time.",
}
_PROBLEM: Json = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}

_CAN = an_object(
    {
        "answer": {"enum": [answer.value for answer in Answer]},
        "source": {"enum": [*(source.value for source in Source), None], "description": "null: nobody told."},
        "age_s": or_null({**WHOLE, "minimum": 0, "description": "Since when it is known to be so."}),
    }
)
_MODEL = an_object(
    {
        "id": TEXT,
        "object": {"const": "model"},
        "created": WHOLE,
        "owned_by": TEXT,
        "capabilities": an_object({ability.value: _CAN for ability in Ability}),
        "context_tokens": or_null(WHOLE),
        "pricing": or_null({"type": "object", "description": "See docs/capabilities.md; null: unpriced."}),
    }
)


def _route(operation: str, summary: str, schema: Json, problems: tuple[int, ...], parameters: list[Json]) -> Json:
    """Arguments of `add_api_route` but for path, endpoint and method."""
    refusals = {status: {"description": _REFUSALS[status], "content": _PROBLEM} for status in problems}
    return {
        "operation_id": operation,
        "summary": summary,
        "responses": {200: answered(summary, schema), **refusals},
        "response_class": Response,
        "response_model": None,
        "openapi_extra": {"security": [{"virtualKey": []}], **({"parameters": parameters} if parameters else {})},
    }


MODELS = _route(
    "listModels",
    "The models the providers list, and what each can do",
    an_object({"object": {"const": "list"}, "data": a_list(_MODEL)}),
    (401, 422, 503),
    [],
)
MODEL = _route(
    "getModel",
    "One model, and what it can do",
    _MODEL,
    (401, 404, 422, 503),
    [path_parameter("model", "Its id, slashes and all.", TEXT)],
)
