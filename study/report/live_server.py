"""Serves the page of a running study to browsers: two routes, read only, by default to this machine alone."""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from study.deploy.listening import is_loopback, refusal
from study.errors import UserError
from study.report.live_study import LiveStudy
from study.storage.strict_json import dumps

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # a page's own policy cannot say this
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LiveServer(ThreadingHTTPServer):
    """Answers ``/`` with the page, ``/state`` with the state as JSON, and nothing else."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, study: LiveStudy, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen at a port; 0 is any free one.

        Raises:
            UserError: the host or the port cannot be had.
        """
        self.study = study
        self.host = host
        try:
            self.address_family, *_, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            super().__init__((str(address[0]), int(address[1])), _Handler)
        except OSError as error:
            raise UserError(f"watch: {refusal(error, host, port)}") from None

    def server_bind(self) -> None:
        """Bind without asking a name server for the name of this machine."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def address(self) -> str:
        """Where the page is, for a browser on this machine."""
        host = self.host if not self.is_everywhere else "localhost"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    @property
    def is_everywhere(self) -> bool:
        """Whether the server listens on all addresses of this machine."""
        return ipaddress.ip_address(str(self.server_address[0])).is_unspecified

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(str(self.server_address[0]))

    def knows(self, host: str) -> bool:
        """Whether a request for this host (the header ``Host``) means this server.

        A page of a stranger can let its own name stand for the address of this machine, and then read what this server
        answers to that name. Therefore only names of this machine are answered, at any port, since the port differs
        behind a tunnel. On loopback other addresses are refused too.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", "127.0.0.1", "::1", self.host.lower()):
            return True
        return not self.is_loopback and (name == socket.gethostname().lower() or _is_address(name))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    timeout = 20.0
    """Seconds that a client may be silent."""

    def do_GET(self) -> None:
        """Answer with content."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer with the headers that GET would give."""
        self._answer()

    def _refuse_method(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n", "text/plain", {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def _answer(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.knows(hosts[0]):
            text = f"this server answers at {self.server.address} only\n"
            self._send(HTTPStatus.MISDIRECTED_REQUEST, text.encode(), "text/plain")
        elif self.path == "/":
            self._send(HTTPStatus.OK, self.server.study.page(), "text/html")
        elif self.path == "/state":
            state = dumps(self.server.study.state(), compact=True)
            self._send(HTTPStatus.OK, state.encode(), "application/json")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"there is / and /state\n", "text/plain")

    def _send(self, status: HTTPStatus, content: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content))}
        for name, value in (headers | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """The header ``Server``: no versions."""
        return "predictive-exit"

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: a page asks every two seconds."""
