"""Shipped doubles, for our tests, for users' tests and for the demo. Real servers on loopback; nothing is patched."""

from core.testing.calls import Call, Fault
from core.testing.fake_provider import FakeProvider

__all__ = ["Call", "FakeProvider", "Fault"]
