from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from core.access.keys.model import VirtualKey
from core.access.keys.permissions import check_allowed, check_usable, named_model
from core.errors import InvalidRequest, KeyRefused, ModelNotAllowed, TypeNotAllowed
from core.ids import KeyId
from core.task_types.chat_completion import ChatCompletion

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def key(**fields: object) -> VirtualKey:
    return VirtualKey(KeyId("k" * 12), "n", NOW, **fields)  # type: ignore[arg-type] # (fields by name)


@pytest.mark.parametrize(
    ("types", "task_type", "allowed"),
    [
        ((), "chat.completion", True),
        (("chat.completion",), "chat.completion", True),
        (("chat.*",), "chat.completion", True),
        (("chat.*",), "chat", False),
        (("*",), "anything", True),
        (("chat",), "chat.completion", False),
        (("embedding", "image.*"), "image.generation", True),
        (("Chat.completion",), "chat.completion", False),
    ],
)
def test_a_star_at_the_end_stands_for_any_ending_and_an_empty_list_for_all(
    types: tuple[str, ...], task_type: str, allowed: bool
) -> None:
    if allowed:
        check_allowed(key(allowed_types=types), task_type, None)
    else:
        with pytest.raises(TypeNotAllowed) as refused:
            check_allowed(key(allowed_types=types), task_type, None)
        assert refused.value.field == "type"
        assert isinstance(refused.value, InvalidRequest)


def test_a_model_is_held_against_the_list_and_a_task_without_one_passes() -> None:
    limited = key(allowed_models=("gpt-4o*", "m"))

    check_allowed(limited, "chat.completion", "gpt-4o-mini")
    check_allowed(limited, "chat.completion", "m")
    check_allowed(limited, "diagnostic.noop", None)
    with pytest.raises(ModelNotAllowed) as refused:
        check_allowed(limited, "chat.completion", "gpt-5")
    assert refused.value.field == "input.model"
    assert "gpt-4o*" in str(refused.value)


def test_the_model_of_an_input_is_found_in_its_model_and_in_its_json() -> None:
    chat = ChatCompletion.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}]})

    assert named_model(chat) == "m"
    assert named_model({"model": "m"}) == "m"
    assert named_model({"model": 5}) is None
    assert named_model({}) is None


def test_nothing_new_is_begun_for_a_key_that_is_disabled_or_has_expired() -> None:
    check_usable(key(expires_at=NOW + timedelta(seconds=1)), NOW)

    with pytest.raises(KeyRefused, match="disabled"):
        check_usable(key(disabled_at=NOW), NOW)
    with pytest.raises(KeyRefused, match="expired"):
        check_usable(key(expires_at=NOW), NOW)


def test_a_key_ends_with_its_expiry_or_with_the_secret_that_was_shown_whichever_is_sooner() -> None:
    soon, later = NOW + timedelta(hours=1), NOW + timedelta(hours=2)

    assert key().ends_at is None
    assert key(expires_at=soon, secret_until=later).ends_at == soon
    assert key(expires_at=later, secret_until=soon).ends_at == soon
    assert key(secret_until=soon).grants(NOW)
    assert not key(secret_until=NOW).grants(NOW)
    assert not key(expires_at=NOW).grants(NOW)
