"""`/v1/admin/capabilities`: how discoveries stand, asking for new ones, and what operators say about models."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from core.capabilities.directory import Capabilities
from core.capabilities.documents import discovery_documents
from core.capabilities.listing import LONGEST_ID
from core.capabilities.model import Ability, Answer
from core.capabilities.overrides import LONGEST_NOTE, Overrides
from core.capabilities.requests import DiscoveryRequests, Requested
from core.errors import InvalidRequest
from web.admin import Admin, AdminBody, answer, nothing
from web.openapi_admin import (
    TEXT,
    TIME,
    WHOLE,
    YES_OR_NO,
    a_list,
    admin_route,
    an_object,
    answered,
    or_null,
    query_parameter,
)

_ABILITIES = [ability.value for ability in Ability]
_OVERRIDE = an_object(
    {
        "provider": or_null({**TEXT, "description": "null: every provider."}),
        "model": TEXT,
        "ability": {"enum": _ABILITIES},
        "answer": {"enum": [found.value for found in Answer]},
        "note": TEXT,
        "created_at": TIME,
    }
)
_PROVIDER = an_object(
    {
        "provider": TEXT,
        "enabled": YES_OR_NO,
        "models": WHOLE,
        "discovered_at": or_null(TIME),
        "age_s": or_null({**WHOLE, "description": "Of the list that is served."}),
        "error": or_null({**TEXT, "description": "Why a later discovery failed."}),
        "failed_at": or_null(TIME),
        "requested_at": or_null(TIME),
    }
)
_TASK = an_object({"provider": TEXT, "task_id": TEXT, "is_new": YES_OR_NO})

SHOW = admin_route(
    operation="showCapabilities",
    summary="How the discovery of each provider stands, and all overrides",
    answers={200: answered("Both.", an_object({"providers": a_list(_PROVIDER), "overrides": a_list(_OVERRIDE)}))},
)


class RefreshBody(AdminBody):
    provider: str | None = Field(default=None, min_length=1, max_length=100, description="null: every enabled one.")


class OverrideBody(AdminBody):
    model: str = Field(min_length=1, max_length=LONGEST_ID)
    # Strict validation takes no text for an enum; a word of the wire is one.
    ability: Ability = Field(strict=False)
    answer: Answer = Field(strict=False)
    provider: str | None = Field(default=None, min_length=1, max_length=100, description="null: every provider.")
    note: str | None = Field(default=None, max_length=LONGEST_NOTE, description="Why, for other operators.")


REFRESH = admin_route(
    operation="refreshCapabilities",
    summary="Ask providers what they serve, as a task",
    body=RefreshBody,
    answers={
        202: answered("The tasks; one that waited already is not made again.", an_object({"tasks": a_list(_TASK)}))
    },
    problems=[404],
)
OVERRIDE = admin_route(
    operation="overrideCapability",
    summary="Say what a model can do, whatever was discovered",
    body=OverrideBody,
    answers={200: answered("The override.", _OVERRIDE)},
    problems=[404],
)
UNDO = admin_route(
    operation="removeCapabilityOverride",
    summary="Take an override back",
    parameters=[
        {**query_parameter("model", "Its model.", TEXT), "required": True},
        {**query_parameter("ability", "Its ability.", {"enum": _ABILITIES}), "required": True},
        query_parameter("provider", "Its provider, when it is for one.", TEXT),
    ],
    answers={204: answered("It is gone.")},
    problems=[404],
)
_UNDO_PARAMETERS = frozenset({"model", "ability", "provider"})


class AdminCapabilityRoutes:
    def __init__(
        self, admin: Admin, capabilities: Capabilities, overrides: Overrides, discoveries: DiscoveryRequests
    ) -> None:
        self._admin = admin
        self._capabilities = capabilities
        self._overrides = overrides
        self._discoveries = discoveries

    def add_to(self, app: FastAPI) -> None:
        add = app.add_api_route
        add("/v1/admin/capabilities", self.show, methods=["GET"], **SHOW)
        add("/v1/admin/capabilities/refresh", self.refresh, methods=["POST"], **REFRESH)
        add("/v1/admin/capabilities/overrides", self.override, methods=["POST"], **OVERRIDE)
        add("/v1/admin/capabilities/overrides", self.undo, methods=["DELETE"], **UNDO)

    async def show(self, request: Request) -> Response:
        self._admin.enter(request)
        snapshot = await self._admin.call(self._capabilities.refresh, failure="the capabilities were not read")
        said = [override.to_document() for of in snapshot.overrides.values() for override in of.values()]
        return answer({"providers": discovery_documents(snapshot), "overrides": said})

    async def refresh(self, request: Request) -> Response:
        self._admin.enter(request)
        body = await self._admin.body(request, RefreshBody)
        made = await self._admin.call(
            lambda: self._discoveries.request_now(body.provider), failure="it is not known whether tasks were made"
        )
        return answer({"tasks": [requested_document(task) for task in made]}, status=HTTPStatus.ACCEPTED)

    async def override(self, request: Request) -> Response:
        self._admin.enter(request)
        body = await self._admin.body(request, OverrideBody)
        override = await self._admin.call(
            lambda: self._overrides.set(
                body.model, body.ability, body.answer, provider=body.provider or "", note=body.note or ""
            ),
            failure="it is not known whether the override was kept",
        )
        return answer(override.to_document())

    async def undo(self, request: Request) -> Response:
        found = self._admin.enter(request, _UNDO_PARAMETERS)
        for name in ("model", "ability"):
            if name not in found:
                raise InvalidRequest(f"{name}: required", field=name)
        if found["ability"] not in _ABILITIES:
            raise InvalidRequest(f"ability: must be one of {', '.join(_ABILITIES)}", field="ability")
        await self._admin.call(
            lambda: self._overrides.remove(
                found["model"], Ability(found["ability"]), provider=found.get("provider", "")
            ),
            failure="it is not known whether the override was removed",
        )
        return nothing()


def requested_document(task: Requested) -> dict[str, object]:
    return {"provider": task.provider, "task_id": task.task_id, "is_new": task.is_new}
