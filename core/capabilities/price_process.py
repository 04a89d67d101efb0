"""
Prices looked up in a process of its own, which ends: the table would cost a worker 40 MB for the rest of its life.

`python -m core.capabilities.price_process` reads `{"name", "base_url", "models": [...]}` from standard input and writes
one object a model, in order. It needs no server and no setting.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from core.capabilities.model import Ability, Answer, Finding, Source
from core.capabilities.prices import UNKNOWN, Priced, PriceTable

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0  # 10,000 models take about two seconds, importing the table one
_CHECKOUT = Path(__file__).parents[2]


def look_up_all(name: str, base_url: str, models: Sequence[str]) -> Mapping[str, Priced]:
    """What the table knows of each model as seen from this provider; without the table, nothing of all."""
    question = orjson.dumps({"name": name, "base_url": base_url, "models": list(models)})
    argv = [sys.executable, "-m", "core.capabilities.price_process"]
    try:
        done = subprocess.run(argv, input=question, capture_output=True, timeout=TIMEOUT_S, check=True, cwd=_CHECKOUT)
        found: list[dict[str, Any]] = orjson.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, orjson.JSONDecodeError) as error:
        logger.warning("prices were not looked up", extra={"provider": name, "reason": type(error).__name__})
        return dict.fromkeys(models, UNKNOWN)
    return {model: _priced(one) for model, one in zip(models, found, strict=True)}


def _priced(one: Mapping[str, Any]) -> Priced:
    findings = {Ability(ability): Finding(Answer.YES, Source.GENAI_PRICES) for ability in one["abilities"]}
    return Priced(one["context_tokens"], one["prices"], findings)


def main() -> int:
    question: dict[str, Any] = orjson.loads(sys.stdin.buffer.read())
    table = PriceTable(question["name"], question["base_url"])
    priced = [table.look_up(model) for model in question["models"]]
    answer = [
        {"context_tokens": p.context_tokens, "prices": p.prices, "abilities": [str(a) for a in p.findings]}
        for p in priced
    ]
    sys.stdout.buffer.write(orjson.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
