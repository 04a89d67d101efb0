"""Every call is a real HTTP request to a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from datetime import timedelta

import pytest

from core.providers.openai_compatible import Answer, Provider
from core.testing import FakeProvider, Fault
from tests.support.provider_calls import API_KEY, CHAT, TEN_SECONDS, chat, failure_of


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
