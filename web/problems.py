"""
Errors as RFC 9457 problem documents: `application/problem+json`, always with `code`, with `field` where there is one.

    {"type": "urn:headrace:problem:invalid_request", "title": "Unprocessable Entity", "status": 422,
     "detail": "input.messages: Field required", "code": "invalid_request", "field": "input.messages"}

A limit that is reached adds `rule`, `limit`, `remaining` and `reset_at`.
Nothing of a request's values is repeated but names and ids, cut to a bounded length (law 12).
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import orjson
from starlette.responses import Response

from core.errors import Conflict, HeadraceError, InvalidRequest, NotAllowed, NotFound, RateLimited, Unavailable
from web.answers import Answer, Headers
from web.limits import headers as limit_headers

MEDIA = b"application/problem+json"
_LONGEST_DETAIL = 500
_LONGEST_FIELD = 200
_BEARER = (b"www-authenticate", b'Bearer realm="headrace"')


class RequestRefused(InvalidRequest):
    """A request that is wrong as HTTP, with the status that says so: 400, 408, 413, 415."""

    def __init__(self, status: HTTPStatus, message: str, *, code: str, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.status = status
        self.code = code


class Unauthenticated(HeadraceError):
    """Proved to be no valid key (law 7); malformed, unknown, wrong and disabled are not told apart."""

    code = "unauthenticated"

    def __init__(self, message: str = "send a valid key as `Authorization: Bearer hr_...`") -> None:
        super().__init__(message)


class Forbidden(HeadraceError):
    """Whoever asks may not have it, whatever key is shown."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class Banned(Forbidden):
    """Too many failed log-ins came from there, or an operator said so; nothing else of the request was looked at."""

    def __init__(self, left_s: int) -> None:
        super().__init__(f"this address is banned for another {left_s} s", code="banned")
        self.retry_after_s = left_s


class AddressRefused(Forbidden):
    """An IP filter does not let this address in."""

    def __init__(self) -> None:
        super().__init__("requests from this address are refused", code="address_refused")


def problem_of(error: Exception) -> Response:
    """The answer to an error; anything that is not ours is a 500 that says nothing."""
    if not isinstance(error, HeadraceError):
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says why", code="internal")
    field: object = getattr(error, "field", None)  # of a wrong field, and of a conflict over one: a name that is taken
    return problem(
        _status_of(error),
        str(error),
        code=error.code,
        field=field if isinstance(field, str) else None,
        headers=_headers_of(error),
        members=_members_of(error),
    )


def _members_of(error: HeadraceError) -> Mapping[str, object]:
    if not isinstance(error, RateLimited):
        return {}
    return {"rule": error.rule, "limit": error.limit, "remaining": error.remaining, "reset_at": error.reset_at}


def _status_of(error: HeadraceError) -> HTTPStatus:
    if isinstance(error, RequestRefused):
        return error.status
    kinds: dict[type[HeadraceError], HTTPStatus] = {
        Unauthenticated: HTTPStatus.UNAUTHORIZED,
        Forbidden: HTTPStatus.FORBIDDEN,
        NotAllowed: HTTPStatus.FORBIDDEN,  # before what it is a kind of
        InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
        NotFound: HTTPStatus.NOT_FOUND,
        Conflict: HTTPStatus.CONFLICT,
        RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
        Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    }
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def _headers_of(error: HeadraceError) -> Headers:
    if isinstance(error, Unauthenticated):
        return [_BEARER]
    if isinstance(error, RateLimited):
        return limit_headers(error.decision)
    if isinstance(error, Unavailable | Banned):
        return [(b"retry-after", b"%d" % error.retry_after_s)]
    return []


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    code: str,
    field: str | None = None,
    headers: Headers | None = None,
    members: Mapping[str, object] | None = None,
) -> Response:
    document: dict[str, object] = {
        "type": f"urn:headrace:problem:{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": _cut(detail, _LONGEST_DETAIL),
        "code": code,
    }
    if field is not None:
        document["field"] = _cut(field, _LONGEST_FIELD)
    document.update(members or {})
    return Answer(orjson.dumps(document, option=orjson.OPT_UTC_Z), status=status, media=MEDIA, headers=headers or [])


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "..."
