"""What the admin API of jobs and schedules takes and answers: bodies that validate, and their descriptions."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from core.schedules.due import MAX_EVERY_S, MAX_JITTER_S
from core.schedules.model import Missed, Overlap, RunOutcome
from core.tasks.model import DEFAULT_PRIORITY, DEFAULT_QUEUE, TaskState
from core.tasks.queries import MAX_PAGE
from core.tasks.validation import MAX_ATTEMPTS, MAX_DEADLINE
from web.admin import AdminBody
from web.openapi_admin import (
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
    YES_OR_NO,
    Json,
    a_list,
    an_object,
    or_null,
    path_parameter,
    query_parameter,
    schema_of,
)
from web.parameters import DEFAULT_PAGE

CURSOR = re.compile(r"[A-Za-z0-9._-]{1,100}")
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"

Name = Annotated[
    str, Field(pattern=NAME_PATTERN, description="Lower-case letters, digits, `.`, `_` and `-`, 64 at most.")
]
Cron = Annotated[str, Field(min_length=1, max_length=200)]
Every = Annotated[float, Field(ge=1, le=MAX_EVERY_S)]
Jitter = Annotated[float, Field(ge=0, le=MAX_JITTER_S)]
Word = Annotated[str, Field(min_length=1, max_length=100)]

_CRON = "Minute, hour, day of month, month, day of week, in `timezone`. Either this or `every_s`."
_EVERY = "Period, seconds. Either this or `cron`."
_ZONE = "IANA name, e.g. Europe/Berlin; UTC when absent."
_JITTER = "A due time is fired up to so many seconds later; 0 when absent."
_MISSED = "Due times that nobody fired in time: skip, latest (when absent) or all."
_OVERLAP = "A due time while the run before it goes on: skip (when absent) or queue."
# Strict validation takes no text for an enum; a word of the wire is one.
MissedWord = Annotated[Missed, Field(strict=False, description=_MISSED)]
OverlapWord = Annotated[Overlap, Field(strict=False, description=_OVERLAP)]


class TaskBody(AdminBody):
    """What each fire enqueues: as to `/v1/tasks`, without `run_at`. Null is the same as absent for what is optional."""

    type: Word = Field(description="A task type of this server.")
    input: dict[str, object] = Field(description="What the type wants.")
    queue: Word | None = Field(default=None, description=f"An existing queue; `{DEFAULT_QUEUE}` when absent.")
    priority: Annotated[int, Field(ge=0, le=9)] | None = Field(
        default=None, description=f"Higher runs first; {DEFAULT_PRIORITY} when absent."
    )
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] | None = Field(
        default=None, description="Failures allowed, the first try included; the type's own number when absent."
    )
    deadline_s: Annotated[float, Field(ge=1, le=MAX_DEADLINE.total_seconds())] | None = Field(
        default=None, description="Seconds from each fire to a final state; the type's own when absent."
    )
    metadata: dict[str, object] | None = Field(
        default=None, description="A JSON object, handed back unchanged; at most 16 KiB."
    )

    def given(self) -> dict[str, object]:
        """As it was sent, without what was left out."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class NewScheduleBody(AdminBody):
    """Null is the same as absent for all that is optional."""

    name: Name
    cron: Cron | None = Field(default=None, description=_CRON)
    every_s: Every | None = Field(default=None, description=_EVERY)
    timezone: Word | None = Field(default=None, description=_ZONE)
    jitter_s: Jitter | None = Field(default=None, description=_JITTER)
    task: TaskBody = Field(description="What each fire enqueues.")
    owner: Word = Field(description="Public id of the virtual key whose tasks they are.")
    missed: MissedWord | None = None
    overlap: OverlapWord | None = None
    enabled: bool | None = Field(default=None, description="true when absent.")


class PreviewBody(AdminBody):
    """A schedule, or as much of one as decides when it is due."""

    name: Name | None = None
    cron: Cron | None = Field(default=None, description=_CRON)
    every_s: Every | None = Field(default=None, description=_EVERY)
    timezone: Word | None = Field(default=None, description=_ZONE)
    jitter_s: Jitter | None = Field(default=None, description=_JITTER)
    task: TaskBody | None = None
    owner: Word | None = None
    missed: MissedWord | None = None
    overlap: OverlapWord | None = None
    enabled: bool | None = None


class SchedulePatch(AdminBody):
    """What is absent or null stays. `cron` takes the place of `every_s`, and the other way round."""

    cron: Cron | None = Field(default=None, description=_CRON)
    every_s: Every | None = Field(default=None, description=_EVERY)
    timezone: Word | None = None
    jitter_s: Jitter | None = None
    task: TaskBody | None = Field(default=None, description="The whole of it.")
    owner: Word | None = None
    missed: MissedWord | None = None
    overlap: OverlapWord | None = None
    enabled: bool | None = None


PATH_NAME = path_parameter("name", "Its name.", {"type": "string", "pattern": NAME_PATTERN})
PAGE = (
    query_parameter(
        "limit",
        "Entries in a page.",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
    ),
    query_parameter(
        "cursor", "`next_cursor` of the page before.", {"type": "string", "pattern": f"^{CURSOR.pattern}$"}
    ),
)

RUN = an_object(
    {
        "due_at": TIME,
        "until_at": or_null(TIME),
        "due_times": {**WHOLE, "description": "Over 1: a skipped range, from due_at to until_at."},
        "outcome": {"enum": [str(outcome) for outcome in RunOutcome]},
        "reason": or_null(TEXT),
        "attempt": WHOLE,
        "started_at": or_null(TIME),
        "finished_at": or_null(TIME),
        "duration_s": or_null(NUMBER),
        "lateness_s": or_null({**NUMBER, "description": "Start minus due time."}),
        "log": or_null({**TEXT, "description": "The last lines it logged."}),
        "task_id": or_null(TEXT),
        "task_state": or_null({"enum": [str(state) for state in TaskState]}),
    }
)
_COUNTS: Json = {
    "enabled": YES_OR_NO,
    "reason": or_null({**TEXT, "description": "Why it is not enabled, when no person did that."}),
    "next_due": or_null(TIME),
    "last_due": or_null(TIME),
    "runs": WHOLE,
    "failures": WHOLE,
    "skips": WHOLE,
}
JOB = an_object({"name": TEXT, "schedule": TEXT, **_COUNTS, "last_run": or_null(RUN)})
_SCHEDULE: Json = {
    "name": TEXT,
    "cron": or_null(TEXT),
    "every_s": or_null(NUMBER),
    "timezone": TEXT,
    "jitter_s": NUMBER,
    "missed": {"enum": [str(word) for word in Missed]},
    "overlap": {"enum": [str(word) for word in Overlap]},
    "owner": TEXT,
    "task": schema_of(TaskBody),
    "version": WHOLE,
    **_COUNTS,
    "created_at": TIME,
    "changed_at": TIME,
}
FIRES: Json = {**a_list(TIME), "maxItems": 10, "description": "The next due times."}
SCHEDULE = an_object(_SCHEDULE)
SCHEDULE_WITH_FIRES = an_object({**_SCHEDULE, "fires": FIRES})
SCHEDULE_WITH_RUNS = an_object({**_SCHEDULE, "fires": FIRES, "last_runs": a_list(RUN)})


def page_of(name: str, schema: Json) -> Json:
    cursor = or_null({**TEXT, "description": "null: this is the last page."})
    return an_object({name: a_list(schema), "next_cursor": cursor})
