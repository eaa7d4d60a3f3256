"""The model card of an exported point: what it does, from which images, what it costs, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.words import printable
from study.export.onnx_writer import OPSET
from study.export.point import ChosenPoint


def model_card(point: ChosenPoint, facts: Mapping[str, Any], files: Sequence[str], command: str) -> str:
    """The text of ``README.md``.

    Args:
        point, facts: the point, and its ``model.json``.
        files: of the folder.
        command: that made the folder.
    """
    row, reference = point.row, point.reference
    names, how = facts["class_names"], facts["preprocessing"]
    shown = ", ".join(_cell(name) for name in names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    tried = [end for end in facts["parts"] if end <= facts["network"]["exits"]]
    colours = "grey" if how["channels"] == 1 else "RGB"
    lines = [
        f"# An early-exit classifier of {len(names)} classes",
        "",
        f"The model answers one of these classes: {shown}. Its network, {_cell(facts['network']['backbone'])} of width "
        f"{facts['network']['width']:g} at {facts['precision']}, has exit heads along its depth. An image stops at the "
        f"first tried exit that is sure enough by the rule `{facts['rule']['policy']}`; the tried exits are "
        f"{', '.join(map(str, tried)) or 'none'} of {facts['network']['exits']}.",
        "",
        "| | |",
        "|---|---|",
        f"| trained on | {_cell(facts['data']['name'])}, {how['image_size']} x {how['image_size']} pixels, {colours} |",
        f"| accuracy on {_count(row['test_samples'])} test images | {row['test_accuracy']:.2%}, 95 % interval "
        f"{row['test_accuracy_low']:.2%} to {row['test_accuracy_high']:.2%} |",
        f"| accuracy on {_count(row['samples'])} validation images, which chose the point | {row['accuracy']:.2%} |",
        f"| the same network without exits, on test | {row['test_classic_accuracy']:.2%} |",
        f"| operations an image on test | {row['test_flops'] / 1e6:.4g} MFLOPs, 95 % interval "
        f"{row['test_flops_low'] / 1e6:.4g} to {row['test_flops_high'] / 1e6:.4g}; the study's classic network needs "
        f"{reference['flops'] / 1e6:.4g} |",
        *_energy(row),
        *_seconds(row, reference),
        f"| guarantee | {_guarantee(row)} |",
        "| licence | fill in: the licence of these weights, and of the images that trained them |",
        "",
        "Validation images chose the point; test images only report. Costs count 2 operations for a multiply-accumulate"
        f". {_why(point)}",
        "",
        "## Use",
        "",
        *_use(files),
        "",
        "## Limits",
        "",
        f"- The model knows {len(names)} classes and answers one of them for any image. A confidence is the largest "
        "probability of the softmax; no test has calibrated it.",
        "- The figures hold for images like those of the study. Other cameras, crops or colours lower the accuracy "
        "and move images to later exits.",
        f"- An image is cut to its central square and resized to {how['image_size']} pixels. {_ground(how)}",
        *(
            ["- int8 runs by integer kernels where the device has them. Elsewhere it is as accurate, and no faster."]
            if facts["precision"].startswith("int8")
            else []
        ),
        "",
        "## Files",
        "",
        *(f"- `{name}`: {_FILES[name]}" for name in files if name in _FILES),
        *_graphs(files),
        "",
        "## Made by",
        "",
        "```",
        printable(command),
        "```",
        "",
        f"on {facts['created']}, with "
        + ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
        + ".",
        f"Network {row['trial_id']}, point {row['number']} of the front, data digest {facts['data']['digest'][:16]}.",
        "",
    ]
    return "\n".join(lines)


_FILES = {
    "README.md": "this page",
    "graphs.json": "the operations of each part and head",
    "manifest.json": "size and sha256 of every file",
    "model.json": "classes, preprocessing, decision rule, thresholds, costs and the point of the study",
    "run.py": "the runner, which needs nothing of the program that made this folder",
    "torch_parts.py": "runs the parts by torch",
    "weights.safetensors": "the weights of the parts and heads that the rule may run, and no others",
}


def _graphs(files: Sequence[str]) -> list[str]:
    if not any(name.endswith(".onnx") for name in files):
        return []
    return [
        f"- `part-<number>.onnx`, `head-<exit>.onnx`: the parts in order and the heads, ONNX graphs of opset {OPSET} "
        "for batches of any size; a part takes the tensors that the part before gives, a head the first of them",
    ]


def _use(files: Sequence[str]) -> list[str]:
    lines = ["```bash"]
    if "graphs.json" in files:
        lines.append("python run.py --runtime torch image.png ...   # needs torch, numpy, safetensors and Pillow")
    if any(name.endswith(".onnx") for name in files):
        lines.append("python run.py --runtime onnx image.png ...    # needs onnxruntime, numpy and Pillow")
    lines.append("```")
    if "graphs.json" in files:
        lines += [
            "",
            "```python",
            "from study import EarlyExit  # of the distribution predictive-exit",
            "",
            'EarlyExit.load("this folder").predict(["image.png"]).names',
            "```",
        ]
    return lines


def _energy(row: Mapping[str, Any]) -> list[str]:
    if row.get("test_energy_joules") is None:
        return []
    low, high = (row[f"test_energy_joules_{end}"] for end in ("low", "high"))
    return [
        f"| energy an image on test | {row['test_energy_joules'] * 1e3:.4g} mJ, 95 % interval {low * 1e3:.4g} to "
        f"{high * 1e3:.4g} ({_cell(row['energy_source'])}) |"
    ]


def _seconds(row: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    if row.get("latency_mean_seconds") is None or reference["latency_seconds"] is None:
        return []
    where = "" if row["device"] is None or row["latency_source"] != "measured" else f" on {_cell(row['device'])}"
    return [
        f"| time an image on validation | {row['latency_mean_seconds'] * 1e3:.4g} ms in the mean; the study's classic "
        f"network needs {reference['latency_seconds'] * 1e3:.4g} ms ({_cell(row['latency_source'])}{where}, "
        f"{_count(row['batch_size'])} images a batch) |"
    ]


def _guarantee(row: Mapping[str, Any]) -> str:
    if row.get("certified_drop") is None:
        return "not certified"
    return (
        f"with {row['certified_confidence']:.3g} confidence the model loses at most {row['certified_drop']:.2%} "
        f"accuracy against the classic network on new images like these, by {_count(row['certified_samples'])} images"
    )


def _why(point: ChosenPoint) -> str:
    number = point.row["number"]
    return f"Point {number} was asked for." if point.reason is None else f"Point {number} is {point.reason}."


def _ground(how: Mapping[str, Any]) -> str:
    return (
        "The network reads grey levels as they are: a dark sign on a light ground is not the same to it as a light sign"
        " on a dark one."
        if how["channels"] == 1
        else "Grey images are repeated in three channels."
    )


def _count(value: Any) -> str:
    return f"{int(value):,}"


def _cell(value: object) -> str:
    """A text of a study or of a folder's name inside a table: no markup of it is obeyed."""
    text = " ".join(printable(str(value)).split())
    return "".join(f"\\{one}" if one in "\\`*_{}[]<>#|" else one for one in text)
