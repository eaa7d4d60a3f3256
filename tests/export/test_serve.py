"""`predictive-exit serve` as a process: concurrent requests, bad ones, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from support.commands import Command, started, wait_until
from support.faults import ROOT
from support.image_files import write_digits

from study import EarlyExit
from study.cli.main import main


def address_of(command: Command) -> str:
    command.wait_until(lambda: "Ctrl-C ends it" in command.out)
    return command.out.split()[1].removesuffix("/classify")


def refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_concurrent_requests_get_the_answers_of_predict_and_a_signal_ends_it_when_all_are_answered(
    exported: Path, tmp_path: Path
) -> None:
    write_digits(tmp_path / "digits", 40)
    files = sorted((tmp_path / "digits").rglob("*.png"))
    expected = EarlyExit.load(exported, device="cpu").predict(files)
    with started(tmp_path, "serve", exported, "--port", "0", "--batch-size", "8", "--device", "cpu") as command:
        address = address_of(command)
        assert urlsplit(address).hostname == "127.0.0.1"

        def ask(file: Path) -> dict[str, object]:
            answer = httpx.post(f"{address}/classify", content=file.read_bytes(), timeout=60)
            assert answer.status_code == 200, answer.text
            (row,) = answer.json()["answers"]
            return dict(row)

        with ThreadPoolExecutor(16) as pool:
            rows = list(pool.map(ask, files))
        assert [row["class_number"] for row in rows] == expected.classes.tolist()
        assert [row["exit"] for row in rows] == expected.exits.tolist()
        assert [row["confidence"] for row in rows] == pytest.approx(expected.confidences, rel=1e-4)
        assert httpx.post(f"{address}/classify", content=b"no image").status_code == 415
        assert 'requests_total{status="200"} 40.0' in httpx.get(f"{address}/metrics").text

        content, port = files[0].read_bytes(), urlsplit(address).port
        assert port
        with socket.create_connection(("127.0.0.1", port), timeout=60) as late:
            head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
            late.sendall(head.encode() + content[:20])
            httpx.get(f"{address}/metrics")  # answered after what came before it
            os.killpg(command.process.pid, signal.SIGTERM)
            wait_until(lambda: refuses_connections(port), 60)
            late.sendall(content[20:])
            reply = b""
            while more := late.recv(65536):
                reply += more
        assert reply.startswith(b"HTTP/1.1 200") and b"server:" not in reply.lower()
        (row,) = json.loads(reply.partition(b"\r\n\r\n")[2])["answers"]
        assert row["exit"] == expected.exits[0]
        assert command.wait() == 0
        assert command.out.splitlines()[-1] == "serve: stopped" and command.err == ""


def test_ctrl_c_ends_it_and_another_host_is_warned_of(exported: Path, tmp_path: Path) -> None:
    with started(tmp_path, "serve", exported, "--port", "0", "--host", "0.0.0.0", "--device", "cpu") as command:
        port = urlsplit(address_of(command)).port
        assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).json()["status"] == "ok"
        os.killpg(command.process.pid, signal.SIGINT)
        assert command.wait() == 0
        assert command.err == (
            f"serve: everyone who reaches port {port} of 0.0.0.0 can use this model: there is no authentication, and "
            "nothing is encrypted\n"
        )


def test_what_cannot_be_served_is_refused_in_one_line(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, told in (
            ([exported, "--port", port], f"port {port} of 127.0.0.1 is in use"),
            ([exported, "--host", "no.such.name.invalid"], "is no address of this machine"),
            ([tmp_path, "--port", "0"], "manifest.json"),
            ([exported, "--queue", "3"], "a request of 64 images never fits a queue of 3"),
        ):
            assert main(["serve", *map(str, arguments)]) == 2
            error = capsys.readouterr().err
            assert told in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "missing",
    ["uvicorn", "python_multipart", "starlette", "prometheus_client"],
)
def test_an_installation_without_the_extra_is_told(
    missing: str, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [one for one in sys.modules if one.startswith("study.deploy.serving.")]:
        monkeypatch.delitem(sys.modules, name)  # each is imported anew
    for name in [one for one in sys.modules if one.startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["serve", str(exported), "--port", "0"]) == 2
    told = capsys.readouterr().err
    assert f"serve needs {missing}" in told and "install the extra serve" in told
    assert told.count("\n") == 1


def test_a_server_imports_neither_ray_nor_optuna_nor_pandas() -> None:
    program = (
        "import sys, study.cli.serve, study.deploy.serving.app, study.deploy.serving.process\n"
        "print(sorted({'ray', 'optuna', 'pandas'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert ended.stdout == "[]\n"
