"""The process of a server: a port, uvicorn, and a clean end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

SECONDS_TO_END = 30
"""How long the requests that are under way may take after a signal."""


class _Uvicorn(uvicorn.Server):
    """Ends on SIGTERM and Ctrl-C when the requests under way are answered; a second Ctrl-C ends at once."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the two signals for as long as the server runs. uvicorn's own form raises them again at the end."""
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def serve_until_signal(app: Starlette, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Args:
        app: from :func:`study.deploy.serving.app.build_app`.
        listening: from :func:`study.deploy.listening.listen`; it is closed at the end.
        ready: called when requests are answered.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    with listening:
        _Uvicorn(config, ready).run(sockets=[listening])
