"""
The door for other gateways: `POST /v1/keys/verify` for programs, `GET /v1/auth` for the forward-auth of proxies.

Both ask in the order of our own API: address, key, what it may do, limits. What cannot be known is 503, and no refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from fastapi import FastAPI, Request
from starlette.responses import Response

from core.access.addresses.addresses import Client
from core.access.forwarded import task_type_of
from core.access.keys.authenticator import Authentication, Outcome
from core.access.keys.model import VirtualKey
from core.access.limits.limits_of import Caller
from core.access.limits.model import Decision
from core.errors import HeadraceError, InvalidRequest, ModelNotAllowed, TypeNotAllowed
from web import parameters
from web.admin import Admin, answer
from web.admin_gate import AdminGate
from web.answers import Answer
from web.bodies import header
from web.door import Door, Visitor
from web.problems import AddressRefused, Banned, problem_of
from web.verification_forms import AUTH, VERIFY, VerifyBody

VERIFY_ROUTE = "/v1/keys/verify"
AUTH_ROUTE = "/v1/auth"
_NGINX_KNOWS = frozenset({200, 401, 403})
_STATUS = b"x-headrace-status"


class VerificationRoutes:
    def __init__(self, door: Door, gate: AdminGate, admin: Admin) -> None:
        self._door = door
        self._gate = gate
        self._admin = admin

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route(VERIFY_ROUTE, self.verify, methods=["POST"], **VERIFY)
        app.add_api_route(AUTH_ROUTE, self.auth, methods=["GET"], **AUTH)

    async def verify(self, request: Request) -> Response:
        is_operator = header(request.scope, b"authorization") is not None
        if is_operator:
            await self._gate.enter(request.scope, VERIFY_ROUTE)
            caller = None
        else:  # the key speaks for itself
            caller = self._door.look(request.scope).client
        body = await self._admin.body(request, VerifyBody)
        if body.ip is not None:
            if not is_operator:
                raise InvalidRequest("ip: only with the admin key may another's address be told", field="ip")
            caller = self._door.client_at(body.ip, field="ip")
        return answer(await self._verified(body, caller, is_operator=is_operator))

    async def _verified(self, body: VerifyBody, client: Client | None, *, is_operator: bool) -> dict[str, object]:
        try:
            if client is not None:
                self._door.check_address(client)
            found = await self._door.authenticate(body.key)
            key = found.key
            if key is None:
                if client is not None:
                    await self._door.fail(client)
                return _refused(found, is_operator=is_operator)
            if client is not None:
                self._door.check_key_filter(client, key)
        except (Banned, AddressRefused) as refusal:
            return _document(refusal.code, None)
        if body.model is not None and not key.allows_model(body.model):
            return _document(ModelNotAllowed.code, key)
        caller = Caller(VERIFY_ROUTE) if client is None else self._door.caller(client, VERIFY_ROUTE)
        return _counted(key, await self._door.decide_for_other(key, caller, tokens=body.tokens or 0))

    async def auth(self, request: Request) -> Response:
        found = parameters.read_parameters(request.scope["query_string"], frozenset({"codes"}))
        codes = found.get("codes")
        if codes not in (None, "nginx"):
            raise InvalidRequest("codes: `nginx`, or leave it out", field="codes")
        try:
            response = await self._auth(request)
        except HeadraceError as error:
            response = problem_of(error)
        if codes is None:
            return response
        response.raw_headers = [*response.raw_headers, (_STATUS, b"%d" % response.status_code)]
        if response.status_code not in _NGINX_KNOWS:
            response.status_code = HTTPStatus.FORBIDDEN.value
        return response

    async def _auth(self, request: Request) -> Response:
        visitor = await self._door.enter(request.scope)
        try:
            response = await self._admitted(request, visitor)
        except HeadraceError as error:  # whose key it is, is known: the proxy's log should show it
            response = problem_of(error)
        response.raw_headers = [*response.raw_headers, (b"x-headrace-key-id", visitor.owner.encode())]
        return response

    async def _admitted(self, request: Request, visitor: Visitor) -> Response:
        task_type = task_type_of(*_original(request))
        if task_type is not None and not visitor.key.allows_type(task_type):
            raise TypeNotAllowed(f"this key may not use {task_type}", field="X-Original-URI")
        left = await self._door.admit(visitor, AUTH_ROUTE)
        return Answer(b'{"key_id":"%s"}' % visitor.owner.encode(), headers=[(b"cache-control", b"no-store"), *left])


def _original(request: Request) -> tuple[str, str]:
    """
    Method and address of the request that the proxy holds.

    From whomever: they can only narrow what is allowed, so a lie is no gain. nginx is told to send the first names,
    Traefik and Caddy send the second by themselves.
    """
    scope = request.scope
    method = header(scope, b"x-original-method") or header(scope, b"x-forwarded-method") or b""
    uri = header(scope, b"x-original-uri") or header(scope, b"x-forwarded-uri") or b""
    return method.decode("latin-1"), uri.decode("latin-1")


def _refused(found: Authentication, *, is_operator: bool) -> dict[str, object]:
    if found.outcome is Outcome.MALFORMED or found.refused is None:
        return _document(found.outcome.value, None)
    return _document(found.outcome.value, found.refused if is_operator else None)


def _counted(key: VirtualKey, decision: Decision) -> dict[str, object]:
    refused = "rate_limited" if decision.can_succeed else "over_limit"
    document = _document("ok" if decision.allowed else refused, key)
    document["remaining"] = {state.name: state.remaining for state in decision.states}
    tightest = decision.refused or min(decision.states, key=lambda state: state.remaining, default=None)
    if tightest is not None and tightest.reset_s:
        at = datetime.fromtimestamp(decision.at, UTC) + timedelta(seconds=tightest.reset_s)
        document["reset_at"] = at.replace(microsecond=0)
    if decision.retry_after_s:
        document["retry_after_s"] = decision.retry_after_s
    return document


def _document(code: str, key: VirtualKey | None) -> dict[str, object]:
    """`{"valid", "code", "key_id", "name", "limits", "remaining", "reset_at", "retry_after_s"}`"""
    limits: Mapping[str, int | None] | None = None if key is None else asdict(key.limits)
    return {
        "valid": code == "ok",
        "code": code,
        "key_id": None if key is None else key.key_id,
        "name": None if key is None else key.name,
        "limits": limits,
        "remaining": {},
        "reset_at": None,
        "retry_after_s": None,
    }
