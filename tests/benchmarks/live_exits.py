"""What early exits save in real seconds, beside what their FLOPs promise.

    python tests/benchmarks/live_exits.py
    python tests/benchmarks/live_exits.py --pretrained runs/quickstart/checkpoints/TRIAL --compile

The operating points are chosen on the validation split (the cheapest within one point of the classic network) and
timed on the test split.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from report import (
    LAYOUTS,
    SMALL_HEADS,
    add_common_options,
    answers_of,
    circumstances,
    interleaved,
    lay_out,
    print_circumstances,
    print_table,
    register_tiny,
    run_classic,
    start_quietly,
)
from torch import Tensor

import study.policies.live
from study import Hierarchical, Predictive, Trace, Walk, exact_front
from study.arrays import Floats, batches
from study.costs.costs import Costs
from study.costs.model.devices import modelled_costs
from study.data.batches import normalize, place
from study.data.loading import load_dataset, load_test_set
from study.data.settings import Dataset, DataSettings
from study.networks.inference_network import RunnableNetwork
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.precisions import Precision
from study.networks.registry import State
from study.networks.settings import HeadSettings, NetworkSettings
from study.policies.base import Policy
from study.policies.live import run_policy
from study.policies.replay import join_walks
from study.policies.thresholds import thresholds_from_logits
from study.run.one_network import ImageSource, load_network, resolve_request
from study.traces.collect import ready, trace_images
from study.training.loop import fast_precision, train
from study.training.settings import TrainingSettings

TOLERANCE = 0.01
"""Accuracy on the validation split that an operating point may lose."""
BATCH_SIZES = (1, 32, 256)
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
POLICIES: dict[str, type[Predictive] | type[Hierarchical]] = {"predictive": Predictive, "hierarchical": Hierarchical}
OTHER_PARTS = "heads", "criterion and engine", "gathering", "classifier"


@dataclass(frozen=True)
class Subject:
    """A trained network and its images."""

    network: MultiExitNetwork
    dataset: Dataset
    data: DataSettings


@dataclass(frozen=True)
class Contestant:
    """A network made ready, and the policies chosen for it."""

    name: str
    network: RunnableNetwork
    thresholds: Floats
    policies: dict[str, Policy]
    classic_validation_accuracy: float
    validation_accuracy: dict[str, float]


def train_on_digits(*, quick: bool) -> Subject:
    """A quarter of VGG-19 on the digits that come with scikit-learn: the backbone first, then its exits."""
    data = resolve_request(None, asked={"backbone": None}, head=HeadSettings(), data={"name": "digits"})[1]
    data = replace(data, calibration=0.15, validation=0.2)
    dataset = load_dataset(data, Path("data"))
    settings = NetworkSettings(backbone=register_tiny() if quick else "vgg19", width=0.25, head=SMALL_HEADS)
    torch.manual_seed(0)
    info = dataset.info
    network = build_network(settings, classes=len(info.class_names), image_size=info.image_size, channels=info.channels)
    backbone = TrainingSettings(
        mode="original",
        batch_size=64,
        optimizer="adamw",
        precision=fast_precision(network.device),
        learning_rate=2e-3,
        weight_decay=0.01,
        schedule="cosine",
        schedule_epochs=8,
        warmup_epochs=1,
    )
    exits = TrainingSettings(
        mode="exits",
        batch_size=64,
        optimizer="adamw",
        learning_rate=1e-2,
        schedule="constant",
        precision=fast_precision(network.device),
    )
    for training, epochs in ((backbone, 1 if quick else 8), (exits, 1 if quick else 6)):
        start = time.perf_counter()
        last = train(network, dataset, training, epochs=epochs)[-1]
        seconds = time.perf_counter() - start
        print(f"trained, mode {training.mode}: {epochs} epochs, {seconds:.0f} s, validation score {last.score:.3f}")
    return Subject(network.eval(), dataset, data)


def load(pretrained: Path, data_root: Path) -> Subject:
    """A network from a checkpoint, with the images that it was trained on."""
    settings, data = resolve_request(
        pretrained, asked={"backbone": None}, head=HeadSettings(), data={"name": None, "seed": None}
    )
    loaded = load_network(pretrained, ImageSource(data_root=data_root), torch.device("cpu"), settings, data)
    if not loaded.heads_trained:
        raise SystemExit(f"{pretrained} has no trained exit heads: train them with --mode exits")
    return Subject(loaded.network, loaded.dataset, loaded.data)


def better_layout(subject: Subject, images: Tensor) -> str:
    """The layout in which the classic fp32 network is faster: the exits are to beat that one."""
    with torch.inference_mode():
        medians = {}
        for layout in LAYOUTS:
            network = ready(lay_out(subject.network, layout), "fp32", subject.dataset.calibration, subject.dataset.info)
            run = partial(run_classic, network, images.contiguous(memory_format=LAYOUTS[layout]))
            medians[layout] = interleaved({layout: run}, repeats=3, at_least=0.2)[layout].median
    best = min(medians, key=lambda layout: medians[layout])
    lay_out(subject.network, best)
    return best


def prepare_contestant(subject: Subject, precision: Precision, costs: Costs, *, compiled: bool) -> Contestant:
    """The network at a precision; thresholds from the calibration split, operating points from the validation split."""
    dataset = subject.dataset
    network = ready(subject.network, precision, dataset.calibration, dataset.info, compiled=compiled)
    thresholds = thresholds_from_logits(trace_images(network, dataset.calibration, dataset.info).logits, "mean_max")
    validation = trace_images(network, dataset.validation, dataset.info)
    trace = Trace(validation.logits, validation.labels, thresholds)
    classic = float((validation.logits[:, -1].argmax(axis=1) == validation.labels).mean())
    policies: dict[str, Policy] = {}
    accuracy: dict[str, float] = {}
    for name, kind in POLICIES.items():
        front = exact_front(trace, costs, policy=kind)
        # The front ends at the classifier's own answers, so that there is always one.
        chosen = front[front["accuracy"] >= classic - TOLERANCE].iloc[0]
        low, high = float(chosen["beta_low"]), float(chosen["beta_high"])
        # Between two cuts: on one, the last bit of a logit would decide.
        beta = (low + high) / 2 if low > 0 and high < float("inf") else high
        policies[name] = kind(beta=beta, start_layer=int(chosen["start_layer"]))
        accuracy[name] = float(chosen["accuracy"])
    kernels = "compiled" if compiled else "lowered" if precision == "int8" else "eager"
    return Contestant(f"{precision} {kernels}", network, thresholds, policies, classic, accuracy)


def run_live(contestant: Contestant, policy: Policy, inputs: Sequence[Tensor]) -> Walk:
    """Early-exit inference of all batches."""
    return join_walks([run_policy(contestant.network, batch, policy, contestant.thresholds) for batch in inputs])


def split_up(images: Tensor, batch_size: int) -> list[Tensor]:
    """Consecutive batches."""
    return [images[batch] for batch in batches(len(images), batch_size)]


def measure(
    contestants: Sequence[Contestant], images: Tensor, labels: Any, costs: Costs, *, batch_size: int, repeats: int
) -> list[dict[str, object]]:
    """Microseconds per image of the classic network and of each policy, all in turns."""
    inputs = split_up(images, batch_size)
    runs: dict[str, Callable[[], object]] = {}
    walks: dict[str, Walk] = {}
    for contestant in contestants:
        runs[f"{contestant.name} classic"] = partial(answers_of, partial(run_classic, contestant.network), inputs)
        for name, policy in contestant.policies.items():
            runs[f"{contestant.name} {name}"] = partial(run_live, contestant, policy, inputs)
            walks[f"{contestant.name} {name}"] = run_live(contestant, policy, inputs)
    seconds = interleaved(runs, repeats=repeats)
    rows: list[dict[str, object]] = []
    for contestant in contestants:
        classic = seconds[f"{contestant.name} classic"].median
        for name in ("classic", *contestant.policies):
            key = f"{contestant.name} {name}"
            spread, walk = seconds[key], walks.get(key)
            flops = costs.classic("flops") if walk is None else float(costs.per_sample(walk, "flops").mean())
            if walk is None:
                accuracy = float((answers_of(partial(run_classic, contestant.network), inputs) == labels).mean())
            else:
                accuracy = walk.accuracy(labels)
            rows.append(
                {
                    "run": key,
                    "batch": batch_size,
                    "µs/image": spread.median / len(images) * 1e6,
                    "min": spread.minimum / len(images) * 1e6,
                    "max": spread.maximum / len(images) * 1e6,
                    "faster by FLOPs": costs.classic("flops") / flops,
                    "faster really": classic / spread.median,
                    "accuracy": accuracy,
                    "mean exit": None if walk is None else float(walk.exit_index.mean()),
                    "heads run": None if walk is None else float(walk.heads_run.mean()),
                }
            )
    return rows


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time counted."""

        def run(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **named)
            self.seconds[what] += time.perf_counter() - start
            return result

        return run


