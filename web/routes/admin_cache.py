"""`/v1/admin/cache`: figures of the caches, and dropping entries in every process."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from core.access.parts import Access
from core.cache.caches import ID_PATTERN, MOST_IDS
from web.admin import Admin, AdminBody, answer
from web.openapi_admin import (
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
    YES_OR_NO,
    Json,
    a_list,
    admin_route,
    an_object,
    answered,
    or_null,
    path_parameter,
)

_RATIO: Json = or_null({**NUMBER, "description": "hits / (hits + misses); null: nothing was asked."})
_CACHE = an_object(
    {
        "name": TEXT,
        "hits": {**WHOLE, "description": "Answered from memory, Redis or a remembered absence."},
        "misses": {**WHOLE, "description": "Loaded, or waited for somebody's load."},
        "hit_ratio": _RATIO,
        "from": an_object(
            {
                "memory": WHOLE,
                "redis": WHOLE,
                "negative": {**WHOLE, "description": "A remembered absence."},
                "stale": {**WHOLE, "description": "Served while it was loaded again."},
            }
        ),
        "coalesced": {**WHOLE, "description": "Misses that shared another's load."},
        "loads": an_object({"count": WHOLE, "failed": WHOLE, "mean_ms": or_null(NUMBER), "max_ms": or_null(NUMBER)}),
        "corrupt": {**WHOLE, "description": "Entries in Redis that were unreadable or forged; they were deleted."},
        "old_epoch": {**WHOLE, "description": "Entries from before a restart of Redis; they were deleted."},
        "refused_writes": {**WHOLE, "description": "Something newer, or a tombstone, was there."},
        "invalidations": an_object(
            {"count": WHOLE, "by_reason": {"type": "object", "additionalProperties": WHOLE}},
        ),
    }
)
_TOTALS: Json = {
    "hits": WHOLE,
    "misses": WHOLE,
    "hit_ratio": _RATIO,
    "invalidations": {**WHOLE, "description": "Entries dropped, in each process that heard of it."},
    "reset_time": or_null({**TIME, "description": "Since when is counted."}),
    "age_s": {**NUMBER, "description": "What any process counted this many seconds ago is in the figures."},
    "is_complete": {**YES_OR_NO, "description": "false: Redis is away or off, and only this process is counted."},
    "caches": a_list(_CACHE),
}
_HERE = an_object(
    {
        "canaries": {**WHOLE, "description": "Heard in the last five minutes, about one a second."},
        "lag_p50_ms": or_null({**NUMBER, "description": "How late they were heard; null: none was."}),
        "lag_p99_ms": or_null(NUMBER),
        "lag_max_ms": or_null(NUMBER),
        "limits_age_s": {
            **NUMBER,
            "description": "Since they were confirmed; over 60 something is wrong.",
        },
    }
)
_HERE["description"] = "How well the answering process hears of changes."

SHOW = admin_route(
    operation="showCacheStatistics",
    summary="Hits, misses and loads of every cache, over all processes",
    answers={200: answered("The figures.", an_object({**_TOTALS, "this_process": _HERE}))},
)
RESET = admin_route(
    operation="resetCacheStatistics",
    summary="Count from zero",
    answers={200: answered("The figures up to now.", an_object(_TOTALS))},
)


class DropBody(AdminBody):
    ids: list[Annotated[str, Field(pattern=ID_PATTERN)]] = Field(
        min_length=1, max_length=MOST_IDS, description="Of the cache's entries, as its Redis keys end."
    )


DROP = admin_route(
    operation="dropCacheEntries",
    summary="Drop entries from Redis and from the memory of every process",
    parameters=[path_parameter("name", "Of the cache.", TEXT)],
    body=DropBody,
    answers={
        200: answered(
            "They are dropped.",
            an_object(
                {
                    "cache": TEXT,
                    "ids": WHOLE,
                    "everywhere": {
                        **YES_OR_NO,
                        "description": "false: Redis is away or off, and only the answering process dropped them.",
                    },
                }
            ),
        )
    },
    problems=[404],
)


class AdminCacheRoutes:
    def __init__(self, admin: Admin, access: Access) -> None:
        self._admin = admin
        self._access = access
        self._caches = access.caches

    def add_to(self, app: FastAPI) -> None:
        add = app.add_api_route
        add("/v1/admin/cache/stats", self.show, methods=["GET"], **SHOW)
        add("/v1/admin/cache/stats/reset", self.reset, methods=["POST"], **RESET)
        add("/v1/admin/cache/{name}/drop", self.drop, methods=["POST"], **DROP)

    async def show(self, request: Request) -> Response:
        self._admin.enter(request)
        figures = await self._admin.call(self._caches.statistics.read, failure="the figures were not read")
        return answer({**figures.to_document(), "this_process": self._here()})

    def _here(self) -> dict[str, object]:
        lag = self._access.watch.lag()
        lags = {"lag_p50_ms": lag.p50_s, "lag_p99_ms": lag.p99_s, "lag_max_ms": lag.max_s}
        return {
            "canaries": lag.count,
            **{name: round(lag_s * 1000, 3) if lag.count else None for name, lag_s in lags.items()},
            "limits_age_s": round(self._access.key_limits.age_s, 1),
        }

    async def reset(self, request: Request) -> Response:
        self._admin.enter(request)
        figures = await self._admin.call(
            self._caches.statistics.reset, failure="it is not known whether the figures were reset"
        )
        return answer(figures.to_document())

    async def drop(self, request: Request, name: str) -> Response:
        self._admin.enter(request)
        self._caches.check_name(name)
        body = await self._admin.body(request, DropBody)
        everywhere = await self._admin.call(
            lambda: self._caches.drop_everywhere(name, body.ids), failure="it is not known whether entries were dropped"
        )
        return answer({"cache": name, "ids": len(body.ids), "everywhere": everywhere})
