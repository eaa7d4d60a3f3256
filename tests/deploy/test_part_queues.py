"""Images that wait for those of later batches get the answers that they get in a batch of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.exports import grey_noise, model_of_many_stops

from study import EarlyExit
from study.deploy.image_stream import BATCHES_HELD, answered_images, decoded_batches
from study.policies.criteria import Criterion

COUNT = 50


@pytest.fixture(scope="module")
def model() -> EarlyExit:
    return model_of_many_stops("max_softmax")


@pytest.fixture(scope="module")
def images(model: EarlyExit) -> torch.Tensor:
    return model.normalized(grey_noise(COUNT))


@pytest.mark.parametrize(
    ("criterion", "sizes"),
    [
        ("max_softmax", [8] * 6 + [2]),
        ("max_softmax", [1] * 50),
        ("patience", [3, 8, 8, 1, 7, 8, 8, 7]),
        ("patience", [50]),
    ],
    ids=["full", "single", "mixed", "one"],
)
def test_answers_do_not_depend_on_the_batches(criterion: Criterion, sizes: list[int], images: torch.Tensor) -> None:
    model = model_of_many_stops(criterion)
    expected = model.run(images)
    queues = model.queues(8)
    found = model.prediction(*[queues.add(batch) for batch in images.split(sizes)], queues.flush())
    assert len(set(expected.exits.tolist())) > 1
    for name in ("classes", "exits", "tried", "engine_steps"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(found.confidences, expected.confidences, rtol=1e-5)
    assert found.names == expected.names


def test_later_parts_run_on_full_batches(model: EarlyExit, images: torch.Tensor) -> None:
    sizes: dict[int, list[int]] = {}

    def watched(number: int) -> object:
        def run(*state: torch.Tensor) -> tuple[torch.Tensor, ...]:
            sizes.setdefault(number, []).append(len(state[0]))
            return model.network.parts[number](*state)

        return run

    queues = model.queues(8)
    queues._network = replace(model.network, parts=[watched(one) for one in range(len(model.network.parts))])  # type: ignore[misc]
    for batch in images.split(8):
        queues.add(batch)
    before = {number: [*found] for number, found in sizes.items()}
    queues.flush()
    assert before[0] == [8] * 6 + [2] and len(before[1]) > 1
    assert all(size == 8 for number in before if number for size in before[number])
    assert all(sum(size < 8 for size in found) <= 1 for found in sizes.values())


def test_a_flush_takes_those_who_have_waited_long_enough(model: EarlyExit, images: torch.Tensor) -> None:
    queues = model.queues(len(images))
    stopped = queues.add(images)
    assert 0 < len(stopped) < len(images) and queues.oldest < inf
    assert len(queues.flush(waited=3600)) == 0
    assert len(queues.flush()) == len(images) - len(stopped)
    assert queues.oldest == inf and len(queues.flush()) == 0


def test_files_are_answered_in_their_order_and_none_waits_for_a_slow_name(model: EarlyExit, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(23)]
    for path, image in zip(paths, grey_noise(COUNT).numpy(), strict=False):
        Image.fromarray(image[0]).save(path)
    answered = threading.Event()

    def names() -> Iterator[Path]:
        yield from paths[:16]  # full batches alone: without news the images that wait are answered
        assert answered.wait(timeout=60)
        yield from paths[16:]

    expected = model.predict(paths)
    assert len(set(expected.exits.tolist())) > 1
    given, exits = list[Path](), list[int]()
    for found in answered_images(model, names(), 8):
        given += found.paths
        exits += found.prediction.exits.tolist()
        if len(given) >= 16:
            answered.set()
    assert given == paths and exits == expected.exits.tolist()


def test_a_batch_that_is_not_full_follows_the_last_full_one(model: EarlyExit, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    batches = decoded_batches([tmp_path / "one.png"] * 4, model.preprocessing, 2)
    assert [len(batch.paths) for batch in batches] == [2, 2, 0]


def test_answers_do_not_wait_for_ever_for_an_image_that_waits_for_a_full_batch(
    model: EarlyExit, images: torch.Tensor, tmp_path: Path
) -> None:
    exits = model.run(images).exits
    going, stopping = int(np.flatnonzero(exits > 1)[0]), int(np.flatnonzero(exits == 1)[0])
    paths = [tmp_path / name for name in ("going.png", "stopping.png")]
    for path, number in zip(paths, (going, stopping), strict=True):
        Image.fromarray(grey_noise(COUNT)[number, 0].numpy()).save(path)
    names = [paths[0], *[paths[1]] * (3 * BATCHES_HELD * 2)]
    first = next(one for one in answered_images(model, names, 2) if one.paths)
    assert len(first.paths) == BATCHES_HELD * 2
    assert first.prediction.exits[0] == exits[going]
