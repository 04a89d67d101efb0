"""What the door for other gateways takes and answers, and its description for `/openapi.json`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from core.access.keys.authenticator import LONGEST_KEY, Outcome
from web.admin import AdminBody
from web.openapi_admin import (
    TEXT,
    TIME,
    WHOLE,
    YES_OR_NO,
    Json,
    admin_route,
    an_object,
    answered,
    or_null,
    query_parameter,
)

CODES = [
    *(outcome.value for outcome in Outcome),
    "banned",
    "address_refused",
    "model_not_allowed",
    "rate_limited",
    "over_limit",
]


class VerifyBody(AdminBody):
    key: Annotated[str, Field(max_length=LONGEST_KEY)] = Field(description="The virtual key as its holder showed it.")
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="The model that is asked for; held against the key's `allowed_models`."
    )
    ip: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Address of whoever showed the key; only with the admin key."
    )
    cost: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None, description="What the request will cost at most, US dollars."
    )
    tokens: Annotated[int, Field(ge=0, le=10**12)] | None = Field(
        default=None, description="Tokens it will take; counted against the key's `tpm`."
    )


_LIMITS = an_object({name: or_null({**WHOLE, "minimum": 1}) for name in ("rpm", "rpd", "tpm", "concurrency")})
_VERIFIED = an_object(
    {
        "valid": YES_OR_NO,
        "code": {"enum": CODES, "description": "Why; `ok` when it is valid."},
        "key_id": or_null(TEXT),
        "name": or_null(TEXT),
        "limits": or_null(_LIMITS),
        "remaining": {"type": "object", "additionalProperties": WHOLE, "description": "What is left, by limit."},
        "reset_at": or_null({**TIME, "description": "When the tightest limit is whole again."}),
        "retry_after_s": or_null({**WHOLE, "description": "Refused by a limit: when to ask again."}),
    }
)
VERIFY = admin_route(
    operation="verifyKey",
    summary="Whether a key may do what another gateway is asked for",
    answers={200: answered("Valid or not; both are answers.", _VERIFIED)},
    body=VerifyBody,
)
VERIFY["openapi_extra"]["security"] = [{"adminKey": []}, {}]

_PROBLEM: Json = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REFUSALS = {
    401: "No key, or not a valid one.",
    402: "The budget is spent.",
    403: "Banned, refused by an IP filter, or not allowed to this key.",
    422: "A parameter is wrong.",
    429: "A limit is reached; `Retry-After` says when to come again.",
    503: "Try again later: the truth could not be read in time.",
}
AUTH: Json = {
    "operation_id": "forwardAuth",
    "summary": "The door for the forward-auth of a proxy",
    "responses": {
        200: answered(
            "Let it in.",
            an_object({"key_id": TEXT}),
            headers={"X-Headrace-Key-Id": {"description": "Whose key it is.", "schema": TEXT}},
        ),
        **{status: {"description": text, "content": _PROBLEM} for status, text in _REFUSALS.items()},
    },
    "response_class": Response,
    "response_model": None,
    "openapi_extra": {
        "security": [{"virtualKey": []}],
        "parameters": [
            query_parameter(
                "codes",
                "`nginx`: answer only 200, 401 and 403, with the true status in `X-Headrace-Status`.",
                {"enum": ["nginx"]},
            )
        ],
    },
}
