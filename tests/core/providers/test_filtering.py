from __future__ import annotations

import pytest

from core.providers.filtering import MASK, filter_for, word


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdef0123",
        "sk-ab****cd",
        "hr_abcdefghijkl_" + "s" * 43,
        "Bearer dG9rZW4tdG9rZW4=",
        "eyJhbGciOiJIUzI1.eyJzdWIi.sig",
    ],
)
def test_anything_that_looks_like_a_key_is_masked(secret: str) -> None:
    assert filter_for(None, secrets=())(f"key {secret} is wrong") == f"key {MASK} is wrong"


def test_configured_secret_is_masked_whatever_it_looks_like() -> None:
    assert filter_for(None, secrets=("plain",))("key plain is wrong") == f"key {MASK} is wrong"


def test_words_of_the_request_are_masked_wherever_they_stand() -> None:
    body = {"messages": [{"content": [{"type": "text", "text": "a canary in the mine"}]}], "user": "Bobby"}

    shown = filter_for(body, secrets=())("cannot parse 'canary in the' as asked by Bobby")

    assert shown == f"cannot parse '{MASK}' as asked by {MASK}"


def test_choices_of_the_request_may_be_named() -> None:
    body = {"model": "fake-model-1", "size": "1024x1024", "prompt": "a lake"}

    assert filter_for(body, secrets=())("fake-model-1 has no size 1024x1024") == "fake-model-1 has no size 1024x1024"


def test_control_characters_and_length_are_bounded() -> None:
    shown = filter_for(None, secrets=())("a\r\n\x1b[31mb\u2028" + "c" * 5000)

    assert shown.startswith("a [31mb c")
    assert len(shown) == 300


@pytest.mark.parametrize(
    ("value", "expected"),
    [("invalid_value", "invalid_value"), ("two words", None), (7, None), ("", None), ("a" * 65, None)],
)
def test_code_is_one_harmless_word(value: object, expected: str | None) -> None:
    assert word(value) == expected
