"""`/v1/admin/jobs`: the files in `jobs/periodic/`, when they are due and what their runs did."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from starlette.responses import Response

from core.schedules.book import MAX_PAGE, ScheduleBook
from core.schedules.documents import job_document, run_document
from core.schedules.model import RunPage, ScheduleKind
from web import parameters
from web.admin import Admin, answer
from web.admin_forms import JOB, PAGE, PATH_NAME, RUN, page_of
from web.openapi_admin import a_list, admin_route, an_object, answered

PAGE_PARAMETERS = frozenset({"limit", "cursor"})

LIST = admin_route(
    operation="listJobs",
    summary="All jobs, with what their last run did",
    answers={200: answered("The jobs, by name.", an_object({"jobs": a_list(JOB)}))},
)
HISTORY = admin_route(
    operation="listJobRuns",
    summary="The runs of a job, newest first",
    parameters=[PATH_NAME, *PAGE],
    answers={200: answered("A page.", page_of("runs", RUN))},
    problems=[404],
)
RUN_NOW = admin_route(
    operation="runJob",
    summary="Run a job now, also a paused one",
    parameters=[PATH_NAME],
    answers={202: answered("Asked for: a scheduler takes it within about a second.", RUN)},
    problems=[404, 409],
)
PAUSE = admin_route(
    operation="pauseJob",
    summary="Let a job rest until it is resumed",
    parameters=[PATH_NAME],
    answers={200: answered("The job.", JOB)},
    problems=[404],
)
RESUME = admin_route(
    operation="resumeJob",
    summary="Let a paused job run again, from its next due time on",
    parameters=[PATH_NAME],
    answers={200: answered("The job.", JOB)},
    problems=[404, 409],
)


class AdminJobRoutes:
    def __init__(self, admin: Admin, book: ScheduleBook) -> None:
        self._admin = admin
        self._book = book

    def add_to(self, app: FastAPI) -> None:
        add = app.add_api_route
        add("/v1/admin/jobs", self.list, methods=["GET"], **LIST)
        add("/v1/admin/jobs/{name}/history", self.history, methods=["GET"], **HISTORY)
        add("/v1/admin/jobs/{name}/run", self.run, methods=["POST"], **RUN_NOW)
        add("/v1/admin/jobs/{name}/pause", self.pause, methods=["POST"], **PAUSE)
        add("/v1/admin/jobs/{name}/resume", self.resume, methods=["POST"], **RESUME)

    async def list(self, request: Request) -> Response:
        self._admin.enter(request)
        # A job is a file: there are never so many that a page would not hold them.
        page = await self._admin.call(
            lambda: self._book.list(ScheduleKind.JOB, limit=MAX_PAGE), failure="the jobs were not read"
        )
        return answer({"jobs": [job_document(job) for job in page.schedules]})

    async def history(self, request: Request) -> Response:
        found = self._admin.enter(request, PAGE_PARAMETERS)
        name: str = request.path_params["name"]
        limit, cursor = parameters.page_size(found), parameters.cursor(found)
        page = await self._admin.call(
            lambda: self._book.history(name, ScheduleKind.JOB, limit=limit, cursor=cursor),
            failure="the history was not read",
        )
        return history_answer(page)

    async def run(self, request: Request) -> Response:
        self._admin.enter(request)
        name: str = request.path_params["name"]
        run = await self._admin.call(
            lambda: self._book.run_now(name, ScheduleKind.JOB), failure="it is not known whether a run was asked for"
        )
        return answer(run_document(run), status=HTTPStatus.ACCEPTED)

    async def pause(self, request: Request) -> Response:
        self._admin.enter(request)
        name: str = request.path_params["name"]
        job = await self._admin.call(
            lambda: self._book.pause(name, ScheduleKind.JOB), failure="it is not known whether the job was paused"
        )
        return answer(job_document(job))

    async def resume(self, request: Request) -> Response:
        self._admin.enter(request)
        name: str = request.path_params["name"]
        job = await self._admin.call(
            lambda: self._book.resume(name, ScheduleKind.JOB), failure="it is not known whether the job was resumed"
        )
        return answer(job_document(job))


def history_answer(page: RunPage) -> Response:
    return answer({"runs": [run_document(run) for run in page.runs], "next_cursor": page.next_cursor})
