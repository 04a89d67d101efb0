"""Bells are Dramatiq messages, and what our consumer makes of them."""

from __future__ import annotations

from typing import Any

from dramatiq.brokers.redis import RedisBroker

from core.app import App
from core.ids import new_worker_id
from core.tasks.bells import ACTOR
from core.tasks.queues import Queue
from workers.broker import BellBroker, BellConsumer
from workers.ears import Ears
from workers.slots import Slots


def broker_of(app: App, threads: int = 2) -> BellBroker:
    slots = Slots(threads)
    slots.serve([Queue("default", 0, None)])
    ears = Ears(app.bells, worker_id=new_worker_id(), on_cancel=lambda _: None, standing={})
    return BellBroker(app.bells, ears, slots)


def test_a_bell_is_a_message_that_plain_dramatiq_reads(app: App) -> None:
    app.bells.ring("default")
    untyped: Any = RedisBroker
    plain = untyped(client=app.bells.link.client, namespace=app.bells.keys.namespace, middleware=[])

    message = next(plain.consume("default", timeout=100))

    assert (message.actor_name, message.queue_name, message.args) == (ACTOR, "default", ())


def test_a_taken_bell_leaves_nothing_in_redis_and_names_its_queue(app: App) -> None:
    broker = broker_of(app)
    for _ in range(3):
        app.bells.ring("default")
        app.bells.link.client.delete(app.bells.keys.of("default")[0])  # its mark ends, so that bells gather

    message = BellConsumer(broker, "default").__next__()

    assert message is not None
    assert (message.actor_name, message.queue_name, message.args) == (ACTOR, "default", ("default",))
    assert app.bells.link.client.keys(app.settings.instance_name + "*") == []


def test_no_bell_is_taken_while_no_thread_is_free(app: App) -> None:
    broker = broker_of(app, threads=1)
    consumer = BellConsumer(broker, "default")
    app.bells.ring("default")
    assert consumer.__next__() is not None

    app.bells.ring("default")
    broker.ears.of("default").wake()

    assert consumer.__next__() is None
    assert app.bells.waits("default")


def test_with_redis_gone_each_look_is_a_bell_of_its_own(app: App) -> None:
    broker = broker_of(app)
    app.bells.link.client.connection_pool.disconnect()
    app.bells.link.client.connection_pool.connection_kwargs["port"] = 1

    consumer = BellConsumer(broker, "default")

    assert [consumer.__next__() is not None for _ in range(2)] == [True, True]


def test_a_failed_claim_makes_the_consumer_ask_again(app: App) -> None:
    broker = broker_of(app)
    consumer = BellConsumer(broker, "default")
    assert consumer.__next__() is None

    broker.doubts.claim_failed("default")
    asked = consumer.__next__()
    broker.doubts.claim_answered("default")

    assert asked is not None
    assert consumer.__next__() is None
