"""The folder of an exported model: its files, held against their manifest, and what ``model.json`` says.

Every file that is read was named by ``manifest.json`` with its size and sha256. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from search_spaces.words import short
from study.data.image_modes import WHITE_LEVEL
from study.deploy.rule import Rule
from study.errors import UserError
from study.networks.precisions import PRECISIONS, Int8Execution, Precision
from study.storage.publish import content_hash, safe_name
from study.storage.strict_json import parse_json

FORMAT = "predictive-exit model"
FORMAT_VERSION = 1
MANIFEST, MODEL, GRAPHS, WEIGHTS = "manifest.json", "model.json", "graphs.json", "weights.safetensors"
LARGEST_IMAGE = 4096


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an image of any size to what the network takes.

    The central square is resized bilinearly with antialiasing; ``(pixels / 255 - mean) / std`` goes into the network.

    Raises:
        ValueError: a value is of no such preprocessing.
    """

    image_size: int
    channels: int
    """1: ITU-R 601 luma; 3: RGB."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    enlarge: str
    """``repeat``: a square whose side divides ``image_size`` is enlarged by repeating pixels; else ``bilinear``."""
    pad_from: int | None
    """A square of this side is padded with black."""
    white_level: int = WHITE_LEVEL
    """White in greys of 16 bits."""

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= LARGEST_IMAGE or self.channels not in (1, 3):
            raise ValueError(f"images of {self.channels} x {self.image_size} pixels are none")
        if {len(self.mean), len(self.std)} != {self.channels} or not min(self.std) > 0:
            raise ValueError("mean or std does not fit the channels")
        if self.enlarge not in ("repeat", "bilinear"):
            raise ValueError(f"enlarge is {short(self.enlarge)!r}")
        if self.pad_from is not None and not 1 <= self.pad_from <= self.image_size:
            raise ValueError(f"pad_from is {short(self.pad_from)}")
        if not 1 <= self.white_level <= WHITE_LEVEL:
            raise ValueError(f"white_level is {short(self.white_level)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Export:
    """An exported model as its folder says, before anything is prepared to run."""

    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    precision: Precision
    int8_execution: Int8Execution | None
    """How int8 was computed in the study; with ``x86_kernels_7_bit`` activations have 7 bits."""
    rule: Rule
    tried: tuple[int, ...]
    """The exits that have heads, in order."""
    costs: Mapping[str, Any]
    """FLOPs an image: ``segments`` ``[E+1]``, ``heads`` ``[E]`` with the decision, ``engine_step``."""
    parts: tuple[Any, ...]
    """Descriptions: from one tried exit to the next, and to the logits of the classifier if an image can reach it."""
    heads: Mapping[int, Any]
    """Exit -> description of its head."""
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    """All of ``model.json``."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The files of an exported model: name -> ``bytes`` and ``sha256``.

    Raises:
        UserError: the folder holds no exported model, or its manifest is damaged.
    """
    path = folder / MANIFEST
    if not folder.is_dir() or not path.exists():
        raise UserError(f"{folder} holds no exported model: expected {path}")
    raw = _json(path, _regular(path).read_bytes())
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise UserError(f"{path} is of no exported model")
    if raw.get("format_version") != FORMAT_VERSION:
        version = short(raw.get("format_version"))
        raise UserError(f"{folder} has export format {version}, but this program reads format {FORMAT_VERSION}")
    try:
        files = dict(raw["files"])
        for name, entry in files.items():
            safe_name(name, f"{path}: file")
            if type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
                raise TypeError
        if content_hash(files, 64) != raw["sha256"]:
            raise UserError(f"{path} does not match its own hash")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: it is no list of files") from None
    return files


def read_file(folder: Path, name: str, files: Mapping[str, Any]) -> bytes:
    """A file of an exported model, held against its manifest.

    Raises:
        UserError: the manifest does not name it, or size or hash differ.
    """
    if name not in files:
        what = "it was exported for ONNX alone; " if "onnx" in " ".join(files) else ""
        raise UserError(f"{folder} has no {name}: {what}export it with --format torch or all")
    path = folder / name
    if not path.exists():
        raise UserError(f"{path} is missing, but its manifest names it")
    if _regular(path).stat().st_size != files[name]["bytes"]:
        raise UserError(f"{path} does not match its manifest")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != files[name]["sha256"]:
        raise UserError(f"{path} does not match its manifest")
    return content


def read_export(folder: Path) -> Export:
    """Read an exported model of the format ``torch`` or ``all``.

    Raises:
        UserError: the folder holds none, or a file is damaged, foreign or of another format.
    """
    files = read_manifest(folder)
    facts = _json(folder / MODEL, read_file(folder, MODEL, files))
    graphs = _json(folder / GRAPHS, read_file(folder, GRAPHS, files))
    content = read_file(folder, WEIGHTS, files)
    try:
        tensors = safetensors.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{folder / WEIGHTS} holds no safetensors ({short(error)})") from None
    try:
        return parsed(facts, graphs, tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} holds no model that this program can run ({short(error, 200)})") from None


def parsed(facts: Any, graphs: Any, tensors: Mapping[str, Tensor]) -> Export:
    """The model that ``model.json``, ``graphs.json`` and the weights are.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: they are of no model, or do not fit together.
    """
    rule = Rule.from_json(facts["rule"])
    last = rule.exit_count + 1
    heads = {int(exit): graph for exit, graph in graphs["heads"].items()}
    tried = tuple(sorted(heads))
    ends = tuple(facts["parts"])
    if missing := rule.reachable - set(ends):
        raise ValueError(f"no part leads to exit {min(missing)}")
    if set(ends) - {last} != set(tried) or list(ends) != sorted(set(ends)) or len(graphs["parts"]) != len(ends):
        raise ValueError("parts and heads do not fit together")
    if set(tried) - set(rule.exits):
        raise ValueError("a head has no rule")
    names = tuple(facts["class_names"])
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names are no names")
    precision, execution = facts["precision"], facts["int8_execution"]
    if precision not in PRECISIONS or execution not in (None, *get_args(Int8Execution)):
        raise ValueError(f"precision {short(precision)!r} is unknown")
    costs = facts["costs"]["flops"]
    if len(costs["segments"]) != last or len(costs["heads"]) != last - 1:
        raise ValueError("the costs are of another network")
    numbers = [*costs["segments"], *costs["heads"], costs["engine_step"], costs["classic"]]
    if not all(isinstance(one, int | float) and one >= 0 for one in numbers):
        raise ValueError("the costs are no numbers")
    raw = facts["preprocessing"]
    return Export(
        class_names=names,
        preprocessing=Preprocessing(
            image_size=int(raw["image_size"]),
            channels=int(raw["channels"]),
            mean=tuple(map(float, raw["mean"])),
            std=tuple(map(float, raw["std"])),
            enlarge=raw["enlarge"],
            pad_from=raw["pad_from"],
            white_level=int(raw.get("white_level", WHITE_LEVEL)),
        ),
        precision=cast(Precision, precision),
        int8_execution=execution,
        rule=rule,
        tried=tried,
        costs=costs,
        parts=tuple(graphs["parts"]),
        heads=heads,
        tensors=tensors,
        facts=facts,
    )


def _regular(path: Path) -> Path:
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path} cannot be read: it is no file")
    return path


def _json(path: Path, content: bytes) -> Any:
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"{path} is no JSON of this program ({short(error)})") from None
