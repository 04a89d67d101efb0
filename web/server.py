"""
uvicorn, with our ways of starting and stopping: the port is bound first, SIGTERM ends with exit code 0.

Stopping: `/ready` turns false and waiters are answered; after a moment for requests that were on their way no
connection is taken any more; what is in flight is finished, within the grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
from collections.abc import Callable, Generator

import uvicorn

from core.access.parts import Access
from core.app import App
from core.errors import Misconfigured
from web.app import open_web

logger = logging.getLogger(__name__)

LINGER_S = 0.2  # for connections that were accepted by the kernel before anybody knew that we stop
KEEP_ALIVE_S = 75  # longer than the idle limit of common load balancers, so that they close first
LOOK_S = 1.0  # how soon a dead thread is noticed
BROKEN_THREAD = 70  # EX_SOFTWARE
_FILES = 65_536


def bind(host: str, port: int) -> socket.socket:
    """
    A listening address; port 0 picks a free one.

    Raises:
        Misconfigured: the address is in use or not ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise Misconfigured(
            f"cannot listen on {host} port {port} ({error.strerror}): "
            "stop the program that uses it, or set HEADRACE_HOST and HEADRACE_PORT"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: they would end the process by the signal instead of with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def run(app: App, listener: socket.socket) -> int:
    """
    Serve until SIGTERM or SIGINT; a second SIGINT does not wait for requests. Main thread only.

    The exit status: 0 stopped, 70 a thread died and this process makes room for another (law 10).
    """
    _raise_file_limit()
    config = uvicorn.Config(
        "web.app:open_web",  # replaced below, on the loop
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=_grace_s(app),
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(_serve(app, config, listener))


async def _serve(app: App, config: uvicorn.Config, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    async with open_web(app) as web:
        config.app = web.asgi
        server = _Server(config)

        def stop() -> None:
            web.drain()
            loop.call_later(LINGER_S, setattr, server, "should_exit", True)

        def interrupt() -> None:
            server.force_exit = server.should_exit
            stop()

        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.add_signal_handler(signal.SIGINT, interrupt)
        # What was built until here stays: a full collection would look through all of it, for tens of milliseconds.
        gc.collect()
        gc.freeze()
        logger.info("listening", extra={"url": url_of(listener)})
        looking = asyncio.create_task(_look_after(app.access, stop))
        await server.serve(sockets=[listener])
        looking.cancel()
        status = 0 if app.access.is_alive() else BROKEN_THREAD
    logger.info("stopped")
    return status


async def _look_after(access: Access, stop: Callable[[], None]) -> None:
    while access.is_alive():
        await asyncio.sleep(LOOK_S)
    logger.critical("a thread that follows rights died; this process makes room for another")
    stop()


def _grace_s(app: App) -> int:
    """Whole seconds, a second before our own end."""
    return max(1, int(app.settings.shutdown_grace_s) - 1)


def _raise_file_limit() -> None:
    """Each connection is a file: the soft limit of 1,024 is less than the waiters we allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
