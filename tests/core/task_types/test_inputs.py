"""What is accepted as input of the built-in types, and which field an error names."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest

from core.errors import InvalidRequest
from core.task_types.chat_completion import ChatCompletion
from core.task_types.embedding import Embedding
from core.task_types.provider_input import ProviderInput
from core.task_types.spec import load_task_types
from core.task_types.video_generation import VideoGeneration
from core.tasks.validation import validate_input

TYPES = load_task_types(diagnostics=True)
HELLO = [{"role": "user", "content": "hello"}]


def problem(name: str, value: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        validate_input(TYPES.get(name), value)
    return caught.value


def body_of(name: str, text: str) -> dict[str, Any]:
    model = validate_input(TYPES.get(name), orjson.loads(text))
    assert isinstance(model, ProviderInput)
    return model.body()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chat.completion", '{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'),
        (
            "chat.completion",
            '{"model": "m", "temperature": 1, "top_p": 0.5, "n": 2, "stop": ["a", "b"], "seed": -1,'
            ' "logit_bias": {"5": -100},'
            ' "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [null, 1.5, true]}}}],'
            ' "tool_choice": {"type": "function"}, "response_format": {"type": "json_object"}, "metadata": {"a": "b"},'
            ' "messages": [{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}],'
            ' "reasoning": {"a": null}},'
            ' {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {}}]}]}',
        ),
        ("embedding", '{"model": "m", "input": "text", "dimensions": 8, "encoding_format": "base64"}'),
        ("embedding", '{"model": "m", "input": ["a", "b"]}'),
        ("embedding", '{"model": "m", "input": [1, 2]}'),
        ("embedding", '{"model": "m", "input": [[1], [2, 3]]}'),
        ("image.generation", '{"prompt": "a lake", "n": 2, "size": "1024x1024", "response_format": "url"}'),
        ("video.generation", '{"prompt": "a lake", "model": "m", "seconds": "4", "input_reference": {"file_id": "f"}}'),
        ("video.generation", '{"prompt": "a lake", "seconds": 4}'),
    ],
)
def test_body_of_the_endpoint_is_sent_as_it_came(name: str, text: str) -> None:
    assert body_of(name, text) == orjson.loads(text)


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("chat.completion", {}, "input.model"),
        ("chat.completion", [], "input"),
        ("chat.completion", {"model": "m"}, "input.messages"),
        ("chat.completion", {"model": "", "messages": HELLO}, "input.model"),
        ("chat.completion", {"model": "m", "messages": []}, "input.messages"),
        ("chat.completion", {"model": "m", "messages": "hi"}, "input.messages"),
        ("chat.completion", {"model": "m", "messages": [{"content": "hi"}]}, "input.messages[0].role"),
        ("chat.completion", {"model": "m", "messages": [*HELLO, {"role": "usr"}]}, "input.messages[1].role"),
        ("chat.completion", {"model": "m", "messages": [{"role": "user", "content": 3}]}, "input.messages[0].content"),
        ("chat.completion", {"model": "m", "messages": HELLO, "temperature": 2.5}, "input.temperature"),
        ("chat.completion", {"model": "m", "messages": HELLO, "temperature": "1"}, "input.temperature"),
        ("chat.completion", {"model": "m", "messages": HELLO, "temperature": True}, "input.temperature"),
        ("chat.completion", {"model": "m", "messages": HELLO, "n": 0}, "input.n"),
        ("chat.completion", {"model": "m", "messages": HELLO, "n": 1.0}, "input.n"),
        ("chat.completion", {"model": "m", "messages": HELLO, "stop": [1]}, "input.stop"),
        ("chat.completion", {"model": "m", "messages": HELLO, "stream": False}, "input.stream"),
        ("chat.completion", {"model": "m", "messages": HELLO, "top_k": 3}, "input.top_k"),
        ("chat.completion", {"model": "m", "messages": HELLO, "extra": {"stream": True}}, "input.extra"),
        ("chat.completion", {"model": "m", "messages": HELLO, "extra": {"model": "other"}}, "input.extra"),
        ("chat.completion", {"model": "m", "messages": HELLO, "extra": [1]}, "input.extra"),
        ("embedding", {"model": "m", "input": ""}, "input.input"),
        ("embedding", {"model": "m", "input": []}, "input.input"),
        ("embedding", {"model": "m", "input": ["a", 1]}, "input.input"),
        ("embedding", {"model": "m", "input": "a", "encoding_format": "int8"}, "input.encoding_format"),
        ("image.generation", {"prompt": ""}, "input.prompt"),
        ("image.generation", {"prompt": "a", "n": 11}, "input.n"),
        ("video.generation", {"prompt": "a", "seconds": 4.5}, "input.seconds"),
        ("diagnostic.noop", {"payload": 1}, "input.payload"),
        ("diagnostic.noop", {"other": 1}, "input.other"),
        ("diagnostic.sleep", {}, "input.seconds"),
        ("diagnostic.sleep", {"seconds": -1}, "input.seconds"),
        ("diagnostic.fail", {"times": 0}, "input.times"),
        ("diagnostic.exit", {"code": 256}, "input.code"),
        ("diagnostic.result", {"size_bytes": 1}, "input.size_bytes"),
    ],
)
def test_error_names_the_field(name: str, value: object, field: str) -> None:
    assert problem(name, value).field == field


def test_error_does_not_repeat_the_value() -> None:
    error = problem("chat.completion", {"model": "m", "messages": [{"role": "canary", "content": {"canary": 1}}]})

    assert "canary" not in str(error)


def test_extra_parameters_are_sent_beside_the_others() -> None:
    sent = body_of("chat.completion", '{"model": "m", "messages": [{"role": "user"}], "extra": {"top_k": 40}}')

    assert sent == {"model": "m", "messages": [{"role": "user"}], "top_k": 40}


def test_null_at_the_top_means_absent() -> None:
    assert "n" not in body_of("chat.completion", '{"model": "m", "messages": [{"role": "user"}], "n": null}')


def test_stored_input_makes_the_same_body_again() -> None:
    first = ChatCompletion(messages=[{"role": "assistant", "content": None}], model="m", extra={"top_k": 1})

    again = ChatCompletion.model_validate_json(first.model_dump_json(exclude_unset=True))

    assert orjson.dumps(again.body()) == orjson.dumps(first.body())
    assert list(first.body()) == ["model", "messages", "top_k"]


def test_video_has_an_hour_and_the_others_ten_minutes() -> None:
    deadlines = {spec.name: spec.deadline for spec in TYPES}

    assert deadlines.pop("video.generation") == timedelta(hours=1)
    assert set(deadlines.values()) == {timedelta(minutes=10)}


def test_diagnostic_types_are_offered_only_when_asked() -> None:
    assert [spec.name for spec in load_task_types()] == [
        ChatCompletion.task_type,
        Embedding.task_type,
        "image.generation",
        VideoGeneration.task_type,
    ]
