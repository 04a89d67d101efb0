"""`/v1/admin/schedules`: schedules that enqueue tasks for an owner. Jobs are under `/v1/admin/jobs`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus

from fastapi import FastAPI, Request
from starlette.responses import Response

from core.errors import InvalidRequest, ScheduleChanged
from core.schedules.book import ScheduleBook
from core.schedules.documents import schedule_document
from core.schedules.model import Missed, Overlap, Run, Schedule
from core.schedules.spec import ScheduleSpec
from web import parameters
from web.admin import Admin, answer, nothing
from web.admin_forms import (
    CURSOR,
    FIRES,
    PAGE,
    PATH_NAME,
    RUN,
    SCHEDULE,
    SCHEDULE_WITH_FIRES,
    SCHEDULE_WITH_RUNS,
    NewScheduleBody,
    PreviewBody,
    SchedulePatch,
    page_of,
)
from web.answers import Headers
from web.bodies import header
from web.openapi_admin import TEXT, Json, admin_route, an_object, answered
from web.problems import problem
from web.routes.admin_jobs import PAGE_PARAMETERS, history_answer

SHOWN_RUNS = 10
_PATH = "/v1/admin/schedules"

_ETAG: Json = {"ETag": {"description": "The version of what a person said of it.", "schema": TEXT}}
_LOCATION: Json = {"Location": {"description": "Where it is shown.", "schema": TEXT}}
_IF_MATCH: Json = {
    "name": "If-Match",
    "in": "header",
    "description": "The ETag that the change was made from: 412 when somebody was faster.",
    "required": False,
    "schema": TEXT,
}

CREATE = admin_route(
    operation="createSchedule",
    summary="Make a schedule",
    body=NewScheduleBody,
    answers={201: answered("It is saved.", SCHEDULE_WITH_FIRES, headers={**_LOCATION, **_ETAG})},
    problems=[409],
)
PREVIEW = admin_route(
    operation="previewSchedule",
    summary="The next ten fires of a schedule that is not saved",
    body=PreviewBody,
    answers={200: answered("Nothing was saved.", an_object({"fires": FIRES}))},
)
LIST = admin_route(
    operation="listSchedules",
    summary="Schedules, by name",
    parameters=PAGE,
    answers={200: answered("A page.", page_of("schedules", SCHEDULE))},
)
SHOW = admin_route(
    operation="getSchedule",
    summary="A schedule, with its next ten fires and its last runs",
    parameters=[PATH_NAME],
    answers={200: answered("The schedule.", SCHEDULE_WITH_RUNS, headers=_ETAG)},
    problems=[404],
)
UPDATE = admin_route(
    operation="updateSchedule",
    summary="Change a schedule",
    parameters=[PATH_NAME, _IF_MATCH],
    body=SchedulePatch,
    answers={200: answered("As it is now.", SCHEDULE_WITH_FIRES, headers=_ETAG)},
    problems=[404, 409, 412],
)
DELETE = admin_route(
    operation="deleteSchedule",
    summary="Forget a schedule and its history; its tasks stay",
    parameters=[PATH_NAME],
    answers={204: answered("It is gone.")},
    problems=[404],
)
HISTORY = admin_route(
    operation="listScheduleRuns",
    summary="The runs of a schedule, newest first",
    parameters=[PATH_NAME, *PAGE],
    answers={200: answered("A page.", page_of("runs", RUN))},
    problems=[404],
)


class AdminScheduleRoutes:
    def __init__(self, admin: Admin, book: ScheduleBook) -> None:
        self._admin = admin
        self._book = book

    def add_to(self, app: FastAPI) -> None:
        add, one = app.add_api_route, _PATH + "/{name}"
        add(_PATH, self.create, methods=["POST"], **CREATE)
        add(_PATH, self.list, methods=["GET"], **LIST)
        add(_PATH + "/preview", self.preview, methods=["POST"], **PREVIEW)
        add(one, self.show, methods=["GET"], **SHOW)
        add(one, self.update, methods=["PATCH"], **UPDATE)
        add(one, self.delete, methods=["DELETE"], **DELETE)
        add(one + "/history", self.history, methods=["GET"], **HISTORY)

    async def create(self, request: Request) -> Response:
        self._admin.enter(request)
        body = await self._admin.body(request, NewScheduleBody)
        spec = _spec_of(body, name=body.name, owner=body.owner, task=body.task.given())

        def make() -> tuple[Schedule, list[datetime]]:
            schedule = self._book.create(spec)
            return schedule, self._book.fires(schedule)

        schedule, fires = await self._admin.call(make, failure="it is not known whether the schedule was made")
        location = (b"location", f"{_PATH}/{schedule.name}".encode())
        return _shown(schedule, fires, status=HTTPStatus.CREATED, headers=[location])

    async def preview(self, request: Request) -> Response:
        self._admin.enter(request)
        body = await self._admin.body(request, PreviewBody)
        task = {} if body.task is None else body.task.given()
        spec = _spec_of(body, name=body.name or "preview", owner=body.owner or "", task=task)
        is_whole = body.task is not None and body.owner is not None

        def look() -> list[datetime]:
            if is_whole:
                self._book.check(spec)
            return self._book.preview(spec)

        fires = await self._admin.call(look, failure="the fires are not known")
        return answer({"fires": fires})

    async def list(self, request: Request) -> Response:
        found = self._admin.enter(request, PAGE_PARAMETERS)
        limit, cursor = parameters.page_size(found), found.get("cursor")
        if cursor is not None and not CURSOR.fullmatch(cursor):
            raise InvalidRequest("cursor: not one that this server made; start without it", field="cursor")
        page = await self._admin.call(
            lambda: self._book.list(limit=limit, cursor=cursor), failure="the schedules were not read"
        )
        schedules = [schedule_document(schedule) for schedule in page.schedules]
        return answer({"schedules": schedules, "next_cursor": page.next_cursor})

    async def show(self, request: Request) -> Response:
        self._admin.enter(request)
        name: str = request.path_params["name"]

        def read() -> tuple[Schedule, list[datetime], list[Run]]:
            schedule = self._book.get(name)
            return schedule, self._book.fires(schedule), self._book.history(name, limit=SHOWN_RUNS).runs

        schedule, fires, runs = await self._admin.call(read, failure="the schedule was not read")
        return _shown(schedule, fires, runs=runs)

    async def update(self, request: Request) -> Response:
        self._admin.enter(request)
        name: str = request.path_params["name"]
        body = await self._admin.body(request, SchedulePatch)
        wanted = header(request.scope, b"if-match")

        def change() -> tuple[Schedule, list[datetime]]:
            version = None if wanted is None else _version(self._book.get(name), wanted.decode("latin-1"))
            schedule = self._book.update(name, _changes(body), version=version)
            return schedule, self._book.fires(schedule)

        try:
            schedule, fires = await self._admin.call(change, failure="it is not known whether the schedule was changed")
        except ScheduleChanged as error:
            if wanted is None:
                raise
            return problem(HTTPStatus.PRECONDITION_FAILED, str(error), code=error.code, field="If-Match")
        return _shown(schedule, fires)

    async def delete(self, request: Request) -> Response:
        self._admin.enter(request)
        name: str = request.path_params["name"]
        await self._admin.call(
            lambda: self._book.delete(name), failure="it is not known whether the schedule was deleted"
        )
        return nothing()

    async def history(self, request: Request) -> Response:
        found = self._admin.enter(request, PAGE_PARAMETERS)
        name: str = request.path_params["name"]
        limit, cursor = parameters.page_size(found), parameters.cursor(found)
        page = await self._admin.call(
            lambda: self._book.history(name, limit=limit, cursor=cursor), failure="the history was not read"
        )
        return history_answer(page)


def _spec_of(body: NewScheduleBody | PreviewBody, *, name: str, owner: str, task: dict[str, object]) -> ScheduleSpec:
    return ScheduleSpec(
        name=name,
        owner=owner,
        task=task,
        cron=body.cron,
        every_s=body.every_s,
        timezone="UTC" if body.timezone is None else body.timezone,
        jitter_s=0.0 if body.jitter_s is None else body.jitter_s,
        missed=Missed.LATEST if body.missed is None else body.missed,
        overlap=Overlap.SKIP if body.overlap is None else body.overlap,
        enabled=True if body.enabled is None else body.enabled,
    )


def _changes(body: SchedulePatch) -> dict[str, object]:
    given = {name: value for name in SchedulePatch.model_fields if (value := getattr(body, name)) is not None}
    if body.task is not None:
        given["task"] = body.task.given()
    return given


def _shown(
    schedule: Schedule,
    fires: Sequence[datetime],
    *,
    runs: Sequence[Run] | None = None,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Headers | None = None,
) -> Response:
    etag = (b"etag", _etag(schedule).encode())
    return answer(schedule_document(schedule, fires=fires, runs=runs), status=status, headers=[etag, *(headers or [])])


def _etag(schedule: Schedule) -> str:
    """The version, and which schedule: a new one of the same name begins at 1 again."""
    return f'"{schedule.version}-{schedule.id.hex[-8:]}"'


def _version(schedule: Schedule, wanted: str) -> int | None:
    """The version to hold the change against; None: any."""
    tags = [tag.strip() for tag in wanted.split(",")]
    if "*" in tags:
        return None
    if _etag(schedule) not in tags:
        raise ScheduleChanged(f"schedule {schedule.name!r} was changed meanwhile; read it again")
    return schedule.version
