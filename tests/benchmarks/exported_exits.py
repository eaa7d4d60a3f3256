"""What an exported model saves in real seconds, beside what its FLOPs and its measured parts promise.

    python tests/benchmarks/exported_exits.py
    python tests/benchmarks/exported_exits.py --networks resnet34:0.25 --precisions int8 --batch-sizes 32

The networks are untrained. Thresholds between random images give each exit its share of stops: the time of a part does
not depend on what the network has learnt. All variants of a network take turns, and the medians are compared, so that
other work on the machine hits all of them alike.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

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
from support import exports  # report adds the folder of support to the path
from torch import Tensor

from study.arrays import Booleans
from study.costs.model.devices import modelled_costs
from study.deploy.early_exit import EarlyExit, Prediction
from study.deploy.folder import Export
from study.deploy.rule import Rule, confidence
from study.export.rule import rule_of
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.precisions import Precision
from study.networks.quantization import prepare
from study.networks.settings import NetworkSettings
from study.policies.base import Policy
from study.policies.policies import Classic, HeadThresholds

NETWORKS = ("vgg19:1", "vgg19:0.25", "resnet34:1", "resnet34:0.25")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
BATCH_SIZES = (1, 32, 256)
PLACES = (0.25, 0.5, 0.75)
"""Of the three tried exits, as shares of all exits."""
STOPS = (0.5, 0.6, 0.5)
"""Of the images that reach a tried exit, the share that stops there: 50, 30, 10 and, at the classifier, 10 %."""
COMPACTION = (1.0, 0.5, 0.0)
"""Values of ``compact_below`` that are compared."""
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
    return replace(export, costs={"segments": segments, "heads": heads, "engine_step": step})


def with_stops(export: Export, model: EarlyExit, images: Tensor) -> Export:
    """The same model with bounds at which :data:`STOPS` of these images stop."""
    bounds, state = [], (images,)
    going = np.ones(len(images), dtype=bool)
    with torch.inference_mode():
        for part, exit, stops in zip(model.network.parts, export.tried, STOPS, strict=False):
            state = part(*state)
            scores = confidence(model.network.heads[exit](state[0]), "max_softmax").numpy()
            bounds.append(float(np.quantile(scores[going], 1 - stops)))
            going &= scores < bounds[-1]
    exit_count = export.rule.exit_count
    rule = rule_of(policy_with(export.tried, exit_count, bounds), np.ones(exit_count))
    return replace(export, rule=Rule.from_json(rule))


@dataclass(frozen=True)
class Case:
    """A network at a precision: the whole in several forms, and the exported model at several compactions."""

    name: str
    whole: dict[str, Callable[[Tensor], Any]]
    live: dict[str, EarlyExit]
    images: Tensor


def case_of(name: str, precision: Precision, count: int, *, compiled: bool) -> Case:
    """Build a network, its exported model, and thresholds that give the stops."""
    backbone, _, width = name.partition(":")
    settings = NetworkSettings(backbone=backbone, width=float(width), head=SMALL_HEADS)
    torch.manual_seed(0)
    network = build_network(settings, classes=CLASSES, image_size=SIZE, channels=3).eval()
    exits = sorted({max(1, round(place * network.exit_count)) for place in PLACES})
    images = torch.randn(count, *network.input_shape, generator=torch.Generator().manual_seed(2))
    device = torch.device("cpu")
    ways = {"": False, " compiled": True} if compiled else {"": False}
    export, plain = export_of(network, precision, exits), export_of(network, precision, ())
    export = with_stops(export, EarlyExit(export, device, compile=False, compact_below=1.0), images)
    live = {
        f"exits, compact below {share:g}{suffix}": EarlyExit(export, device, compile=way, compact_below=share)
        for suffix, way in ways.items()
        for share in COMPACTION
    }
    whole: dict[str, Callable[[Tensor], Any]] = {
        f"one part{suffix}": EarlyExit(plain, device, compile=way, compact_below=1.0).network.parts[0]
        for suffix, way in ways.items()
    }
    noise = images[:64]
    for suffix, way in ways.items():
        for layout in LAYOUTS if precision == "fp32" else ["channels last"]:
            torch.manual_seed(0)
            own = build_network(settings, classes=CLASSES, image_size=SIZE, channels=3).eval()
            ready = prepare(lay_out(own, layout), precision, calibration=noise, compiled=way)
            whole[f"segments, {layout}{suffix}"] = partial(run_classic, ready)
    return Case(f"{name} {precision}", whole, live, images)


def parts_of(model: EarlyExit, batches: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Seconds of each part and of each head with its decision, all on full batches."""
    parts, heads = [0.0] * len(model.network.parts), [0.0] * len(model.tried)
    with torch.inference_mode():
        for batch in batches:
            state: tuple[Tensor, ...] = (batch,)
            for number, part in enumerate(model.network.parts):
                start = time.perf_counter()
                state = part(*state)
                middle = time.perf_counter()
                parts[number] += middle - start
                if number < len(model.tried):
                    exit = model.tried[number]
                    logits = model.network.heads[exit](state[0])
                    scores = model.network.decider.scores(logits, exit)
                    model.network.decider.actions(logits, scores, exit)[0].numpy()
                    logits.argmax(dim=1), confidence(logits, "max_softmax")
                    heads[number] += time.perf_counter() - middle
    return parts, heads


