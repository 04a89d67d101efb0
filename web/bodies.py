"""
Request bodies: read with a bound, parsed strictly, told what is wrong with them and where.

JSON is that of RFC 8259 and I-JSON: UTF-8, no NaN, no lone surrogates, integers of 64 bits. Of members with the same
name the last counts. What a faster parser refuses without saying where is parsed again by a slower one that can.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import cast

import orjson
from starlette.types import Receive, Scope

from core.errors import InvalidRequest
from core.tasks.validation import MAX_DEPTH, check_storable
from web.problems import RequestRefused

BODY_S = 20.0  # a body that trickles longer is given up; at 1 MiB that is 50 kB/s
_MOST_CONTAINERS = MAX_DEPTH + 4  # tasks[], the task and its input lie around what is measured by the task itself
_LONG_NUMBER = re.compile(rb"\d{19}")
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_MOST_DIGITS = 20  # of an integer of 64 bits, sign included
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"\s*(:?)|[\[\]{}]')


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a header; `name` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytes:
    """
    The body of a JSON request.

    Raises:
        RequestRefused: not JSON by its headers, encoded, over the limit, or it does not arrive.
    """
    _check_headers(scope, limit_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestRefused(HTTPStatus.BAD_REQUEST, "the client left", code="incomplete_body")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        raise RequestRefused(
            HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {BODY_S:g} s", code="incomplete_body"
        ) from None


def _check_headers(scope: Scope, limit_bytes: int) -> None:
    content_type = content_length = b""
    for key, value in scope["headers"]:
        if key == b"content-type":
            content_type = value
        elif key == b"content-length":
            content_length = value
        elif key == b"content-encoding" and value.strip().lower() != b"identity":
            raise RequestRefused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "send the body without Content-Encoding",
                code="unsupported_encoding",
                field="Content-Encoding",
            )
    if content_type != b"application/json" and not _is_json(content_type):
        raise RequestRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "send JSON with `Content-Type: application/json`",
            code="unsupported_media_type",
            field="Content-Type",
        )
    if content_length and int(content_length) > limit_bytes:  # the HTTP parser let only digits through
        raise _too_large(limit_bytes)


def _is_json(content_type: bytes) -> bool:
    media, _, parameters = content_type.decode("latin-1").lower().partition(";")
    name, _, value = parameters.partition("=")
    utf8 = name.strip() != "charset" or value.strip().strip('"') in ("utf-8", "utf8", "us-ascii")
    return media.strip() == "application/json" and utf8


def _too_large(limit_bytes: int) -> RequestRefused:
    return RequestRefused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is over {limit_bytes} bytes; split it",
        code="body_too_large",
        field="body",
    )


def parse(body: bytes) -> dict[str, object]:
    """
    The JSON object that the body is.

    Raises:
        InvalidRequest: names the place as well as can be told.
    """
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _diagnose(body, error) from None
    if not isinstance(parsed, dict):
        raise InvalidRequest("the body must be a JSON object", field="body")
    value = cast("dict[str, object]", parsed)
    if body.count(b"[") + body.count(b"{") > _MOST_CONTAINERS and _is_deeper(value, _MOST_CONTAINERS):
        raise _too_deep(body)
    if _LONG_NUMBER.search(body):
        # The fast parser makes a float of a longer integer: the number would come back changed.
        _check_integers(json.loads(body, parse_int=_integer))
    return value


def _is_deeper(value: object, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [inner for outer in level for inner in _children(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def _diagnose(body: bytes, error: orjson.JSONDecodeError) -> InvalidRequest:
    """Why the body is refused; the fast parser's message says where, and nothing of what stands there."""
    if not body:
        return RequestRefused(HTTPStatus.BAD_REQUEST, "the body is empty", code="malformed_json", field="body")
    try:
        value = json.loads(body, parse_int=_integer)
        check_storable(value, field="")
        _check_integers(value)
    except InvalidRequest as found:
        field = (found.field or "").removeprefix(".") or "body"
        return InvalidRequest(f"{field}: {str(found).rpartition(': ')[2]}", field=field)
    except RecursionError:
        return _too_deep(body)
    except ValueError:  # not JSON by any reading, or not UTF-8
        pass
    return RequestRefused(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}", code="malformed_json", field="body")


def _too_deep(body: bytes) -> InvalidRequest:
    """Names the member of the body in which the limit is passed."""
    depth, member = 0, b"body"
    for token in _TOKENS.finditer(body):
        match token.group()[:1]:
            case b"{" | b"[":
                depth += 1
                if depth > _MOST_CONTAINERS:
                    break
            case b"}" | b"]":
                depth -= 1
            case _:
                if depth == 1 and token.group(1):
                    member = token.group()[1:].rpartition(b'"')[0]
    field = member.decode("utf-8", "replace")
    return InvalidRequest(f"{field}: nested deeper than {MAX_DEPTH} levels", field=field)


class _TooLarge(int):
    """Stands for an integer that does not fit in 64 bits, while its place is looked for."""


def _check_integers(value: object) -> None:
    place = _place_of_large(value, "")
    if place is not None:
        field = place.removeprefix(".") or "body"
        raise InvalidRequest(f"{field}: the integer does not fit in 64 bits; send it as a text", field=field)


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        return _TooLarge()
    number = int(digits)
    return number if _MIN_INTEGER <= number <= _MAX_INTEGER else _TooLarge()


def _place_of_large(value: object, place: str) -> str | None:
    if isinstance(value, _TooLarge):
        return place
    inner: Iterable[tuple[str, object]] = ()
    if isinstance(value, dict):
        inner = ((f"{place}.{key}", child) for key, child in cast("dict[str, object]", value).items())
    elif isinstance(value, list):
        inner = ((f"{place}[{number}]", child) for number, child in enumerate(cast("list[object]", value)))
    return next((found for at, child in inner if (found := _place_of_large(child, at)) is not None), None)
