"""What every handler that calls the provider shares: its failures, as the worker's retry decision reads them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from core.providers.errors import ProviderFailure
from workers.context import PermanentFailure, RetryableFailure


@contextmanager
def provider_failures() -> Generator[None]:
    """Turn a ProviderFailure inside the block into RetryableFailure or PermanentFailure."""
    try:
        yield
    except ProviderFailure as failure:
        # `from None`: the message says all there is, without the keys and prompts the filter took out of it.
        raise handler_failure(failure) from None


def handler_failure(failure: ProviderFailure) -> RetryableFailure | PermanentFailure:
    if not failure.retryable:
        return PermanentFailure(str(failure), code=failure.code)
    return RetryableFailure(
        str(failure), code=failure.code, retry_after=failure.retry_after, rate_limited=failure.rate_limited
    )
