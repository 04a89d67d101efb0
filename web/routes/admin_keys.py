"""`/v1/admin/keys`: virtual keys. Their clear form is in the answers of create and rotate, and nowhere else."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus

from fastapi import FastAPI, Request
from starlette.responses import Response

from core.access.keys.documents import key_document, pepper_document
from core.access.keys.fields import GROUP_PATTERN, checked_group, instant_of
from core.access.keys.model import VirtualKey
from core.access.keys.pages import KeyPage
from core.access.keys.virtual_keys import OVERLAP, NewVirtualKey, VirtualKeys
from core.errors import InvalidRequest, KeyChanged
from core.events.access import Limits
from web import parameters
from web.admin import Admin, answer, nothing
from web.admin_forms import PAGE
from web.answers import Headers
from web.bodies import header
from web.key_forms import KEY, KEY_PAGE, NEW_KEY, KeyPatch, NewKeyBody, RotateBody
from web.openapi_admin import TEXT, Json, admin_route, answered, path_parameter, query_parameter
from web.problems import problem

_PATH = "/v1/admin/keys"
_PARAMETERS = frozenset({"limit", "cursor", "group"})

_ID = path_parameter("key_id", "The 12 characters after `hr_` in the key.", TEXT)
_ETAG: Json = {"ETag": {"description": "The version.", "schema": TEXT}}
_LOCATION: Json = {"Location": {"description": "Where it is shown.", "schema": TEXT}}
_IF_MATCH: Json = {
    "name": "If-Match",
    "in": "header",
    "description": "The ETag that the change was made from: 412 when somebody was faster.",
    "required": False,
    "schema": TEXT,
}

CREATE = admin_route(
    operation="createKey",
    summary="Make a virtual key; its clear form is shown this once",
    body=NewKeyBody,
    answers={201: answered("It opens the door.", NEW_KEY, headers={**_LOCATION, **_ETAG})},
)
LIST = admin_route(
    operation="listKeys",
    summary="Virtual keys, oldest first",
    parameters=[
        *PAGE,
        query_parameter("group", "Only the keys of this group.", {"type": "string", "pattern": GROUP_PATTERN}),
    ],
    answers={200: answered("A page.", KEY_PAGE)},
)
SHOW = admin_route(
    operation="getKey",
    summary="A virtual key",
    parameters=[_ID],
    answers={200: answered("The key.", KEY, headers=_ETAG)},
    problems=[404],
)
UPDATE = admin_route(
    operation="updateKey",
    summary="Change a virtual key; null clears a field",
    parameters=[_ID, _IF_MATCH],
    body=KeyPatch,
    answers={200: answered("As it is now.", KEY, headers=_ETAG)},
    problems=[404, 409, 412],
)
DELETE = admin_route(
    operation="deleteKey",
    summary="Refuse a virtual key for good; its tasks stay",
    parameters=[_ID],
    answers={204: answered("It is gone.")},
    problems=[404],
)
DISABLE = admin_route(
    operation="disableKey",
    summary="Refuse a virtual key from now on",
    parameters=[_ID],
    answers={200: answered("As it is now.", KEY, headers=_ETAG)},
    problems=[404],
)
ENABLE = admin_route(
    operation="enableKey",
    summary="Let a disabled virtual key in again",
    parameters=[_ID],
    answers={200: answered("As it is now.", KEY, headers=_ETAG)},
    problems=[404],
)
ROTATE = admin_route(
    operation="rotateKey",
    summary="Give a virtual key a new secret; the one so far works on for a while",
    parameters=[_ID],
    body=RotateBody,
    answers={200: answered("The key with its new clear form.", NEW_KEY, headers=_ETAG)},
    problems=[404],
)
ROTATE["openapi_extra"]["requestBody"]["required"] = False


class AdminKeyRoutes:
    def __init__(self, admin: Admin, keys: VirtualKeys) -> None:
        self._admin = admin
        self._keys = keys

    def add_to(self, app: FastAPI) -> None:
        add, one = app.add_api_route, _PATH + "/{key_id}"
        add(_PATH, self.create, methods=["POST"], **CREATE)
        add(_PATH, self.list, methods=["GET"], **LIST)
        add(one, self.show, methods=["GET"], **SHOW)
        add(one, self.update, methods=["PATCH"], **UPDATE)
        add(one, self.delete, methods=["DELETE"], **DELETE)
        add(one + "/disable", self.disable, methods=["POST"], **DISABLE)
        add(one + "/enable", self.enable, methods=["POST"], **ENABLE)
        add(one + "/rotate", self.rotate, methods=["POST"], **ROTATE)

    async def create(self, request: Request) -> Response:
        self._admin.enter(request)
        body = await self._admin.body(request, NewKeyBody)
        expires_at = None if body.expires_at is None else instant_of(body.expires_at)
        new = await self._admin.call(
            lambda: self._keys.create(
                body.name,
                group=body.group,
                expires_at=expires_at,
                allowed_types=body.allowed_types or (),
                allowed_models=body.allowed_models or (),
                limits=Limits(body.rpm, body.rpd, body.tpm, body.concurrency),
            ),
            failure="it is not known whether the key was made; the list shows it, and it can be deleted",
        )
        location = (b"location", f"{_PATH}/{new.key_id}".encode())
        return _shown_once(new, status=HTTPStatus.CREATED, headers=[location])

    async def list(self, request: Request) -> Response:
        found = self._admin.enter(request, _PARAMETERS)
        limit, cursor, group = parameters.page_size(found), parameters.cursor(found), checked_group(found.get("group"))

        def read() -> tuple[KeyPage, dict[int, int]]:
            return self._keys.page(limit=limit, cursor=cursor, group=group), self._keys.pepper_versions()

        page, versions = await self._admin.call(read, failure="the keys were not read")
        return answer(
            {
                "keys": [key_document(key) for key in page.keys],
                "next_cursor": page.next_cursor,
                "pepper_versions": pepper_document(versions),
            }
        )

    async def show(self, request: Request) -> Response:
        self._admin.enter(request)
        key_id = _key_id(request)
        key = await self._admin.call(lambda: self._keys.get(key_id), failure="the key was not read")
        return _shown(key)

    async def update(self, request: Request) -> Response:
        self._admin.enter(request)
        key_id = _key_id(request)
        body = await self._admin.body(request, KeyPatch)
        changes = body.changes()
        if "enabled" in changes and changes["enabled"] is None:
            raise InvalidRequest("enabled: true or false", field="enabled")
        wanted = _wanted(header(request.scope, b"if-match"))
        version = body.version if wanted is None else wanted
        try:
            key = await self._admin.call(
                lambda: self._keys.update(key_id, if_version=version, **changes),
                failure="it is not known whether the key was changed",
            )
        except KeyChanged as error:
            if wanted is None:
                raise
            return problem(HTTPStatus.PRECONDITION_FAILED, str(error), code=error.code, field="If-Match")
        return _shown(key)

    async def delete(self, request: Request) -> Response:
        self._admin.enter(request)
        key_id = _key_id(request)
        await self._admin.call(lambda: self._keys.delete(key_id), failure="it is not known whether the key was deleted")
        return nothing()

    async def disable(self, request: Request) -> Response:
        self._admin.enter(request)
        key_id = _key_id(request)
        key = await self._admin.call(
            lambda: self._keys.disable(key_id), failure="it is not known whether the key was disabled"
        )
        return _shown(key)

    async def enable(self, request: Request) -> Response:
        self._admin.enter(request)
        key_id = _key_id(request)
        key = await self._admin.call(
            lambda: self._keys.enable(key_id), failure="it is not known whether the key was enabled"
        )
        return _shown(key)

    async def rotate(self, request: Request) -> Response:
        self._admin.enter(request)
        key_id = _key_id(request)
        body = await self._admin.optional_body(request, RotateBody)
        overlap = OVERLAP if body.overlap_s is None else timedelta(seconds=body.overlap_s)
        new = await self._admin.call(
            lambda: self._keys.rotate(key_id, overlap),
            failure="it is not known whether the key was rotated; rotate it again for a secret that is known",
        )
        return _shown_once(new)


def _key_id(request: Request) -> str:
    key_id: str = request.path_params["key_id"]
    return key_id


def _shown(key: VirtualKey) -> Response:
    return answer(key_document(key), headers=[_etag(key)])


def _shown_once(new: NewVirtualKey, *, status: HTTPStatus = HTTPStatus.OK, headers: Headers | None = None) -> Response:
    document = {**key_document(new.key), "key": new.clear_key}
    return answer(document, status=status, headers=[_etag(new.key), *(headers or [])])


def _etag(key: VirtualKey) -> tuple[bytes, bytes]:
    return b"etag", b'"%d"' % key.version


def _wanted(if_match: bytes | None) -> int | None:
    """The version of an If-Match; None: any. One that is not ours is of no version, and never matches."""
    if if_match is None or if_match.strip() == b"*":
        return None
    text = if_match.strip()
    digits = text[1:-1] if len(text) > 2 and text[:1] == text[-1:] == b'"' else b""
    return int(digits) if digits.isdigit() and len(digits) < 10 else 0
