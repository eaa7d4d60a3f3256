"""What an exported model saves in real seconds, beside what its FLOPs and its measured parts promise.

    python tests/benchmarks/exported_exits.py
    python tests/benchmarks/exported_exits.py --networks resnet34:0.25 --precisions int8 --batch-sizes 32 --timeline

The networks are untrained. Thresholds between random images give each exit its share of stops, by default that of the
recommended point of a reference study: the time of a part does not depend on what the network has learnt. All variants
of a network take turns, and the medians are compared, so that other work on the machine hits all of them alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from exit_stops import STUDIES, Stops, reference_stops, three_stops
from exit_timeline import timeline
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
from support import exports  # report adds the folder of support to the path
from torch import Tensor

from study.costs.model.devices import modelled_costs
from study.deploy.early_exit import EarlyExit, Prediction
from study.deploy.folder import Export
from study.deploy.modules import Run
from study.deploy.rule import Rule, confidence
from study.export.rule import rule_of
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.precisions import Precision
from study.networks.quantization import prepare
from study.networks.settings import NetworkSettings
from study.policies.base import Policy
from study.policies.policies import Classic, HeadThresholds

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
BATCH_SIZES = (1, 32, 256)
SIZE, CLASSES = 32, 10


def policy_with(exits: Sequence[int], exit_count: int, bounds: Sequence[float]) -> Policy:
    """The policy that stops at an exit from a confidence on, and else tries the next one."""
    if not exits:
        return Classic()
    thresholds = np.full(exit_count, np.inf)
    thresholds[np.array(exits) - 1] = bounds
    return HeadThresholds(tuple(thresholds.tolist()), exits, "max_softmax")


def export_of(network: MultiExitNetwork, precision: Precision, exits: Sequence[int]) -> Export:
    """An exported model in memory, whose bounds are still to be chosen."""
    noise = torch.randn(64, *network.input_shape, generator=torch.Generator().manual_seed(1))
    runnable = prepare(network, precision, calibration=noise, lowered=False)
    policy, thresholds = policy_with(exits, network.exit_count, [0.5] * len(exits)), np.ones(network.exit_count)
    export = exports.export_of(runnable, policy, thresholds, class_names=tuple(map(str, range(CLASSES))))
    segments, heads, step = modelled_costs(network).parts("flops")
    return replace(export, costs={"segments": segments, "heads": heads, "engine_step": step, "classic": sum(segments)})


def with_stops(export: Export, model: EarlyExit, images: Tensor, stops: Stops) -> Export:
    """The same model with bounds at which these shares of the images stop."""
    bounds, state, before = [], (images,), 0.0
    going = np.ones(len(images), dtype=bool)
    with torch.inference_mode():
        for part, exit, share in zip(model.network.parts, export.tried, stops.shares, strict=False):
            state = part(*state)
            scores = confidence(model.network.heads[exit](state[0]), "max_softmax").numpy()
            stopping = min(1.0, share / max(1e-9, 1 - before))
            everyone = stopping == 1 or not going.any()
            bounds.append(1e-9 if everyone else float(np.quantile(scores[going], 1 - stopping)))
            going &= scores < bounds[-1]
            before += share
    exit_count = export.rule.exit_count
    rule = rule_of(policy_with(export.tried, exit_count, bounds), np.ones(exit_count))
    return replace(export, rule=Rule.from_json(rule))


@dataclass(frozen=True)
class Case:
    """A network at a precision: the whole in several forms, and the exported model, eager and compiled."""

    name: str
    stops: str
    whole: dict[str, Callable[[Tensor], Any]]
    live: dict[str, EarlyExit]
    images: Tensor


def case_of(name: str, precision: Precision, count: int, *, stops: str, compiled: bool) -> Case:
    """Build a network, its exported model, and thresholds that give the stops."""
    backbone, _, width = name.partition(":")
    settings = NetworkSettings(backbone=backbone, width=float(width), head=SMALL_HEADS)
    torch.manual_seed(0)
    network = build_network(settings, classes=CLASSES, image_size=SIZE, channels=3).eval()
    found = three_stops(network.exit_count) if stops == "three" else reference_stops(name, network.exit_count)
    images = torch.randn(count, *network.input_shape, generator=torch.Generator().manual_seed(2))
    device = torch.device("cpu")
    ways = {"eager": False, "compiled": True} if compiled else {"eager": False}
    export, plain = export_of(network, precision, found.exits), export_of(network, precision, ())
    export = with_stops(export, EarlyExit(export, device, compile=False, compact_below=1.0), images, found)
    live = {name: EarlyExit(export, device, compile=way, compact_below=1.0) for name, way in ways.items()}
    whole: dict[str, Callable[[Tensor], Any]] = {}
    for form, way in ways.items():
        whole[f"one part, {form}"] = EarlyExit(plain, device, compile=way, compact_below=1.0).network.parts[0]
        for layout in LAYOUTS if precision == "fp32" else ["channels last"]:
            torch.manual_seed(0)
            own = build_network(settings, classes=CLASSES, image_size=SIZE, channels=3).eval()
            ready = prepare(lay_out(own, layout), precision, calibration=images[:64], compiled=way)
            whole[f"segments, {layout}, {form}"] = partial(run_classic, ready)
    return Case(f"{name} {precision}", found.source, whole, live, images)


def through(model: EarlyExit, batches: Sequence[Tensor]) -> Prediction:
    """The answers for a stream of batches: each part runs on full ones."""
    queues = model.queues(len(batches[0]))
    return model.prediction(*[queues.add(batch) for batch in batches], queues.flush())


def profile_of(model: EarlyExit, batches: Sequence[Tensor], found: Prediction) -> list[float]:
    """Seconds for these batches, of which each part and head is timed by itself.

    Returns:
        By the times of full batches, each times the share of the images that need the part; and by the times of as many
        images as are left in each batch, if nothing else took time.
    """
    full = left = 0.0
    ends, network = [*model.tried, model.exit_count + 1], model.network
    starts = np.cumsum([0, *map(len, batches)])
    with torch.inference_mode():
        for batch, start in zip(batches, starts, strict=False):
            exits, state = found.exits[start : start + len(batch)], (batch,)
            for before, end, part in zip([0, *ends], ends, network.parts, strict=False):
                count = int((exits > before).sum())
                if not count:
                    break

                def run(state: tuple[Tensor, ...], part: Run = part, exit: int = end) -> tuple[Tensor, ...]:
                    result = part(*state)
                    if exit <= model.exit_count:
                        logits = network.heads[exit](result[0])
                        scores = network.decider.scores(logits, exit)
                        network.decider.actions(logits, scores, exit)[0].numpy()
                        logits.argmax(dim=1)
                    return result

                seconds, result = timed(run, state)
                full += seconds * count / len(batch)
                if count < len(batch):
                    seconds, _ = timed(run, tuple(one[:count] for one in state))
                left += seconds
                state = result
    return [full, left]


def timed(run: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]], state: tuple[Tensor, ...]) -> Any:
    """Seconds of a call, and its result."""
    start = time.perf_counter()
    result = run(state)
    return time.perf_counter() - start, result


def measure(case: Case, batch_size: int, *, images: int, repeats: int) -> list[dict[str, object]]:
    """A row for each form and way to run; the columns are explained in the README of the benchmarks."""
    used = case.images[: max(batch_size, images if batch_size > 1 else images // 4)]
    batches = list(used.split(batch_size))
    profiles: dict[str, list[list[float]]] = {form: [] for form in case.live}
    walks = {form: through(model, batches) for form, model in case.live.items()}
    runs: dict[str, Callable[[], object]] = {
        name: partial(answers_of, run, batches) for name, run in case.whole.items()
    }

    def each_by_itself(model: EarlyExit) -> None:
        for batch in batches:
            model.run(batch)

    def take_apart(form: str) -> None:
        profiles[form].append(profile_of(case.live[form], batches, walks[form]))

    for form, model in case.live.items():
        runs[f"{form}, batches"] = partial(each_by_itself, model)
        if len(batches) > 1 and batch_size > 1:
            runs[f"{form}, stream"] = partial(through, model, batches)
        runs[f"{form}, parts"] = partial(take_apart, form)
    median = {name: spread.median for name, spread in interleaved(runs, repeats=repeats).items()}
    best = min(case.whole, key=lambda name: median[name])
    rows: list[dict[str, object]] = []
    for form, model in case.live.items():
        found = walks[form]
        full, left = np.median(profiles[form][1:], axis=0)  # the first round warms up
        for way in ("batches", "stream"):
            seconds = median.get(f"{form}, {way}")
            if seconds is None:
                continue
            rows.append(
                {
                    "network": case.name,
                    "batch": batch_size,
                    "run": f"{form}, {way}",
                    "by FLOPs": model.classic_flops / float(model.flops(found).mean()),
                    "by full batches": median[best] / full,
                    "by batches left": median[best] / left,
                    "realised": median[best] / seconds,
                    "of full": f"{full / seconds:.0%}",
                    "of left": f"{left / seconds:.0%}",
                    "images/s": len(used) / seconds,
                    "whole, images/s": len(used) / median[best],
                    "best whole": best,
                }
            )
    return rows


def main() -> None:
    """Build, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(STUDIES), metavar="BACKBONE:WIDTH")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=list(BATCH_SIZES))
    parser.add_argument("--images", type=int, default=256, help="of a run; at a batch size of 1 a quarter of them")
    parser.add_argument(
        "--stops",
        choices=("reference", "three"),
        default="reference",
        help="of a reference study's recommended point; or 50, 30 and 10 %% of the images at three exits",
    )
    parser.add_argument("--compile", action="store_true", help="time compiled variants as well (minutes)")
    parser.add_argument("--timeline", action="store_true", help="print where the time goes, part by part")
    add_common_options(parser, quick="a smoke run: two convolutions, 32 images, 2 repeats")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.precisions, options.batch_sizes = [f"{register_tiny()}:1"], ["fp32"], [8]
        options.images, options.repeats, options.stops = 32, 2, "three"
    start_quietly(options)
    facts = circumstances()
    print_circumstances(facts)
    found: list[dict[str, object]] = []
    for name in options.networks:
        for precision in options.precisions:
            start = time.perf_counter()
            count = max(options.images, *options.batch_sizes)
            case = case_of(name, precision, count, stops=options.stops, compiled=options.compile)
            print(f"\n{case.name}: ready after {time.perf_counter() - start:.0f} s; {case.stops}", flush=True)
            for batch_size in options.batch_sizes:
                rows = measure(case, batch_size, images=options.images, repeats=options.repeats)
                print_table(f"{case.name}, {batch_size} images a batch, median of {options.repeats} rounds", rows)
                found += rows
                if options.timeline:
                    for form, model in case.live.items():
                        batches = case.images[: max(batch_size, options.images)].split(batch_size)
                        print_table(f"where the time goes: {form}, stream", timeline(model, batches, options.repeats))
                sys.stdout.flush()
    if options.json:
        print("\n" + json.dumps({"circumstances": facts, "rows": found}))


if __name__ == "__main__":
    main()
