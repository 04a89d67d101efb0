"""Every call is a real HTTP request to a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Coroutine, Generator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from core.providers.errors import ProviderFailure
from core.providers.openai_compatible import Answer, Provider
from core.testing import FakeProvider, Fault

CHAT = {"model": "fake-chat", "messages": [{"role": "user", "content": "hello there"}]}
TEN_SECONDS = timedelta(seconds=10)
API_KEY = "sk-test-canary-0123456789"


@pytest.fixture
def fake() -> Generator[FakeProvider]:
    with FakeProvider() as server:
        yield server


@pytest.fixture
def provider(fake: FakeProvider) -> Provider:
    return Provider(fake.url, API_KEY)


def run(provider: Provider, call: Coroutine[Any, Any, Answer]) -> Answer:
    """One call on an event loop of its own, which is left with all connections closed."""

    async def body() -> Answer:
        try:
            return await call
        finally:
            await provider.close()

    return asyncio.run(body())


def chat(
    provider: Provider, body: Mapping[str, object] = CHAT, *, timeout: timedelta = TEN_SECONDS, key: str | None = None
) -> Answer:
    return run(provider, provider.chat_completion(body, timeout=timeout, idempotency_key=key))


def failure_of(provider: Provider, body: Mapping[str, object] = CHAT, **options: Any) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as caught:
        chat(provider, body, **options)
    return caught.value


def test_request_carries_body_and_key_and_nothing_of_ours(fake: FakeProvider, provider: Provider) -> None:
    body = {**CHAT, "temperature": 0.5, "metadata": {"ü": "x"}, "top_k": 3}

    answer = chat(provider, body, key="task_1")

    (call,) = fake.calls
    assert call.path == "/v1/chat/completions"
    assert call.json == body
    assert call.headers["authorization"] == f"Bearer {API_KEY}"
    assert call.headers["idempotency-key"] == "task_1"
    assert answer.body["usage"]


def test_provider_without_a_key_gets_no_authorization_header(fake: FakeProvider) -> None:
    chat(Provider(fake.url, None))

    assert "authorization" not in fake.calls[0].headers


def test_ambient_openai_settings_do_not_reach_the_provider(
    fake: FakeProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-account")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-another-account")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    chat(provider)

    assert not [name for name, value in fake.calls[0].headers.items() if "another-account" in value]


def test_every_endpoint_answers(fake: FakeProvider, provider: Provider) -> None:
    async def all_of_them() -> list[Answer]:
        embedded = await provider.embedding({"model": "m", "input": ["a", "b"]}, timeout=TEN_SECONDS)
        painted = await provider.image_generation({"prompt": "a lake"}, timeout=TEN_SECONDS)
        ordered = await provider.video_submit({"prompt": "a lake"}, timeout=TEN_SECONDS)
        looked = await provider.video_poll(str(ordered.body["id"]), timeout=TEN_SECONDS)
        await provider.close()
        return [embedded, painted, ordered, looked]

    embedded, painted, ordered, looked = asyncio.run(all_of_them())

    assert [type(entry["embedding"]) for entry in json.loads(embedded.text)["data"]] == [list, list]
    assert json.loads(painted.text)["data"][0]["b64_json"]
    assert ordered.body["status"] == "queued"
    assert looked.body["id"] == ordered.body["id"]


@pytest.mark.parametrize(
    "text",
    [
        '{"choices":[],"z":1,"a":2,  "usage":{"total_tokens":1.0,"cost":1e-7,"big":123456789012345678901234567890}}',
        '{"choices":[{"text":"\\u0000 \\ud800 \\udc00x \\"\\\\ \\/ \u2028 \U0001f600 \\ud83d\\ude00"}]}',
        '\n {"choices": [], "choices": [1], "": null}\r\n',
    ],
)
def test_answer_is_passed_on_unchanged(fake: FakeProvider, provider: Provider, text: str) -> None:
    fake.fail("/chat", Fault(body=text.encode()))

    assert chat(provider).text == text


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (400, "provider_rejected", False),
        (401, "provider_auth", False),
        (402, "provider_quota", False),
        (403, "provider_auth", False),
        (404, "provider_rejected", False),
        (408, "provider_timeout", True),
        (409, "provider_conflict", True),
        (413, "provider_rejected", False),
        (422, "provider_rejected", False),
        (429, "provider_rate_limited", True),
        (500, "provider_unavailable", True),
        (501, "provider_rejected", False),
        (502, "provider_unavailable", True),
        (503, "provider_unavailable", True),
        (504, "provider_unavailable", True),
        (529, "provider_unavailable", True),
        (307, "provider_rejected", False),
    ],
)
def test_status_decides_whether_another_attempt_is_worth_it(
    fake: FakeProvider, provider: Provider, status: int, code: str, retryable: bool
) -> None:
    fake.fail("/chat", Fault(status=status, headers={"Location": f"{fake.url}/chat/completions"}))

    failure = failure_of(provider)

    assert (failure.code, failure.retryable) == (code, retryable)
    assert failure.rate_limited is (status == 429)
    assert str(status) in str(failure)
    assert fake.count("/chat/completions") == 1


def test_used_up_quota_is_not_tried_again(fake: FakeProvider, provider: Provider) -> None:
    body = b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
    fake.fail("/chat", Fault(status=429, retry_after="1", body=body))

    failure = failure_of(provider)

    assert (failure.code, failure.retryable, failure.rate_limited) == ("provider_quota", False, False)
    assert "You exceeded your current quota" in str(failure)


def test_retry_after_in_seconds_is_honoured(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(status=429, retry_after="7"))

    assert failure_of(provider).retry_after == timedelta(seconds=7)


def test_retry_after_as_a_date_is_honoured_by_the_providers_clock(fake: FakeProvider, provider: Provider) -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC)
    dates = {"Date": format_datetime(now, usegmt=True)}
    due = format_datetime(now + timedelta(seconds=90), usegmt=True)
    fake.fail("/chat", Fault(status=503, retry_after=due, headers=dates))

    assert failure_of(provider).retry_after == timedelta(seconds=90)


def test_retry_after_in_milliseconds_is_more_exact(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(status=429, retry_after="7", headers={"retry-after-ms": "6500"}))

    assert failure_of(provider).retry_after == timedelta(seconds=6.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("soon", None),
        ("nan", None),
        ("-5", timedelta()),
        ("Wed, 21 Oct 2015 07:28:00 GMT", timedelta()),
        ("9" * 400, None),
        ("1e300", timedelta(days=1)),
    ],
)
def test_absurd_retry_after_does_no_harm(
    fake: FakeProvider, provider: Provider, text: str, expected: timedelta | None
) -> None:
    fake.fail("/chat", Fault(status=429, retry_after=text))

    assert failure_of(provider).retry_after == expected


@pytest.mark.parametrize(
    "fault",
    [Fault(delay_s=30), Fault(trickle_s=0.05, body=b'{"choices":[]}' + b" " * 10_000)],
    ids=["silence", "trickle"],
)
def test_total_deadline_binds(fake: FakeProvider, provider: Provider, fault: Fault) -> None:
    chat(provider)  # the SDK is imported and the clock measures the call alone
    fake.fail("/chat", fault)

    start = time.monotonic()
    failure = failure_of(provider, timeout=timedelta(seconds=0.5))

    assert time.monotonic() - start < 2
    assert (failure.code, failure.retryable) == ("provider_timeout", True)
    fake.wait_for(lambda server: server.calls[-1].outcome == "gone")


def test_trickling_error_body_does_not_outlive_the_deadline(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(status=400, trickle_s=0.05, body=b"x" * 10_000))

    assert failure_of(provider, timeout=timedelta(seconds=1)).code == "provider_timeout"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b'{"choices": [',
        b"[1]",
        b'"choices"',
        b'{"choices": NaN}',
        b'{"choices": []} trailing',
        b'{"choices": ["\xff"]}',
        b'{"choices": null}',
        b'{"choices": {"0": 1}}',
        b'{"usage": {}}',
        b"[" * 100_000,
    ],
)
def test_answer_that_is_no_answer_is_malformed(fake: FakeProvider, provider: Provider, body: bytes) -> None:
    fake.fail("/chat", Fault(body=body))

    failure = failure_of(provider)

    assert (failure.code, failure.retryable) == ("provider_malformed", True)


def test_missing_usage_is_still_an_answer(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(body=b'{"choices": [{"message": {"content": "hi"}}]}'))

    assert "usage" not in chat(provider).body


def test_error_inside_a_200_is_read_as_its_status(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(body=b'{"error": {"code": 429, "message": "slow down"}}'))

    failure = failure_of(provider)

    assert (failure.code, failure.rate_limited) == ("provider_rate_limited", True)
    assert "slow down" in str(failure)


def test_cut_reply_is_retryable(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(cut_after=20))

    failure = failure_of(provider)

    assert (failure.code, failure.retryable) == ("provider_unavailable", True)
    assert fake.calls[0].outcome == "cut"


def test_refused_connection_is_retryable() -> None:
    with FakeProvider() as gone:
        provider = Provider(gone.url, None)

    failure = failure_of(provider)

    assert (failure.code, failure.retryable) == ("provider_unavailable", True)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(body=b'{"choices": ["' + b"x" * 300_000 + b'"]}'),
        Fault(body=gzip.compress(b'{"choices": ["' + b"x" * 50_000_000 + b'"]}'), headers={"Content-Encoding": "gzip"}),
    ],
    ids=["plain", "compressed"],
)
def test_answer_over_the_limit_is_not_read_to_its_end(fake: FakeProvider, fault: Fault) -> None:
    fake.fail("/chat", fault)

    failure = failure_of(Provider(fake.url, None, answer_limit_bytes=100_000))

    assert (failure.code, failure.retryable) == ("result_too_large", False)


def test_compressed_answer_is_read_all_the_same(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(body=gzip.compress(b'{"choices": []}'), headers={"Content-Encoding": "gzip"}))

    assert chat(provider).text == '{"choices": []}'


def test_answer_compressed_twice_is_refused(fake: FakeProvider, provider: Provider) -> None:
    twice = gzip.compress(gzip.compress(b'{"choices": []}'))
    fake.fail("/chat", Fault(body=twice, headers={"Content-Encoding": "gzip, gzip"}))

    assert failure_of(provider).code == "provider_malformed"


def test_error_body_of_any_size_makes_a_short_message(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(status=500, body=b"overloaded " * 5_000_000))

    failure = failure_of(provider)

    assert failure.code == "provider_unavailable"
    assert len(str(failure)) < 500


def test_error_names_neither_key_nor_prompt(fake: FakeProvider, provider: Provider) -> None:
    body = {"model": "gpt-none", "messages": [{"role": "user", "content": "the canary prompt of my client"}]}
    message = (
        f"Incorrect API key provided: {API_KEY} (Bearer abcdef123456, http://me:pw@host/v1). "
        "Your message 'the canary prompt\nof my client' to model gpt-none is invalid"
    )
    fake.fail(
        "/chat", Fault(status=400, body=json.dumps({"error": {"message": message, "code": "invalid_value"}}).encode())
    )

    failure = failure_of(provider, body)

    shown = str(failure)
    assert not [secret for secret in (API_KEY, "abcdef123456", "me:pw", "canary", "client") if secret in shown]
    assert "invalid_value" in shown
    assert "model gpt-none is invalid" in shown
    assert "\n" not in shown
    assert failure.__cause__ is None
    assert failure.__suppress_context__


@pytest.mark.parametrize(
    "url", [None, "", "localhost:8000/v1", "ftp://host/v1", "https://", "http://[::1/v1", "http://host:99999"]
)
def test_missing_provider_says_what_to_set(url: str | None) -> None:
    failure = failure_of(Provider(url, None))

    assert (failure.code, failure.retryable) == ("provider_not_configured", False)
    assert "HEADRACE_PROVIDER_URL" in str(failure)


def test_cancelled_call_closes_its_connection_at_once(fake: FakeProvider, provider: Provider) -> None:
    fake.fail("/chat", Fault(delay_s=60))

    async def body() -> None:
        call = asyncio.create_task(provider.chat_completion(CHAT, timeout=timedelta(seconds=60)))
        await asyncio.to_thread(fake.wait_for, lambda server: server.count("/chat/completions") == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        # The client stays open: it is the one request's connection that must go.
        await asyncio.to_thread(fake.wait_for, lambda server: server.calls[0].outcome == "gone", timeout_s=2)
        await provider.close()

    asyncio.run(body())


def test_many_calls_share_connections_and_loops_do_not_share_clients(fake: FakeProvider, provider: Provider) -> None:
    async def many() -> int:
        calls = [provider.chat_completion(CHAT, timeout=TEN_SECONDS) for _ in range(40)]
        answered = len(await asyncio.gather(*calls))
        await provider.close()
        return answered

    assert [asyncio.run(many()), asyncio.run(many())] == [40, 40]
