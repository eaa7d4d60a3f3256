"""Weights and checkpoints that cannot be used."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest
import torch
from corpus import (
    CODE,
    EVALUATE,
    NETWORK,
    Case,
    Runs,
    Workplace,
    each,
    first_weight,
    one_value,
)
from safetensors import torch as safetensors
from torch import Tensor

from study.storage import read_published

FILE = f"train --mode exits {NETWORK} --data digits --limit 240 --epochs 1 --no-save --pretrained"

SPACE = (
    "run quickstart --set backbones.backbone=vgg11 --set backbones.width=0.125 --set backbones.trials=1 --pretrained"
)


def weights_of(place: Workplace) -> dict[str, Tensor]:
    published = read_published(place.shelf / "models" / "original" / "best")
    assert published is not None
    return safetensors.load(published.files["weights.safetensors"])


def file(id: str, why: str, name: str, content: bytes, *told: str, command: str = FILE) -> Case:
    return Case(id, why, lambda place: place.write(name, content), f"{command} {name}", (name, *told))


def tensors(id: str, why: str, change: Callable[[dict[str, Tensor]], object], *told: str, command: str = FILE) -> Case:
    """A file of good weights, but for a change."""

    def arrange(place: Workplace) -> None:
        weights = weights_of(place)
        change(weights)
        place.write("w.safetensors", safetensors.save(weights))

    return Case(id, why, arrange, f"{command} w.safetensors", ("w.safetensors", *told))


def saved(id: str, why: str, value: Callable[[dict[str, Tensor]], object], *told: str) -> Case:
    """What torch saved."""
    return Case(
        id, why, lambda place: torch.save(value(weights_of(place)), place / "w.pt"), f"{FILE} w.pt", ("w.pt", *told)
    )


HEADER = b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'

NOT_WEIGHTS = "cannot be read as weights"

BARE = [
    Case("missing", "no such file", lambda place: None, f"{FILE} no.pt", ("no.pt does not exist", ".safetensors")),
    Case("pipe", "a pipe", lambda p: os.mkfifo(p / "w.pt"), f"{FILE} w.pt", ("w.pt", "no regular file")),
    Case("empty-folder", "an empty folder", lambda p: (p / "w").mkdir(), f"{FILE} w", ("w holds no checkpoint",)),
    Case(
        "images", "a folder of images", lambda p: p.images("w/cat"), f"{FILE} w", ("w holds no checkpoint", "manifest")
    ),
    file("code", "a pickle that runs a command", "w.pt", CODE, NOT_WEIGHTS),
    file("code-safetensors", "the same, by another name", "w.safetensors", CODE, NOT_WEIGHTS),
    file("code-pth", "the same, by a third", "w.pth", CODE, NOT_WEIGHTS),
    file("empty", "nothing in it", "w.pt", b"", NOT_WEIGHTS),
    file("empty-safetensors", "nothing in it", "w.safetensors", b"", NOT_WEIGHTS),
    file("words", "a text", "w.pt", b"weights", NOT_WEIGHTS),
    file("zip", "a zip with nothing of torch", "w.pt", b"PK\5\6" + bytes(18), NOT_WEIGHTS),
    file("header-huge", "a header of 2^63 bytes", "w.safetensors", struct.pack("<Q", 2**63) + b"{}", NOT_WEIGHTS),
    file("header-large", "a header of 90 MB", "w.safetensors", struct.pack("<Q", 9 * 10**7) + b"{}", NOT_WEIGHTS),
    file("header-words", "a header that is no JSON", "w.safetensors", struct.pack("<Q", 5) + b"words", NOT_WEIGHTS),
    file("header-list", "a header that is a list", "w.safetensors", struct.pack("<Q", 2) + b"[]", NOT_WEIGHTS),
    file("header-cut", "no data", "w.safetensors", struct.pack("<Q", len(HEADER)) + HEADER, NOT_WEIGHTS),
    file("study-code", "a pickle that runs, in a study", "w.pt", CODE, NOT_WEIGHTS, command=SPACE),
    file(
        "evaluate-code",
        "a pickle that runs, to evaluate",
        "w.pt",
        CODE,
        NOT_WEIGHTS,
        command=f"{EVALUATE} --pretrained",
    ),
    file(
        "profile-bare", "bare weights to profile", "w.pt", CODE, command="profile --device cpu --no-meter --pretrained"
    ),
    Case(
        "cut",
        "a cut file",
        lambda p: p.write("w.safetensors", safetensors.save(weights_of(p))[:-9]),
        f"{FILE} w.safetensors",
        ("w.safetensors", NOT_WEIGHTS),
    ),
    saved("list", "a list of tensors", lambda weights: list(weights.values()), "no state_dict"),
    saved("whole-network", "a whole network", lambda weights: torch.nn.Linear(2, 2), NOT_WEIGHTS),
    saved("mixed", "numbers among tensors", lambda weights: {**weights, "epoch": 3}, "no state_dict"),
    saved("nothing-known", "a state_dict of nothing", lambda weights: {}, "lack"),
    saved("numbered", "numbers as names", lambda weights: dict(enumerate(weights.values())), "no state_dict"),
    saved("code-inside", "code among tensors", lambda weights: {**weights, "x": Runs()}, NOT_WEIGHTS),
    saved(
        "sparse",
        "a sparse tensor",
        lambda weights: {**weights, "backbone.features.0.weight": torch.eye(3).to_sparse()},
        "features.0.weight",
    ),
    tensors("nan", "a weight that is NaN", first_weight(one_value(float("nan"))), "features.0.weight", "not finite"),
    tensors("inf", "a weight without end", first_weight(one_value(float("inf"))), "features.0.weight", "not finite"),
    tensors("shape", "another shape", first_weight(lambda tensor: tensor[:3]), "features.0.weight has shape [3, "),
    tensors("channels", "colour for grey", first_weight(lambda tensor: tensor.repeat(1, 3, 1, 1)), "shape", "1, 3, 3]"),
    tensors(
        "integers",
        "whole numbers for weights",
        first_weight(lambda tensor: tensor.to(torch.int64)),
        "features.0.weight",
        "int64",
    ),
    tensors(
        "complex",
        "complex numbers for weights",
        first_weight(lambda tensor: tensor.to(torch.complex64)),
        "features.0.weight",
        "complex64",
    ),
    tensors(
        "classes",
        "another class count",
        lambda w: w.update({"backbone.classifier.weight": torch.zeros(7, 64)}),
        "classifier.weight",
        "[7, 64]",
    ),
    tensors("lacking", "a tensor too few", lambda w: w.pop("backbone.features.0.weight"), "lack features.0.weight"),
    tensors("more", "a tensor too many", lambda w: w.update({"backbone.extra": torch.zeros(1)}), "unexpected extra"),
    tensors("backbone", "of another backbone", lambda w: None, "do not fit", command=FILE.replace("vgg11", "vgg13")),
    tensors("other-width", "of another width", lambda w: None, "has shape", command=FILE.replace("0.125", "0.25")),
    tensors("study-nan", "NaN, in a study", first_weight(one_value(float("nan"))), "not finite", command=SPACE),
    tensors(
        "study-shape", "another shape, in a study", first_weight(lambda tensor: tensor[:3]), "has shape", command=SPACE
    ),
    tensors(
        "evaluate-nan",
        "NaN, to evaluate",
        first_weight(one_value(float("nan"))),
        "not finite",
        command=f"evaluate {NETWORK.replace('--precision fp32', '')} --evaluate-mode normal --data digits "
        "--limit 240 --pretrained",
    ),
]

UP = "../../../../../../etc/passwd"
DAMAGED = "manifest"
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
    checkpoint("weights-cut", "cut weights", part("weights-*", lambda content: content[:-9]), "weights", DAMAGED),
    checkpoint(
        "weights-flipped",
        "a flipped bit",
        part("weights-*", lambda content: content[:-9] + b"~" + content[-8:]),
        "weights",
        DAMAGED,
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
    stored("stored-nan", "a weight that is NaN", first(blank(float("nan"))), "features.0.weight", "not finite"),
    stored("stored-shape", "another shape", first(lambda tensor: tensor[:3]), "features.0.weight", "shape"),
    stored(
        "stored-lacking",
        "a tensor too few",
        lambda weights: weights.pop("backbone.features.0.weight"),
        "features.0.weight",
        "missing",
    ),
    stored(
        "stored-more", "a tensor too many", lambda weights: weights.update(extra=torch.zeros(1)), "extra", "unexpected"
    ),
    stored(
        "stored-integers", "whole numbers", first(lambda tensor: tensor.to(torch.int64)), "features.0.weight", "int64"
    ),
    Case(
        "profile-stored",
        "NaN, to profile",
        lambda p: (p.take("models"), edit_weights(p / "models/exits/best", first(blank(float("nan"))))),
        "profile --device cpu --no-meter --pretrained models/exits",
        ("models/exits", "not finite"),
    ),
    Case(
        "train-stored",
        "NaN, to start from",
        lambda p: (p.take("models"), edit_weights(p / "models/original/best", first(blank(float("nan"))))),
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


@each(BARE)
def test_bad_weights_are_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
