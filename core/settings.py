"""
Every setting, with its unit, bounds and when to change it. The only file that reads the environment.

Prefix `HEADRACE_`; Heroku's bare `DATABASE_URL`, `REDIS_URL` and `PORT` are accepted where the prefixed name is absent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from core.errors import InvalidRequest, Misconfigured
from core.sealing import is_key

PREFIX = "HEADRACE_"
Words = tuple[str, ...]


class Settings(BaseModel):
    """Read once by the composition root; classes get values, never the whole object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL, e.g. postgresql://user:password@host/db. Unset: the embedded server.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey for cache, events and limits. Unset: the embedded server.",
    )
    broker_url: SecretStr | None = Field(
        default=None,
        description="Redis for Dramatiq's bells. Unset: the server of REDIS_URL, the next database number. "
        "In production give it an instance of its own (noeviction).",
    )
    data_dir: Path = Field(
        default=Path("var"),
        description="Embedded servers, generated secrets and pid files.",
    )
    host: str = Field(default="127.0.0.1", description="Address the web process binds.")
    port: int = Field(
        default=8000,
        ge=0,
        le=65535,
        description="Port of the web process; 0 picks a free one.",
    )
    worker_processes: int = Field(default=1, ge=1, le=64, description="Worker processes on this host.")
    worker_threads: int = Field(default=8, ge=1, le=256, description="Tasks one worker process runs at once.")
    worker_queues: Words = Field(
        default=(),
        description="Queues this worker serves, comma separated; empty: all known queues.",
    )
    lease_s: float = Field(
        default=30.0,
        ge=2,
        le=3600,
        description="Silence after which a worker process is dead. At least 2 x HEARTBEAT_S.",
    )
    heartbeat_s: float = Field(
        default=10.0,
        ge=0.2,
        le=600,
        description="How often a worker process says it lives.",
    )
    shutdown_grace_s: float = Field(
        default=25.0,
        ge=1,
        le=3600,
        description="From SIGTERM to exit; below the platform's kill (Heroku: 30 s).",
    )
    result_limit_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1024,
        le=256 * 1024 * 1024,
        description="Largest result kept, bytes of JSON.",
    )
    body_limit_bytes: int = Field(
        default=1024 * 1024,
        ge=1024,
        le=64 * 1024 * 1024,
        description="Largest request body.",
    )
    admin_key: SecretStr | None = Field(default=None, description="Secret of the admin API. Embedded: generated.")
    key_pepper: SecretStr | None = Field(
        default=None,
        description="Secret mixed into key hashes, 32 characters or more. Embedded: generated. For rotation several, "
        "comma separated, each with its number: `2:new,1:old`; the first hashes, without a number it is 1.",
    )
    encryption_key: SecretStr | None = Field(
        default=None,
        description="Key that seals secrets at rest, as `python -m core.sealing` prints one; several, comma separated, "
        "for rotation: the first seals. Embedded: generated.",
    )
    provider_url: str | None = Field(
        default=None,
        description="Base URL of the OpenAI-compatible provider, e.g. https://host/v1.",
    )
    provider_api_key: SecretStr | None = Field(default=None, description="Its API key.")
    instance_name: str = Field(
        default="conduit-tasks:",
        pattern=r"^[A-Za-z0-9_.:-]{0,64}$",
        description="Prefix of our Redis keys.",
    )
    cache: str = Field(
        default="redis",
        pattern="^(redis|memory)$",
        description="redis, or memory for development: every process goes on as if Redis were away.",
    )
    trusted_proxies: Words = Field(
        default=(),
        description="Addresses or CIDRs, comma separated, of proxies whose X-Forwarded-For is believed.",
    )
    ban_exempt: Words = Field(
        default=(),
        description="Addresses or CIDRs, comma separated, that are never banned. Loopback never is.",
    )
    ban_after_failures: int = Field(
        default=10, ge=1, le=10_000, description="Failed log-ins of one address in 30 minutes that ban it."
    )
    ban_s: float = Field(
        default=1800.0, ge=1, le=86_400, description="How long a first ban lasts; each further one twice as long."
    )
    ip_rpm: int = Field(
        default=6000,
        ge=0,
        le=10_000_000,
        description="Requests a minute of one address to one route; 0: no limit. Loopback has none.",
    )
    admin_rpm: int = Field(
        default=600, ge=0, le=10_000_000, description="Requests a minute of the admin key to one route; 0: no limit."
    )
    limits_without_redis: str = Field(
        default="share",
        pattern="^(share|open|closed)$",
        description="While Redis is away limits are: share, divided by the live web processes; open, not enforced; "
        "closed, everything that has one is refused.",
    )
    task_modules: Words = Field(
        default=(),
        description="Python modules that declare your own task types, comma separated.",
    )
    diagnostic_tasks: bool | None = Field(
        default=None,
        description="Offer the diagnostic.* task types. Unset: only with embedded servers.",
    )
    archive_after_days: float = Field(
        default=7.0,
        ge=0,
        le=3650,
        description="Final tasks older than this leave the lists; they are still answered by id. 0: never.",
    )
    delete_after_days: float = Field(
        default=30.0,
        ge=0,
        le=3650,
        description="Archived tasks that ended longer ago than this are deleted. 0: never.",
    )
    log_format: str = Field(default="console", pattern="^(console|json)$", description="console or json.")
    log_level: str = Field(
        default="INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        description="Least level logged.",
    )

    @field_validator("worker_queues", "task_modules", "trusted_proxies", "ban_exempt", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(word.strip() for word in value.split(",") if word.strip())
        return value

    @field_validator("heartbeat_s")
    @classmethod
    def _heartbeat_fits(cls, value: float, info: ValidationInfo) -> float:
        lease = info.data.get("lease_s")
        if lease is not None and value * 2 > lease:
            raise ValueError(f"must be at most half of LEASE_S ({lease:g})")
        return value

    @field_validator("encryption_key")
    @classmethod
    def _encryption_keys_fit(cls, value: SecretStr | None) -> SecretStr | None:
        keys = [] if value is None else value.get_secret_value().split(",")
        if not all(is_key(key.strip()) for key in keys):
            raise ValueError("each key must be 32 bytes in URL-safe base64, as `python -m core.sealing` prints them")
        return value

    @property
    def offers_diagnostics(self) -> bool:
        return self.database_url is None if self.diagnostic_tasks is None else self.diagnostic_tasks


def load_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """
    Read the environment; `overrides` (field names) win over it.

    Raises:
        Misconfigured: names each bad variable and what it must be.
    """
    source = dict(os.environ if environ is None else environ)
    values: dict[str, object] = {}
    for name in Settings.model_fields:
        raw = source.get(PREFIX + name.upper())
        if raw is not None and raw != "":
            values[name] = raw
    for name in ("database_url", "redis_url", "port"):
        if name not in values and source.get(name.upper()):
            values[name] = source[name.upper()]
            if name == "port" and "host" not in values:
                values["host"] = "0.0.0.0"  # noqa: S104 (a bare PORT: a platform's router stands in front)
    values.update({name: value for name, value in overrides.items() if value is not None})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_input=False)]
        raise Misconfigured("settings: " + "; ".join(lines)) from None


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment that makes a child process load exactly these settings; the only way secrets reach a child."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    for name in ("DATABASE_URL", "REDIS_URL", "PORT"):
        environ.pop(name, None)
    for name in Settings.model_fields:
        value: object = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        elif isinstance(value, tuple):
            value = ",".join(cast(Words, value))
        environ[PREFIX + name.upper()] = str(value)
    return environ


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OURS = frozenset({"DATABASE_URL", "REDIS_URL", "PORT"})


