"""Backbones, places of exits and the user's own code that cannot be used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from safetensors import torch as safetensors
from support.corpus import Case, Workplace, each
from support.own_backbone import SOURCE
from torch import Tensor

from study.storage.publish import read_published

OWN = "train --device cpu --precision fp32 --data digits --limit 240 --epochs 1 --no-save --backbone"


def study(id: str, why: str, keys: str, *told: str, data: str = "channels: 3, image_size: 64") -> Case:
    """A study of digits with these keys of ``backbones``."""
    text = f"name: fine\ndata: {{name: digits, limit: 240, {data}}}\nbackbones: {{{keys}}}\n"
    return Case(id, why, lambda place: place.write("study.yaml", text), "run study.yaml", told)


def own(id: str, why: str, change: Callable[[str], str | bytes], function: str, *told: str) -> Case:
    """A study whose backbone stands in a changed file beside it."""

    def arrange(place: Workplace) -> None:
        place.write("mine.py", change(SOURCE))
        place.write("study.yaml", f"name: fine\nbackbones: {{backbone: 'mine:{function}'}}\n")

    return Case(id, why, arrange, "run study.yaml", ("backbone mine", *told))


def same(source: str) -> str:
    return source


TORCHVISION = [
    study("unknown-model", "no such model", "backbone: 'torchvision:resnet51'", "torchvision: known are resnet50"),
    study("detector", "a detector", "backbone: 'torchvision:fasterrcnn_resnet50_fpn'", "unknown backbone"),
    study("path-as-model", "a path", "backbone: 'torchvision:../x'", "unknown backbone 'torchvision:../x'"),
    study("no-model", "a library alone", "backbone: 'torchvision:'", "unknown backbone 'torchvision:'"),
    study(
        "other-library",
        "an unknown library",
        "backbone: 'keras.applications:VGG19'",
        "unknown backbone",
        "torchvision:",
    ),
    study("width", "a width", "backbone: 'torchvision:resnet18', width: 0.5", "has one width", "0.5"),
    study("grey", "grey images", "backbone: 'torchvision:resnet18'", "takes colour images", data="image_size: 64"),
    study(
        "patches",
        "a size that is no multiple of the patch",
        "backbone: 'torchvision:vit_b_16'",
        "cannot take images of 50 pixels",
        data="channels: 3, image_size: 50",
    ),
    study(
        "small",
        "images that vanish",
        "backbone: 'torchvision:vgg11'",
        "cannot run on images of 3 x 16 x 16",
        data="channels: 3, image_size: 16",
    ),
    study(
        "sizes",
        "backbones of different sizes",
        "backbone: ['torchvision:resnet18', vgg11]",
        "set data.image_size",
        data="channels: 3",
    ),
    study(
        "class-token",
        "a map without class token",
        "backbone: vgg11, width: 0.125}\nexits: {tokens: class",
        "class token",
    ),
]

PLACES = [
    study("place", "no such place", "backbone: 'torchvision:resnet18', exits_at: [layer9]", "has no module 'layer9'"),
    study("place-of-vgg", "no exit there", "backbone: vgg11, exits_at: [pool9]", "has no exit at 'pool9'", "pool1"),
    study("place-text", "a text", "backbone: vgg11, exits_at: pool1", "backbones.exits_at", "list of texts"),
    study("place-none", "an empty list", "backbone: vgg11, exits_at: []", "backbones.exits_at"),
    study("place-number", "a number", "backbone: vgg11, exits_at: [3]", "backbones.exits_at"),
    study(
        "place-order",
        "wrong order",
        "backbone: vgg11, exits_at: [pool2, pool1]",
        "in the order of the network, which is pool1, pool2",
    ),
    study("place-twice", "twice", "backbone: 'torchvision:resnet18', exits_at: [layer1, layer1]", "named twice"),
    study("place-within", "one in another", "backbone: 'torchvision:resnet18', exits_at: [layer1.0, layer1]", "layer1"),
    Case("option", "no such place", lambda place: None, f"{OWN} vgg11 --exits-at pool1,here", ("no exit at 'here'",)),
]

CODE = [
    own("syntax", "no Python", lambda source: "def build(:", "build", "cannot be imported", "SyntaxError", "line 1"),
    own("import", "a library that lacks", lambda source: "import nowhere", "build", "nowhere", "mine.py, line 1"),
    own("raises", "a file that fails", lambda source: "1 / 0", "build", "ZeroDivisionError", "line 1"),
    own("latin-1", "not UTF-8", lambda source: "# caf\xe9".encode("latin-1"), "build", "not UTF-8"),
    own("nul", "a NUL", lambda source: "a = 1\0", "build", "null bytes"),
    own("large", "2 MB", lambda source: "#" * 2 * 10**6, "build", "no source file"),
    own("no-function", "no such function", same, "other", "no function 'other'"),
    own("failing", "a function that fails", same, "fails", "KeyError", "mine.py, line "),
    own("number", "a function that returns a number", same, "number", "returns int"),
    own("no-places", "a module without places", same, "bare", "set exits_at"),
    Case(
        "no-file",
        "no file beside the study file",
        lambda place: place.write("study.yaml", "name: fine\nbackbones: {backbone: 'mine:build'}\n"),
        "run study.yaml",
        ("fine: backbone mine:build: there is no mine.py", "--code"),
    ),
    Case(
        "file-elsewhere",
        "a file beside the user, not beside the study file",
        lambda place: (
            place.write("mine.py", SOURCE),
            place.write("studies/study.yaml", "name: fine\nbackbones: {backbone: 'mine:build'}\n"),
        ),
        "run studies/study.yaml",
        ("there is no mine.py in", "studies"),
    ),
    Case("library-of-python", "a module of Python", lambda place: None, f"{OWN} os:system", ("there is no os.py",)),
    Case(
        "folder-as-file",
        "a folder",
        lambda place: (place / "mine.py").mkdir(),
        f"{OWN} mine:build",
        ("mine.py is no source file",),
    ),
]


GREY = "channels: 1"
VGG = "backbone: vgg11, width: 0.125"


def weights(id: str, why: str, change: Callable[[dict[str, Tensor]], object], *told: str, keys: str = VGG) -> Case:
    """A study that starts from the weights of a trained network, but for a change."""

    def arrange(place: Workplace) -> None:
        published = read_published(place.shelf / "models" / "original" / "best")
        assert published is not None
        tensors = safetensors.load(published.files["weights.safetensors"])
        change(tensors)
        place.write("w.safetensors", safetensors.save(tensors))
        text = f"name: fine\ndata: {{name: digits, limit: 240}}\nbackbones: {{{keys}, initial: w.safetensors}}\n"
        place.write("study.yaml", text)

    return Case(id, why, arrange, "run study.yaml", told)


def nothing_changes(tensors: dict[str, Tensor]) -> None:
    """The weights are good."""


INITIAL = [
    study("initial-missing", "no file", f"{VGG}, initial: no.pt", "no.pt does not exist", data=GREY),
    study("initial-number", "a number", f"{VGG}, initial: 3", "backbones.initial", data=GREY),
    study("initial-and-pretrained", "both", f"{VGG}, initial: a.pt, pretrained: study.yaml", "pretrained", data=GREY),
    study(
        "initial-library",
        "ImageNet for an own variant",
        f"{VGG}, initial: 'torchvision:IMAGENET1K_V1'",
        "needs one",
        data=GREY,
    ),
    study(
        "initial-unknown",
        "no such published weights",
        "backbone: 'torchvision:resnet18', initial: 'torchvision:IMAGENET7'",
        "has no weights torchvision:IMAGENET7",
    ),
    study(
        "initial-not-fetched",
        "published weights that are not here",
        "backbone: 'torchvision:resnet18', initial: 'torchvision:IMAGENET1K_V1'",
        "--download",
    ),
    weights("initial-other", "of another backbone", nothing_changes, "they lack", keys="backbone: resnet18"),
    weights("initial-width", "of another width", nothing_changes, "has shape", keys="backbone: vgg11, width: 0.25"),
    weights("initial-nan", "NaN", lambda w: w["backbone.features.0.weight"].fill_(float("nan")), "not finite"),
    weights("initial-lacking", "a tensor too few", lambda w: w.pop("backbone.features.0.bias"), "lack features.0.bias"),
    weights(
        "initial-renamed",
        "other names",
        lambda w: [w.update({f"net/{name}": w.pop(name)}) for name in list(w)],
        "they lack features.0.weight",
        "they hold net/backbone.",
    ),
    study("rate-zero", "no rate", f"{VGG}, backbone_rate: 0", "backbones.backbone_rate", "above 0", data=GREY),
    study("rate-text", "a word", f"{VGG}, backbone_rate: low", "backbones.backbone_rate", data=GREY),
    study("frozen", "no such place", f"{VGG}, frozen_to: pool9", "frozen_to", "no exit at 'pool9'", data=GREY),
    study("frozen-number", "a number", f"{VGG}, frozen_to: 3", "backbones.frozen_to", data=GREY),
    study(
        "norm-grey", "ImageNet's colours for grey", VGG, "normalization", data="channels: 1, normalization: imagenet"
    ),
    study("norm-unknown", "no such normalisation", VGG, "data.normalization", data="normalization: mnist"),
    Case("train-initial", "no file", lambda place: None, f"{OWN} vgg11 --initial no.pt", ("no.pt does not exist",)),
    Case("train-frozen", "no place", lambda place: None, f"{OWN} vgg11 --frozen-to x", ("no exit at 'x'",)),
    Case(
        "train-both",
        "two weights",
        lambda place: place.write("b.pt", b""),
        f"{OWN} vgg11 --initial a.pt --pretrained b.pt",
        ("give one",),
    ),
]


@each([*TORCHVISION, *PLACES, *CODE, *INITIAL])
def test_bad_backbones_are_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
