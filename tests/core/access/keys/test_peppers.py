from __future__ import annotations

import secrets

import pytest

from core.access.keys.peppers import Peppers
from core.access.keys.text import new_clear_key, new_key_id, public_part
from core.errors import Misconfigured

OLD, NEW = "o" * 32, "n" * 32


def test_a_plain_pepper_is_version_1_and_the_first_of_several_hashes() -> None:
    assert Peppers.parse(OLD).versions == [1]
    assert Peppers.parse(f"2:{NEW},1:{OLD}").versions == [2, 1]
    assert Peppers.parse(f" 2:{NEW} , {OLD} ").versions == [2, 1]
    assert Peppers.parse(f"2:{NEW},{OLD}").current == 2


def test_the_same_pepper_makes_the_same_hash_with_and_without_its_number() -> None:
    key = new_clear_key(new_key_id())

    assert Peppers.parse(OLD).hash(key) == Peppers.parse(f"1:{OLD}").hash(key)
    assert Peppers.parse(OLD).hash(key) != Peppers.parse(NEW).hash(key)


@pytest.mark.parametrize("pepper", [f"a:{OLD}", f"{OLD}:x", "::" + OLD])
def test_a_single_pepper_may_have_a_colon_in_it(pepper: str) -> None:
    assert Peppers.parse(pepper).hash("k") == Peppers({1: pepper}).hash("k")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("short", "must have 32 characters"),
        (f"2:{NEW},1:short", "pepper 2 of 2: must have 32"),
        (f"2:{NEW},2:{OLD}", "number 2 is given twice"),
        (f"{NEW},{OLD}", "number 1 is given twice"),
        (f"1:{NEW},{OLD}", "number 1 is given twice"),
        (f"0:{NEW},1:{OLD}", "its number must be from 1 to 32767"),
        (f"32768:{NEW},1:{OLD}", "its number must be"),
        (f"two:{NEW},1:{OLD}", "its number must be"),
        (f"-2:{NEW},1:{OLD}", "its number must be"),
        (f"2:{NEW},", "pepper 2 of 2: must have 32"),
        ("", "must have 32"),
    ],
)
def test_what_cannot_work_is_said_without_a_pepper_in_the_message(text: str, why: str) -> None:
    with pytest.raises(Misconfigured, match=f"HEADRACE_KEY_PEPPER: .*{why}") as refused:
        Peppers.parse(text)

    assert NEW not in str(refused.value)
    assert OLD not in str(refused.value)


def test_a_mistyped_key_has_no_public_part() -> None:
    key = new_clear_key(new_key_id())

    assert public_part(key) == key[3:15]
    for place in range(len(key)):
        other = "A" if key[place] != "A" else "B"
        assert public_part(key[:place] + other + key[place + 1 :]) is None, place
    assert public_part(key + "\n") is None


def test_what_is_kept_of_a_shown_key_does_not_show_it() -> None:
    key = new_clear_key(new_key_id())
    presented = Peppers.parse(secrets.token_urlsafe(48)).present(key)

    assert presented is not None
    assert key[16:59] not in repr(presented)
    assert presented.hashes[1].hex() not in repr(presented)
