"""What a provider is to Headrace: a row, or what the settings say; and what an operator may write into one. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

from core.errors import InvalidRequest
from core.settings import check_variable

OPENAI = "openai"
"""The one kind there is: any server that speaks OpenAI's API."""
DEFAULT_NAME = "default"
"""Of the provider that HEADRACE_PROVIDER_URL makes."""
DEFAULT_PRIORITY = 100
LAST_PRIORITY = 1000
"""Of the provider of the settings: rows that an operator adds come first."""
HIGHEST_PRIORITY = 10_000

MOST_PATTERNS = 1000
LONGEST_URL = 2000
LONGEST_KEY = 4000
LONGEST_MODEL = 200

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MODEL = re.compile(r"(?=.)[!-)+-~]*\*?")  # visible characters; a star only at the end
_KEY = re.compile(r"[!-~]+")  # what a header can carry
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")


class KeySource(StrEnum):
    """Where a provider's API key comes from. The key itself is never shown."""

    NONE = "none"
    """No Authorization header is sent, as local servers like it."""
    SEALED = "sealed"
    """In the row, encrypted with HEADRACE_ENCRYPTION_KEY."""
    ENVIRONMENT = "environment"
    """In an environment variable of each process that calls the provider."""
    SETTINGS = "settings"
    """HEADRACE_PROVIDER_API_KEY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRow:
    """
    One provider.

    Args:
        source: `table`, or `settings` for what HEADRACE_PROVIDER_URL makes: that one has no row.
        priority: lower is asked first; equal ones by name.
        models: what it may be asked for, `gpt-*` for all that begin so; empty: everything.
        version: + 1 with every change by an operator; 0 without a row.
    """

    name: str
    kind: str = OPENAI
    base_url: str
    key_source: KeySource
    api_key_env: str | None = None
    sealed_key: bytes | None = field(default=None, repr=False)
    enabled: bool = True
    priority: int
    models: tuple[str, ...] = ()
    source: str = "table"
    version: int = 0
    created_at: datetime | None = None
    changed_at: datetime | None = None
    discovered_at: datetime | None = None
    discovery_error: str | None = None
    discovery_failed_at: datetime | None = None

    def allows(self, model: str | None) -> bool:
        return allows(self.models, model)

    def to_document(self) -> dict[str, object]:
        """What operators see, by API and command line alike."""
        return {
            "name": self.name,
            "kind": self.kind,
            "base_url": self.base_url,
            "api_key": self.key_source.value,
            "api_key_env": self.api_key_env,
            "enabled": self.enabled,
            "priority": self.priority,
            "models": list(self.models),
            "source": self.source,
            "version": self.version,
            "created_at": self.created_at,
            "changed_at": self.changed_at,
            "discovered_at": self.discovered_at,
            "discovery_error": self.discovery_error,
        }


def allows(models: Sequence[str], model: str | None) -> bool:
    """
    Whether an allow-list has the model.

    A request that names none is for the provider's own default, which only a provider without a list may choose.
    """
    if not models:
        return True
    if model is None:
        return False
    return any(model.startswith(entry[:-1]) if entry.endswith("*") else model == entry for entry in models)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProvider:
    """What an operator gives; at most one of the two keys."""

    name: str
    base_url: str
    kind: str = OPENAI
    api_key: str | None = field(default=None, repr=False)
    api_key_env: str | None = None
    enabled: bool = True
    priority: int = DEFAULT_PRIORITY
    models: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises: InvalidRequest: names the field."""
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest("name: lower-case letters, digits, `.`, `_` and `-`, up to 63", field="name")
        if self.kind != OPENAI:
            raise InvalidRequest(f"kind: must be {OPENAI}, any server that speaks its API", field="kind")
        ProviderChange(
            base_url=self.base_url,
            api_key=self.api_key,
            api_key_env=self.api_key_env,
            priority=self.priority,
            models=self.models,
        ).check()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderChange:
    """
    What an operator changes; None: as it is.

    Args:
        no_key: forget the key there is; the provider is called without one.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_key_env: str | None = None
    no_key: bool = False
    enabled: bool | None = None
    priority: int | None = None
    models: tuple[str, ...] | None = None

    @property
    def sets_key(self) -> bool:
        return self.no_key or self.api_key is not None or self.api_key_env is not None

    def check(self) -> None:
        """Raises: InvalidRequest: names the field."""
        if self.base_url is not None:
            check_base_url(self.base_url)
        if (self.api_key is not None) + (self.api_key_env is not None) + self.no_key > 1:
            raise InvalidRequest("api_key_env: give the key itself, a variable, or neither", field="api_key_env")
        if self.api_key is not None and not (_KEY.fullmatch(self.api_key) and len(self.api_key) <= LONGEST_KEY):
            raise InvalidRequest(f"api_key: 1 to {LONGEST_KEY} visible ASCII characters, no blanks", field="api_key")
        if self.api_key_env is not None:
            check_variable(self.api_key_env, field="api_key_env")
        if self.priority is not None and not 0 <= self.priority <= HIGHEST_PRIORITY:
            raise InvalidRequest(f"priority: 0 to {HIGHEST_PRIORITY}; lower is asked first", field="priority")
        if self.models is not None:
            _check_models(self.models)


def check_base_url(url: str) -> None:
    """
    Any http or https URL that an operator wants, loopback and private networks included: it is his network.

    Raises:
        InvalidRequest: another scheme, or something in it that does not belong there. The message does not repeat it.
    """
    problem = _problem_of_url(url)
    if problem is not None:
        raise InvalidRequest(f"base_url: {problem}; e.g. https://host/v1", field="base_url")


def origin_of(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: who gets the key. The URL was checked."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _problem_of_url(url: str) -> str | None:  # noqa: PLR0911 (a table, one line a case)
    if len(url) > LONGEST_URL:
        return f"over {LONGEST_URL} characters"
    if _BLANK.search(url) or not url.isprintable():
        return "holds a blank or control character"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # brackets that do not match, a port that is none
        return "is not a URL"
    if parts.scheme not in ("http", "https"):
        return "must begin with http:// or https://"
    if not parts.hostname or port == 0:
        return "names no host or no port"
    if "@" in parts.netloc:
        return "must not hold a user or password; give the key as api_key"
    if "?" in url or "#" in url:
        return "must not hold a query or fragment"
    return None


def _check_models(models: Sequence[str]) -> None:
    if len(models) > MOST_PATTERNS:
        raise InvalidRequest(f"models: at most {MOST_PATTERNS}", field="models")
    for place, entry in enumerate(models):
        if len(entry) > LONGEST_MODEL or not _MODEL.fullmatch(entry):
            at = f"models[{place}]"
            raise InvalidRequest(f"{at}: a model's name, or its beginning and `*`, e.g. gpt-*", field=at)
