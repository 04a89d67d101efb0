"""
What the limits learn of a task that became final: its lease ends, and its reserved tokens become what it really used.

Called behind the commit, with whatever was committed together; told twice it changes nothing. Lost calls cost little:
a lease ends by itself within a minute, and a reservation stays as it was estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from core.access.limits.limiter import Ended, Limiter
from core.access.limits.limits_of import LimitKeys
from core.tasks.model import Task, TaskState, load_json


class Settlement:
    """One Redis call for a batch of tasks, a second one only when some of them have reservations."""

    def __init__(self, limiter: Limiter, keys: LimitKeys) -> None:
        self._limiter = limiter
        self._keys = keys

    def __call__(self, tasks: Sequence[Task]) -> None:
        """Args: tasks: final ones."""
        of = {owner: (self._keys.tokens(owner), self._keys.concurrency(owner)) for owner in {t.owner_id for t in tasks}}
        self._limiter.end([Ended(*of[task.owner_id], task.public_id, partial(used_tokens, task)) for task in tasks])


def used_tokens(task: Task) -> int | None:
    """
    `usage.total_tokens` of the result; None: it completed and says nothing, so the estimate stands.

    A task that did not complete, and reports no usage, used nothing.
    """
    unknown = None if task.state is TaskState.COMPLETED else 0
    text = task.result_json
    if text is None or '"usage"' not in text:  # parsing megabytes of images to find nothing would be a waste
        return unknown
    try:
        result: object = load_json(text)
    except ValueError:
        return unknown
    usage = _member(result, "usage")
    total = _member(usage, "total_tokens")
    if not _is_count(total):
        parts = [_member(usage, name) for name in ("prompt_tokens", "completion_tokens")]
        counted = [int(part) for part in parts if _is_count(part) and isinstance(part, int)]
        return sum(counted) if counted else unknown
    return int(cast(int, total))


def _member(value: object, name: str) -> object:
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
