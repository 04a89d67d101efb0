"""HEADRACE_CACHE=memory: a web process goes on as if Redis were away, and no command reaches the cache's database."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from core.app import open_app
from core.settings import Settings
from tests.support.redis_wire import heard_commands
from tests.support.waiting import wait_until
from tests.web.moves import claim, finish
from tests.web.serving import Site, open_site


@pytest.fixture
def memory_site(settings: Settings, tmp_path: Path) -> Generator[Site]:
    with (
        open_app(settings.model_copy(update={"cache": "memory"})) as app,
        open_site(app, tmp_path / "web.log") as opened,
    ):
        yield opened


def test_it_accepts_polls_waits_and_refuses_a_disabled_key_without_a_command_to_the_cache(
    memory_site: Site,
) -> None:
    app, caller = memory_site.app, memory_site.caller
    assert app.settings.admin_key is not None
    admin = caller.with_key(app.settings.admin_key.get_secret_value())
    assert app.settings.redis_url is not None
    url = app.settings.redis_url.get_secret_value()
    number = int(url.rpartition("/")[2])

    with heard_commands(url) as heard:
        task_id = caller.enqueue()
        path = f"/v1/tasks/{task_id}"
        assert caller.get(path).json["state"] == "pending"
        finish(app, claim(app))
        assert caller.get(f"{path}?wait=5").json["state"] == "completed"
        assert caller.get(path).headers["headrace-status-from"] == "memory"

        figures = admin.get("/v1/admin/cache/stats").json
        assert figures["is_complete"] is False
        assert figures["hits"] >= 1
        assert admin.post("/v1/admin/cache/stats/reset").status == 200
        dropped = admin.post("/v1/admin/cache/task_status/drop", {"ids": [task_id]})
        assert dropped.json["everywhere"] is False
        assert caller.get(path).headers["headrace-status-from"] == "database"

        app.keys.disable(memory_site.key_id)
        wait_until(lambda: caller.get(path).status == 401, 5, what="the disabled key is refused")

    assert [command["command"] for command in heard if command["db"] == number] == []
    assert [command for command in heard if command["db"] == number + 1]  # the broker's bells still use Redis
    assert "redis is away" not in memory_site.web.text()


def test_the_process_at_which_a_key_is_disabled_does_not_wait_for_its_next_look(memory_site: Site) -> None:
    assert memory_site.app.settings.admin_key is not None
    admin = memory_site.caller.with_key(memory_site.app.settings.admin_key.get_secret_value())

    for _ in range(8):  # a look every two seconds would come in time for some of them
        key = memory_site.app.keys.create("of a test")
        caller = memory_site.caller.with_key(key.clear_key)
        assert caller.get("/v1/tasks").status == 200

        admin.post(f"/v1/admin/keys/{key.key_id}/disable")

        wait_until(lambda: caller.get("/v1/tasks").status == 401, 0.5, what="the disabled key is refused")  # noqa: B023
