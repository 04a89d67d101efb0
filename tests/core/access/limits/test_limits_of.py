"""From what the door knows to an ask, and from an input to a guess at its tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.access.limits.limits_of import (
    Caller,
    LimitKeys,
    Planned,
    ask_of_address,
    ask_of_admin,
    ask_of_key,
    ask_to_verify,
)
from core.access.limits.model import Ask, Slots, TokenBucket, Window
from core.access.limits.token_estimate import estimate
from core.events.access import Limits

KEYS = LimitKeys("conduit-tasks:")
CALLER = Caller("/v1/tasks", client="192.0.2.7", ip_rpm=6000)
IP = Window("ip", "conduit-tasks:rate_limit:192.0.2.7:/v1/tasks", 6000, 60)


def test_a_batch_counts_once_for_the_address_and_each_time_for_the_key() -> None:
    tasks = [Planned("task_1", 100), Planned("task_2", 50)]
    limits = Limits(rpm=10, rpd=100, tpm=1000, concurrency=4)

    ask = ask_of_key(KEYS, CALLER, key_id="k1", limits=limits, requests=2, tasks=tasks)

    name = "conduit-tasks:vkey_rate:k1:/v1/tasks"
    assert ask == Ask(
        (IP, Window("rpm", name, 10, 60, 2), Window("rpd", name, 100, 86_400, 2)),
        TokenBucket("conduit-tasks:vkey_rate:k1:tokens", 1000, 150, (("task_1", 100), ("task_2", 50))),
        Slots("conduit-tasks:vkey_rate:k1:concurrency", 4, ("task_1", "task_2")),
    )


def test_a_key_without_limits_from_an_exempt_address_asks_nothing() -> None:
    assert ask_of_key(KEYS, Caller("/v1/tasks"), key_id="k1", limits=Limits(), tasks=[Planned("task_1")]).is_empty
    assert ask_of_address(KEYS, Caller("/v1/tasks", client="192.0.2.7", ip_rpm=0)).is_empty
    assert ask_of_admin(KEYS, Caller("/v1/admin/keys"), admin_rpm=0).is_empty


def test_a_limit_of_zero_is_a_limit() -> None:
    assert ask_of_key(KEYS, Caller("/v1/tasks"), key_id="k1", limits=Limits(rpm=0)).windows[0].limit == 0


def test_another_gateway_brings_its_own_cost_and_tokens() -> None:
    ask = ask_to_verify(KEYS, CALLER, key_id="k1", limits=Limits(rpm=5, tpm=100, concurrency=1), cost=3, tokens=40)

    assert ask.windows[1].cost == 3
    assert ask.tokens == TokenBucket("conduit-tasks:vkey_rate:k1:tokens", 100, 40)
    assert ask.slots is None


def test_the_admin_key_is_limited_by_route() -> None:
    ask = ask_of_admin(KEYS, Caller("/v1/admin/keys", client="192.0.2.7", ip_rpm=6000), admin_rpm=600)
    assert [window.redis_key for window in ask.windows] == [
        "conduit-tasks:rate_limit:192.0.2.7:/v1/admin/keys",
        "conduit-tasks:vkey_rate:admin:/v1/admin/keys",
    ]


@pytest.mark.parametrize(
    ("task_type", "body", "expected"),
    [
        ("chat.completion", {"messages": [{"role": "user", "content": "x" * 400}]}, 100 + 256),
        ("chat.completion", {"messages": [{"role": "user", "content": "x" * 401}], "max_tokens": 50}, 101 + 50),
        ("chat.completion", {"messages": [], "max_tokens": 50, "max_completion_tokens": 70}, 70),
        ("chat.completion", {"messages": [], "max_tokens": 50, "n": 3}, 150),
        (
            "chat.completion",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "x" * 8},
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}},
                        ],
                    }
                ],
                "max_tokens": 1,
            },
            3,
        ),
        ("embedding", {"input": "x" * 9}, 3),
        ("embedding", {"input": ["x" * 8, "x" * 4]}, 3),
        ("embedding", {"input": [1, 2, 3]}, 3),
        ("embedding", {"input": [[1, 2], [3]]}, 3),
        ("image.generation", {"prompt": "x" * 1000}, 0),
        ("video.generation", {"prompt": "x" * 1000}, 0),
        ("custom.type", {"messages": "x" * 1000}, 0),
    ],
)
def test_tokens_are_guessed_from_the_input(task_type: str, body: dict[str, Any], expected: int) -> None:
    assert estimate(task_type, body) == expected


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=8))
def test_no_message_breaks_the_guess(messages: Any) -> None:
    assert estimate("chat.completion", {"messages": messages}) >= 256
    assert estimate("embedding", {"input": messages}) >= 0
