"""From a provider's list to what we know of its models: its own words, then prices, then names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from core.capabilities.listing import Entry, Listing, whole
from core.capabilities.model import ListedModel
from core.capabilities.names import findings_of_name
from core.capabilities.prices import Priced
from core.capabilities.told import context_told, findings_told

LONGEST_OWNER = 200


def describe(listing: Listing, prices: Mapping[str, Priced]) -> Iterable[ListedModel]:
    """Each listed model, in the order of the listing; takes about a tenth of a millisecond each."""
    for name, entry in listing.entries.items():
        priced = prices[name]
        yield ListedModel(
            id=name,
            created=_created(entry),
            owned_by=_owner(entry),
            # The later wins: what the provider says of its own model counts most.
            findings={**findings_of_name(name), **priced.findings, **findings_told(entry)},
            context_tokens=context_told(entry) or priced.context_tokens,
            prices=priced.prices,
        )


def _created(entry: Entry) -> int | None:
    return whole(entry, "created")


def _owner(entry: Entry) -> str | None:
    value = entry.get("owned_by")
    return value if isinstance(value, str) and 0 < len(value) <= LONGEST_OWNER and value.isprintable() else None
