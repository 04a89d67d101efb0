from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from bench.figures import Report, percentile


def test_a_target_on_a_rate_is_met_at_its_bound_and_missed_below() -> None:
    report = Report()
    report.expect("met_per_s", ">=", 100)
    report.expect("missed_per_s", ">=", 100)
    report.add("met_per_s", 90, 100, 110)
    report.add("missed_per_s", 99.9)

    assert report.summary()["met"] == {"met_per_s": True, "missed_per_s": False}


def test_a_target_on_a_latency_is_missed_at_its_bound() -> None:
    report = Report()
    report.expect("p99_ms", "<", 5)
    report.add("p99_ms", 5.0)

    assert report.summary()["met"] == {"p99_ms": False}


def test_a_target_that_was_not_measured_is_not_met_and_is_shown() -> None:
    report, screen = Report(), io.StringIO()
    report.expect("never_measured", "<=", 1.2)

    report.show(Console(file=screen, width=120), title="bench tasks")

    assert report.summary()["met"] == {"never_measured": False}
    assert "never_measured" in screen.getvalue()
    assert "MISSED" in screen.getvalue()


def test_a_ratio_compares_the_medians_of_two_figures() -> None:
    report = Report()
    report.expect("ours_vs_theirs", ">=", 1.5)
    report.add("ours", 10, 30, 1_000)
    report.add("theirs", 20)
    report.add_ratio("ours_vs_theirs", "ours", "theirs")

    assert report.summary()["ratios"] == {"ours_vs_theirs": 1.5}
    assert report.summary()["met"] == {"ours_vs_theirs": True}


def test_a_ratio_to_a_missing_figure_is_absent() -> None:
    report = Report()
    report.add("ours", 10)
    report.add_ratio("ours_vs_theirs", "ours", "theirs")

    assert report.summary()["ratios"] == {}


def test_the_summary_is_json_with_four_names() -> None:
    report = Report()
    report.add("rate_per_s", 1234.5678)

    assert json.loads(json.dumps(report.summary())) == {
        "figures": {"rate_per_s": 1234.6},
        "ratios": {},
        "targets": {},
        "met": {},
    }


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0), (0.0, 1.0)]
)
def test_a_percentile_is_a_measured_value_by_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected


def test_the_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 0.99) == 7.0
