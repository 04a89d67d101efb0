from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography.fernet import Fernet

from core.errors import Misconfigured
from core.sealing import Sealing, Unsealable, is_key, new_key
from core.settings import child_environment, load_settings
from tests.support.processes import ROOT

SECRET = "sk-canary-9d1f"


def test_a_sealed_secret_is_opened_with_the_key_and_shows_nothing_of_itself() -> None:
    sealing = Sealing(new_key())

    sealed = sealing.seal(SECRET)

    assert SECRET.encode() not in sealed
    assert sealing.open(sealed) == SECRET
    assert sealing.seal(SECRET) != sealed


def test_rotation_opens_with_every_key_and_seals_with_the_first() -> None:
    old, new = new_key(), new_key()
    sealed = Sealing(old).seal(SECRET)
    both = Sealing(f"{new}, {old}")

    assert both.open(sealed) == SECRET
    anew = both.seal_anew(sealed)

    assert Sealing(new).open(anew) == SECRET
    with pytest.raises(Unsealable):
        Sealing(old).open(anew)


@pytest.mark.parametrize(
    "change", [lambda s: s[:30] + bytes([s[30] ^ 1]) + s[31:], lambda s: b"", lambda s: b"gAAAA" + s[5:20]]
)
def test_a_damaged_secret_is_not_opened(change: object) -> None:
    sealing = Sealing(new_key())
    damaged = change(sealing.seal(SECRET))  # type: ignore[operator]  # one of the lambdas above

    with pytest.raises(Unsealable, match="HEADRACE_ENCRYPTION_KEY"):
        sealing.open(damaged)


def test_without_a_key_nothing_is_sealed_or_opened_and_the_message_says_what_to_set() -> None:
    for call in (lambda: Sealing(None).seal("x"), lambda: Sealing("").open(b"x")):
        with pytest.raises(Unsealable, match=r"python -m core\.sealing"):
            call()


def test_the_printed_key_is_one_that_the_setting_takes() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "core.sealing"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    key = ran.stdout.strip()

    settings = load_settings({"HEADRACE_ENCRYPTION_KEY": f"{key},{new_key()}"})

    Fernet(key)
    assert is_key(key)
    assert child_environment(settings)["HEADRACE_ENCRYPTION_KEY"].startswith(key)


@pytest.mark.parametrize("key", ["secret", "x" * 44, "a" * 43 + ",", "ü" * 44])
def test_a_setting_that_is_no_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(Misconfigured, match="HEADRACE_ENCRYPTION_KEY") as caught:
        load_settings({"HEADRACE_ENCRYPTION_KEY": key})

    assert key not in str(caught.value)
