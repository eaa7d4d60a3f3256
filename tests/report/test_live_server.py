"""`predictive-exit watch`: what the server answers, to whom, and how the command ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from support.commands import started
from support.growing_study import GrowingStudy
from support.live import served
from support.run_folders import refused

from study.errors import UserError
from study.report import live_study
from study.report.live_server import LiveServer
from study.report.live_study import LiveStudy


@pytest.fixture
def growing(tmp_path: Path) -> GrowingStudy:
    return GrowingStudy(tmp_path)


@pytest.fixture
def server(growing: GrowingStudy) -> Iterator[LiveServer]:
    with served(growing.folder) as server:
        yield server


def ask(server: LiveServer, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer, answer.read()


def test_the_page_and_the_state_are_served(server: LiveServer) -> None:
    answer, page = ask(server, "/")
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b'<section class="live"' in page and b"connect-src 'self'\">" in page
    assert answer.headers["Cache-Control"] == "no-store" and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    answer, state = ask(server, "/state")
    assert answer.status == 200 and answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert f'data-version="{json.loads(state)["version"]}"'.encode() in page
    assert server.address == f"http://127.0.0.1:{server.server_port}/"


def test_head_has_the_headers_of_get_and_no_content(server: LiveServer) -> None:
    whole, content = ask(server, "/")
    answer, nothing = ask(server, "/", "HEAD")
    assert answer.status == 200 and nothing == b""
    assert answer.headers["Content-Length"] == whole.headers["Content-Length"] == str(len(content))


@pytest.mark.parametrize(
    "path",
    ["/study.yaml", "/../study.yaml", "/.", "/state/", "/state?x", "/?x", "/tables", "/%2e%2e/study.yaml", "*"],
)
def test_there_is_nothing_else(server: LiveServer, path: str) -> None:
    answer, content = ask(server, path)
    assert answer.status == 404 and content == b"there is / and /state\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(server: LiveServer, method: str) -> None:
    answer, content = ask(server, "/", method)
    assert answer.status == 405 and answer.headers["Allow"] == "GET, HEAD" and content == b"only GET and HEAD\n"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "", "localhost.evil.example", "[", "10.0.0.1"])
def test_a_name_of_a_stranger_is_refused(server: LiveServer, host: str) -> None:
    for path in ("/", "/state"):
        answer, content = ask(server, path, Host=host)
        assert answer.status == 421 and b"class" not in content and b"version" not in content


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9000", "[::1]:9000"])
def test_names_of_this_machine_are_answered_at_any_port(server: LiveServer, host: str) -> None:
    assert ask(server, "/state", Host=host)[0].status == 200


def test_requests_without_a_host_or_with_two_are_refused(server: LiveServer) -> None:
    for lines in ("", "Host: localhost\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
            connection.sendall(f"GET /state HTTP/1.0\r\n{lines}\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.0 421 ")


def test_another_host_is_listened_at_where_the_user_names_it(growing: GrowingStudy) -> None:
    with served(growing.folder, host="0.0.0.0") as server:
        assert not server.is_loopback
        assert server.address == f"http://localhost:{server.server_port}/"
        for host, status in {"10.0.0.1:80": 200, socket.gethostname(): 200, "evil.example": 421}.items():
            assert ask(server, "/state", Host=host)[0].status == status
    with served(growing.folder, host="localhost") as server:
        assert server.is_loopback


def test_browsers_that_go_away_are_no_fault(server: LiveServer, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", server.server_port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # end by a reset
        connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        connection.close()
    assert ask(server, "/")[0].status == 200
    assert capfd.readouterr().err == ""


def test_several_browsers_share_one_page(growing: GrowingStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plain = live_study.report_page

    def slow(*one: object, **more: object) -> bytes:
        made.append(1)
        time.sleep(0.2)
        return plain(*one, **more)

    monkeypatch.setattr(live_study, "report_page", slow)
    with served(growing.folder) as server:
        threads = [threading.Thread(target=ask, args=(server, "/")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 1


def test_mistakes_end_in_one_line(growing: GrowingStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} is no run folder" in refused(f"watch {empty}", capsys)
    assert "'70000' is no port" in refused(f"watch {growing.folder} --port 70000", capsys)
    assert "is no address of this machine" in refused(f"watch {growing.folder} --host 192.0.2.1", capsys)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(f"watch {growing.folder} --port {port}", capsys)
        assert f"port {port} of 127.0.0.1 is in use: name another one with --port" in line
    with pytest.raises(UserError, match="is not for everyone"), pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket.socket, "bind", _refuse_access)
        LiveServer(LiveStudy(growing.folder), port=80)


def _refuse_access(self: socket.socket, address: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_ctrl_c_ends_it_in_one_line_and_an_idle_watch_takes_no_time(growing: GrowingStudy, tmp_path: Path) -> None:
    with started(tmp_path, "watch", growing.folder, "--port", "0") as command:
        command.wait_until(lambda: "Ctrl-C ends it" in command.out)
        address = urlsplit(command.out.split()[1])
        connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        process = psutil.Process(command.process.pid)
        before = process.cpu_times()
        time.sleep(2)
        after = process.cpu_times()
        assert after.user + after.system - before.user - before.system < 0.1
        assert process.nice() == 10
        os.killpg(command.process.pid, signal.SIGINT)
        assert command.wait() == 130
        assert command.err == "predictive-exit: stopped\n"
    assert not (growing.folder / "report.html").exists()
