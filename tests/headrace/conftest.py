"""Fixtures of the command line's tests."""

from __future__ import annotations

import pytest

from core.settings import Settings
from tests.headrace.command import Command, make_command


@pytest.fixture
def headrace(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return make_command(settings, monkeypatch, capsys)
