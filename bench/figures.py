"""
What a run found: figures, ratios, and the targets they are held against.

Every figure is the median of its runs; the table shows the runs as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from rich.console import Console
from rich.table import Table


class Summary(TypedDict):
    """The JSON object a run ends in. `met` is False as well for a target that was not measured."""

    figures: dict[str, float]
    ratios: dict[str, float]
    targets: dict[str, float]
    met: dict[str, bool]


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a figure or a ratio of the same name."""

    name: str
    bound: float
    direction: Literal[">=", "<=", "<"]

    def met_by(self, value: float) -> bool:
        if self.direction == ">=":
            return value >= self.bound
        return value <= self.bound if self.direction == "<=" else value < self.bound


@dataclass(slots=True)
class Report:
    """Filled by the scenarios, one after another."""

    targets: list[Target] = field(default_factory=list)
    runs: dict[str, list[float]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def expect(self, name: str, direction: Literal[">=", "<=", "<"], bound: float) -> None:
        self.targets.append(Target(name, bound, direction))

    def add(self, name: str, *values: float) -> None:
        self.runs.setdefault(name, []).extend(values)

    def figure(self, name: str) -> float | None:
        values = self.runs.get(name)
        return statistics.median(values) if values else None

    def add_ratio(self, name: str, over: str, under: str) -> None:
        """The ratio of two figures' medians; nothing when one of them is missing."""
        above, below = self.figure(over), self.figure(under)
        if above is not None and below:
            self.ratios[name] = above / below

    def value(self, name: str) -> float | None:
        return self.ratios[name] if name in self.ratios else self.figure(name)

    def summary(self) -> Summary:
        return {
            "figures": {name: _rounded(statistics.median(values)) for name, values in self.runs.items() if values},
            "ratios": {name: _rounded(value) for name, value in self.ratios.items()},
            "targets": {target.name: target.bound for target in self.targets},
            "met": {target.name: self._met(target) for target in self.targets},
        }

    def _met(self, target: Target) -> bool:
        value = self.value(target.name)
        return value is not None and target.met_by(value)

    def show(self, console: Console, *, title: str) -> None:
        table = Table(title=title, title_justify="left")
        for heading in ("figure", "median", "runs", "target", ""):
            table.add_column(heading, justify="left" if heading in ("figure", "runs") else "right")
        held = {target.name: target for target in self.targets}
        missing = [name for name in held if self.value(name) is None]
        for name in [*self.runs, *self.ratios, *missing]:
            value, target = self.value(name), held.get(name)
            table.add_row(
                name,
                "-" if value is None else _text(value),
                _runs_text(self.runs.get(name, [])),
                f"{target.direction} {_text(target.bound)}" if target else "",
                "" if target is None else ("met" if self._met(target) else "MISSED"),
            )
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False)


def _runs_text(values: Sequence[float]) -> str:
    return "  ".join(_text(value) for value in values) if len(values) > 1 else ""


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value, 1)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value with at least `share` (0 to 1) of the values at or below it (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]
