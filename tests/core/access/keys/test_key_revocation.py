"""A right ends in every process, whatever was being read at that moment (law 6), with the real watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
from pydantic import SecretStr

from core.access.keys.authenticator import Outcome
from core.app import App, open_app
from core.events.access import Limits
from core.settings import Settings
from tests.support.rights import disable_unheard
from tests.support.waiting import wait_until

ROUNDS = 150


@contextmanager
def watching(settings: Settings) -> Generator[App]:
    with open_app(settings) as app:
        app.access.watch.start()
        wait_until(lambda: app.access.watch.is_current() and app.access.watch.epoch(), 5, what="the watch is current")
        yield app


@pytest.fixture
def apps(settings: Settings) -> Generator[list[App]]:
    """Two processes as far as memory goes."""
    with watching(settings) as one, watching(settings) as other:
        yield [one, other]


def outcome(app: App, clear_key: str) -> Outcome:
    if app.access.authenticator.peek(clear_key) is not None:
        return Outcome.OK
    return app.access.authenticator.authenticate(clear_key).outcome


def is_refused(app: App, clear_key: str) -> Callable[[], bool]:
    return lambda: outcome(app, clear_key) is not Outcome.OK


def test_a_key_disabled_or_enabled_while_others_read_it_is_in_the_end_what_its_row_says(apps: list[App]) -> None:
    new = apps[0].keys.create("flickering")
    barrier = threading.Barrier(3, timeout=30)
    stop = threading.Event()

    def read(app: App) -> None:
        barrier.wait()
        while not stop.wait(0.0002):
            outcome(app, new.clear_key)
            app.access.caches.clear_memory("test")  # so that there is always a load under way

    readers = [threading.Thread(target=read, args=(app,), daemon=True) for app in apps]
    for reader in readers:
        reader.start()
    barrier.wait()
    late: list[float] = []
    for number in range(ROUNDS):
        writer = apps[number % 2]
        writer.keys.disable(new.key_id)
        disabled_at = time.monotonic()
        for app in apps:
            wait_until(is_refused(app, new.clear_key), 5, every=0.0005)
        late.append(time.monotonic() - disabled_at)
        for app in apps:
            assert outcome(app, new.clear_key) is Outcome.DISABLED
        writer.keys.enable(new.key_id)
        for app in apps:
            wait_until(lambda app=app: outcome(app, new.clear_key) is Outcome.OK, 5, every=0.0005)  # type: ignore[misc] # (bound now)
    stop.set()
    for reader in readers:
        reader.join(10)

    assert sorted(late)[int(len(late) * 0.9)] < 0.25, sorted(late)[-10:]


def test_a_key_that_is_disabled_behind_everybodys_back_is_refused_within_five_seconds(apps: list[App]) -> None:
    new = apps[0].keys.create("n")
    for app in apps:
        assert outcome(app, new.clear_key) is Outcome.OK

    disable_unheard(apps[0], new.key_id)
    began = time.monotonic()
    for app in apps:
        wait_until(is_refused(app, new.clear_key), 6, every=0.01)

    assert time.monotonic() - began < 5


def test_limits_and_rotations_reach_every_process(apps: list[App]) -> None:
    one, other = apps
    new = one.keys.create("n", limits=Limits(rpm=5))
    for app in apps:
        assert app.access.authenticator.authenticate(new.clear_key).key is not None
        assert app.access.key_limits.get(new.key).rpm == 5

    one.keys.update(new.key_id, rpm=None, tpm=7)
    for app in apps:
        wait_until(lambda app=app: app.access.key_limits.get(new.key) == Limits(tpm=7), 5)  # type: ignore[misc] # (bound now)

    second = one.keys.rotate(new.key_id)
    for app in apps:
        assert outcome(app, second.clear_key) is Outcome.OK
        assert outcome(app, new.clear_key) is Outcome.OK
    third = one.keys.rotate(new.key_id)
    wait_until(is_refused(other, new.clear_key), 5)
    assert [outcome(other, key.clear_key) for key in (new, second, third)] == [
        Outcome.UNKNOWN,
        Outcome.OK,
        Outcome.OK,
    ]

    one.keys.delete(new.key_id)
    for key in (second, third):
        wait_until(is_refused(other, key.clear_key), 5)


def test_the_refresh_is_heard_by_every_process(apps: list[App]) -> None:
    one, other = apps
    time_before = other.access.key_limits.age_s
    wait_until(lambda: other.access.key_limits.age_s > max(0.2, time_before), what="some time passes")

    one.access.limits_refresh.run()

    wait_until(lambda: other.access.key_limits.age_s < 0.2, 5, what="the refresh is heard", every=0.005)


def test_a_key_that_moved_to_the_new_pepper_is_refused_like_any_other_when_it_is_disabled(settings: Settings) -> None:
    old = settings.key_pepper
    assert old is not None
    with open_app(settings) as before:
        moved, unmoved = before.keys.create("moved"), before.keys.create("unmoved")
    both = f"2:{'n' * 40},1:{old.get_secret_value()}"
    orders = [both, ",".join(reversed(both.split(",")))]
    new_order, old_order = (settings.model_copy(update={"key_pepper": SecretStr(text)}) for text in orders)

    with watching(old_order) as first, watching(new_order) as second:
        for clear_key in (moved.clear_key, unmoved.clear_key):
            assert outcome(first, clear_key) is Outcome.OK
        assert outcome(second, moved.clear_key) is Outcome.OK
        assert outcome(first, moved.clear_key) is Outcome.OK
        for key in (moved, unmoved):
            second.keys.disable(key.key_id)
            for app in (first, second):
                wait_until(is_refused(app, key.clear_key), 5)