def promised_seconds(found: Prediction, tried: Sequence[int], parts: Sequence[float], heads: Sequence[float]) -> float:
    """Of the profile: each part and each head times the share of images that need it."""
    ends = [*tried, found.tried.shape[1] + 1]
    before = [0, *ends[:-1]]
    reached: list[Booleans] = [found.exits > end for end in before]
    total = sum(seconds * float(who.mean()) for seconds, who in zip(parts, reached, strict=True))
    return total + sum(s * float(found.tried[:, exit - 1].mean()) for s, exit in zip(heads, tried, strict=True))


def measure(case: Case, batch_size: int, *, images: int, repeats: int) -> list[dict[str, object]]:
    """A row for each compaction and way; the columns are explained in the README of the benchmarks."""
    used = case.images[: max(batch_size, images if batch_size > 1 else images // 4)]
    batches = list(used.split(batch_size))
    profiles: dict[str, list[Any]] = defaultdict(list)
    runs: dict[str, Callable[[], object]] = {
        name: partial(answers_of, run, batches) for name, run in case.whole.items()
    }

    def classify(name: str) -> None:
        for batch in batches:
            case.live[name].run(batch)

    def take_apart(name: str) -> None:
        profiles[name].append([*chain(*parts_of(case.live[name], batches))])

    for name in case.live:
        runs[name] = partial(classify, name)
        if "below 1" in name:
            runs[f"parts of {name}"] = partial(take_apart, name)
    median = {name: spread.median for name, spread in interleaved(runs, repeats=repeats).items()}
    best = min(case.whole, key=lambda name: median[name])
    rows: list[dict[str, object]] = []
    for name, model in case.live.items():
        joined = model.run(used)
        taken = profiles[name.replace("below 0.5", "below 1").replace("below 0", "below 1")]
        profile = np.median(taken[1:], axis=0)  # the first round warms up
        cut = len(model.network.parts)
        promise = promised_seconds(joined, model.tried, profile[:cut].tolist(), profile[cut:].tolist())
        by_flops = model.classic_flops / float(model.flops(joined).mean())
        by_profile, realised = median[best] / promise, median[best] / median[name]
        rows.append(
            {
                "network": case.name,
                "batch": batch_size,
                "run": name,
                "stopped": "/".join(f"{(joined.exits == exit).mean():.0%}" for exit in model.tried),
                "by FLOPs": by_flops,
                "by profile": by_profile,
                "realised": realised,
                "of the profile's": realised / by_profile,
                "images/s": len(used) / median[name],
                "whole, images/s": len(used) / median[best],
                "best whole": best,
            }
        )
    return rows


def main() -> None:
    """Build, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="BACKBONE:WIDTH")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=list(BATCH_SIZES))
    parser.add_argument("--images", type=int, default=256, help="of a run; at a batch size of 1 a quarter of them")
    parser.add_argument("--compile", action="store_true", help="time compiled variants as well (minutes)")
    add_common_options(parser, quick="a smoke run: two convolutions, 32 images, 2 repeats")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.precisions, options.batch_sizes = [f"{register_tiny()}:1"], ["fp32"], [8]
        options.images, options.repeats = 32, 2
    start_quietly(options)
    facts = circumstances()
    print_circumstances(facts)
    found: list[dict[str, object]] = []
    for name in options.networks:
        for precision in options.precisions:
            start = time.perf_counter()
            count = max(options.images, *options.batch_sizes)
            case = case_of(name, precision, count, compiled=options.compile)
            print(f"\n{case.name}: ready after {time.perf_counter() - start:.0f} s", flush=True)
            for batch_size in options.batch_sizes:
                rows = measure(case, batch_size, images=options.images, repeats=options.repeats)
                print_table(f"{case.name}, {batch_size} images a batch, median of {options.repeats} rounds", rows)
                found += rows
    if options.json:
        print("\n" + json.dumps({"circumstances": facts, "rows": found}))


if __name__ == "__main__":
    main()
