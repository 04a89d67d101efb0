from __future__ import annotations

import pytest

from core.errors import InvalidRequest
from core.providers.model import LONGEST_KEY, NewProvider, ProviderChange, allows, check_base_url


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example/v1",
        "http://127.0.0.1:8080",
        "http://[::1]:9000/v1/",
        "https://host.internal:8443/openai/deployments/x",
        "HTTPS://API.EXAMPLE/v1",
    ],
)
def test_any_http_url_of_an_operator_is_taken(url: str) -> None:
    check_base_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/v1",
        "ftp://host/v1",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///v1",
        "https://user:canary@host/v1",
        "https://canary@host/v1",
        "https://host/v1?key=canary",
        "https://host/v1?",
        "https://host/v1#part",
        "https://host:0/v1",
        "https://host:99999/v1",
        "https://[::1/v1",
        "https://ho st/v1",
        "https://host/v1\n",
        "https://host/\u202ev1",
        "https://host/" + "x" * 2000,
    ],
)
def test_a_url_that_holds_what_it_should_not_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_base_url(url)

    assert caught.value.field == "base_url"
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("models", "model", "allowed"),
    [
        ((), "anything", True),
        ((), None, True),
        (("gpt-5",), "gpt-5", True),
        (("gpt-5",), "gpt-5-mini", False),
        (("gpt-*",), "gpt-5-mini", True),
        (("gpt-*",), "gpt", False),
        (("*",), "", True),
        (("a", "org/model:*"), "org/model:7b", True),
        (("gpt-*",), None, False),
    ],
)
def test_an_allow_list_has_a_model_by_name_or_by_beginning(
    models: tuple[str, ...], model: str | None, allowed: bool
) -> None:
    assert allows(models, model) is allowed


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Upper"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"kind": "anthropic"}, "kind"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": "two words"}, "api_key"),
        ({"api_key": "line\nbreak"}, "api_key"),
        ({"api_key": "schlüssel"}, "api_key"),
        ({"api_key": "x" * (LONGEST_KEY + 1)}, "api_key"),
        ({"api_key": "x", "api_key_env": "X"}, "api_key_env"),
        ({"api_key_env": "1X"}, "api_key_env"),
        ({"api_key_env": "A B"}, "api_key_env"),
        ({"api_key_env": "HEADRACE_ADMIN_KEY"}, "api_key_env"),
        ({"api_key_env": "DATABASE_URL"}, "api_key_env"),
        ({"priority": -1}, "priority"),
        ({"priority": 10_001}, "priority"),
        ({"models": ("a*b",)}, "models[0]"),
        ({"models": ("ok", "")}, "models[1]"),
        ({"models": ("a b",)}, "models[0]"),
        ({"models": ("m",) * 1001}, "models"),
    ],
)
def test_what_cannot_be_a_provider_names_its_field(change: dict[str, object], field: str) -> None:
    values = {"name": "p", "base_url": "https://host/v1", **change}

    with pytest.raises(InvalidRequest) as caught:
        NewProvider(**values).check()  # type: ignore[arg-type]  # the table above

    assert caught.value.field == field


def test_a_key_is_in_no_representation() -> None:
    assert "canary" not in repr(NewProvider(name="p", base_url="http://h", api_key="canary"))
    assert "canary" not in repr(ProviderChange(api_key="canary"))
