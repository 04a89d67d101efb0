"""Real HTTP to several real servers on loopback; what is counted is what arrived at each."""

from __future__ import annotations

import time
from collections.abc import Generator
from datetime import timedelta

import pytest

from core.providers.errors import ProviderFailure
from core.providers.health import FAILURES, Health
from core.providers.openai_compatible import Answer
from core.providers.roster import Endpoint
from core.providers.routing import Router, serving, soonest
from core.testing import FakeProvider, Fault
from tests.support.provider_calls import TEN_SECONDS
from tests.support.providers import endpoint, router_over, run

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
PATH = "/chat/completions"


@pytest.fixture
def first() -> Generator[FakeProvider]:
    with FakeProvider() as server:
        yield server


@pytest.fixture
def second() -> Generator[FakeProvider]:
    with FakeProvider() as server:
        yield server


@pytest.fixture
def router(first: FakeProvider, second: FakeProvider) -> Router:
    return router_over(endpoint("first", first.url), endpoint("second", second.url))


@pytest.fixture
def refused() -> str:
    """The URL of a server that is gone."""
    with FakeProvider() as gone:
        return gone.url


def chat(router: Router, model: str = "m", *, timeout: timedelta = TEN_SECONDS) -> Answer:
    (answer,) = run(router, router.chat_completion({**CHAT, "model": model}, timeout=timeout, idempotency_key="k"))
    return answer


def failure_of(router: Router, model: str = "m", *, timeout: timedelta = TEN_SECONDS) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as caught:
        chat(router, model, timeout=timeout)
    return caught.value


def counts(*servers: FakeProvider) -> list[int]:
    return [server.count(PATH) for server in servers]


def test_the_first_gets_every_call_while_it_is_well(router: Router, first: FakeProvider, second: FakeProvider) -> None:
    answers = [chat(router) for _ in range(5)]

    assert {answer.provider for answer in answers} == {"first"}
    assert counts(first, second) == [5, 0]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=501),
        Fault(status=502),
        Fault(status=503, retry_after="30"),
        Fault(status=429),
        Fault(status=429, retry_after="30"),
        Fault(status=429, body=b'{"error": {"code": "insufficient_quota"}}'),
        Fault(status=402),
    ],
    ids=lambda fault: f"{fault.status}",
)
def test_a_refusal_without_work_goes_on_to_the_next_at_once(
    router: Router, first: FakeProvider, second: FakeProvider, fault: Fault
) -> None:
    first.fail(PATH, fault)

    answer = chat(router)

    assert answer.provider == "second"
    assert counts(first, second) == [1, 1]
    assert first.calls[0].headers["idempotency-key"] == second.calls[0].headers["idempotency-key"] == "k"


def test_a_refused_connection_goes_on_to_the_next(refused: str, second: FakeProvider) -> None:
    assert chat(router_over(endpoint("gone", refused), endpoint("second", second.url))).provider == "second"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(delay_s=30), "provider_timeout"),
        (Fault(cut_after=20), "provider_unavailable"),
        (Fault(cut_after=0), "provider_unavailable"),
        (Fault(status=500, body=b'{"error": {"message": "xxxxxxxx"}}', cut_after=5), "provider_unavailable"),
        (Fault(status=504), "provider_unavailable"),
        (Fault(status=408), "provider_timeout"),
        (Fault(status=409), "provider_conflict"),
        (Fault(status=400), "provider_rejected"),
        (Fault(status=401), "provider_auth"),
        (Fault(body=b"not json"), "provider_malformed"),
        (Fault(body=b'{"error": {"code": 429, "message": "slow down"}}'), "provider_rate_limited"),
        (Fault(body=b'{"error": {"code": 503, "message": "busy"}}'), "provider_unavailable"),
    ],
    ids=["silence", "cut", "cut at once", "cut error", "504", "408", "409", "400", "401", "no json", "429in", "503in"],
)
def test_what_may_have_been_charged_or_would_be_met_again_is_asked_of_nobody_else(
    router: Router, first: FakeProvider, second: FakeProvider, fault: Fault, code: str
) -> None:
    first.fail(PATH, fault)

    failure = failure_of(router, timeout=timedelta(seconds=2))

    assert (failure.code, failure.uncharged) == (code, False)
    assert counts(first, second) == [1, 0]


def test_one_provider_is_called_once_an_attempt_whatever_it_says(first: FakeProvider) -> None:
    router = router_over(endpoint("only", first.url))
    first.fail(PATH, Fault(status=503), times=None)

    for _ in range(FAILURES + 2):  # being down does not matter when there is nobody else
        assert failure_of(router).code == "provider_unavailable"

    assert counts(first) == [FAILURES + 2]


def test_a_provider_that_is_down_is_left_alone_and_comes_back_by_a_real_call(
    first: FakeProvider, second: FakeProvider
) -> None:
    now = [0.0]
    router = router_over(
        endpoint("first", first.url), endpoint("second", second.url), health=Health(clock=lambda: now[0])
    )
    first.fail(PATH, Fault(status=503), times=FAILURES)
    for _ in range(FAILURES + 4):
        assert chat(router).provider == "second"
    assert counts(first, second) == [FAILURES, FAILURES + 4]

    now[0] += 1.0

    assert [chat(router).provider for _ in range(2)] == ["first", "first"]


