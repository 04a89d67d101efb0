"""`/v1/models`: what the providers list, in OpenAI's shape, and what each model can do."""

from __future__ import annotations

import threading
import time

import orjson
from fastapi import FastAPI, Request
from starlette.responses import Response

from core.capabilities.directory import Capabilities
from core.capabilities.snapshot import Snapshot, model_document, model_documents
from core.errors import NotFound
from web import parameters
from web.answers import Answer, Headers
from web.door import Door
from web.openapi_models import MODEL, MODELS
from web.threads import Threads

SHOWN_AGAIN_S = 1.0  # ages are in seconds; ten thousand models take a twentieth to write down

_PRIVATE = (b"cache-control", b"private, no-cache")
_NO_PARAMETERS: frozenset[str] = frozenset()


class ModelNotFound(NotFound):
    """OpenAI's word for it."""

    code = "model_not_found"


class ModelRoutes:
    """The endpoints; every key sees the same models."""

    def __init__(self, door: Door, capabilities: Capabilities, threads: Threads) -> None:
        self._door = door
        self._capabilities = capabilities
        self._threads = threads
        self._writing = threading.Lock()
        self._written: tuple[Snapshot, float, bytes] | None = None

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/v1/models", self.list, methods=["GET"], **MODELS)
        # An id may hold slashes: openai/gpt-5.
        app.add_api_route("/v1/models/{model:path}", self.show, methods=["GET"], **MODEL)

    async def list(self, request: Request) -> Response:
        left = await self._enter(request, "/v1/models")
        body = await self._threads.run(self._all, failure="the models were not read")
        return Answer(body, headers=[_PRIVATE, *left])

    async def show(self, request: Request) -> Response:
        left = await self._enter(request, "/v1/models/{model}")
        name: str = request.path_params["model"]
        body = await self._threads.run(lambda: self._one(name), failure="the model was not read")
        return Answer(body, headers=[_PRIVATE, *left])

    async def _enter(self, request: Request, route: str) -> Headers:
        visitor = await self._door.enter(request.scope)
        parameters.read_parameters(request.scope["query_string"], _NO_PARAMETERS)
        return await self._door.admit(visitor, route)

    def _all(self) -> bytes:
        snapshot = self._capabilities.current()
        with self._writing:  # many ask together; one of them writes
            if self._written is not None:
                known, until, body = self._written
                if known is snapshot and time.monotonic() < until:
                    return body
            document = {"object": "list", "data": list(model_documents(snapshot))}
            body = orjson.dumps(document, option=orjson.OPT_UTC_Z)
            self._written = snapshot, time.monotonic() + SHOWN_AGAIN_S, body
            return body

    def _one(self, name: str) -> bytes:
        snapshot = self._capabilities.current()
        served = snapshot.listed(name)
        if not served:
            raise ModelNotFound(f"no provider lists the model {name[:200]!r}; GET /v1/models shows those there are")
        return orjson.dumps(model_document(snapshot, name, served), option=orjson.OPT_UTC_Z)
