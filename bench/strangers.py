"""
A flood of invented keys against one web process behind a trusted proxy: what it costs memory, the database, the others.

The keys are well-formed and their checksums right: nothing but a look proves them wrong. Look-ups are counted by
the database itself, which writes down each statement with its time: in any second, wherever it begins. Answers may be
401 (proved wrong), 403 (banned) and 503 (not proved, by reason of too many); never 200 and never 500.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from psycopg import sql

from bench.figures import Report, percentile
from bench.processes import Child, ChildFailed, memory_mb, output_of
from bench.system import CHECKOUT, PAYLOAD, Servers, connect, noop_type, web
from core.settings import Settings
from headrace import open_app

ALLOWED = ("401", "403", "503")
KNOWN_RATE = 50
_WARM_S = 3
_LONGEST_S = 900
_SLICE_S = 2

# The one query that reads hashes, by which a secret is proved: core/access/keys/lookup.py.
_LOOKUP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) .*SELECT virtual_keys\..*virtual_keys\.key_hash")


def expect(report: Report) -> None:
    report.expect("strangers_rss_growth_mb", "<=", 50)
    report.expect("strangers_lookups_most_in_1_s", "<=", 200)
    report.expect("strangers_other_answers", "<=", 0)
    report.expect("strangers_known_refused", "<=", 0)


def run(servers: Servers, report: Report, *, keys: int, addresses: int) -> None:
    """One flood; a known caller polls a task all the time."""
    settings = servers.fresh("bench_strangers").model_copy(update={"trusted_proxies": ("127.0.0.1",)})
    with open_app(settings) as app:
        created = app.keys.create("bench")
        task = app.tasks.enqueue(noop_type().model_validate({"payload": PAYLOAD}), owner=created.key_id)
    known = Known(settings.port, f"/v1/tasks/{task.public_id}", created.clear_key)
    _write_down_statements(settings)
    with web(settings, servers.logs) as child:
        calm = known.ask(_WARM_S)
        before = _weight(child)
        with _Meanwhile(child, known) as meanwhile:
            found = _flood(settings, keys, addresses)
        after = _weight(child)
    _add_answers(report, found, keys)
    report.add("strangers_rss_before_mb", before)
    report.add("strangers_rss_after_mb", after)
    report.add("strangers_rss_growth_mb", max([*meanwhile.weights, after]) - before)
    looked = _lookups(servers.logs / "var" / "postgres.log")
    report.add("strangers_lookups", len(looked))
    report.add("strangers_lookups_most_in_1_s", most_in(looked, 1.0))
    for name, asked in (("calm", calm), ("flood", meanwhile.asked)):
        took = [each.took_ms for each in asked]
        report.add(f"strangers_known_{name}_p50_ms", percentile(took, 0.5))
        report.add(f"strangers_known_{name}_p99_ms", percentile(took, 0.99))
    refusals = [each.refusal for each in meanwhile.asked if each.refusal]
    report.add("strangers_known_asked", len(meanwhile.asked))
    report.add("strangers_known_refused", len(refusals))
    report.notes.extend(f"the known caller was refused: {refusal}" for refusal in sorted(set(refusals))[:3])
    report.notes.append(
        "load of the machine (1, 5, 15 minutes): " + " ".join(f"{load:.1f}" for load in os.getloadavg())
    )


def most_in(times: Iterable[float], seconds: float) -> int:
    """The most of the ascending times that lie in one span of so many seconds, wherever it begins."""
    span: deque[float] = deque()
    most = 0
    for at in times:
        span.append(at)
        while span[0] <= at - seconds:
            span.popleft()
        most = max(most, len(span))
    return most


@dataclass(frozen=True, slots=True)
class Asked:
    """
    Args:
        took_ms: from when the request was due.
        refusal: the beginning of an answer other than 200; empty: it was 200.
    """

    took_ms: float
    refusal: str


@dataclass(frozen=True, slots=True)
class Known:
    """A caller whom the door knows, on a connection of its own, at a constant rate."""

    port: int
    path: str
    key: str

    def ask(self, seconds: float) -> list[Asked]:
        asked: list[Asked] = []
        headers = {"Authorization": f"Bearer {self.key}"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.connect()
            start = time.perf_counter()
            for number in range(int(KNOWN_RATE * seconds)):
                due = start + number / KNOWN_RATE
                # The length of the pause is the rate.
                time.sleep(max(0.0, due - time.perf_counter()))
                connection.request("GET", self.path, headers=headers)
                answer = connection.getresponse()
                text = answer.read().decode(errors="replace")
                took_ms = 1000 * (time.perf_counter() - due)
                asked.append(Asked(took_ms, "" if answer.status == 200 else f"{answer.status} {text[:300]}"))
        return asked


class _Meanwhile:
    """While the block lasts: a known caller asks at a constant rate, and the web process is weighed."""

    def __init__(self, child: Child, known: Known) -> None:
        self._child = child
        self._known = known
        self._over = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._ask, self._weigh)]
        self._failures: list[Exception] = []
        self.asked: list[Asked] = []
        self.weights: list[float] = []

    def __enter__(self) -> _Meanwhile:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._failures and error is None:
            raise self._failures[0]

    def _ask(self) -> None:
        try:
            while not self._over.is_set():
                self.asked.extend(self._known.ask(_SLICE_S))
        except Exception as error:  # raised where the block ends
            self._failures.append(error)

    def _weigh(self) -> None:
        try:
            while not self._over.wait(1.0):
                self.weights.append(_weight(self._child))
        except Exception as error:  # raised where the block ends
            self._failures.append(error)


def _weight(child: Child) -> float:
    child.check()
    return max(memory_mb(child.pid).values())


def _flood(settings: Settings, keys: int, addresses: int) -> dict[str, object]:
    argv = [sys.executable, "-m", "bench.flood", str(settings.port), str(keys), str(addresses)]
    env = {"PATH": os.environ.get("PATH", "")}
    try:
        text = output_of(argv, env=env, cwd=CHECKOUT, timeout_s=_LONGEST_S)
    except subprocess.TimeoutExpired:
        raise ChildFailed(f"the flood did not end within {_LONGEST_S} s") from None
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def _add_answers(report: Report, found: dict[str, object], keys: int) -> None:
    answers, took_s = found["answers"], found["took_s"]
    assert isinstance(answers, dict)
    assert isinstance(took_s, float)
    report.add("strangers_took_s", took_s)
    report.add("strangers_per_s", keys / took_s)
    for status in ALLOWED:
        report.add(f"strangers_{status}", answers.get(status, 0))
    report.add("strangers_other_answers", keys - sum(answers.get(status, 0) for status in ALLOWED))
    if others := {status: count for status, count in answers.items() if status not in ALLOWED}:
        report.notes.append(f"other answers: {others}")


def _write_down_statements(settings: Settings) -> None:
    """By each connection to this database that begins after this."""
    with connect(settings) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET log_statement = 'all'").format(name))


def _lookups(log: Path) -> list[float]:
    """When each began, seconds, ascending."""
    with log.open(errors="replace") as lines:
        found = [match.group(1) for line in lines if (match := _LOOKUP.match(line))]
    return sorted(datetime.fromisoformat(text).timestamp() for text in found)
