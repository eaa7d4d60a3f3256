"""Starting from weights: what is taken, what starts anew, which layers learn at which rate, and what stays frozen."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.studies import run_context, tiny_study
from support.tiny_network import TINY, TINY_INFO, image_set
from torch import Tensor
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from results.parts import read_table
from study.checkpoints import initial
from study.checkpoints.initial import fit_initial, load_initial
from study.cli.main import main
from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork, build_network, output_layer
from study.networks.segmenter import segment_module
from study.networks.settings import HeadSettings, NetworkSettings
from study.progress import Reporter
from study.run.run import run_study
from study.training.loop import Trainer
from study.training.settings import TrainingSettings


def tiny(classes: int = 3, channels: int = 1, seed: int = 0) -> MultiExitNetwork:
    torch.manual_seed(seed)
    settings = NetworkSettings(backbone=TINY, head=HeadSettings(kind="linear"))
    return build_network(settings, classes=classes, image_size=8, channels=channels)


def moved(mode: str = "original", **settings: object) -> dict[str, Tensor]:
    """How far one step of SGD moves each tensor."""
    network = tiny()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    split = image_set(32, 0)
    training = TrainingSettings(
        mode=mode, batch_size=32, optimizer="sgd", momentum=0.0, schedule="constant", precision="fp32", **settings
    )
    Trainer(network, training, TINY_INFO).run_epoch(torch.from_numpy(split.images), torch.from_numpy(split.labels), 1)
    return {name: (tensor - before[name]).float() for name, tensor in network.state_dict().items()}


def test_all_but_heads_and_output_layer_learn_at_a_share_of_the_rate() -> None:
    full, slow = moved("joint"), moved("joint", backbone_rate=0.25)
    for name, step in full.items():
        if "running" in name or "num_batches" in name:
            continue
        new = name.startswith(("heads.", "backbone.8."))
        torch.testing.assert_close(slow[name], step * (1.0 if new else 0.25), atol=1e-6, rtol=1e-3)
    assert all(full[f"backbone.{name}"].abs().max() > 0 for name in ("0.weight", "3.weight", "8.weight"))


def test_the_backbone_up_to_a_place_stays_as_it_is() -> None:
    steps = moved("joint", frozen_to="one")
    still = {name for name, step in steps.items() if not step.any()}
    assert still == {name for name in steps if name.startswith(("backbone.0.", "backbone.1."))}
    with pytest.raises(UserError, match="frozen_to: there is no exit at 'three': known are one, two"):
        moved(frozen_to="three")


@pytest.mark.parametrize("lever", [{"exit_gradient": 0.25}, {"exit_gradient_rule": "equilibrium"}])
def test_exits_on_frozen_segments_send_no_gradients(lever: dict[str, object]) -> None:
    steps = moved("joint", frozen_to="one", **lever)
    assert not steps["backbone.0.weight"].any() and steps["backbone.3.weight"].any()
    assert all(steps[name].any() for name in steps if name.startswith("heads."))


def test_the_output_layer_of_other_classes_starts_anew() -> None:
    source, target = tiny(classes=7, seed=1), tiny(classes=3)
    assert output_layer(target) == ["8.weight", "8.bias"]
    weights = {f"module.{name}": tensor for name, tensor in source.backbone.state_dict().items()}
    fitted = fit_initial("w.pt", target, weights)
    assert fitted.anew == ["8.weight", "8.bias"]
    assert set(fitted.kept) == set(target.backbone.state_dict()) - set(fitted.anew)
    assert fitted.changes == ["w.pt: 8 is for 7 classes, these images have 3: this layer starts anew"]
    assert fit_initial("w.pt", tiny(classes=7), weights).changes == []
    others = {name: tensor for name, tensor in fitted.kept.items() if name != "0.weight"}
    with pytest.raises(UserError, match=r"they lack 0\.weight and 2 more; they hold stem\.weight"):
        fit_initial("w.pt", target, {**others, "stem.weight": torch.ones(1)})


@torch.no_grad()
def test_weights_for_colour_images_fit_grey_ones_and_the_reverse() -> None:
    colour, grey = tiny(channels=3, seed=1).eval(), tiny().eval()
    images = torch.rand(4, 1, 8, 8)
    fitted = fit_initial("w.pt", grey, colour.backbone.state_dict())
    assert fitted.changes == ["w.pt: 0.weight is for colour images: its kernels are summed over the channels"]
    grey.backbone.load_state_dict(dict(fitted.kept))
    assert torch.allclose(grey.classify(images), colour.classify(images.expand(-1, 3, -1, -1)), atol=1e-5)
    back = fit_initial("w.pt", colour, grey.backbone.state_dict())
    assert back.changes == ["w.pt: 0.weight is for grey images: its kernels are repeated for each channel, at a third"]
    colour.backbone.load_state_dict(dict(back.kept))
    assert torch.allclose(grey.classify(images), colour.classify(images.expand(-1, 3, -1, -1)), atol=1e-5)


def test_positions_of_patches_are_interpolated_as_torchvision_does() -> None:
    sizes = {"patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8, "num_classes": 3}
    torch.manual_seed(0)
    large, small = (VisionTransformer(image_size=size, **sizes) for size in (32, 16))
    torch.nn.init.normal_(large.encoder.pos_embedding)
    given = large.state_dict()
    segmented = segment_module(small, ["encoder.layers"], image=(3, 16, 16), name="vit", class_token=True)
    network = MultiExitNetwork(segmented, HeadSettings(kind="linear"), classes=3, input_shape=(3, 16, 16))
    fitted = fit_initial("w.pt", network, given)
    name = "encoder.pos_embedding"
    assert fitted.changes == [f"w.pt: {name} is for 65 tokens, this network has 17: the positions are interpolated"]
    expected = interpolate_embeddings(16, 4, OrderedDict(given))[name]
    torch.testing.assert_close(fitted.kept[name], expected)
    with pytest.raises(UserError, match=r"encoder\.pos_embedding has shape"):
        fit_initial("w.pt", network, {**given, name: torch.ones(1, 60, 8)})


@pytest.mark.parametrize(
    ("name", "backbones", "told"),
    [
        ("torchvision:IMAGENET1K_V1", ["vgg19"], "needs one backbone torchvision:NAME, not vgg19"),
        (
            "torchvision:IMAGENET9",
            ["torchvision:resnet18"],
            "has no weights torchvision:IMAGENET9: known are IMAGENET1K",
        ),
        ("torchvision:IMAGENET1K_V1", ["torchvision:resnet18"], "fetch it with --download"),
        ("nowhere.pt", ["torchvision:resnet18"], "nowhere.pt does not exist"),
    ],
)
def test_weights_that_are_not_here_are_told(
    name: str, backbones: list[str], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(initial.torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError) as error:
        load_initial(name, backbones, download=False)
    assert told in str(error.value)


def test_published_weights_are_fetched_only_when_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetch(url: str, **options: object) -> None:
        assert options["check_hash"] and options["weights_only"]
        (tmp_path / "checkpoints").mkdir()
        torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "checkpoints" / url.rpartition("/")[2])

    monkeypatch.setattr(initial.torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(initial.torch.hub, "load_state_dict_from_url", fetch)
    for _ in range(2):  # the second time from the cache
        found = load_initial("torchvision:IMAGENET1K_V1", ["torchvision:resnet18"], download=True)
        assert list(found) == ["fc.weight"]


def vgg_of_seven(folder: Path) -> Path:
    torch.manual_seed(3)
    settings = NetworkSettings(backbone="vgg11", width=0.125)
    network = build_network(settings, classes=7, image_size=32, channels=1)
    save_file(network.backbone.state_dict(), folder / "w.safetensors")
    return folder / "w.safetensors"


def test_a_study_starts_from_weights_of_other_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = vgg_of_seven(tmp_path)
    changes = {"initial": str(file), "trials": 1, "epochs": 1, "scheduler": {"kind": "none"}, "backbone_rate": 0.1}
    spec = tiny_study(backbones=changes, exits={"trials": 1, "head": "linear"}, operating_points={"trials": 2})
    where = run_context(tmp_path / "runs" / "tiny")
    run_study(spec, where)
    trials = read_table(where.tables, "trials").set_index("phase")
    assert trials.loc["backbones", "parent"].startswith("weights@")
    assert set(trials["status"]) == {"finished"}
    (stored,) = (where.folder / "initial").iterdir()
    assert trials.loc["backbones", "parent"] == f"weights@{stored.name}"
    before = {path: path.stat().st_mtime_ns for path in where.checkpoints.rglob("*.safetensors")}
    file.unlink()
    capsys.readouterr()
    run_study(spec, replace(where, reporter=Reporter()))
    assert f"backbones.initial: {file} does not exist; the copy in {stored} is used" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in where.checkpoints.rglob("*.safetensors")}

    (stored / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"w\.safetensors does not exist, and .* holds no whole copy: put the"):
        run_study(spec, where)
    with pytest.raises(UserError, match=r"w\.safetensors does not exist: give a checkpoint folder"):
        run_study(spec, run_context(tmp_path / "runs" / "new"))


def test_train_fine_tunes_and_says_what_starts_anew(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = vgg_of_seven(tmp_path)
    command = (
        f"train --backbone vgg11 --width 0.125 --limit 240 --epochs 1 --device cpu --precision fp32 --initial {file}"
    )
    assert main([*command.split(), "--frozen-to", "conv2_1", "--output", str(tmp_path / "model")]) == 0
    assert (
        f"{file}: classifier is for 7 classes, these images have 10: this layer starts anew" in capfd.readouterr().err
    )
