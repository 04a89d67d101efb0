"""
Prices and context sizes from the data that `genai-prices` ships with. No network: its updater is never started.

The library's 1.6 MB of data cost 40 MB and more than a second, so only a process that discovers imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from core.capabilities.model import Ability, Answer, Finding, Findings, Source

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, Provider

BY_URL = "url"
"""The endpoint is the vendor's own: these are the prices it charges."""
BY_NAME = "name"
"""The operator named the provider like the vendor."""
BY_MODEL = "model"
"""Somebody serves a model of this name: the vendor's list prices, which this endpoint need not charge."""


@dataclass(frozen=True, slots=True)
class Priced:
    """
    What is known of a model.

    Args:
        prices: `{"source": "genai-prices", "vendor": "openai", "model": "gpt-4o", "by": "url", "usd": {"input_mtok":
            "2.5", "output_mtok": {"base": "10", "tiers": [{"start": 200000, "price": "20"}]}}}`, decimals as text:
            US dollars for a million tokens (`_mtok`) or what else the member names. None: it has no price.
    """

    context_tokens: int | None
    prices: Mapping[str, Any] | None
    findings: Findings


UNKNOWN = Priced(None, None, {})


class PriceTable:
    """
    The table as seen from one provider. Not for several threads at once.

    Args:
        name, base_url: the provider's; they decide whose prices these are.
    """

    def __init__(self, name: str, base_url: str) -> None:
        # Not get_snapshot: it hands out what an updater, started by anybody in the process, has put there.
        from genai_prices.data import providers  # noqa: PLC0415 (see the module's docstring)
        from genai_prices.data_snapshot import DataSnapshot  # noqa: PLC0415 (heavy: only when used)

        self._table: DataSnapshot = DataSnapshot(providers=providers, from_auto_update=False)
        self._now = datetime.now(UTC)
        self._vendor, self._by = self._vendor_of(name, base_url)

    def look_up(self, model: str) -> Priced:
        """What the table knows of the model."""
        found = self._found(model)
        if found is None:
            return UNKNOWN
        vendor, entry, by = found
        prices = _prices(entry, self._now)
        document = {
            "source": Source.GENAI_PRICES.value,
            "vendor": vendor.id,
            "model": entry.id,
            "by": by,
            "usd": prices,
        }
        return Priced(entry.context_window, document if prices else None, _findings(prices))

    def _vendor_of(self, name: str, base_url: str) -> tuple[Provider | None, str]:
        for by, provider_id, url in ((BY_URL, None, base_url), (BY_NAME, name, None)):
            try:
                return self._table.find_provider(None, provider_id, url), by
            except LookupError:
                continue
        return None, BY_MODEL

    def _found(self, model: str) -> tuple[Provider, ModelInfo, str] | None:
        name = model.lower()
        if self._vendor is not None:
            entry = self._vendor.find_model(name, all_providers=self._table.providers)
            return None if entry is None else (self._vendor, entry, self._by)
        for vendor, part in self._vendors_of(name):
            entry = vendor.find_model(part, all_providers=self._table.providers)
            if entry is not None:
                return vendor, entry, BY_MODEL
        return None

    def _vendors_of(self, name: str) -> list[tuple[Provider, str]]:
        """Who may have made a model of this name: the vendor before the slash, its family's, or OpenAI."""
        prefix, slash, rest = name.partition("/")
        found: list[tuple[Provider, str]] = []
        for model, provider_id, part in (
            (None, prefix if slash else "", rest),
            (name, None, name),
            (None, "openai", name),
        ):
            if provider_id == "":
                continue
            try:
                found.append((self._table.find_provider(model, provider_id, None), part))
            except LookupError:
                continue
        return found


def _prices(entry: ModelInfo, now: datetime) -> dict[str, Any]:
    """The standard prices of today; what a request may change them by (tiers of service, regions) is left out."""
    if not entry.prices:
        return {}
    return {
        name: _price(value)
        for name, value in vars(entry.get_prices(now)).items()
        if value is not None and not name.startswith("_")
    }


def _price(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    tiers = [{"start": tier.start, "price": format(tier.price, "f")} for tier in value.tiers]
    return {"base": format(value.base, "f"), "tiers": tiers}


def _findings(prices: Mapping[str, object]) -> Findings:
    """Who has a price for audio or for making images does that; nothing follows from a price that is missing."""
    found: dict[Ability, Finding] = {}
    for name in prices:
        if "audio" in name:
            found[Ability.AUDIO] = Finding(Answer.YES, Source.GENAI_PRICES)
        elif name.startswith("output_image"):
            found[Ability.IMAGES] = Finding(Answer.YES, Source.GENAI_PRICES)
        elif name.startswith("output_video"):
            found[Ability.VIDEO] = Finding(Answer.YES, Source.GENAI_PRICES)
    return found
