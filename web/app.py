"""The web process's parts, built once from the application and closed in reverse."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import orjson
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from core.app import App
from core.errors import HeadraceError, Misconfigured
from core.events import capabilities as capability_events
from core.events import providers as provider_events
from core.task_types.spec import TaskTypes
from web.admin import Admin
from web.admin_door import AdminDoor
from web.admin_gate import AdminGate, gated
from web.answers import Answer
from web.door import Door
from web.front import Front, answer_error, answer_http_error
from web.intake import Intake
from web.landing import Landing
from web.limits import WebLimits
from web.openapi import document
from web.revalidation import Revalidation
from web.routes.admin_audit import AdminAuditRoutes
from web.routes.admin_bans import AdminBanRoutes
from web.routes.admin_cache import AdminCacheRoutes
from web.routes.admin_capabilities import AdminCapabilityRoutes
from web.routes.admin_ip_filters import AdminIpFilterRoutes
from web.routes.admin_jobs import AdminJobRoutes
from web.routes.admin_keys import AdminKeyRoutes
from web.routes.admin_providers import AdminProviderRoutes
from web.routes.admin_schedules import AdminScheduleRoutes
from web.routes.health import HealthRoutes
from web.routes.models import ModelRoutes
from web.routes.tasks import TaskRoutes
from web.routes.verification import VerificationRoutes
from web.status import Statuses
from web.status_batch import StatusBatch
from web.threads import Threads
from web.waiting import Waiting
from web.wakeups import WakeUps


@dataclass(frozen=True, slots=True)
class Web:
    """`asgi` is what the server serves; `drain` is called when the process is asked to stop."""

    asgi: Front
    health: HealthRoutes
    waiting: Waiting

    def drain(self) -> None:
        self.health.drain()
        self.waiting.drain()


@asynccontextmanager
async def open_web(app: App) -> AsyncGenerator[Web]:
    """Build everything on the running loop; the wake-ups are heard inside the block."""
    if app.settings.redis_url is None:
        raise Misconfigured("HEADRACE_REDIS_URL: not set")
    redis_url = app.settings.redis_url.get_secret_value()
    is_off = app.cache.is_off
    landing = Landing()
    threads = Threads(landing)
    strangers = Threads(landing, size=2, waiting=64)
    limits = WebLimits(None if is_off else redis_url, app.access.limiter.fallback)
    door = build_door(app, limits, threads, strangers)
    batch = StatusBatch(redis_url, app.status_keys, is_off=is_off)
    instance = app.settings.instance_name

    def changed(_: bytes) -> None:
        app.capabilities.hear()

    wakeups = WakeUps(
        redis_url,
        standing={
            capability_events.channel(instance): app.capabilities.hear_event,
            provider_events.channel(instance): changed,
        },
        on_gap=app.capabilities.hear,
        is_off=is_off,
    )
    statuses = Statuses(app.tasks.statuses, batch, threads)
    waiting = Waiting(statuses, wakeups, app.status_keys)
    health = HealthRoutes(app.check, threads)
    tasks = TaskRoutes(
        door=door,
        intake=Intake(app.tasks, app.types, landing, threads, check_model=app.capabilities.check),
        statuses=statuses,
        waiting=waiting,
        tasks=app.tasks,
        threads=threads,
        body_limit_bytes=app.settings.body_limit_bytes,
    )
    key = app.settings.admin_key
    admin_door = AdminDoor(None if key is None else key.get_secret_value())
    gate = AdminGate(
        admin_door,
        door,
        audit=app.access.audit,
        limit_keys=app.access.limit_keys,
        admin_rpm=app.settings.admin_rpm,
        threads=threads,
    )
    admin = Admin(admin_door, threads, body_limit_bytes=app.settings.body_limit_bytes)
    resources: list[Routes] = [
        health,
        tasks,
        ModelRoutes(door, app.capabilities, threads),
        VerificationRoutes(door, gate, admin),
        *gated(gate, admin_routes(app, admin)),
    ]
    router = build_router(resources, app.types)
    revalidation = Revalidation(app.discoveries.request_stale, threads)
    app.access.start(is_door=True)
    await limits.open()
    wakeups.start()
    app.capabilities.hear()
    revalidation.start()
    try:
        yield Web(Front(router, tasks), health, waiting)
    finally:
        await revalidation.close()
        await wakeups.close()
        await batch.close()
        await limits.close()
        threads.close()
        strangers.close()


def build_door(app: App, limits: WebLimits, threads: Threads, strangers: Threads) -> Door:
    access = app.access
    return Door(
        proxies=access.proxies,
        bans=access.bans,
        filters=access.ip_filters,
        authenticator=access.authenticator,
        key_limits=access.key_limits,
        limiter=access.limiter,
        limits=limits,
        limit_keys=access.limit_keys,
        ip_rpm=app.settings.ip_rpm,
        threads=threads,
        strangers=strangers,
    )


class Routes(Protocol):
    """The endpoints of one resource."""

    def add_to(self, app: FastAPI) -> None: ...


def admin_routes(app: App, admin: Admin) -> list[Routes]:
    """The admin API: one line a resource."""
    return [
        AdminJobRoutes(admin, app.schedules),
        AdminScheduleRoutes(admin, app.schedules),
        AdminCacheRoutes(admin, app.access),
        AdminCapabilityRoutes(admin, app.capabilities, app.capability_overrides, app.discoveries),
        AdminProviderRoutes(admin, app.providers),
        AdminKeyRoutes(admin, app.keys),
        AdminIpFilterRoutes(admin, app.access.ip_filters),
        AdminBanRoutes(admin, app.access.bans),
        AdminAuditRoutes(admin, app.access.audit),
    ]


def build_router(resources: Sequence[Routes], types: TaskTypes) -> FastAPI:
    """The routes with their description; errors are problem documents."""
    # No /docs: its page loads scripts from other hosts.
    fastapi = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HeadraceError: answer_error, HTTPException: answer_http_error},
    )
    for routes in resources:
        routes.add_to(fastapi)
    described = orjson.dumps(document(fastapi.routes, types))

    async def openapi(request: Request) -> Response:
        return Answer(described, headers=[])

    fastapi.add_api_route("/openapi.json", openapi, methods=["GET"], include_in_schema=False)
    return fastapi
