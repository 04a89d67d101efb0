from __future__ import annotations

from collections.abc import Generator

import pytest

from core.providers.openai_compatible import Provider
from core.testing import FakeProvider
from tests.support.provider_calls import API_KEY


@pytest.fixture
def fake() -> Generator[FakeProvider]:
    with FakeProvider() as server:
        yield server


@pytest.fixture
def provider(fake: FakeProvider) -> Provider:
    return Provider(fake.url, API_KEY)
