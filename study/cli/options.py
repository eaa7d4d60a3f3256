"""Types and groups of options that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.storage.paths import Location, expanded, location
from search_spaces.settings import DEFAULT_DEVICE, MOST, BackboneFields, DataFields, Setting, settings_of
from study.networks.own_code import is_own, trust
from study.storage.home import user_location

if TYPE_CHECKING:
    from study.data.settings import DataSettings
    from study.networks.settings import HeadSettings, NetworkSettings
    from study.run.one_network import ImageSource


def whole(most: int = MOST) -> Callable[[str], int]:
    """The type of a whole number from 1 to ``most``."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:60]!r} is no whole number") from None
        if not 1 <= number <= most:
            raise argparse.ArgumentTypeError(f"{number} is not a whole number from 1 to {most}")
        return number

    return parse


def positive_number(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return number


def port(text: str) -> int:
    """A port; 0 stands for any free one."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no port: give a whole number from 0 to 65535")
    return number


def path(text: str) -> Path:
    """A path on this machine, whose ``~`` is the home folder also behind ``--option=``, where no shell replaces it."""
    try:
        return expanded(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def name_or_path(text: str) -> str:
    """The name of something that comes with the program, or a path on this machine."""
    return str(path(text)) if text.startswith("~") else text


def image_place(text: str) -> Location:
    """A folder or table of images, on a disk or in an object store."""
    return run_folder(text)


def run_folder(text: str) -> Location:
    """A run folder, or a folder of run folders, on a disk or in an object store."""
    try:
        return location(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_image_source(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the data sets are."""
    parser.add_argument(
        "--data-root", default=Path("data"), type=path, metavar="DIR", help="folder of data sets (default: data)"
    )
    parser.add_argument("--download", action="store_true", help="download a missing data set")


def add_settings(parser: argparse.ArgumentParser, settings: type, *, known_to: str | None = None) -> None:
    """An option for each field of a dataclass of :mod:`search_spaces.settings`.

    ``known_to`` is the option that names a checkpoint, whose settings are the defaults: the value of an option that is
    left out is None then.
    """
    for setting in settings_of(settings).values():
        known = [f"that of {known_to}"] if known_to else []
        default = [] if setting.default is None else [str(setting.default)]
        parser.add_argument(
            f"--{setting.option.replace('_', '-')}",
            type=_parser_of(setting),
            choices=setting.choices or None,
            default=None if known_to else setting.default,
            help=f"{setting.description.meaning} (default: {' or '.join(known + default) or 'none'})",
        )


def _parser_of(setting: Setting) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = tuple(text.split(",")) if setting.kind is tuple else setting.kind(text)
        except ValueError:
            value = text
        if not setting.choices and not setting.allows(value):
            raise argparse.ArgumentTypeError(f"must be {setting.expected()}, got {text[:60]!r}")
        return value

    return parse


def given(options: argparse.Namespace, settings: type) -> dict[str, Any]:
    """The values that the options of :func:`add_settings` have, by the names of the fields."""
    return {name: getattr(options, setting.option) for name, setting in settings_of(settings).items()}


def add_network_and_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a network, its images and a device."""
    parser.add_argument(
        "--pretrained", type=path, metavar="PATH", help="trained weights: checkpoint folder, .safetensors or state_dict"
    )
    add_settings(parser, BackboneFields, known_to="--pretrained")
    add_settings(parser, DataFields, known_to="--pretrained")
    add_image_source(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_own_code(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the user's own backbones are."""
    parser.add_argument(
        "--code", type=path, metavar="DIR", help="folder of the file of your own backbone, module:function"
    )


def add_costs(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the source of energies."""
    parser.add_argument(
        "--costs",
        default=DEFAULT_DEVICE,
        type=name_or_path,
        metavar="TABLE",
        help="a device table by name or path; for evaluate also a measured profile (default: %(default)s)",
    )


def add_stored_space(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the options that change the search space of a study and name one of its data sets."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("--data", metavar="NAME", help="the data set, in a study of several data sets")


def add_cost(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which cost the recommended point keeps small."""
    parser.add_argument(
        "--cost",
        default="flops",
        choices=("flops", "energy", "seconds"),
        help="of which the recommended point needs least (default: %(default)s); seconds are measured on this machine",
    )


def requested(options: argparse.Namespace, head: HeadSettings) -> tuple[NetworkSettings, DataSettings, ImageSource]:
    """The settings of network and images that the options name, and the place of the images."""
    from study.run.one_network import ImageSource, resolve_request

    if options.code is None and is_own(options.backbone or ""):
        trust(Path.cwd())
    network, data = resolve_request(
        options.pretrained,
        asked=given(options, BackboneFields),
        head=head,
        data=data_request(options),
    )
    return network, data, ImageSource(data_root=options.data_root, download=options.download)


def data_request(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of the data settings that the options name; None where an option was left out."""
    request = {**given(options, DataFields), "seed": options.seed}
    # A path on the command line stands below the current folder; one in a study file, below the data root.
    places = {name: request[name] for name in ("folder", "table")}
    absolute = {name: str(user_location(place).absolute()) if place else None for name, place in places.items()}
    return {**request, **absolute}
