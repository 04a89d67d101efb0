"""What an announcement tells of a new list, and that a process makes the same list of it."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.app import App
from core.capabilities.difference import MOST, Difference
from core.capabilities.directory import Capabilities
from core.capabilities.model import Ability, Answer, Finding, ListedModel, ModelList, Source
from core.connections import autocommit
from core.events.capabilities import CapabilityOverridden
from core.testing import FakeProvider
from tests.core.capabilities.conftest import Discover, listing
from tests.support.waiting import wait_until

AT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
FINDINGS = {Ability.CHAT: Finding(Answer.YES, Source.NAME)}

contents = st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.integers(1, 3), max_size=8)


def a_list(contexts: dict[str, int | None], *, later_s: int = 0) -> ModelList:
    models = {name: ListedModel(id=name, findings=FINDINGS, context_tokens=size) for name, size in contexts.items()}
    return ModelList("acme", AT + timedelta(seconds=later_s), models)


@given(contents, contents, st.booleans())
def test_the_list_before_and_what_is_told_make_the_new_list(
    old: dict[str, int | None], new: dict[str, int | None], is_cut: bool
) -> None:
    before, after = a_list(old), a_list(new, later_s=1)
    difference = Difference.between(before, after)
    assert difference is not None
    known = ModelList.of_json(before.to_json()) if is_cut else before

    told = Difference.of_json(difference.event(len(after.models)).to_json())

    assert told is not None
    assert told.leads_to(after.discovered_at, known=known)
    assert dict(told.applied_to(known).models) == after.models
    assert dict(known.models) == before.models
    assert not told.leads_to(after.discovered_at, known=after)
    assert not told.leads_to(before.discovered_at, known=known)


def test_what_is_too_much_for_a_message_is_not_told() -> None:
    many = a_list({f"m{n}": None for n in range(MOST + 1)}, later_s=1)

    assert Difference.between(a_list({}), many) is None
    assert Difference.between(a_list({"m0": None}), many) is not None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nonsense",
        b"[]",
        b"7",
        b'{"event":"ModelCapabilitiesDiscovered","before":1}',
        b'{"event":"ModelCapabilitiesDiscovered","provider":"acme","before":1,"discovered_at":7,"changed":[],"gone":[]}',
        CapabilityOverridden("acme", "m", "chat").to_json(),
    ],
)
def test_what_tells_no_difference_is_none(text: bytes) -> None:
    assert Difference.of_json(text) is None


@pytest.fixture
def directory(app: App) -> Generator[Capabilities]:
    opened = Capabilities(app.engine, app.capability_copies, app.providers.list)
    yield opened
    opened.close()


def test_a_process_that_has_the_list_before_reads_neither_copy_nor_rows(
    app: App, provider: FakeProvider, discover: Discover, directory: Capabilities
) -> None:
    provider.fail("/models", listing("one", "two"))
    discover()
    directory.refresh()
    heard = app.cache.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis 6 is partly typed
    heard.subscribe(app.capability_copies.channel)
    provider.fail("/models", listing("two", "three"))
    discover()
    message = wait_until(lambda: heard.get_message(timeout=0.1), what="the announcement")
    heard.close()
    # As if they could not be read in time: what is served then can only be what was told.
    app.capability_copies.drop("acme")
    with autocommit(app.engine).connect() as connection:
        connection.exec_driver_sql("DELETE FROM provider_models")

    directory.hear_event(message["data"])

    wait_until(lambda: directory.current().listed("three"), what="the new model")
    assert list(directory.current().lists["acme"].models) == ["two", "three"]


def test_an_announcement_that_does_not_follow_on_what_is_known_leads_to_a_reading(
    app: App, provider: FakeProvider, discover: Discover, directory: Capabilities
) -> None:
    provider.fail("/models", listing("one"))
    discover()
    directory.refresh()
    provider.fail("/models", listing("one", "two"))
    discover()
    stranger = Difference("acme", 1, AT, [ListedModel(id="wrong", findings={})], [])

    directory.hear_event(stranger.event(1).to_json())

    wait_until(lambda: directory.current().listed("two"), what="the new model")
    assert not directory.current().listed("wrong")
