"""How fast a server answers, and how many images its batches hold, for several windows and batch sizes.

    python tests/benchmarks/serving.py exported/quickstart-8
    python tests/benchmarks/serving.py exported/quickstart-8 --clients 32 --waits 0.001 0.005 --batch-sizes 1 64

Clients send one image after the other over connections that stay open, without a pause. The clients run in this
process and share the machine with the server: the processor time of the server is the steadier figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import psutil
from PIL import Image
from report import add_common_options, circumstances, print_circumstances, print_table, start_quietly
from support.commands import started


def requests_of(count: int, side: int) -> list[bytes]:
    """Requests with a digit each, enlarged to a side."""
    from sklearn.datasets import load_digits

    found = []
    for array in load_digits().images[:count]:
        stream = BytesIO()
        Image.fromarray((array * 255 / 16).round().astype(np.uint8)).resize((side, side)).save(stream, "PNG")
        content = stream.getvalue()
        head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        found.append(head.encode() + content)
    return found


async def client(port: int, requests: list[bytes], end: float, seconds: list[float]) -> None:
    """Send requests until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.perf_counter() < end:
        start = time.perf_counter()
        writer.write(requests[number % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
        seconds.append(time.perf_counter() - start)
        number += 1
    writer.close()


async def load(port: int, clients: int, requests: list[bytes], duration: float) -> list[float]:
    """Seconds of each request of some clients."""
    seconds: list[float] = []
    end = time.perf_counter() + duration
    shifted = (requests[number:] + requests[:number] for number in range(clients))
    await asyncio.gather(*(client(port, own, end, seconds) for own in shifted))
    return seconds


def counted(port: int) -> dict[str, float]:
    """The counters of the server."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in lines}


def measure(model: Path, options: argparse.Namespace, wait: float, batch_size: int) -> dict[str, object]:
    """A row: one server under load."""
    arguments = ("--port", "0", "--wait", str(wait), "--batch-size", str(batch_size), "--device", "cpu")
    requests = requests_of(100, options.side)
    with tempfile.TemporaryDirectory() as folder, started(Path(folder), "serve", model, *arguments) as command:
        command.wait_until(lambda: "Ctrl-C ends it" in command.out)
        port = urlsplit(command.out.split()[1]).port
        assert port
        asyncio.run(load(port, options.clients, requests, options.seconds / 4))  # warms up
        process, before = psutil.Process(command.process.pid), counted(port)
        busy, start = process.cpu_times(), time.perf_counter()
        seconds = asyncio.run(load(port, options.clients, requests, options.seconds))
        passed, after, spent = time.perf_counter() - start, counted(port), process.cpu_times()
    images, batches = (
        after[f"predictive_exit_{name}"] - before[f"predictive_exit_{name}"]
        for name in ("images_total", "batch_images_count")
    )
    return {
        "wait, ms": wait * 1e3,
        "batch size": batch_size,
        "clients": options.clients,
        "images/s": images / passed,
        "images a batch": images / batches,
        "ms, median": float(np.median(seconds)) * 1e3,
        "ms, 99 %": float(np.quantile(seconds, 0.99)) * 1e3,
        "processor ms an image": (spent.user + spent.system - busy.user - busy.system) / images * 1e3,
    }


def main() -> None:
    """Start servers, load them, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder that `export` wrote")
    parser.add_argument("--waits", nargs="+", type=float, default=[0.0005, 0.005, 0.02], metavar="SECONDS")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--side", type=int, default=8, help="of an image, in pixels")
    parser.add_argument("--seconds", type=float, default=8.0, help="of load for each row")
    add_common_options(parser, quick="a smoke run: one server, 2 clients, 1 second", repeats=False)
    options = parser.parse_args()
    if options.quick:
        options.waits, options.batch_sizes, options.clients, options.seconds = [0.005], [64], 2, 1.0
    start_quietly(options)
    facts = circumstances()
    print_circumstances(facts)
    rows = [
        measure(options.model.absolute(), options, wait, size) for size in options.batch_sizes for wait in options.waits
    ]
    print_table("a server under load", rows)
    if options.json:
        print("\n" + json.dumps({"circumstances": facts, "rows": rows}))


if __name__ == "__main__":
    main()
