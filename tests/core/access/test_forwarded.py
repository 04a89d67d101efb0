from __future__ import annotations

import pytest

from core.access.forwarded import task_type_of


@pytest.mark.parametrize(
    ("method", "uri", "task_type"),
    [
        ("POST", "/v1/chat/completions", "chat.completion"),
        ("post", "/openai/v1/chat/completions?stream=true", "chat.completion"),
        ("POST", "/v1/embeddings/", "embedding"),
        ("POST", "//v1//images//generations", "image.generation"),
        ("POST", "/v1/%76ideos", "video.generation"),
        ("POST", "/V1/Chat/Completions", "chat.completion"),
        ("GET", "/v1/videos", None),
        ("POST", "/v1/models", None),
        ("POST", "http://[broken", None),
        ("POST", "", None),
    ],
)
def test_the_path_of_a_request_tells_the_kind_of_its_work(method: str, uri: str, task_type: str | None) -> None:
    assert task_type_of(method, uri) == task_type
