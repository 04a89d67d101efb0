"""What an error status means, as a real server answers it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from core.providers.openai_compatible import Provider
from core.testing import FakeProvider, Fault
from tests.support.provider_calls import API_KEY, failure_of


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
