from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.logs import ConsoleFormatter, JsonFormatter, bind, redact
from tests.support.processes import ROOT

KEY = "hr_snd4XNvakUm2_nQtYWfN6VMtdjYidiMbG_6ZHzF2vz__jpFA2-v47XTs_dDJRuv"
SECRETS = [
    KEY,
    "Bearer eyJhbGciOi.J9-x_y~z+/=",
    "postgresql://headrace:hunter2@127.0.0.1:5432/db",
    "redis://:hunter2@host/0",
    "amqp://user:p%40ss@host",
    "sk-proj-abcdefgh12345678",
]
GIVEN_AWAY = ["nQtYWf", "eyJhbG", "hunter2", "p%40ss", "proj-abc"]


def formatted(formatter: logging.Formatter, message: str = "done", *args: object, **extra: object) -> str:
    record = logging.getLogger("core.x").makeRecord("core.x", logging.INFO, "f.py", 1, message, args, None, extra=extra)
    return formatter.format(record)


def with_traceback(formatter: logging.Formatter, text: str) -> str:
    try:
        raise ValueError(text)
    except ValueError:
        record = logging.LogRecord("core.x", logging.ERROR, "f.py", 1, "failed", (), sys.exc_info())
    return formatter.format(record)


@pytest.fixture(params=[ConsoleFormatter, JsonFormatter])
def formatter(request: pytest.FixtureRequest) -> logging.Formatter:
    made: logging.Formatter = request.param("web")
    return made


def test_a_console_line_shows_time_level_process_logger_and_fields() -> None:
    line = formatted(ConsoleFormatter("web"), "task %s", "finished", state="completed", took_s=0.25, note="two words")

    time, rest = line.split(maxsplit=1)
    assert len(time) == len("12:00:00.000")
    assert rest == 'INFO    web core.x task finished state=completed took_s=0.25 note="two words"'


def test_a_json_line_is_one_object_with_the_fields_in_it() -> None:
    line = json.loads(formatted(JsonFormatter("worker"), "task %s", "finished", state="completed", took_s=0.25))

    assert line["message"] == "task finished"
    assert (line["level"], line["process"], line["logger"]) == ("INFO", "worker", "core.x")
    assert (line["state"], line["took_s"]) == ("completed", 0.25)
    assert line["time"].endswith("Z")


def test_bound_fields_are_on_every_line_inside_and_on_none_outside(formatter: logging.Formatter) -> None:
    with bind(task_id="task_1"):
        with bind(attempt=2):
            inside = formatted(formatter)
        between = formatted(formatter)
    outside = formatted(formatter)

    assert "task_1" in inside
    assert "attempt" in inside
    assert "task_1" in between
    assert "attempt" not in between
    assert "task_1" not in outside


def test_tasks_of_one_loop_do_not_share_bound_fields() -> None:
    async def work(name: str, barrier: asyncio.Barrier) -> str:
        with bind(task_id=name):
            await barrier.wait()
            return formatted(ConsoleFormatter("web"))

    async def both() -> list[str]:
        barrier = asyncio.Barrier(2)
        return list(await asyncio.gather(work("task_a", barrier), work("task_b", barrier)))

    lines = asyncio.run(both())
    assert ["task_a" in line for line in lines] == [True, False]
    assert ["task_b" in line for line in lines] == [False, True]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_redacted_wherever_it_stands(formatter: logging.Formatter, secret: str) -> None:
    lines = [
        formatted(formatter, f"asked with {secret}, refused"),
        formatted(formatter, "asked with %s", secret),
        formatted(formatter, "asked", header=secret),
        formatted(formatter, "asked", nested={"headers": [secret], secret: 1}),
        formatted(formatter, "asked", error=ValueError(secret)),
        formatted(formatter, "too %d many %s", secret),
        with_traceback(formatter, f"cannot connect to {secret}"),
    ]
    with bind(header=secret):
        lines.append(formatted(formatter))

    for line in lines:
        assert "***" in line
        assert not [word for word in GIVEN_AWAY if word in line]


def test_the_public_id_of_a_key_and_the_host_of_a_url_stay_readable() -> None:
    assert redact(f"key {KEY}") == "key hr_snd4XNvakUm2_***"
    assert redact("redis://:hunter2@cache:6379/0 ok") == "redis://:***@cache:6379/0 ok"
    assert redact("http://127.0.0.1:8000/v1/tasks?at=12:00@x") == "http://127.0.0.1:8000/v1/tasks?at=12:00@x"


@given(st.text(), st.text(min_size=1))
def test_no_text_makes_a_second_console_line_or_a_control_character(text: str, name: str) -> None:
    for line in (formatted(ConsoleFormatter("web"), "%s", text, field=text), formatted(ConsoleFormatter("web"), text)):
        assert len(line.splitlines()) == 1
        assert not [char for char in line if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
        line.encode()


@given(
    st.recursive(
        st.text() | st.integers() | st.floats() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_field_makes_one_valid_json_line(value: object) -> None:
    line = formatted(JsonFormatter("web"), "%s", value, field=value)

    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] is not None


def test_a_line_of_a_traceback_cannot_pass_for_a_record() -> None:
    lines = with_traceback(ConsoleFormatter("web"), "x\n12:00:00.000 INFO    web core.x paid\x1b[2K").split("\n")

    assert all(line.startswith("    | ") for line in lines[1:])
    assert "\x1b" not in "".join(lines)


def test_a_very_long_value_is_cut(formatter: logging.Formatter) -> None:
    assert len(formatted(formatter, "x" * 1_000_000, field="y" * 1_000_000)) < 50_000


CONFIGURED = """
import logging, sys, threading, warnings
from core.logs import configure_logging
configure_logging(level="INFO", format="json", process="web")
logging.getLogger("core.x").info("one", extra={"n": 1})
logging.getLogger("core.x").debug("not shown")
logging.getLogger("httpx").info("not shown")
warnings.warn("redis://:hunter2@host/0")
def fail():
    raise ValueError("Bearer abcdef")
thread = threading.Thread(target=fail); thread.start(); thread.join()
fail()
"""


def test_a_process_logs_to_stderr_also_warnings_and_what_nobody_caught() -> None:
    done = subprocess.run([sys.executable, "-c", CONFIGURED], cwd=ROOT, capture_output=True, text=True, check=False)
    lines: list[Any] = [json.loads(line) for line in io.StringIO(done.stderr)]

    assert done.returncode == 1
    assert done.stdout == ""
    assert [line["message"] for line in lines[:1]] == ["one"]
    assert [line["level"] for line in lines] == ["INFO", "WARNING", "CRITICAL", "CRITICAL"]
    assert "hunter2" not in done.stderr
    assert "abcdef" not in done.stderr


def test_the_values_of_a_row_that_postgresql_refused_are_left_out() -> None:
    text = 'null value in column "x"\nDETAIL:  Failing row contains (1, {"content": "a prompt"}).\nCONTEXT: more'

    assert redact(text) == 'null value in column "x"\nDETAIL: ***\nCONTEXT: more'
