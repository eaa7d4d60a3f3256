"""What a server accepts at most."""

from __future__ import annotations

from dataclasses import dataclass

BODIES_AT_ONCE = 8
"""Bodies of the largest size that the server holds in memory at the same time, until their images are decoded."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a request, and of all requests together."""

    body_bytes: int = 16 * 2**20
    image_pixels: int = 2**25
    images: int = 64
    """Of a request."""
    queued_images: int = 512
    """Images that wait for the network; a request beyond them is told to come again."""
    body_seconds: float = 30.0
    """How long a client may take to send the body."""


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        reason: a line for the client.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
