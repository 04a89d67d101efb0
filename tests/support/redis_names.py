"""What Redis holds, as a test sees it, and the rows of docs/contract.md that it is held against."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import redis

from core.access.keys.virtual_keys import NewVirtualKey
from core.app import App
from core.settings import Settings
from tests.support.waiting import wait_until

DOCUMENT = Path(__file__).parents[2] / "docs" / "contract.md"


@dataclass(frozen=True)
class Found:
    """A key of Redis. `life_ms`: -1: none."""

    kind: str
    life_ms: int
    value: Any

    @property
    def json(self) -> Any:
        return orjson.loads(self.value)


class Store:
    """The cache's Redis database, which is the test's own."""

    def __init__(self, settings: Settings) -> None:
        assert settings.redis_url is not None
        self._url = settings.redis_url.get_secret_value()
        self.instance = settings.instance_name

    def names(self) -> list[str]:
        with redis.Redis.from_url(self._url) as client:
            found: Any = client.scan_iter(count=1000)
            return sorted(name.decode() for name in found)

    def find(self, name: str) -> Found | None:
        """By its name; `...` stands for the instance's prefix."""
        key = name.replace("...", self.instance, 1)
        with redis.Redis.from_url(self._url) as client:
            told: Any = client.type(key)
            kind = str(told.decode())
            if kind == "none":
                return None
            life_ms: Any = client.pttl(key)
            return Found(kind, life_ms, _value(client, kind, key))

    def get(self, name: str, when: Callable[[Found], bool] = lambda _: True) -> Found:
        """Waits until there is one, and `when` is true of it."""

        def look() -> list[Found]:
            found = self.find(name)
            return [] if found is None or not when(found) else [found]

        return wait_until(look, 20, what=name)[0]


def _value(client: Any, kind: str, key: str) -> Any:
    match kind:
        case "string":
            return client.get(key)
        case "hash":
            return {field.decode(): value.decode() for field, value in client.hgetall(key).items()}
        case "zset":
            return {member.decode(): score for member, score in client.zrange(key, 0, -1, withscores=True)}
        case "set":
            return {member.decode() for member in client.smembers(key)}
        case "stream":
            return client.xrange(key)
        case _:
            raise AssertionError(f"{key} is a {kind}")


def hash_of(app: App, key: NewVirtualKey) -> str:
    presented = app.access.peppers.present(key.clear_key)
    assert presented is not None
    return presented.hashes[app.access.peppers.current].hex()


@dataclass(frozen=True)
class Row:
    """A line of the table of names."""

    text: str
    kind: str
    pattern: re.Pattern[str]


PARTS = {
    "hash": "[0-9a-f]{64}",
    "ip": r"[0-9a-f.:]+(/\d+)?",
    "endpoint": "/[a-z0-9/_{}-]*",
    "key id": "([A-Za-z0-9]{12}|admin)",
    "day": r"\d+",
    "name": "[a-z_]+",
    "process": "[0-9a-f]{16}",
    "public id": "task_[0-9a-f]{32}",
    "entry": ".+",
}


def documented(instance: str) -> Iterator[Row]:
    """The rows of keys on the cache's server; channels are no keys, and the broker's are another server's."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("\n## Redis\n")[2].partition("\n### ")[0]
    for line in re.findall(r"^\| `.*$", section, re.MULTILINE):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[1] == "channel" or "(broker)" in cells[2]:
            continue
        for name in re.findall("`([^`]+)`", cells[0]):
            pieces = re.split(r"(\{[^}]+\})", name.removeprefix("..."))
            pattern = "".join(PARTS.get(p[1:-1], "[^:]+") if p.startswith("{") else re.escape(p) for p in pieces)
            yield Row(name, cells[1], re.compile((re.escape(instance) if name.startswith("...") else "") + pattern))
