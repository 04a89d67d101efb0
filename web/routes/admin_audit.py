"""`/v1/admin/audit`: what operators did."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import Response

from core.access.audit import ADMIN_KEY, COMMAND_LINE, AuditLog
from web import parameters
from web.admin import Admin, answer
from web.admin_forms import PAGE, page_of
from web.openapi_admin import TEXT, TIME, admin_route, an_object, answered, or_null

_PAGED = frozenset({"limit", "cursor"})

_ACT = an_object(
    {
        "id": TEXT,
        "at": TIME,
        "actor": {"enum": [ADMIN_KEY, COMMAND_LINE]},
        "address": or_null({**TEXT, "description": "Of the client; null: the command line."}),
        "action": {**TEXT, "description": "Method and route, or the words of the command."},
        "subject": or_null({**TEXT, "description": "What it was done to: a name or an id."}),
        "outcome": or_null(
            {**TEXT, "description": "HTTP status, or done / failed; null: not known, its process died meanwhile."}
        ),
    }
)
LIST = admin_route(
    operation="listActs",
    summary="A page of what operators did, newest first; kept for a year",
    parameters=[*PAGE],
    answers={200: answered("The acts.", page_of("acts", _ACT))},
)


class AdminAuditRoutes:
    def __init__(self, admin: Admin, audit: AuditLog) -> None:
        self._admin = admin
        self._audit = audit

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/v1/admin/audit", self.list, methods=["GET"], **LIST)

    async def list(self, request: Request) -> Response:
        found = self._admin.enter(request, _PAGED)
        limit, cursor = parameters.page_size(found), parameters.cursor(found)
        page = await self._admin.call(
            lambda: self._audit.page(limit=limit, cursor=cursor), failure="the audit log was not read"
        )
        return answer({"acts": [act.to_document() for act in page.acts], "next_cursor": page.next_cursor})
