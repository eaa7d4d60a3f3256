"""What a server answers to images, and to what is none; how it batches, and when it refuses."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient
from support.exports import export_of, grey_noise, model_of_many_stops, small_network

from study import EarlyExit, Placed
from study.deploy.serving.app import build_app
from study.deploy.serving.batching import Answer, Batcher
from study.deploy.serving.limits import BODIES_AT_ONCE, Limits, RefusedError
from study.deploy.serving.uploads import Uploads
from study.networks.quantization import prepare

LIMITS = Limits(body_bytes=20_000, image_pixels=40 * 40, images=3, queued_images=6)


@pytest.fixture(scope="module")
def model() -> EarlyExit:
    network = small_network("vgg11", "linear")
    export = export_of(prepare(network, "fp32"), Placed(0.22, [2, 4], "max_softmax"), np.ones(network.exit_count))
    return EarlyExit(export, torch.device("cpu"), compile=False, compact_below=1.0)


@pytest.fixture
def client(model: EarlyExit) -> Iterator[TestClient]:
    with TestClient(build_app(model, LIMITS, batch_size=4, wait_seconds=0.01)) as client:
        yield client


def picture(number: int, *, size: int = 20, form: str = "PNG") -> bytes:
    random, stream = np.random.default_rng(number), io.BytesIO()
    Image.fromarray(random.integers(0, 256, (size, size), dtype=np.uint8)).save(stream, form)
    return stream.getvalue()


def parts(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", (f"{number}.png", content)) for number, content in enumerate(contents)]


def test_one_image_is_the_body_and_several_are_a_form(client: TestClient, model: EarlyExit) -> None:
    contents = [picture(number) for number in range(3)]
    expected = model.predict([Image.open(io.BytesIO(content)) for content in contents])
    alone = client.post("/classify", content=contents[0])
    together = client.post("/classify", files=parts(*contents))
    assert alone.status_code == together.status_code == 200
    rows = together.json()["answers"]
    assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png"]
    assert [row["class"] for row in rows] == list(expected.names)
    assert [row["class_number"] for row in rows] == expected.classes.tolist()
    assert [row["exit"] for row in rows] == expected.exits.tolist()
    assert [row["confidence"] for row in rows] == pytest.approx(expected.confidences)
    (row,) = alone.json()["answers"]
    expected_row = {name: value for name, value in rows[0].items() if name != "image"}
    assert row == expected_row | {"confidence": pytest.approx(expected_row["confidence"])}


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("sent", "status", "told"),
    [
        ({"content": b""}, 400, "holds no image"),
        ({"content": b"no image"}, 415, "image of the body (not an image format that Pillow knows)"),
        ({"json": {"image": "x"}}, 415, "not an image format"),
        ({"content": cut(picture(0))}, 400, "cannot read image of the body ("),
        ({"content": picture(0, size=41)}, 413, "(more than 1600 pixels)"),
        ({"content": b"x" * 20_001}, 413, "larger than 20000 bytes"),
        ({"content": iter([b"x" * 15_000] * 2)}, 413, "larger than 20000 bytes"),
        ({"files": parts(*[b"x"] * 4)}, 413, "more than 3 images"),
        ({"files": parts(picture(0), b"no image\x1b[1m")}, 415, "1.png"),
        ({"data": {"image": "x"}, "files": {"other": b""}}, 415, "not an image format"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, "form cannot be read"),
        ({"content": b"garbage", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "form cannot"),
        ({"content": b"--b--\r\n", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "no image"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(
    client: TestClient, sent: dict[str, Any], status: int, told: str
) -> None:
    answer = client.post("/classify", **sent)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    line = answer.json()["error"]
    assert told in line and "\n" not in line and line.isprintable()


def test_bodies_count_until_their_images_are_decoded() -> None:
    async def refused_beside(count: int) -> int | None:
        async def body() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * LIMITS.body_bytes}

        def request() -> Request:
            return Request({"type": "http", "headers": []}, body)

        uploads = Uploads(LIMITS)
        async with AsyncExitStack() as held:
            for _ in range(count):
                await held.enter_async_context(uploads.read(request()))
            try:
                await held.enter_async_context(uploads.read(request()))
            except RefusedError as error:
                return error.status
        async with uploads.read(request()) as found:
            assert [one.name for one in found] == [None]
        return None

    assert asyncio.run(refused_beside(BODIES_AT_ONCE - 1)) is None
    assert asyncio.run(refused_beside(BODIES_AT_ONCE)) == 503


@pytest.mark.parametrize("charset", ["undefined", "unicode_escape", "utf-8"])
def test_names_of_any_charset_are_answered_or_refused(charset: str, client: TestClient) -> None:
    head = b'Content-Disposition: form-data; name="x"; filename="a\\ud800\xff"'
    form = b"--b\r\n" + head + b"\r\n\r\n" + picture(0) + b"\r\n--b--\r\n"
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
    answer = client.post("/classify", content=form, headers=headers)
    assert answer.status_code == (200 if charset == "utf-8" else 400)
    assert list(answer.json()) == ["answers" if charset == "utf-8" else "error"]


def test_other_routes_and_methods_name_the_routes(client: TestClient) -> None:
    for answer, status in ((client.get("/"), 404), (client.get("/classify"), 405), (client.post("/health"), 405)):
        assert answer.status_code == status
        assert answer.json()["error"] == "there are POST /classify, GET /health and GET /metrics"


def test_health_and_metrics(client: TestClient, model: EarlyExit) -> None:
    contents = [picture(number) for number in range(3)]
    found = model.predict([Image.open(io.BytesIO(content)) for content in contents])
    client.post("/classify", files=parts(*contents))
    client.post("/classify", content=b"no image")
    health = client.get("/health").json()
    assert (health["status"], health["classes"], health["exits"]) == ("ok", 5, [2, 4])
    text = client.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in text.text.splitlines() if line[0] != "#")
    counted = {name.removeprefix("predictive_exit_"): float(value) for name, value in lines.items()}
    assert counted['requests_total{status="200"}'] == counted['requests_total{status="415"}'] == 1
    assert counted["images_total"] == 3 and counted["request_seconds_count"] == 2
    assert counted["batch_images_sum"] == 3
    for exit in set(found.exits.tolist()):
        assert counted[f'images_by_exit_total{{exit="{exit}"}}'] == (found.exits == exit).sum()
    share = model.flops(found).mean() / model.classic_flops
    assert counted["flops_share_of_classic"] == pytest.approx(share)
    assert counted["flops_total"] / counted["classic_flops_total"] == pytest.approx(share)
    assert counted["queued_images"] == 0


def test_only_names_of_this_machine_are_answered_on_loopback(model: EarlyExit) -> None:
    app = build_app(model, LIMITS, batch_size=4, wait_seconds=0.01, hosts=("localhost", "[::1]"))
    with TestClient(app) as client:
        statuses = [client.get("/health", headers={"Host": host}).status_code for host in ("localhost:1", "[::1]:1")]
        assert statuses == [200, 200]
        assert client.get("/health", headers={"Host": "stranger.example"}).status_code == 400


class SlowModel:
    """Stands for a model: a batch enters when it is let go. It keeps the sizes of its batches."""

    def __init__(self, model: EarlyExit) -> None:
        self.model, self.sizes = model, list[int]()
        self.entered, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.fails = False

    def queues(self, batch_size: int) -> Any:
        queues = self.model.queues(batch_size)
        add = queues.add

        def slowly(inputs: torch.Tensor) -> Any:
            self.sizes.append(len(inputs))
            self.entered.release()
            assert self.go.acquire(timeout=60)
            if self.fails:
                raise RuntimeError("no memory\nat all")
            return add(inputs)

        queues.add = slowly  # type: ignore[method-assign]
        return queues

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def squares(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 1, 32, 32), dtype=np.uint8))


def batcher_of(model: Any, told: list[Any], *, wait_seconds: float = 60.0) -> Batcher:
    def tell(answers: Sequence[Answer], entered: int) -> None:
        told.append((len(answers), entered))

    return Batcher(model, batch_size=4, wait_seconds=wait_seconds, queued_images=6, told=tell)


def test_requests_share_batches_and_get_their_own_answers(model: EarlyExit) -> None:
    slow, told = SlowModel(model), list[tuple[int, int]]()
    batcher, pictures = batcher_of(slow, told), squares(6)
    first = batcher.submit(pictures[:1])  # nobody else is expected: it runs at once, alone
    assert slow.entered.acquire(timeout=60)
    others = [batcher.submit([one])[0] for one in pictures[1:]]
    for _ in range(3):
        slow.go.release()
    answers = [one.result(timeout=60) for one in (*first, *others)]
    batcher.close()
    assert slow.sizes == [1, 4, 1] == [entered for _, entered in told]
    assert sum(answers for answers, _ in told) == 6
    expected = model.run(model.normalized(torch.from_numpy(np.stack(pictures))))
    assert [one.number for one in answers] == expected.classes.tolist()
    assert [one.exit for one in answers] == expected.exits.tolist()
    assert [one.confidence for one in answers] == pytest.approx(expected.confidences, rel=1e-5)


def test_a_batch_waits_for_requests_that_have_begun_and_not_for_ever(model: EarlyExit) -> None:
    slow, told = SlowModel(model), list[tuple[int, int]]()
    slow.go.release(10)
    batcher, pictures = batcher_of(slow, told), squares(3)
    with batcher.expected():
        early = batcher.submit(pictures[:1])
        with batcher.expected():
            late = batcher.submit(pictures[1:])
    for one in (*early, *late):
        one.result(timeout=60)
    assert slow.sizes == [3]
    batcher.close()
    impatient = batcher_of(slow, told, wait_seconds=0.001)
    with impatient.expected():
        assert impatient.submit(pictures[:1])[0].result(timeout=60)
    impatient.close()


def test_images_that_go_on_join_those_of_later_requests() -> None:
    model, noise, sizes = model_of_many_stops("max_softmax"), grey_noise(50), list[int]()
    exits = model.run(model.normalized(noise)).exits
    stopping, going = np.flatnonzero(exits == 1)[:4], np.flatnonzero(exits > 1)[:4]
    mixed = [noise[one].numpy() for pair in zip(stopping, going, strict=True) for one in pair]
    first, second, *others = model.network.parts

    def watched(*state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes.append(len(state[0]))
        return second(*state)

    model.network = replace(model.network, parts=[first, watched, *others])
    batcher = Batcher(model, batch_size=4, wait_seconds=60, queued_images=8, told=lambda answers, entered: None)
    with batcher.expected():
        early = batcher.submit(mixed[:4])
        assert early[0].result(timeout=60).exit == 1
        assert not early[1].done(), "it waits before the second part"
        late = batcher.submit(mixed[4:])
        assert late[2].result(timeout=60).exit == 1
    answers = [one.result(timeout=60) for one in (*early, *late)]
    batcher.close()
    assert sizes == [4]
    assert [one.exit for one in answers[1::2]] == exits[going].tolist()


def test_a_full_queue_refuses_and_close_answers_what_waits(model: EarlyExit) -> None:
    slow, told = SlowModel(model), list[tuple[int, int]]()
    batcher, pictures = batcher_of(slow, told), squares(7)
    running = batcher.submit(pictures[:1])
    assert slow.entered.acquire(timeout=60)
    waiting = batcher.submit(pictures[:6])
    assert batcher.waiting == 6
    with pytest.raises(RefusedError, match="busy") as refused:
        batcher.submit(pictures[:1])
    assert refused.value.status == 503
    waiting[0].cancel()  # its client went away
    slow.go.release(10)
    batcher.close()
    assert all(one.result(timeout=0).exit for one in (*running, *waiting[1:]))
    with pytest.raises(RefusedError):
        batcher.submit(pictures[:1])


def test_a_batch_that_fails_is_told_and_the_next_one_runs(model: EarlyExit, capsys: pytest.CaptureFixture[str]) -> None:
    slow = SlowModel(model)
    slow.go.release(10)
    slow.fails = True
    app = build_app(slow, LIMITS, batch_size=4, wait_seconds=0.01)  # type: ignore[arg-type]
    with TestClient(app) as client:
        failed = client.post("/classify", content=picture(0))
        slow.fails = False
        assert client.post("/classify", content=picture(0)).status_code == 200
    assert (failed.status_code, failed.json()) == (500, {"error": "the model failed on these images"})
    assert capsys.readouterr().err == "serve: 1 images failed together (no memory at all)\n"


def test_a_busy_server_answers_503_and_goes_on(model: EarlyExit) -> None:
    slow = SlowModel(model)
    app = build_app(slow, replace(LIMITS, queued_images=3), batch_size=4, wait_seconds=0.01)  # type: ignore[arg-type]
    with TestClient(app) as client, ThreadPoolExecutor(2) as pool:
        running = pool.submit(client.post, "/classify", content=picture(0))
        assert slow.entered.acquire(timeout=60)
        waiting = pool.submit(client.post, "/classify", files=parts(picture(1), picture(2)))
        while not slow.sizes or client.get("/metrics").text.count("queued_images 2.0") == 0:
            pass
        busy = client.post("/classify", files=parts(picture(1), picture(2)))
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        assert busy.json() == {"error": "the server is busy: try again later"}
        slow.go.release(10)
        assert running.result(timeout=60).status_code == waiting.result(timeout=60).status_code == 200


def test_damaged_images_and_forms_never_fail_the_server(client: TestClient, capfd: pytest.CaptureFixture[str]) -> None:
    random, statuses = Random(1), set[int]()
    kinds = ["multipart/form-data; boundary=b", "multipart/form-data; boundary=", "multipart/x; boundary=b"]
    for number in range(200):
        image = bytearray(picture(number, form=random.choice(["PNG", "GIF", "BMP", "TIFF"])))
        for _ in range(random.choice([1, 3, 20])):
            image[random.randrange(len(image))] = random.randrange(256)
        body, headers = bytes(image[: random.randrange(1, 2 * len(image))]), {}
        if number % 2:
            form = bytearray(
                b'--b\r\nContent-Disposition: form-data; name="x"; filename="y"\r\n\r\n' + body + b"\r\n--b--\r\n"
            )
            form[random.randrange(60)] = random.randrange(256)
            body, headers = bytes(form), {"content-type": random.choice(kinds)}
        answer = client.post("/classify", content=body, headers=headers)
        statuses.add(answer.status_code)
        if answer.status_code != 200:
            assert answer.json()["error"].isprintable()
    assert statuses <= {200, 400, 413, 415} and {200, 400, 415} <= statuses
    assert "Traceback" not in capfd.readouterr().err