def check_variable(name: str, *, field: str) -> None:
    """
    Whether an operator may name this environment variable as the place of a secret.

    Raises:
        InvalidRequest: not a variable's name, or one of our own settings: those would leave in a request's header.
    """
    if not _VARIABLE.fullmatch(name):
        raise InvalidRequest(f"{field}: the name of an environment variable, e.g. OPENAI_API_KEY", field=field)
    if name.startswith(PREFIX) or name in _OURS:
        raise InvalidRequest(f"{field}: {name} is a setting of Headrace; take another variable", field=field)


def variable(name: str) -> str | None:
    """The value of an environment variable that an operator named; None when it is unset or empty."""
    check_variable(name, field="name")
    return os.environ.get(name) or None


def sqlalchemy_url(url: str) -> str:
    """`postgres://` and `postgresql://` as SQLAlchemy's psycopg dialect wants them."""
    scheme, _, rest = url.partition("://")
    if scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        return "postgresql+psycopg://" + rest
    raise Misconfigured(f"DATABASE_URL: scheme {scheme!r} is not PostgreSQL; use postgresql://user:password@host/db")


def default_broker_url(redis_url: str) -> str:
    """The same server, the next database number (a UNIX socket keeps its path and gets `?db=`)."""
    parts = urlsplit(redis_url)
    number = parts.path.lstrip("/")
    following = (int(number) if number.isdigit() else 0) + 1
    return urlunsplit(parts._replace(path=f"/{following}"))
