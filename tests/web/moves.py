"""Moves of tasks as a worker makes them, without a worker: the tests decide when."""

from __future__ import annotations

from core.app import App
from core.ids import new_worker_id
from core.tasks import store
from core.tasks.model import Claimed, Outcome, Task, TaskState
from core.tasks.store import Finish, Progress


def claim(app: App, *, queue: str = "default", announced: bool = True) -> Claimed:
    """Take the next task of the queue."""
    with app.engine.begin() as connection:
        claimed = store.claim(
            connection, queue, [spec.name for spec in app.types], limit=1, worker=new_worker_id()
        ).tasks[0]
    if announced:
        app.copies.announce([claimed.task])
    return claimed


def progress(app: App, claimed: Claimed, percent: float, *, announced: bool = True) -> Task:
    text = f'{{"percent":{percent},"message":null}}'
    with app.engine.begin() as connection:
        (task,) = store.report_progress(connection, [Progress(claimed.task.id, claimed.token, text)])
    if announced:
        app.copies.announce([task])
    return task


def finish(
    app: App,
    claimed: Claimed,
    state: TaskState = TaskState.COMPLETED,
    *,
    result_json: str = '{"ok":true}',
    announced: bool = True,
) -> Task:
    with app.engine.begin() as connection:
        done = store.finish(connection, [Finish(claimed, Outcome(state=state, result_json=result_json))])
    (task,) = done.tasks.values()
    if announced:
        app.copies.announce([task])
    return task
