"""Classify images with the model in this folder: python run.py image.png ...

Needs numpy and Pillow, and onnxruntime, or torch and safetensors. The network runs part by part; after each exit that
the rule tries, images that are sure enough leave the batch, and only the others go on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
STOP, ASK_ENGINE = 0, -1


def read(name):
    """The bytes of a file of this folder, held against its manifest."""
    try:
        content = (HERE / name).read_bytes()
    except FileNotFoundError:
        raise SystemExit(f"run.py: {name} is missing: copy the folder anew") from None
    if (
        hashlib.sha256(content).hexdigest()
        != json.loads((HERE / "manifest.json").read_bytes())["files"][name]["sha256"]
    ):
        raise SystemExit(f"run.py: {name} does not match manifest.json: copy the folder anew")
    return content


def pixels_of(path, how):
    """Pixels [C, S, S] of the central square of an image file."""
    image: Image.Image = Image.open(path)
    if image.format == "EPS":  # Pillow hands it to Ghostscript, which runs it
        raise ValueError("EPS is a program and no image")
    image.load()
    scaled = image.mode == "I" and image.format == "PPM"
    image = ImageOps.exif_transpose(image)
    if scaled or image.mode.startswith("I;16"):
        levels, white = np.asarray(image).astype(np.uint32), 65535 if scaled else how.get("white_level", 65535)
        grey = (np.minimum(levels, white) * 256 // (white + 1)).astype(np.uint8)
        if isinstance(clear := image.info.get("transparency"), int):
            grey[levels == clear] = 255
        image = Image.fromarray(grey)
    elif image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    image, size, side = image.convert("L" if how["channels"] == 1 else "RGB"), how["image_size"], min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    natural = side == how["pad_from"] or (how["enlarge"] == "repeat" and size % side == 0)
    small = image.resize(
        [side if natural else size] * 2, Image.Resampling.BILINEAR, (left, top, left + side, top + side)
    )
    pixels = np.asarray(small).reshape(*small.size, how["channels"]).transpose(2, 0, 1)
    if side == how["pad_from"]:
        before = (size - side) // 2
        return np.pad(pixels, ((0, 0), *[(before, size - side - before)] * 2))
    return pixels.repeat(size // side, 1).repeat(size // side, 2) if natural else pixels


def scores_of(logits, criterion, threshold):
    """How sure an exit is of each image, from its logits [B, C]."""
    if criterion == "logit":
        activation = np.abs(logits.astype(np.float64)).max(axis=1)
        return activation / threshold if threshold else np.full(len(logits), np.inf)
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total, ordered = weights.sum(axis=1), np.sort(weights, axis=1)[:, ::-1]
    if logits.shape[1] == 1 or criterion == "max_softmax":
        return 1 / total
    if criterion == "margin":
        return (1 - ordered[:, 1]) / total
    if criterion == "log_margin":
        unsure = (ordered[:, 1:].sum(axis=1) + ordered[:, 1]) / total
        return np.maximum(-np.log(np.maximum(unsure, np.finfo(np.float64).tiny)), 0.0)
    entropy = np.log(total) - (weights * shifted).sum(axis=1) / total
    return np.clip(1 - entropy / np.log(logits.shape[1]), 0.0, 1.0)


def engine_jumps(logits, engine):
    """How many exits the prediction engine jumps ahead for each image."""
    smoothed, jumps = np.pad(logits.astype(np.float64), ((0, 0), (1, 1))), np.zeros(len(logits), np.int64)
    for k, (threshold, beta) in enumerate(zip(engine["thresholds"], engine["betas"], strict=True), start=1):
        smoothed[:, 1:-1] = smoothed[:, :-2] + smoothed[:, 1:-1] + smoothed[:, 2:]
        activation = np.abs(smoothed).max(axis=1)
        hit = activation / threshold > beta if threshold else np.full(len(logits), True)
        jumps[hit & (jumps == 0)] = k
    return np.where(jumps, jumps, len(engine["betas"]))


def actions_of(logits, scores, exit, one, last):
    """What the rule of an exit decides: STOP, or the exit tried next; ``last`` is the classifier."""
    action = np.array(one["actions"])[np.searchsorted(one["bounds"], scores, side="right")]
    if not one["engine"]:
        return action
    landing = exit + engine_jumps(logits, one["engine"])
    return np.where(action == ASK_ENGINE, np.where(landing >= last, one["engine"]["beyond"], landing), action)


def classify(images, model, parts, heads):
    """Classes, exits and confidences of images [N, C, S, S] from 0 to 255. Exit E + 1 is the classifier."""
    rule, how = model["rule"], model["preprocessing"]
    mean, std = (np.float32(how[name]).reshape(1, -1, 1, 1) * np.float32(255) for name in ("mean", "std"))
    state, last = [(images.astype(np.float32) - mean) / std], rule["exit_count"] + 1
    target, classes = np.full(len(images), rule["first"]), np.zeros(len(images), dtype=np.int64)
    confidences, run = np.zeros(len(images)), np.zeros(len(images))  # run: equal answers in a row
    previous, rows = np.full(len(images), -1), np.arange(len(images))  # rows: the images still in the batch
    for part, exit in zip(parts, model["parts"], strict=True):
        state = part(*state)
        trying = np.flatnonzero(target[rows] == exit)
        if not len(trying):
            continue
        who = rows[trying]
        logits = state[0] if exit == last else heads[exit](np.ascontiguousarray(state[0][trying]))[0]
        classes[who], confidences[who] = logits.argmax(axis=1), scores_of(logits, "max_softmax", None)
        if exit == last:
            break
        run[who] = np.where(previous[who] == classes[who], run[who] + 1, 1)
        previous[who], one = classes[who], rule["exits"][str(exit)]
        patient = rule["criterion"] == "patience"
        scores = run[who] if patient else scores_of(logits, rule["criterion"], one["threshold"])
        action = actions_of(logits, scores, exit, one, last)
        target[who] = np.where(action == STOP, exit, action)
        going = np.flatnonzero(target[rows] > exit)
        if not len(going):
            break
        state, rows = [np.ascontiguousarray(one[going]) for one in state], rows[going]
    return classes, target, confidences


def load_onnx(model):
    """The parts, and exit -> head, by ONNX Runtime."""
    import onnxruntime

    def session(name):
        one = onnxruntime.InferenceSession(read(name), providers=["CPUExecutionProvider"])
        inputs = [each.name for each in one.get_inputs()]
        return lambda *state: one.run(None, dict(zip(inputs, state, strict=True)))

    heads = {exit: session(f"head-{exit}.onnx") for exit in model["parts"] if exit <= model["rule"]["exit_count"]}
    return [session(f"part-{number}.onnx") for number in range(1, len(model["parts"]) + 1)], heads


def load_torch(model):
    """The parts, and exit -> head, by torch."""
    import torch
    from safetensors.torch import load

    sys.dont_write_bytecode = True  # the folder stays as it was written
    from torch_parts import Part

    tensors, graphs = load(read("weights.safetensors")), json.loads(read("graphs.json"))

    def runner(graph):
        part = Part(graph, tensors)

        def run(*state):
            with torch.inference_mode():
                # bf16, which numpy lacks, travels as fp32, which holds its numbers exactly.
                return [one.float().numpy() for one in part(*map(torch.from_numpy, state))]

        return run

    return [runner(one) for one in graphs["parts"]], {int(exit): runner(one) for exit, one in graphs["heads"].items()}


def main():
    """Print a line for each image: file, class, exit, confidence. An image that cannot be read is passed over."""
    parser = argparse.ArgumentParser(description="Classify images with the model in this folder.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    forms = [name for name, file in (("onnx", "part-1.onnx"), ("torch", "graphs.json")) if (HERE / file).exists()]
    parser.add_argument("--runtime", choices=("torch", "onnx"), default=forms[0] if forms else "torch")
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args()
    if options.runtime not in forms:
        parser.error(f"this folder has no files for {options.runtime}: export with --format {options.runtime} or all")
    if options.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    model, unread = json.loads(read("model.json")), 0
    try:
        parts, heads = (load_onnx if options.runtime == "onnx" else load_torch)(model)
    except ImportError as error:
        parser.error(f"--runtime {options.runtime} needs a package that is not here ({error})")
    for start in range(0, len(options.images), options.batch_size):
        files, squares = [], []
        for file in options.images[start : start + options.batch_size]:
            try:
                squares.append(pixels_of(file, model["preprocessing"]))
                files.append(file)
            except Exception as error:  # the errors of decoders are of all kinds
                reason = " ".join(str(error).split()) or type(error).__name__
                print(f"run.py: cannot read image {file} ({reason})", file=sys.stderr)
                unread += 1
        if not files:
            continue
        answers = classify(np.stack(squares), model, parts, heads)
        for file, number, exit, confidence in zip(files, *answers, strict=True):
            print(f"{file}\t{model['class_names'][number]}\t{exit}\t{confidence:.6f}")
    sys.exit(1 if unread else 0)


if __name__ == "__main__":
    main()
