"""Export a point of a front: a folder that classifies images, written whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from safetensors import torch as safetensors

from results.storage.atomic import sync_folder, write_atomic
from study.costs.costs import Costs
from study.data.image_modes import WHITE_LEVEL
from study.data.settings import DataInfo
from study.deploy.folder import FORMAT, FORMAT_VERSION, GRAPHS, MANIFEST, MODEL, WEIGHTS, read_file, read_manifest
from study.deploy.rule import Rule
from study.errors import UserError
from study.export.model_card import model_card
from study.export.onnx_graphs import check_onnx, onnx_files
from study.export.onnx_writer import IR_VERSION, OPSET
from study.export.parts import DescribedParts, describe_parts, plain_network
from study.export.point import ChosenPoint
from study.export.rule import rule_of
from study.run.one_network import ImageSource
from study.storage.publish import check_writable, content_hash, safe_name
from study.storage.strict_json import dumps
from study.storage.versions import versions

Format = Literal["torch", "onnx", "all"]
_RUNNERS = Path(__file__).parents[1] / "deploy"


def export_point(
    point: ChosenPoint, output: Path, *, form: Format, source: ImageSource, command: str, told: Callable[[str], None]
) -> Path:
    """Write a point of a front as a folder.

    Args:
        point: from :func:`study.export.point.choose_point`.
        output: a new folder, or an export of this program, which is replaced.
        form: ``torch``, ``onnx`` or ``all``.
        source: the place of the images, which int8 needs.
        command: that asked for it, for the model card.
        told: gets a line for each step.

    Raises:
        UserError: the folder holds something else or cannot be written, or the point has no such form.
    """
    check_output(output)
    if form in ("onnx", "all"):
        check_onnx()
    rule = rule_of(point.policy, point.thresholds)
    runnable = plain_network(point.network, point.precision, point.checkpoint.data, source)
    described = describe_parts(runnable, Rule.from_json(rule), told)
    facts = _facts(point, rule, described)
    files: dict[str, bytes] = {MODEL: dumps(facts, indent=1).encode(), "run.py": _runner("run.py")}
    if form in ("torch", "all"):
        heads = {str(exit): graph for exit, graph in described.heads.items()}
        files |= {
            GRAPHS: dumps({"parts": described.parts, "heads": heads}).encode(),
            WEIGHTS: safetensors.save(described.tensors),
            "torch_parts.py": _runner("torch_parts.py"),
        }
    if form in ("onnx", "all"):
        files |= onnx_files(described, precision=point.precision, told=told)
    files["README.md"] = model_card(point, facts, sorted([*files, "README.md", MANIFEST]), command).encode()
    write_folder(output, files)
    return output


def check_output(output: Path) -> None:
    """Refuse a place where no export can be written: what is there is no export, or the folder cannot be made.

    Raises:
        UserError: as above.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UserError(f"{output} exists and is no folder: name a new folder")
    if output.is_dir() and any(output.iterdir()):
        try:
            files = read_manifest(output)
            for name in files:
                read_file(output, name, files)
        except UserError as error:
            raise UserError(f"{output} exists and is no export that could be replaced ({error})") from None
        if more := {path.name for path in output.iterdir()} - {*files, MANIFEST, "__pycache__"}:
            raise UserError(f"{output} also holds {sorted(more)[0]}, which is no file of an export: name a new folder")
    check_writable(output.parent)


def write_folder(output: Path, files: Mapping[str, bytes]) -> None:
    """Write files and their manifest as a folder that appears whole, and replace the folder that is there."""
    draft = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    entries = {
        safe_name(name, "file"): {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "files": entries,
        "sha256": content_hash(entries, 64),
    }
    try:
        for name, content in files.items():
            write_atomic(draft / name, content, sync=False)
        write_atomic(draft / MANIFEST, dumps(manifest, indent=1).encode())
        if output.exists():
            before = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
            output.rename(before)
            draft.rename(output)
            shutil.rmtree(before)
        else:
            draft.rename(output)
        sync_folder(output.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def preprocessing_of(info: DataInfo) -> dict[str, Any]:
    """How images become what the network was trained on."""
    return {
        "image_size": info.image_size,
        "channels": info.channels,
        "mean": list(info.mean),
        "std": list(info.std),
        "enlarge": "repeat" if info.name == "digits" else "bilinear",
        "pad_from": 28 if info.name == "fashion_mnist" and info.image_size == 32 else None,
        "white_level": info.settings.get("white_level") or WHITE_LEVEL,
    }


def flops_of(costs: Costs) -> dict[str, Any]:
    """The FLOPs of each part and of the network without exits, as an export names them."""
    segments, heads, step = costs.parts("flops")
    return {"segments": segments, "heads": heads, "engine_step": step, "classic": costs.classic("flops")}


def _facts(point: ChosenPoint, rule: dict[str, Any], described: DescribedParts) -> dict[str, Any]:
    checkpoint, costs = point.checkpoint, point.costs
    network = asdict(checkpoint.network)
    row = {name: value for name, value in point.row.items() if name not in ("provenance", "rule")}
    return {
        "format_version": FORMAT_VERSION,
        "class_names": list(checkpoint.data.class_names),
        "preprocessing": preprocessing_of(checkpoint.data),
        "precision": point.precision,
        "int8_execution": described.execution,
        "network": {**network, "exits": costs.exit_count, "trial_id": point.row["trial_id"]},
        "rule": rule,
        "policy": {
            name: value for name, value in point.policy.to_row().items() if value is not None and name != "rule"
        },
        "thresholds": {"statistic": point.row["statistic"], "values": point.thresholds},
        "parts": described.ends,
        "part_inputs": described.shapes,
        "costs": {
            "flops": flops_of(costs),
            "energy_source": costs.energy_source,
            "device": costs.device,
        },
        "point": {name: _plain(value) for name, value in row.items()},
        "reference": dict(point.reference),
        "data": {"name": checkpoint.data.name, "digest": checkpoint.data.digest},
        "onnx": {"opset": OPSET, "ir_version": IR_VERSION},
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _plain(value: Any) -> Any:
    return cast(Any, value.tolist()) if isinstance(value, np.ndarray | np.generic) else value


def _runner(name: str) -> bytes:
    return (_RUNNERS / name).read_bytes()