def _watched_tensor(watch: Stopwatch) -> type[Tensor]:
    """A tensor type that counts the time of indexing: that is how remaining images are gathered."""

    class Watched(Tensor):
        # Everything but indexing is left to the plain tensor.
        __torch_function__: Any = torch._C._disabled_torch_function_impl

        def __getitem__(self, index: Any) -> Any:
            start = time.perf_counter()
            result = Tensor.__getitem__(self.as_subclass(Tensor), index)
            watch.seconds["gathering"] += time.perf_counter() - start
            return result.as_subclass(type(self))

    return Watched


@contextmanager
def watched(contestant: Contestant, watch: Stopwatch) -> Iterator[Contestant]:
    """The same contestant, with the time of each of its parts counted while this lasts."""
    kind = _watched_tensor(watch)

    def segment(number: int, part: Callable[[State], State]) -> Callable[[State], State]:
        timed = watch.timed(f"segment {number}", part)
        return lambda state: tuple(
            tensor.as_subclass(kind) for tensor in timed(tuple(tensor.as_subclass(Tensor) for tensor in state))
        )

    def head(part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        timed = watch.timed("heads", part)
        return lambda feature: timed(feature.as_subclass(Tensor))

    network, classify = contestant.network, watch.timed("classifier", contestant.network.classifier)
    parts = replace(
        network,
        segments=tuple(segment(number, part) for number, part in enumerate(network.segments, start=1)),
        exit_heads=tuple(map(head, network.exit_heads)),
        classifier=lambda state: classify(tuple(tensor.as_subclass(Tensor) for tensor in state)),
    )
    with ExitStack() as stack:
        for name in ("stop_ratios", "jump_ratios"):
            timed = watch.timed("criterion and engine", getattr(study.policies.live, name))
            stack.enter_context(patch.object(study.policies.live, name, timed))
        yield replace(contestant, network=parts)


def breakdown(
    contestants: Sequence[Contestant], images: Tensor, costs: Costs, *, batch_size: int, repeats: int
) -> list[dict[str, object]]:
    """Where the time of a policy goes, in microseconds per image; the median of the repeats for each column.

    ``promised``: the classic network's time times the share of FLOPs. ``segments, full batches``: what the segments
    that ran would take at the pace that they have in the classic network; more than promised where the segments that
    run before the exits are slower per FLOP than those behind them. ``segments``: what they did take; more than that
    where batches that have shrunk are slower per image. ``rest``: copying logits, decisions, bookkeeping.
    """
    inputs = split_up(images, batch_size)
    rows: list[dict[str, object]] = []
    scale = 1e6 / len(images)
    for contestant in contestants:
        for name, policy in contestant.policies.items():
            walk = run_live(contestant, policy, inputs)
            exits = contestant.network.exit_count
            reached = [float((walk.exit_index >= number).mean()) for number in range(1, exits + 2)]
            share = float(costs.per_sample(walk, "flops").mean()) / costs.classic("flops")
            columns: dict[str, list[float]] = defaultdict(list)
            for _ in range(repeats):
                classic, live = Stopwatch(), Stopwatch()
                with watched(contestant, classic) as taken_apart:
                    start = time.perf_counter()
                    answers_of(partial(run_classic, taken_apart.network), inputs)
                    columns["classic"].append(time.perf_counter() - start)
                with watched(contestant, live) as taken_apart:
                    start = time.perf_counter()
                    run_live(taken_apart, policy, inputs)
                    whole = time.perf_counter() - start
                of_classic = [classic.seconds[f"segment {number}"] for number in range(1, exits + 1)]
                segments = sum(live.seconds[f"segment {number}"] for number in range(1, exits + 1))
                columns["promised"].append(columns["classic"][-1] * share)
                columns["segments, full batches"].append(float(np.dot(of_classic, reached[:-1])))
                columns["segments"].append(segments)
                for what in OTHER_PARTS:
                    columns[what].append(live.seconds[what])
                columns["rest"].append(whole - segments - sum(live.seconds[what] for what in OTHER_PARTS))
                columns["whole"].append(whole)
            medians = {what: float(np.median(values)) * scale for what, values in columns.items()}
            rows.append({"run": f"{contestant.name} {name}", "batch": batch_size, **medians})
    return rows


def main() -> None:
    """Train or load, choose, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", type=Path, help="a checkpoint folder with trained exits (default: train one)")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=1024, help="of the test split, at most")
    parser.add_argument("--compile", action="store_true", help="time compiled variants as well (minutes)")
    add_common_options(parser, quick="a smoke run: two convolutions, 64 images, 2 repeats")
    options = parser.parse_args()
    if options.quick:
        options.images, options.repeats = 64, 2
    start_quietly(options)

    facts = circumstances()
    print_circumstances(facts)
    print()
    subject = (
        load(options.pretrained, options.data_root) if options.pretrained else train_on_digits(quick=options.quick)
    )
    network, info = subject.network, subject.dataset.info
    test = load_test_set(subject.data, options.data_root)
    labels = np.asarray(test.labels[: options.images])
    images = normalize(place(test.images[: options.images], network.device), info)
    layout = better_layout(subject, images[:256])
    images = images.contiguous(memory_format=LAYOUTS[layout])
    print(f"the classic network is faster {layout}, and so everything runs; {len(images)} test images")
    costs = modelled_costs(network)

    contestants: list[Contestant] = []
    for compiled in (False, True) if options.compile else (False,):
        for precision in PRECISIONS:
            start = time.perf_counter()
            contestant = prepare_contestant(subject, precision, costs, compiled=compiled)
            contestants.append(contestant)
            print(f"{contestant.name}: ready after {time.perf_counter() - start:.1f} s; on the validation split:")
            print(f"  classic: accuracy {contestant.classic_validation_accuracy:.4f}")
            for name, policy in contestant.policies.items():
                print(f"  {policy}: accuracy {contestant.validation_accuracy[name]:.4f}")

    timings: list[dict[str, object]] = []
    parts: list[dict[str, object]] = []
    for batch_size in BATCH_SIZES:
        rows = measure(contestants, images, labels, costs, batch_size=batch_size, repeats=options.repeats)
        print_table(f"{batch_size} images a batch, median of {options.repeats} rounds", rows)
        timings += rows
    for batch_size in (BATCH_SIZES[0], BATCH_SIZES[-1]):
        rows = breakdown(contestants, images, costs, batch_size=batch_size, repeats=options.repeats)
        print_table(f"Where the time goes, {batch_size} images a batch, microseconds per image", rows)
        parts += rows
    if options.json:
        print("\n" + json.dumps({"circumstances": facts, "layout": layout, "timings": timings, "breakdown": parts}))


if __name__ == "__main__":
    main()
