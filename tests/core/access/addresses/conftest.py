"""Two processes that ban, on the emptied database of their file."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from core.access.addresses.bans import Bans
from core.app import App
from tests.core.access.clients import bans_of


@pytest.fixture
def bans(emptied: App) -> Generator[Bans]:
    with bans_of(emptied.settings, emptied.engine) as made:
        made.reload()
        yield made


@pytest.fixture
def other(emptied: App) -> Generator[Bans]:
    """Another process, which hears of nothing by itself."""
    with bans_of(emptied.settings, emptied.engine) as made:
        made.reload()
        yield made
