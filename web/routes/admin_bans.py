"""`/v1/admin/bans`: who is shut out, until when and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from core.access.addresses.bans import LONGEST_REASON, Bans
from core.errors import InvalidRequest
from web import parameters
from web.admin import Admin, AdminBody, answer, nothing
from web.admin_forms import PAGE, page_of
from web.openapi_admin import (
    TEXT,
    TIME,
    WHOLE,
    YES_OR_NO,
    admin_route,
    an_object,
    answered,
    path_parameter,
    query_parameter,
)

_PATH = "/v1/admin/bans"
_PAGED = frozenset({"limit", "cursor", "state"})
_STATES = ("active", "all")
DEFAULT_BAN = timedelta(days=1)


class NewBanBody(AdminBody):
    ip: Annotated[
        str,
        Field(
            max_length=100,
            description="An address, or an IPv6 /64, /56 or /48; an IPv6 address stands for its /64. "
            "Wider networks are for IP filters.",
        ),
    ]
    reason: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON)]
    until: Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description="RFC 3339 with a time zone; a day from now when absent or null."
    )


_BAN = an_object(
    {
        "ip": {**TEXT, "description": "A CIDR, e.g. 203.0.113.7/32."},
        "reason": TEXT,
        "failures": {**WHOLE, "description": "Failed log-ins that led to it; 0: an operator's."},
        "level": {
            **WHOLE,
            "description": "Bans before it within seven days; each lasts twice as long.",
        },
        "created_at": TIME,
        "until": TIME,
        "active": YES_OR_NO,
    }
)
_IP = path_parameter("ip", "As in the list; a slash in it may stay as it is.", TEXT)
_STATE = query_parameter(
    "state", "all: also those that ended within seven days.", {"enum": list(_STATES), "default": "active"}
)

CREATE = admin_route(
    operation="createBan",
    summary="Shut an address out, in the place of any other ban of it",
    body=NewBanBody,
    answers={201: answered("It is in force.", _BAN, headers={"Location": {"schema": TEXT}})},
)
LIST = admin_route(
    operation="listBans",
    summary="A page of the bans in force, by address",
    parameters=[*PAGE, _STATE],
    answers={200: answered("The bans.", page_of("bans", _BAN))},
)
SHOW = admin_route(
    operation="getBan",
    summary="A ban, in force or over",
    parameters=[_IP],
    answers={200: answered("The ban.", _BAN)},
    problems=[404],
)
DELETE = admin_route(
    operation="liftBan",
    summary="End a ban now; the next one of that address is longer all the same",
    parameters=[_IP],
    answers={204: answered("It is lifted.")},
    problems=[404],
)


class AdminBanRoutes:
    def __init__(self, admin: Admin, bans: Bans) -> None:
        self._admin = admin
        self._bans = bans

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route(_PATH, self.create, methods=["POST"], **CREATE)
        app.add_api_route(_PATH, self.list, methods=["GET"], **LIST)
        # A network's text has a slash.
        app.add_api_route(_PATH + "/{ip:path}", self.show, methods=["GET"], **SHOW)
        app.add_api_route(_PATH + "/{ip:path}", self.lift, methods=["DELETE"], **DELETE)

    async def create(self, request: Request) -> Response:
        self._admin.enter(request)
        body = await self._admin.body(request, NewBanBody)
        until = datetime.now(UTC) + DEFAULT_BAN if body.until is None else _time(body.until)
        made = await self._admin.call(
            lambda: self._bans.add(body.ip, body.reason, until), failure="it is not known whether the ban was added"
        )
        location = (b"location", f"{_PATH}/{quote(made.network, safe=':')}".encode())
        return answer(made.to_document(), status=HTTPStatus.CREATED, headers=[location])

    async def list(self, request: Request) -> Response:
        found = self._admin.enter(request, _PAGED)
        limit, cursor = parameters.page_size(found), parameters.cursor(found)
        state = found.get("state", "active")
        if state not in _STATES:
            raise InvalidRequest(f"state: must be one of {', '.join(_STATES)}", field="state")
        page = await self._admin.call(
            lambda: self._bans.page(limit=limit, cursor=cursor, all_of_them=state == "all"),
            failure="the bans were not read",
        )
        return answer({"bans": [row.to_document() for row in page.bans], "next_cursor": page.next_cursor})

    async def show(self, request: Request) -> Response:
        self._admin.enter(request)
        ip: str = request.path_params["ip"]
        row = await self._admin.call(lambda: self._bans.get(ip), failure="the ban was not read")
        return answer(row.to_document())

    async def lift(self, request: Request) -> Response:
        self._admin.enter(request)
        ip: str = request.path_params["ip"]
        await self._admin.call(lambda: self._bans.lift(ip), failure="it is not known whether the ban was lifted")
        return nothing()


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest("until: must be a time like 2026-01-31T12:00:00Z", field="until") from None
