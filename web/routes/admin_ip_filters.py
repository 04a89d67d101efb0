"""`/v1/admin/ip-filters`: which addresses may come in, for everybody and for single keys."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from core.access.addresses.ip_filters import LONGEST_NOTE, IpFilters
from core.access.addresses.ip_rules import Action, Scope
from core.access.addresses.networks import parse_address
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
    or_null,
    path_parameter,
    query_parameter,
)

_PATH = "/v1/admin/ip-filters"
_KEY_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_PAGED = frozenset({"limit", "cursor", "key_id"})
_CHECKED = frozenset({"ip", "key_id"})

# Strict validation takes no text for an enum; a word of the wire is one.
ActionWord = Annotated[
    Action, Field(strict=False, description="deny wins; once a scope has an allow rule, an address must match one.")
]
Cidr = Annotated[
    str,
    Field(max_length=100, description="An IPv4 or IPv6 address or CIDR without bits behind its prefix."),
]
KeyWord = Annotated[str, Field(max_length=32, description="Public id of the virtual key it is for; null: everybody.")]
Note = Annotated[str, Field(max_length=LONGEST_NOTE, description="For people.")]


class NewIpFilterBody(AdminBody):
    """Null is the same as absent for all that is optional."""

    action: ActionWord
    cidr: Cidr
    key_id: KeyWord | None = None
    enabled: bool | None = Field(default=None, description="true when absent.")
    note: Note | None = None


class IpFilterPatch(AdminBody):
    """What is absent stays; `key_id` as null makes it a rule for everybody, other nulls are the same as absent."""

    action: ActionWord | None = None
    cidr: Cidr | None = None
    key_id: KeyWord | None = None
    enabled: bool | None = None
    note: Note | None = None


_ID = path_parameter("id", "Its id.", {**TEXT, "format": "uuid"})
_KEY_PARAMETER = query_parameter("key_id", "Public id of a virtual key.", TEXT)
_IP_FILTER = an_object(
    {
        "id": TEXT,
        "action": {"enum": [str(action) for action in Action]},
        "cidr": {**TEXT, "description": "Normalised: IPv4 inside IPv6 as IPv4; an address as a network of one."},
        "key_id": or_null(TEXT),
        "enabled": YES_OR_NO,
        "note": TEXT,
        "version": WHOLE,
        "created_at": TIME,
        "changed_at": TIME,
    }
)
_VERDICT = an_object(
    {
        "allowed": YES_OR_NO,
        "rule": or_null({**TEXT, "description": "Id of the rule that decided."}),
        "action": or_null({"enum": [str(action) for action in Action]}),
        "scope": or_null(
            {
                "enum": [str(scope) for scope in Scope],
                "description": "Without a rule: it has allow rules, and the address matches none of them.",
            }
        ),
    }
)

CREATE = admin_route(
    operation="createIpFilter",
    summary="Add a rule; every process follows it within milliseconds, five seconds at the latest",
    body=NewIpFilterBody,
    answers={201: answered("It is in force.", _IP_FILTER, headers={"Location": {"schema": TEXT}})},
    problems=[409],
)
LIST = admin_route(
    operation="listIpFilters",
    summary="A page of the rules, oldest first",
    parameters=[*PAGE, _KEY_PARAMETER],
    answers={200: answered("The rules.", page_of("ip_filters", _IP_FILTER))},
)
CHECK = admin_route(
    operation="checkIpFilters",
    summary="What the door would say of an address, by the same function",
    parameters=[{**query_parameter("ip", "An address.", TEXT), "required": True}, _KEY_PARAMETER],
    answers={200: answered("The decision, and what made it.", _VERDICT)},
)
SHOW = admin_route(
    operation="getIpFilter",
    summary="A rule",
    parameters=[_ID],
    answers={200: answered("The rule.", _IP_FILTER)},
    problems=[404],
)
UPDATE = admin_route(
    operation="updateIpFilter",
    summary="Change, enable or disable a rule",
    parameters=[_ID],
    body=IpFilterPatch,
    answers={200: answered("As it is now.", _IP_FILTER)},
    problems=[404, 409],
)
DELETE = admin_route(
    operation="deleteIpFilter",
    summary="Remove a rule",
    parameters=[_ID],
    answers={204: answered("It is gone.")},
    problems=[404],
)


class AdminIpFilterRoutes:
    def __init__(self, admin: Admin, ip_filters: IpFilters) -> None:
        self._admin = admin
        self._ip_filters = ip_filters

    def add_to(self, app: FastAPI) -> None:
        add, one = app.add_api_route, _PATH + "/{id}"
        add(_PATH, self.create, methods=["POST"], **CREATE)
        add(_PATH, self.list, methods=["GET"], **LIST)
        add(_PATH + "/check", self.check, methods=["GET"], **CHECK)
        add(one, self.show, methods=["GET"], **SHOW)
        add(one, self.update, methods=["PATCH"], **UPDATE)
        add(one, self.delete, methods=["DELETE"], **DELETE)

    async def create(self, request: Request) -> Response:
        self._admin.enter(request)
        body = await self._admin.body(request, NewIpFilterBody)
        made = await self._admin.call(
            lambda: self._ip_filters.create(
                body.action,
                body.cidr,
                key_id=body.key_id,
                enabled=body.enabled is not False,
                note=body.note or "",
            ),
            failure="it is not known whether the rule was added",
        )
        location = (b"location", f"{_PATH}/{made.id}".encode())
        return answer(made.to_document(), status=HTTPStatus.CREATED, headers=[location])

    async def list(self, request: Request) -> Response:
        found = self._admin.enter(request, _PAGED)
        limit, cursor, key_id = parameters.page_size(found), parameters.cursor(found), _key_id(found)
        page = await self._admin.call(
            lambda: self._ip_filters.page(limit=limit, cursor=cursor, key_id=key_id), failure="the rules were not read"
        )
        return answer({"ip_filters": [each.to_document() for each in page.filters], "next_cursor": page.next_cursor})

    async def check(self, request: Request) -> Response:
        found = self._admin.enter(request, _CHECKED)
        address = parse_address(found.get("ip", ""), field="ip")
        return answer(self._ip_filters.check(address, _key_id(found)).to_document())

    async def show(self, request: Request) -> Response:
        self._admin.enter(request)
        filter_id: str = request.path_params["id"]
        found = await self._admin.call(lambda: self._ip_filters.get(filter_id), failure="the rule was not read")
        return answer(found.to_document())

    async def update(self, request: Request) -> Response:
        self._admin.enter(request)
        filter_id: str = request.path_params["id"]
        body = await self._admin.body(request, IpFilterPatch)
        changes = {name: value for name in IpFilterPatch.model_fields if (value := getattr(body, name)) is not None}
        if "key_id" in body.model_fields_set:
            changes["key_id"] = body.key_id
        found = await self._admin.call(
            lambda: self._ip_filters.update(filter_id, **changes),
            failure="it is not known whether the rule was changed",
        )
        return answer(found.to_document())

    async def delete(self, request: Request) -> Response:
        self._admin.enter(request)
        filter_id: str = request.path_params["id"]
        await self._admin.call(
            lambda: self._ip_filters.delete(filter_id), failure="it is not known whether the rule was removed"
        )
        return nothing()


def _key_id(found: parameters.Parameters) -> str | None:
    text = found.get("key_id")
    if text is not None and not _KEY_ID.fullmatch(text):
        raise InvalidRequest("key_id: the 12 characters after `hr_` in a virtual key", field="key_id")
    return text
