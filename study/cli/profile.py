"""``predictive-exit profile``: measure what a network costs on this device."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from search_spaces.settings import HeadKind
from study.cli.options import add_costs, add_network_and_data, path, positive_number, requested, whole
from study.errors import UserError
from study.networks.precisions import PRECISIONS

if TYPE_CHECKING:
    from study.costs.measure.profile import Profile


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``profile``."""
    add_network_and_data(parser)
    parser.add_argument("--head", choices=get_args(HeadKind), help="exit heads of an untrained network (default: bof)")
    parser.add_argument("--classes", type=whole(10**5), help="classes of an untrained network (default: 10)")
    parser.add_argument("--quantization", nargs="+", default=["fp32"], choices=PRECISIONS)
    parser.add_argument("--batch-size", nargs="+", type=whole(2**16), default=[1])
    parser.add_argument("--compile", action="store_true", help="make the kernels with torch.compile")
    add_costs(parser)
    parser.add_argument("--no-meter", action="store_true", help="measure seconds only; the device table gives joules")
    parser.add_argument("--repeats", type=whole(), default=3, help="repeats of each measurement, interleaved")
    parser.add_argument(
        "--window", type=positive_number, default=3.0, metavar="SECONDS", help="of an energy measurement (default: 3)"
    )
    parser.add_argument(
        "--output", type=path, default=Path("profiles"), metavar="DIR", help="folder to write to (default: profiles)"
    )
    parser.add_argument("--seed", type=int, help="seed of the splits (default: as --pretrained, or 0)")


def execute(options: argparse.Namespace) -> None:
    """Measure what a network costs on this device."""
    from study.cli.printing import print_result
    from study.costs.measure.profile import MeasureSettings
    from study.networks.settings import HeadSettings
    from study.progress import Reporter
    from study.run.one_network import profile_network
    from study.training.loop import forbid_tf32, pick_device

    if options.pretrained and (options.head or options.classes):
        raise UserError("profile: --head and --classes are of an untrained network; --pretrained knows its own")
    network, data, source = requested(options, HeadSettings(kind=options.head or "bof"))
    forbid_tf32()
    profiles = profile_network(
        network,
        data,
        source,
        pretrained=options.pretrained,
        classes=options.classes or 10,
        precisions=options.quantization,
        batch_sizes=options.batch_size,
        device=pick_device(options.device),
        compiled=options.compile,
        model=options.costs,
        metered=not options.no_meter,
        measuring=MeasureSettings(repeats=options.repeats, energy_window_seconds=options.window),
        output=options.output,
        reporter=Reporter(),
    )
    first = next(iter(profiles.values()))
    result = {
        "device": first.costs.device,
        "threads": first.threads,
        "folder": str(options.output),
        # The names would make the printed table too wide to read.
        "profiles": [
            _summary(profile) | ({"file": str(path)} if options.json else {}) for path, profile in profiles.items()
        ],
    }
    print_result(result, options.json)


def _summary(profile: Profile) -> dict[str, Any]:
    """The figures of a profile in one row, per image."""
    costs, seconds = profile.costs, profile.end_to_end_seconds
    return {
        "precision": profile.precision,
        "int8": profile.int8_execution,
        "batch_size": costs.batch_size,
        "ms": seconds.median * 1e3,
        "ms_min": seconds.minimum * 1e3,
        "ms_max": seconds.maximum * 1e3,
        "segments_off": profile.relative_error_seconds,
        "mJ": costs.classic("energy") * 1e3 if costs.holds("energy") else None,
        "energy_source": costs.energy_source,
        "energy_off": profile.relative_error_energy,
    }