def test_a_rate_limited_model_goes_elsewhere_until_the_time_the_provider_said(
    first: FakeProvider, second: FakeProvider
) -> None:
    now = [0.0]
    router = router_over(
        endpoint("first", first.url), endpoint("second", second.url), health=Health(clock=lambda: now[0])
    )
    first.fail(PATH, Fault(status=429, retry_after="20"))

    assert [chat(router).provider for _ in range(3)] == ["second"] * 3
    assert chat(router, "other").provider == "first"
    assert counts(first, second) == [2, 3]
    now[0] += 20

    assert chat(router).provider == "first"


def test_when_all_are_down_all_are_asked_in_order(refused: str, first: FakeProvider, second: FakeProvider) -> None:
    router = router_over(endpoint("gone", refused), endpoint("first", first.url), endpoint("second", second.url))
    for server in (first, second):
        server.fail(PATH, Fault(status=503), times=FAILURES)
    for _ in range(FAILURES):
        failure_of(router)

    assert chat(router).provider == "first"
    assert counts(first, second) == [FAILURES + 1, FAILURES]


def test_when_all_refuse_the_task_is_told_who_is_back_first(
    router: Router, first: FakeProvider, second: FakeProvider
) -> None:
    first.fail(PATH, Fault(status=429, retry_after="40"))
    second.fail(PATH, Fault(status=429, retry_after="7"))

    failure = failure_of(router)

    assert (failure.rate_limited, failure.retry_after) == (True, timedelta(seconds=7))
    assert counts(first, second) == [1, 1]


def test_a_failure_that_passes_is_told_rather_than_one_that_does_not() -> None:
    quota = ProviderFailure("quota", code="provider_quota", retryable=False, uncharged=True)
    away = ProviderFailure("away", code="provider_unavailable", retryable=True, uncharged=True)

    assert soonest([quota, away]) is soonest([away, quota]) is away


def test_a_refusal_by_a_stand_in_does_not_end_a_task_that_the_first_may_do_later(
    router: Router, first: FakeProvider, second: FakeProvider
) -> None:
    first.fail(PATH, Fault(status=503))
    second.fail(PATH, Fault(status=404))

    failure = failure_of(router)

    assert (failure.code, failure.retryable) == ("provider_unavailable", True)
    assert counts(first, second) == [1, 1]


def test_all_providers_of_an_attempt_share_its_time(router: Router, first: FakeProvider, second: FakeProvider) -> None:
    chat(router)  # the SDK's import is not what is measured
    first.fail(PATH, Fault(status=503, delay_s=0.7))
    second.fail(PATH, Fault(delay_s=30))

    began = time.monotonic()
    failure = failure_of(router, timeout=timedelta(seconds=1.5))

    assert failure.code == "provider_timeout"
    assert time.monotonic() - began < 3


def test_allow_lists_choose_by_model(first: FakeProvider, second: FakeProvider) -> None:
    router = router_over(
        endpoint("first", first.url, models=["gpt-*", "exact"]), endpoint("second", second.url, models=["llama-*"])
    )

    found = {model: chat(router, model).provider for model in ("gpt-5", "exact", "llama-4")}
    failure = failure_of(router, "exact-not")

    assert found == {"gpt-5": "first", "exact": "first", "llama-4": "second"}
    assert (failure.code, failure.retryable) == ("model_not_served", False)


def test_fail_over_never_leaves_the_allow_list(first: FakeProvider, second: FakeProvider) -> None:
    router = router_over(endpoint("first", first.url), endpoint("second", second.url, models=["other"]))
    first.fail(PATH, Fault(status=503))

    failure_of(router)

    assert counts(first, second) == [1, 0]


def names(endpoints: list[Endpoint], model: str | None) -> list[str]:
    return [found.name for found in serving(endpoints, model)]


def test_what_providers_list_themselves_comes_before_what_is_not_known_of_them() -> None:
    known = [
        endpoint("a", "http://a", lists=["x"]),
        endpoint("b", "http://b", lists=["y"]),
        endpoint("c", "http://c"),
    ]

    assert names(known, "y") == ["b", "c"]
    assert names(known[:2], "y") == ["b"]
    assert names(known[:2], "in no list") == ["a", "b"]
    assert names(known, None) == ["a", "b", "c"]


def test_disabled_providers_are_not_asked_and_their_tasks_wait() -> None:
    known = [endpoint("a", "http://a", enabled=False), endpoint("b", "http://b", models=["other"])]

    with pytest.raises(ProviderFailure) as caught:
        serving(known, "m")

    assert (caught.value.code, caught.value.retryable) == ("provider_unavailable", True)
    assert names(known, "other") == ["b"]


def test_without_any_provider_the_message_says_what_to_do() -> None:
    failure = failure_of(router_over())

    assert (failure.code, failure.retryable) == ("provider_not_configured", False)
    assert "headrace providers add" in str(failure)


def test_a_video_is_looked_at_where_it_was_ordered_and_nowhere_else(
    router: Router, first: FakeProvider, second: FakeProvider
) -> None:
    first.fail("/videos", Fault(status=503))
    (order,) = run(router, router.video_submit({"prompt": "a lake", "model": "m"}, timeout=TEN_SECONDS))
    video_id = str(order.body["id"])

    (look,) = run(router, router.video_poll(video_id, timeout=TEN_SECONDS, provider=order.provider))

    assert order.provider == look.provider == "second"
    assert look.body["id"] == video_id
    assert first.count(f"/videos/{video_id}") == 0
    with pytest.raises(ProviderFailure, match="removed") as caught:
        run(router, router.video_poll(video_id, timeout=TEN_SECONDS, provider="third"))
    assert not caught.value.retryable
