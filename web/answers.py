"""Responses made of bytes that are ready: no rendering, headers as they go over the wire."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")


class Answer(Response):
    """
    Args:
        headers: beside content type and length; names in lower case.
    """

    def __init__(
        self, body: bytes, *, status: HTTPStatus = HTTPStatus.OK, headers: Headers, media: bytes = JSON
    ) -> None:
        # Not the parent's: it would encode each header again for each request.
        self.status_code = status.value
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-type", media),
            (b"content-length", b"%d" % len(body)),
            _NO_SNIFFING,
            *headers,
        ]


class NotModified(Response):
    """304: the headers of the 200 it stands for, and no body."""

    def __init__(self, headers: Headers) -> None:
        self.status_code = HTTPStatus.NOT_MODIFIED.value
        self.background = None
        self.body = b""
        self.raw_headers = headers
