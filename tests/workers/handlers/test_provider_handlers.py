"""The handlers against a real server; a parked run is continued by hand, as the row would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from datetime import timedelta

import pytest

from core.providers.openai_compatible import Provider
from core.task_types.chat_completion import ChatCompletion
from core.task_types.embedding import Embedding
from core.task_types.image_generation import ImageGeneration
from core.task_types.spec import TaskInput, load_task_types
from core.task_types.video_generation import VideoGeneration
from core.testing import FakeProvider, Fault
from tests.support.contexts import LocalContext
from tests.support.handlers import handler_of
from workers.context import PermanentFailure, PollAgain, RawJson, RetryableFailure
from workers.handlers.video_generation import FIRST_DELAY_S, LONGEST_DELAY_S, MOST_FAILED_LOOKS

CHAT = ChatCompletion(model="m", messages=[{"role": "user", "content": "hello"}], extra={"top_k": 3})
VIDEO = VideoGeneration(prompt="a lake at dawn", seconds="4")


@pytest.fixture
def fake() -> Generator[FakeProvider]:
    with FakeProvider(video_polls=3) as server:
        yield server


@pytest.fixture
def provider(fake: FakeProvider) -> Provider:
    return Provider(fake.url, "sk-of-a-test")


def run(input: TaskInput, ctx: LocalContext) -> object:
    return asyncio.run(handler_of(load_task_types().get(input.task_type))(input, ctx))


@pytest.mark.parametrize(
    ("input", "path"),
    [
        (CHAT, "/chat/completions"),
        (Embedding(model="m", input=["a", "b"]), "/embeddings"),
        (ImageGeneration(prompt="a lake"), "/images/generations"),
    ],
    ids=["chat", "embedding", "image"],
)
def test_answer_is_the_result_unchanged(fake: FakeProvider, provider: Provider, input: TaskInput, path: str) -> None:
    member = "choices" if path.startswith("/chat") else "data"
    text = f'{{ "z": 1.0, "{member}": [ ], "usage": {{"cost": 1e-7, "note": "\\ud800\\u0000"}} }}'
    fake.fail(path, Fault(body=text.encode()))

    assert run(input, LocalContext(provider)) == RawJson(text)
    assert fake.calls[0].path == f"/v1{path}"


def test_two_attempts_send_the_same_request_with_the_same_key(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(cut_after=10))

    with pytest.raises(RetryableFailure):
        run(CHAT, LocalContext(provider, attempt=1))
    run(CHAT, LocalContext(provider, attempt=2))

    first, second = fake.calls
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == LocalContext().task_id
    assert first.body == second.body
    assert first.json["top_k"] == 3


def test_rate_limit_reaches_the_retry_decision(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(status=429, retry_after="7"))

    with pytest.raises(RetryableFailure) as caught:
        run(CHAT, LocalContext(provider))

    assert (caught.value.rate_limited, caught.value.retry_after) == (True, timedelta(seconds=7))
    assert caught.value.__cause__ is None


def test_rejection_is_permanent(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(status=422))

    with pytest.raises(PermanentFailure) as caught:
        run(CHAT, LocalContext(provider))

    assert caught.value.code == "provider_rejected"


@pytest.mark.parametrize("input", [CHAT, VIDEO, Embedding(model="m", input="a"), ImageGeneration(prompt="a")])
def test_without_a_provider_the_task_says_what_to_set(input: TaskInput) -> None:
    with pytest.raises(PermanentFailure, match="HEADRACE_PROVIDER_URL") as caught:
        run(input, LocalContext())

    assert caught.value.code == "provider_not_configured"


def test_deadline_of_the_task_ends_the_call(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(delay_s=60))

    with pytest.raises(RetryableFailure) as caught:
        run(CHAT, LocalContext(provider, seconds=2))

    assert caught.value.code == "provider_timeout"


def test_video_is_ordered_once_and_looked_at_until_it_is_ready(fake: FakeProvider, provider: Provider) -> None:
    outcomes, shown = follow(VIDEO, provider)

    *parked, result = outcomes
    assert isinstance(result, RawJson)
    assert json.loads(result.text)["status"] == "completed"
    pauses = [wait.after.total_seconds() for wait in parked if isinstance(wait, PollAgain)]
    assert pauses == [FIRST_DELAY_S, 3.0, 4.5]
    assert [percent for percent, _ in shown] == [0, 33, 66]
    assert (fake.count("/videos"), fake.videos.count) == (1, 1)
    assert fake.calls[0].headers["idempotency-key"] == LocalContext().task_id


def test_pause_between_looks_grows_to_its_limit(provider: Provider, fake: FakeProvider) -> None:
    fake.videos.polls = 20

    outcomes, _ = follow(VIDEO, provider)

    assert max(o.after.total_seconds() for o in outcomes if isinstance(o, PollAgain)) == LONGEST_DELAY_S


def test_pause_the_provider_asks_for_is_kept(fake: FakeProvider, provider: Provider) -> None:
    fake.poll_after_ms = 750

    outcomes, _ = follow(VIDEO, provider)

    assert {o.after for o in outcomes if isinstance(o, PollAgain)} == {timedelta(milliseconds=750)}


def test_look_that_fails_is_repeated_without_a_second_order(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/videos/", Fault(status=503), times=5)
    fake.fail("/videos/", Fault(status=429, retry_after="40"))

    outcomes, _ = follow(VIDEO, provider)

    assert isinstance(outcomes[-1], RawJson)
    assert timedelta(seconds=40) in [o.after for o in outcomes if isinstance(o, PollAgain)]
    assert fake.videos.count == 1


def test_provider_that_stays_away_fails_the_attempt_in_the_end(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/videos/", Fault(status=503), times=None)

    with pytest.raises(RetryableFailure) as caught:
        follow(VIDEO, provider)

    assert caught.value.code == "provider_unavailable"
    assert len([call for call in fake.calls if call.method == "GET"]) == MOST_FAILED_LOOKS + 1


def test_vanished_video_fails_for_good(fake: FakeProvider, provider: Provider) -> None:
    with pytest.raises(PermanentFailure) as caught:
        run(VIDEO, LocalContext(provider, poll_state={"video_id": "video_of_yesterday", "delay_s": 2.0}))

    assert caught.value.code == "provider_rejected"


def test_failed_video_ends_with_the_providers_code_and_not_the_prompt(fake: FakeProvider, provider: Provider) -> None:
    told = {"code": "moderation_blocked", "message": "the prompt 'a lake at dawn' was blocked"}
    fake.fail("/videos/", Fault(body=json.dumps({"id": "v", "status": "failed", "error": told}).encode()))

    with pytest.raises(PermanentFailure) as caught:
        follow(VIDEO, provider)

    assert caught.value.code == "moderation_blocked"
    assert "was blocked" in str(caught.value)
    assert "lake" not in str(caught.value)


def test_lost_answer_to_an_order_does_not_order_twice(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/videos", Fault(cut_after=5))
    with pytest.raises(RetryableFailure):
        run(VIDEO, LocalContext(provider))

    run(VIDEO, LocalContext(provider, attempt=2))

    assert (fake.count("/videos"), fake.videos.count) == (2, 1)


def follow(input: VideoGeneration, provider: Provider) -> tuple[list[object], list[tuple[float | None, str | None]]]:
    """Run the handler as often as it parks itself; what each run returned, and the progress shown."""

    async def body() -> tuple[list[object], list[tuple[float | None, str | None]]]:
        handle = handler_of(load_task_types().get(input.task_type))
        outcomes: list[object] = []
        shown: list[tuple[float | None, str | None]] = []
        state: object = None
        for _ in range(50):
            ctx = LocalContext(provider, poll_state=state)
            outcome = await handle(input, ctx)
            outcomes.append(outcome)
            shown += ctx.shown
            if not isinstance(outcome, PollAgain):
                break
            state = json.loads(json.dumps(outcome.state))
        await provider.close()
        return outcomes, shown

    return asyncio.run(body())
