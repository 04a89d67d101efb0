"""
`python -m web`: the HTTP API, until SIGTERM.

Exit status: 0 stopped, 2 the settings cannot work, 70 a thread died.
"""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

from setproctitle import setproctitle

from core.app import App, open_app
from core.errors import Misconfigured, StoreUnavailable, Unavailable
from core.logs import configure_logging
from core.settings import load_settings
from web.server import bind, run

MISCONFIGURED = 2
FAILED = 1

logger = logging.getLogger(__name__)


def main() -> int:
    setproctitle("headrace-web")
    signal.signal(signal.SIGTERM, _leave)
    try:
        settings = load_settings()
        configure_logging(level=settings.log_level, format=settings.log_format, process="web")
        with bind(settings.host, settings.port) as listener, open_app(settings) as app:
            _check(app)
            return run(app, listener)
    except Misconfigured as error:
        print(error, file=sys.stderr)  # noqa: T201 (for a person at a terminal, before there is anything to log)
        return MISCONFIGURED
    except Unavailable as error:
        print(error, file=sys.stderr)  # noqa: T201 (as above)
        return FAILED
    except KeyboardInterrupt:
        return 0


def _check(app: App) -> None:
    """A wrong revision ends the process; an absent database does not: `/ready` is false until it is there."""
    try:
        app.check()
    except StoreUnavailable:
        logger.warning("the database does not answer yet; not ready until it does")


def _leave(number: int, frame: FrameType | None) -> None:
    """A signal before the server runs."""
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
