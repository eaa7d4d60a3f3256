"""A container of Azure Blob Storage in this process: as many requests as reading and listing need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

ACCOUNT = "account"
CONTAINER = "container"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    blobs: dict[str, bytes]

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query).items()}
        if "SharedKey" not in self.headers.get("Authorization", ""):
            return self._answer(403, b"<Error><Code>NoAuth</Code><Message>No key.</Message></Error>")
        if query.get("comp") == "list":
            return self._answer(200, self._listed(query.get("prefix", "")))
        content = self.blobs.get(unquote(place.path).removeprefix(f"/{ACCOUNT}/{CONTAINER}/"))
        return self._answer(404, b"") if content is None else self._answer(200, content)

    do_HEAD = do_GET

    def _listed(self, prefix: str) -> bytes:
        rows = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified>"
            f"<Content-Length>{len(content)}</Content-Length><Content-Type>image/png</Content-Type>"
            f"<Etag>{_etag(content)}</Etag></Properties></Blob>"
            for name, content in sorted(self.blobs.items())
            if name.startswith(prefix)
        )
        return f"<EnumerationResults><Blobs>{rows}</Blobs><NextMarker/></EnumerationResults>".encode()

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", _etag(content))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


def _etag(content: bytes) -> str:
    return f'"{sha256(content).hexdigest()[:16]}"'


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The blobs of ``az://container``, by name; the environment names the account and its key."""
    from results.storage import object_store

    blobs: dict[str, bytes] = {}
    handler = type("Handler", (_Handler,), {"blobs": blobs})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/{ACCOUNT}")
        object_store.connect.cache_clear()
        yield blobs
        object_store.connect.cache_clear()
        server.shutdown()
