"""Weights and checkpoints that cannot be used."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest
import torch
from safetensors import torch as safetensors
from support.corpus import (
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
from torch import Tensor

from study.storage.publish import read_published

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
        command="evaluate --backbone vgg11 --width 0.125 --evaluate-mode normal --limit 240 --pretrained",
    ),
]


@each(BARE)
def test_bad_weights_are_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
