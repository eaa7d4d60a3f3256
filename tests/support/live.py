"""The server of a live page, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.report.live_server import LiveServer
from study.report.live_study import LiveStudy


@contextmanager
def served(folder: Path, *, host: str = "127.0.0.1") -> Iterator[LiveServer]:
    """A server of the page of a run folder, at any free port."""
    with LiveServer(LiveStudy(folder), host=host) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
