"""A real S3 server on this machine (moto's, as a process of its own), and a proxy before it that loses requests.

with s3_server() as server:
    server.uri("folder")  # what `results.storage.paths.location` takes
    with server.faulty({"503": 0.1, "lost answer": 0.1}, seed=7) as faulty:
        faulty.uri("folder")  # the same folder, over a bad line
        faulty.injected  # how many of each fault there were
"""

import http.client
import importlib.util
import math
import os
import random
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from results.storage.object_store import connect

BUCKET = "study"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "dummy-key",
    "AWS_SECRET_ACCESS_KEY": "dummy-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}
STATUSES = {
    "400": "ExpiredToken",
    "403": "AccessDenied",
    "429": "TooManyRequests",
    "500": "InternalError",
    "503": "SlowDown",
}
"""Faults by the status of the answer; the request does not reach the server."""

LOST_REQUEST = "lost request"
LOST_ANSWER = "lost answer"
"""The connection is dropped, before the request reaches the server or after it was carried out."""


class Endpoint:
    """Something on loopback that speaks S3."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def uri(self, folder: str = "", bucket: str = BUCKET) -> str:
        """Of a folder in the bucket."""
        return f"s3://{bucket}/{folder}?endpoint_override={self.url}&region=us-east-1"


class S3Server(Endpoint):
    """The server itself."""

    @contextmanager
    def faulty(self, faults: Mapping[str, float], seed: int = 0) -> Iterator["FaultyEndpoint"]:
        """A way to the server with faults: name (a key of ``STATUSES``, or a loss) -> probability."""
        endpoint = FaultyEndpoint(self.port, faults, seed)
        threading.Thread(target=endpoint.proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield endpoint
        finally:
            endpoint.proxy.shutdown()
            endpoint.proxy.server_close()
            connect.cache_clear()  # a later endpoint may get the same port: it would get this one's patience


class FaultyEndpoint(Endpoint):
    """A proxy before the server.

    These may be set at any time: ``faults``; ``only``, a pattern of the requests that they meet (``^DELETE``);
    ``limit``, how many faults there are in all; ``before``, called with each request before it is forwarded.
    """

    def __init__(self, server_port: int, faults: Mapping[str, float], seed: int) -> None:
        self.faults = faults
        self.only = ""
        self.limit = math.inf
        self.before: Callable[[str], None] | None = None
        self.injected: Counter[str] = Counter()
        self.requests: list[str] = []
        self._server_port = server_port
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.proxy = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.proxy.daemon_threads = True
        self.proxy.block_on_close = False
        super().__init__(self.proxy.server_port)

    def _draw(self, request: str) -> str | None:
        with self._lock:
            self.requests.append(request)
            if not re.search(self.only, request) or self.injected.total() >= self.limit:
                return None
            point = self._random.random()
            for fault, probability in self.faults.items():
                point -= probability
                if point < 0:
                    self.injected[fault] += 1
                    return fault
            return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def handle_any(self) -> None:
                body = self.body()
                request = f"{self.command} {self.path}"
                fault = endpoint._draw(request)
                if fault == LOST_REQUEST:
                    return self.hang_up()
                if fault in STATUSES:
                    text = f"<Error><Code>{STATUSES[fault]}</Code><Message>injected</Message></Error>".encode()
                    return self.answer(int(fault), {"Content-Type": "application/xml"}, text)
                if endpoint.before is not None:
                    endpoint.before(request)
                server = http.client.HTTPConnection("127.0.0.1", endpoint._server_port, timeout=30)
                try:
                    hop = ("content-length", "expect", "transfer-encoding")
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in hop}
                    server.request(self.command, self.path, body, headers)
                    answer = server.getresponse()
                    content = answer.read()
                finally:
                    server.close()
                if fault == LOST_ANSWER:
                    return self.hang_up()
                return self.answer(answer.status, dict(answer.getheaders()), content)

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return body

            def answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
                self.send_response_only(status)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def hang_up(self) -> None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, *_: object) -> None:
                pass

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        return Handler


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running server with an empty bucket, and the credentials for it in the environment; ends with its parent."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is not installed: pip install 'predictive-exit[dev]'")
    import boto3

    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patch.delenv(name)
            for name, value in CREDENTIALS.items():
                patch.setenv(name, value)
            server = S3Server(int(process.stdout.readline()))
            boto3.client("s3", endpoint_url=server.url, region_name="us-east-1").create_bucket(Bucket=BUCKET)
            yield server
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One server for all tests; a module that wants it says ``pytest_plugins = ["support.s3_server"]``."""
    with s3_server() as server:
        yield server


def serve() -> None:
    """Serve on a free port, told on stdout, until stdin ends: a dead parent leaves no server behind."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.port, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    serve()
