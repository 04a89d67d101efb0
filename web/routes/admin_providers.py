"""`/v1/admin/providers`: who the workers call. A key that was given is never shown again."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from core.providers.model import (
    DEFAULT_PRIORITY,
    HIGHEST_PRIORITY,
    LONGEST_KEY,
    LONGEST_MODEL,
    LONGEST_URL,
    MOST_PATTERNS,
    OPENAI,
    KeySource,
    NewProvider,
    ProviderChange,
    ProviderRow,
)
from core.providers.table import Providers
from core.providers.trial import Trial, try_provider
from core.sealing import Unsealable
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
    path_parameter,
)

_PATH = "/v1/admin/providers"

Url = Annotated[str, Field(max_length=LONGEST_URL, description="http or https, e.g. https://host/v1.")]
ApiKey = Annotated[str, Field(max_length=LONGEST_KEY, description="Kept encrypted, never shown again.")]
Variable = Annotated[str, Field(max_length=128, description="Environment variable of the workers that holds the key.")]
Priority = Annotated[int, Field(ge=0, le=HIGHEST_PRIORITY, description="Lower is asked first.")]
Models = Annotated[
    list[Annotated[str, Field(max_length=LONGEST_MODEL)]],
    Field(max_length=MOST_PATTERNS, description="What it may be asked for, `gpt-*` by beginning; empty: everything."),
]


class NewProviderBody(AdminBody):
    """Null is the same as absent for all that is optional."""

    name: Annotated[str, Field(description="Lower-case letters, digits, `.`, `_` and `-`, 63 at most.")]
    base_url: Url
    kind: str | None = Field(default=None, description=f"`{OPENAI}`, which is also what it is when absent.")
    api_key: ApiKey | None = None
    api_key_env: Variable | None = None
    enabled: bool | None = Field(default=None, description="true when absent.")
    priority: Priority | None = Field(default=None, description=f"{DEFAULT_PRIORITY} when absent.")
    models: Models | None = None


class ProviderPatch(AdminBody):
    """What is absent stays; `api_key` or `api_key_env` as null forgets the key there is."""

    base_url: Url | None = None
    api_key: ApiKey | None = None
    api_key_env: Variable | None = None
    enabled: bool | None = None
    priority: Priority | None = None
    models: Models | None = None


_NAME = path_parameter("name", "Its name.", TEXT)
_PROVIDER = an_object(
    {
        "name": TEXT,
        "kind": TEXT,
        "base_url": TEXT,
        "api_key": {"enum": [str(source) for source in KeySource], "description": "Where its key comes from."},
        "api_key_env": or_null(TEXT),
        "enabled": YES_OR_NO,
        "priority": WHOLE,
        "models": a_list(TEXT),
        "source": {"enum": ["table", "settings"], "description": "settings: HEADRACE_PROVIDER_URL; it has no row."},
        "version": WHOLE,
        "created_at": or_null(TIME),
        "changed_at": or_null(TIME),
        "discovered_at": or_null(TIME),
        "discovery_error": or_null(TEXT),
    }
)
_TRIAL = an_object(
    {
        "name": TEXT,
        "ok": YES_OR_NO,
        "latency_ms": WHOLE,
        "models": or_null({**WHOLE, "description": "How many it lists."}),
        "code": or_null(TEXT),
        "error": or_null(TEXT),
    }
)

CREATE = admin_route(
    operation="createProvider",
    summary="Add a provider",
    body=NewProviderBody,
    answers={201: answered("It is asked from now on.", _PROVIDER, headers={"Location": {"schema": TEXT}})},
    problems=[409],
)
LIST = admin_route(
    operation="listProviders",
    summary="All providers, in the order in which they are asked",
    answers={200: answered("The providers.", an_object({"providers": a_list(_PROVIDER)}))},
)
SHOW = admin_route(
    operation="getProvider",
    summary="A provider",
    parameters=[_NAME],
    answers={200: answered("The provider.", _PROVIDER)},
    problems=[404],
)
UPDATE = admin_route(
    operation="updateProvider",
    summary="Change, enable or disable a provider; workers follow within five seconds",
    parameters=[_NAME],
    body=ProviderPatch,
    answers={200: answered("As it is now.", _PROVIDER)},
    problems=[404, 409],
)
DELETE = admin_route(
    operation="deleteProvider",
    summary="Forget a provider, its key and what was discovered of it",
    parameters=[_NAME],
    answers={204: answered("It is gone.")},
    problems=[404, 409],
)
TEST = admin_route(
    operation="testProvider",
    summary="List its models with its key, in at most ten seconds; never a paid call",
    parameters=[_NAME],
    answers={200: answered("What came of it, good or bad.", _TRIAL)},
    problems=[404],
)


class AdminProviderRoutes:
    def __init__(self, admin: Admin, providers: Providers) -> None:
        self._admin = admin
        self._providers = providers

    def add_to(self, app: FastAPI) -> None:
        add, one = app.add_api_route, _PATH + "/{name}"
        add(_PATH, self.create, methods=["POST"], **CREATE)
        add(_PATH, self.list, methods=["GET"], **LIST)
        add(one, self.show, methods=["GET"], **SHOW)
        add(one, self.update, methods=["PATCH"], **UPDATE)
        add(one, self.delete, methods=["DELETE"], **DELETE)
        add(one + "/test", self.test, methods=["POST"], **TEST)

    async def create(self, request: Request) -> Response:
        self._admin.enter(request)
        body = await self._admin.body(request, NewProviderBody)
        new = NewProvider(
            name=body.name,
            base_url=body.base_url,
            kind=OPENAI if body.kind is None else body.kind,
            api_key=body.api_key,
            api_key_env=body.api_key_env,
            enabled=body.enabled is not False,
            priority=DEFAULT_PRIORITY if body.priority is None else body.priority,
            models=tuple(body.models or ()),
        )
        row = await self._admin.call(
            lambda: self._providers.add(new), failure="it is not known whether the provider was added"
        )
        location = (b"location", f"{_PATH}/{row.name}".encode())
        return answer(row.to_document(), status=HTTPStatus.CREATED, headers=[location])

    async def list(self, request: Request) -> Response:
        self._admin.enter(request)
        rows = await self._admin.call(self._providers.list, failure="the providers were not read")
        return answer({"providers": [row.to_document() for row in rows]})

    async def show(self, request: Request) -> Response:
        self._admin.enter(request)
        return answer((await self._row(request)).to_document())

    async def update(self, request: Request) -> Response:
        self._admin.enter(request)
        name: str = request.path_params["name"]
        body = await self._admin.body(request, ProviderPatch)
        given = {key for key in ("api_key", "api_key_env") if key in body.model_fields_set}
        change = ProviderChange(
            base_url=body.base_url,
            api_key=body.api_key,
            api_key_env=body.api_key_env,
            no_key=bool(given) and body.api_key is None and body.api_key_env is None,
            enabled=body.enabled,
            priority=body.priority,
            models=None if body.models is None else tuple(body.models),
        )
        row = await self._admin.call(
            lambda: self._providers.update(name, change), failure="it is not known whether the provider was changed"
        )
        return answer(row.to_document())

    async def delete(self, request: Request) -> Response:
        self._admin.enter(request)
        name: str = request.path_params["name"]
        await self._admin.call(
            lambda: self._providers.remove(name), failure="it is not known whether the provider was removed"
        )
        return nothing()

    async def test(self, request: Request) -> Response:
        self._admin.enter(request)
        row = await self._row(request)
        try:
            key = self._providers.api_key(row)
        except Unsealable as error:
            trial = Trial(0, code="provider_not_configured", error=f"its API key cannot be used: {error}")
        else:
            trial = await try_provider(row.base_url, key)
        return answer(trial.to_document(row.name))

    async def _row(self, request: Request) -> ProviderRow:
        name: str = request.path_params["name"]
        return await self._admin.call(lambda: self._providers.get(name), failure="the provider was not read")
