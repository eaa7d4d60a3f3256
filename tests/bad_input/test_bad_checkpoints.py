"""Checkpoints whose files are damaged, or say what cannot be."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable

import pytest
import torch
from support.corpus import (
    CODE,
    EVALUATE,
    NETWORK,
    TRAIN,
    Case,
    Workplace,
    each,
    edit_json,
    edit_weights,
    first_weight,
    one_value,
    republish,
)
from torch import Tensor

from study.storage.publish import MANIFEST, content_hash

FILE = f"train --mode exits {NETWORK} --data digits --limit 240 --epochs 1 --no-save --pretrained"

EXITS = f"{EVALUATE} --pretrained models/exits"


def checkpoint(id: str, why: str, change: Callable[[Workplace], object], *told: str, command: str = EXITS) -> Case:
    """A good checkpoint, but for a change."""

    def arrange(place: Workplace) -> None:
        place.take("models")
        change(place)

    return Case(id, why, arrange, command, ("models/exits", *told))


def described(id: str, why: str, change: Callable[[dict], object], *told: str) -> Case:
    """A checkpoint whose ``checkpoint.json`` says something else, as its manifest knows."""
    return checkpoint(id, why, lambda p: edit_json(p / "models/exits/best", "checkpoint.json", change), *told)


def stored(id: str, why: str, change: Callable[[dict[str, Tensor]], object], *told: str) -> Case:
    """A checkpoint with other weights, as its manifest knows."""
    return checkpoint(id, why, lambda p: edit_weights(p / "models/exits/best", change), *told)


def manifest(change: Callable[[dict], object]) -> Callable[[Workplace], None]:
    def arrange(place: Workplace) -> None:
        path = place / "models/exits/best" / MANIFEST
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return arrange


def signed(change: Callable[[dict], object]) -> Callable[[Workplace], None]:
    """A manifest with its own hash put right."""

    def sign(value: dict) -> None:
        change(value["files"])
        value["sha256"] = content_hash(value["files"], 64)

    return manifest(sign)


def raw_manifest(content: bytes) -> Callable[[Workplace], object]:
    return lambda place: place.write("models/exits/best/manifest.json", content)


def part(pattern: str, content: Callable[[bytes], bytes]) -> Callable[[Workplace], None]:
    """Damage that the manifest tells."""

    def arrange(place: Workplace) -> None:
        (path,) = (place / "models/exits/best").glob(pattern)
        path.write_bytes(content(path.read_bytes()))

    return arrange


UP = "../../../../../../etc/passwd"

FOLDERS = [
    checkpoint(
        "manifest-cut",
        "a cut manifest",
        part(MANIFEST, lambda content: content[:40]),
        "manifest.json",
        "cannot be read",
    ),
    checkpoint("manifest-empty", "an empty manifest", raw_manifest(b""), "manifest.json", "cannot be read"),
    checkpoint("manifest-list", "a list", raw_manifest(b"[1]"), "manifest.json", "cannot be read"),
    checkpoint("manifest-null", "nothing", raw_manifest(b"null"), "manifest.json", "cannot be read"),
    checkpoint("manifest-nested", "10^5 brackets", raw_manifest(b"[" * 10**5), "manifest.json", "cannot be read"),
    checkpoint("manifest-latin", "not UTF-8", raw_manifest(b'{"files": "\xe9"}'), "manifest.json", "cannot be read"),
    checkpoint(
        "manifest-nan",
        "no number",
        raw_manifest(b'{"files": {"a": NaN}, "sha256": ""}'),
        "manifest.json",
        "cannot be read",
    ),
    checkpoint(
        "manifest-digits",
        "5,000 digits",
        raw_manifest(b'{"files": %s}' % (b"9" * 5000)),
        "manifest.json",
        "cannot be read",
    ),
    checkpoint(
        "manifest-unsigned",
        "a changed size",
        manifest(lambda value: value["files"]["checkpoint.json"].update(bytes=1)),
        "manifest.json",
        "cannot be read",
    ),
    checkpoint(
        "manifest-folder",
        "a folder",
        lambda p: ((p / "models/exits/best/manifest.json").unlink(), (p / "models/exits/best/manifest.json").mkdir()),
        "manifest.json",
    ),
    checkpoint(
        "manifest-pipe",
        "a pipe",
        lambda p: ((p / "models/exits/best/manifest.json").unlink(), os.mkfifo(p / "models/exits/best/manifest.json")),
        "manifest.json",
    ),
    checkpoint(
        "manifest-up",
        "a file elsewhere",
        signed(lambda files: files["weights.safetensors"].update(file=UP)),
        "manifest.json",
        "cannot be",
    ),
    checkpoint(
        "manifest-absolute",
        "a file elsewhere",
        signed(lambda files: files["weights.safetensors"].update(file="/etc/passwd")),
        "manifest.json",
        "cannot be",
    ),
    checkpoint(
        "manifest-file-number",
        "a number for a name",
        signed(lambda files: files["weights.safetensors"].update(file=3)),
        "manifest.json",
        "cannot be read",
    ),
    checkpoint(
        "manifest-files-list",
        "a list of files",
        manifest(lambda value: value.update(files=["weights"])),
        "manifest.json",
        "cannot be read",
    ),
    checkpoint(
        "manifest-bytes-text",
        "a text for a size",
        signed(lambda files: files["weights.safetensors"].update(bytes="many")),
        "manifest.json",
        "cannot be read",
    ),
    checkpoint(
        "manifest-entry-text",
        "a text for an entry",
        signed(lambda files: files.update({"weights.safetensors": "w"})),
        "manifest.json",
        "cannot be read",
    ),
    checkpoint(
        "manifest-no-weights",
        "no word of the weights",
        signed(lambda files: files.pop("weights.safetensors")),
        "no checkpoint",
    ),
    checkpoint(
        "manifest-no-description",
        "no word of the description",
        signed(lambda files: files.pop("checkpoint.json")),
        "no checkpoint",
    ),
    checkpoint("weights-cut", "cut weights", part("weights-*", lambda content: content[:-9]), "weights", "manifest"),
    checkpoint(
        "weights-flipped",
        "a flipped bit",
        part("weights-*", lambda content: content[:-9] + b"~" + content[-8:]),
        "weights",
        "manifest",
    ),
    checkpoint(
        "weights-gone",
        "no weights",
        lambda p: [one.unlink() for one in (p / "models/exits/best").glob("weights-*")],
        "weights",
        "missing",
    ),
    checkpoint(
        "weights-folder",
        "a folder",
        lambda p: [(one.unlink(), one.mkdir()) for one in (p / "models/exits/best").glob("weights-*")],
        "weights",
    ),
    checkpoint(
        "weights-code",
        "a pickle that runs",
        lambda p: republish(p / "models/exits/best", weights_safetensors=CODE),
        "no readable tensors",
    ),
    checkpoint(
        "weights-header",
        "a header of 2^63 bytes",
        lambda p: republish(p / "models/exits/best", weights_safetensors=struct.pack("<Q", 2**63) + b"{}"),
        "no readable tensors",
    ),
    checkpoint(
        "gone", "no manifest", lambda p: (p / "models/exits/best/manifest.json").unlink(), "holds no checkpoint"
    ),
    described("format", "another format", lambda value: value.update(format_version=7), "format 7", "reads format 1"),
    described("format-text", "a text for a format", lambda value: value.update(format_version="1"), "format"),
    described("no-network", "no network", lambda value: value.pop("network"), "no checkpoint of this program"),
    described(
        "network-text",
        "a text for a network",
        lambda value: value.update(network="vgg11"),
        "no checkpoint of this program",
    ),
    described(
        "network-key",
        "an unknown key",
        lambda value: value["network"].update(colour=1),
        "no checkpoint of this program",
        "colour",
    ),
    described(
        "backbone-number",
        "a number for a name",
        lambda value: value["network"].update(backbone=7),
        "no checkpoint of this program",
        "backbone",
    ),
    described(
        "stored-backbone", "an unknown backbone", lambda value: value["network"].update(backbone="vgg99"), "vgg99"
    ),
    described(
        "width-text",
        "a text for a number",
        lambda value: value["network"].update(width="wide"),
        "no checkpoint of this program",
        "width",
    ),
    described("width-huge", "10^300 channels", lambda value: value["network"].update(width=1e300), "width"),
    described(
        "head-key",
        "an unknown key",
        lambda value: value["network"]["head"].update(colour=1),
        "no checkpoint of this program",
    ),
    described("head-kind", "an unknown head", lambda value: value["network"]["head"].update(kind="mlp"), "'mlp'"),
    described(
        "codewords-text",
        "a text for a number",
        lambda value: value["network"]["head"].update(codewords="many"),
        "no checkpoint of this program",
    ),
    described(
        "training-text",
        "a text for a number",
        lambda value: value["training"].update(learning_rate="fast"),
        "no checkpoint of this program",
    ),
    described("training-mode", "an unknown mode", lambda value: value["training"].update(mode="magic"), "'magic'"),
    described("history-empty", "no epoch", lambda value: value.update(history=[]), "no checkpoint of this program"),
    described(
        "history-text",
        "a text for a history",
        lambda value: value.update(history="long"),
        "no checkpoint of this program",
    ),
    described(
        "history-key",
        "an unknown key",
        lambda value: value["history"][0].update(colour=1),
        "no checkpoint of this program",
    ),
    described(
        "history-score",
        "a text for a score",
        lambda value: value["history"][0].update(score="good"),
        "no checkpoint of this program",
    ),
    described(
        "data-key", "an unknown key", lambda value: value["data"].update(colour=1), "no checkpoint of this program"
    ),
    described(
        "data-mean",
        "a mean too many",
        lambda value: value["data"].update(mean=[0.1, 0.2]),
        "no checkpoint of this program",
    ),
    described(
        "data-std",
        "a deviation of 0",
        lambda value: value["data"].update(std=[0.0]),
        "no checkpoint of this program",
        "std",
    ),
    described(
        "data-classes",
        "no classes",
        lambda value: value["data"].update(class_names=[]),
        "no checkpoint of this program",
    ),
    described("data-size", "10^6 pixels a side", lambda value: value["data"].update(image_size=10**6), "image_size"),
    described(
        "data-settings",
        "an unknown setting",
        lambda value: value["data"]["settings"].update(colour=1),
        "data settings",
        "colour",
    ),
    described(
        "data-name",
        "an unknown data set",
        lambda value: (value["data"].update(name="mnist"), value["data"]["settings"].update(name="mnist")),
        "mnist",
    ),
    stored(
        "stored-nan", "a weight that is NaN", first_weight(one_value(float("nan"))), "features.0.weight", "not finite"
    ),
    stored("stored-shape", "another shape", first_weight(lambda tensor: tensor[:3]), "features.0.weight", "shape"),
    stored(
        "stored-lacking",
        "a tensor too few",
        lambda weights: weights.pop("backbone.features.0.weight"),
        "features.0.weight",
        "lack",
    ),
    stored(
        "stored-more", "a tensor too many", lambda weights: weights.update(extra=torch.zeros(1)), "extra", "unexpected"
    ),
    stored(
        "stored-integers",
        "whole numbers",
        first_weight(lambda tensor: tensor.to(torch.int64)),
        "features.0.weight",
        "int64",
    ),
    Case(
        "profile-stored",
        "NaN, to profile",
        lambda p: (p.take("models"), edit_weights(p / "models/exits/best", first_weight(one_value(float("nan"))))),
        "profile --device cpu --no-meter --pretrained models/exits",
        ("models/exits", "not finite"),
    ),
    Case(
        "train-stored",
        "NaN, to start from",
        lambda p: (p.take("models"), edit_weights(p / "models/original/best", first_weight(one_value(float("nan"))))),
        f"{FILE} models/original",
        ("models/original", "not finite"),
    ),
    Case(
        "train-last",
        "another format to go on from",
        lambda p: (
            p.take("models"),
            edit_json(p / "models/original/last", "checkpoint.json", lambda value: value.update(format_version=7)),
        ),
        f"{TRAIN} --data digits --limit 240 --output models/original",
        ("models/original/last", "format 7"),
    ),
]


@each(FOLDERS)
def test_a_bad_checkpoint_is_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
