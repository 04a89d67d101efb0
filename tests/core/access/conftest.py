"""A process's watch, and copies of keys as a cache would keep them: what a process believes."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from core.app import App
from tests.support.rights import Rights
from tests.support.waiting import wait_until


@pytest.fixture
def rights(app: App) -> Generator[Rights]:
    """What a process with a started watch believes."""
    believed = Rights(app)
    app.watch.start()
    wait_until(lambda: app.watch.is_current() and app.watch.epoch(), 5, what="the watch is current")
    yield believed
    app.watch.close()
