"""Checkpoints: what they hold, how trials are named, and that weights from outside are data and nothing else."""

import json
import math
import os
import pickle
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict, fields, replace

import pytest
import torch
from safetensors.torch import save_file

from search_spaces.settings import settings_of
from search_spaces.spec import parse_space
from study.checkpoints.description import WeightsId, read_description, trial_id
from study.checkpoints.pretrained import load_pretrained
from study.checkpoints.tensors import build_trained, load_weights, read, save
from study.data.settings import DataInfo
from study.errors import UserError
from study.execution.trial_plan import TrialPlan
from study.networks.construction import new_network
from study.networks.multi_exit import load_backbone_weights
from study.networks.settings import HeadSettings, NetworkSettings
from study.run.trials import draw_trials
from study.storage.publish import DamagedError, publish
from study.training.learning_curves import Epoch
from study.training.loop import TrainingState
from study.training.settings import TrainingSettings

GREY = {"channels": 1, "mean": (0.1,), "std": (0.9,), "settings": {"name": "digits", "limit": 200}}
INFO = DataInfo(
    name="digits",
    image_size=32,
    class_names=("zero", "one", "two"),
    flip=False,
    crop_padding=4,
    digest="d1ge5t",
    **GREY,
)
NETWORK = NetworkSettings(backbone="vgg11", width=0.125, head=HeadSettings(codewords=4))
TRAINING = TrainingSettings(mode="original", seed=7, patience=3, precision="fp32")


def epoch(number: int, score: float) -> Epoch:
    return Epoch(
        epoch=number,
        learning_rate=0.1,
        train_loss=math.nan if math.isnan(score) else 1.5,
        validation_loss=2.0,
        classifier_accuracy=0.5,
        exit_accuracies=(0.25, 0.5),
        score=score,
        seconds=1.0,
    )


@pytest.fixture(scope="module")
def network():
    net = new_network(NETWORK, INFO, 7)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return net


def store(folder, network, scores=(0.3, 0.6), training=TRAINING, optimizer=None, parent="mother@1234") -> None:
    history = tuple(epoch(number, score) for number, score in enumerate(scores, start=1))
    state = TrainingState(history, {"0.step": torch.tensor(3.0)} if optimizer is None else optimizer)
    save(folder, network, state, settings=NETWORK, training=training, info=INFO, parent=parent)


def test_a_checkpoint_comes_back_as_it_was(tmp_path, network):
    optimizer = {"0.step": torch.tensor(3.0), "0.exp_avg": torch.randn(2, 3), "12.step": torch.tensor(4.0)}
    store(tmp_path, network, optimizer=optimizer)
    checkpoint, weights, stored = read(tmp_path / "last")
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
    assert stored.keys() == optimizer.keys() and all(torch.equal(stored[n], v) for n, v in optimizer.items())
    assert (checkpoint.network, checkpoint.training, checkpoint.data) == (NETWORK, TRAINING, INFO)
    assert checkpoint.history == (epoch(1, 0.3), epoch(2, 0.6)) and checkpoint.parent == "mother@1234"
    images = torch.rand(2, 1, 32, 32)
    rebuilt = build_trained(checkpoint, weights, torch.device("cpu"))
    assert not rebuilt.training
    with torch.no_grad():
        assert torch.equal(rebuilt(images), deepcopy(network).to(memory_format=torch.channels_last).eval()(images))


def test_a_checkpoint_says_what_made_it(tmp_path, network):
    store(tmp_path, network)
    raw = json.loads(next((tmp_path / "best").glob("checkpoint-*.json")).read_text())
    assert raw["network"]["backbone"] == "vgg11" and raw["network"]["head"]["codewords"] == 4
    assert raw["training"] == asdict(TRAINING)
    assert raw["data"]["digest"] == "d1ge5t" and raw["data"]["class_names"] == ["zero", "one", "two"]
    assert raw["data"]["mean"] == [0.1] and raw["data"]["settings"]["limit"] == 200
    assert {"predictive-exit", "torch", "torchvision", "numpy", "python", "machine"} <= raw["versions"].keys()
    assert raw["versions"]["torch"] == torch.__version__.partition("+")[0] and raw["format_version"] == 1


def test_best_stays_until_something_is_better(tmp_path, network):
    store(tmp_path, network, scores=[0.5])
    best = read_description(tmp_path / "best")
    for scores in ([0.5, 0.4], [0.5, 0.5], [0.5, math.nan]):
        store(tmp_path, network, scores=scores)
        assert read_description(tmp_path / "best") == best
        assert len(read_description(tmp_path / "last").history) == 2
    assert math.isnan(read_description(tmp_path / "last").history[-1].score)
    store(tmp_path, network, scores=[0.5, 0.6])
    assert len(read_description(tmp_path / "best").history) == 2
    assert read(tmp_path / "best")[2] == {}, "best holds no optimizer"


def test_mode_normal_stores_no_head(tmp_path, network):
    store(tmp_path, network, training=replace(TRAINING, mode="normal"))
    checkpoint, weights, _ = read(tmp_path / "best")
    assert weights and not [name for name in weights if name.startswith("heads.")]
    built = build_trained(checkpoint, weights, torch.device("cpu"))
    assert torch.equal(built.backbone.features[0].weight, network.backbone.features[0].weight)
    with pytest.raises(UserError, match=r"lack heads\."):
        load_weights(new_network(NETWORK, INFO, 0), weights)
    assert read(tmp_path / "nothing") is None and read_description(tmp_path / "nothing") is None


@pytest.mark.parametrize("kind", ["weights", "checkpoint", "optimizer"])
def test_damage_is_told_by_the_file_s_name(tmp_path, network, kind):
    store(tmp_path, network)
    path = next((tmp_path / "last").glob(f"{kind}-*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=path.name):
        read(tmp_path / "last")
    path.write_bytes(data[:-1])
    with pytest.raises(DamagedError, match=path.name):
        read_description(tmp_path / "last")


def test_files_of_another_kind_are_refused(tmp_path, network):
    publish(tmp_path / "a", {"checkpoint.json": b"{}", "weights.safetensors": b""})
    with pytest.raises(DamagedError, match="no checkpoint of this program"):
        read(tmp_path / "a")
    store(tmp_path, network)
    raw = next((tmp_path / "best").glob("checkpoint-*")).read_bytes()
    publish(tmp_path / "b", {"checkpoint.json": raw, "weights.safetensors": b"no tensors"})
    with pytest.raises(DamagedError, match="no readable tensors"):
        read(tmp_path / "b")
    future = json.dumps({**json.loads(raw), "format_version": 99}).encode()
    publish(tmp_path / "c", {"checkpoint.json": future, "weights.safetensors": b""})
    with pytest.raises(UserError, match=r"format 99.*reads format 1"):
        read(tmp_path / "c")


def test_a_trial_has_the_same_name_in_every_process():
    code = (
        "from study.checkpoints.description import *\nfrom study.networks.settings import *\n"
        f"print(trial_id({NETWORK!r}, {TRAINING!r}, 'd1ge5t', 'mother@1234'))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == trial_id(NETWORK, TRAINING, "d1ge5t", "mother@1234")


def test_a_trial_s_name_depends_on_all_that_decides_its_result():
    other: dict[str, object] = {
        "mode": "joint",
        "optimizer": "sgd",
        "rand_augment": 5,
        "frozen_to": "conv1_1",
        "precision": "bf16",
        "crop_padding": 2,
        "reach_epochs": 5,
        "patience": 4,
        "batch_size": 64,
        "schedule_epochs": 2,
        "seed": 8,
    }
    values = {field.name: getattr(TRAINING, field.name) for field in fields(TRAINING)}
    words = {name: one.choices for name, one in settings_of(type(TRAINING)).items() if one.choices}
    other = {name: next(one for one in choices if one != values[name]) for name, choices in words.items()} | other
    other |= {name: 0.5 * value + 0.25 for name, value in values.items() if name not in other}
    trainings = [replace(TRAINING, **{name: other[name]}) for name in values]
    heads = {"kind": "conv", "codewords": 5, "sharing": "none", "conv_channels": 5, "conv_side": 5, "conv_layers": 5}
    heads |= {"pooling": "max_average", "pooling_side": 2, "cascade": 0.5}
    networks = [
        replace(NETWORK, weight_init="dirac"),
        replace(NETWORK, backbone="vgg13"),
        replace(NETWORK, width=0.25),
        *(replace(NETWORK, head=replace(NETWORK.head, **{name: value})) for name, value in heads.items()),
    ]
    whole = {"network": NETWORK, "training": TRAINING, "data_digest": "d", "parent": None}
    changes = [{}, {"data_digest": "e"}, {"parent": "mother@1234"}, {"parent": "mother@5678"}]
    changes += [{"training": training} for training in trainings] + [{"network": network} for network in networks]
    names = [trial_id(**{**whole, **changed}) for changed in changes]
    assert len(set(names)) == len(names) == 4 + len(fields(TRAINING)) + 12


SEARCH = """
name: x
backbones:
  {trials: 3, width: [0.25, 0.5], optimizer: [adam, sgd], learning_rate: {low: 0.001, high: 0.1, log: true},
  precision: fp32}
exits:
  {trials: 3, head: [bof, linear], codewords: {low: 4, high: 64}, weight_decay: {low: 0, high: 0.1}, mode: MODE,
  precision: fp32}
"""


def planned(phase: str, text: str, digest: str, parent: str | None = None) -> list[TrialPlan]:
    trials = draw_trials(parse_space(text, "x"))
    backbones = [replace(plan, parent=parent) for plan in trials.backbones_on(digest)]
    return backbones if phase == "backbones" else trials.exits_on(replace(backbones[0], network=NETWORK), parent)


def drawn(phase: str, mode: str) -> list[TrialPlan]:
    return planned(phase, SEARCH.replace("MODE", mode), "d1ge5t", "mother@1234")


def test_a_later_setting_enters_the_name_only_where_it_is_set():
    training = TrainingSettings(mode="original", precision="fp32")
    assert trial_id(NetworkSettings(), training, "images", None) == "9d4791151c48", "as before the setting was there"
    for later in ({"exits_at": ("pool1",)}, {"head": HeadSettings(tokens="mean")}):
        assert trial_id(NetworkSettings(**later), training, "images", None) != "9d4791151c48"
    again = NetworkSettings.from_plain(json.loads(json.dumps(asdict(NetworkSettings(exits_at=("pool1", "conv2_1"))))))
    assert again == NetworkSettings(exits_at=("pool1", "conv2_1"))


def test_the_names_of_trials_are_known():
    """A run folder is found again only by what is drawn and by its name: a new setting must change neither."""
    assert trial_id(NETWORK, TRAINING, "d1ge5t", "mother@1234") == "29bb6bf4a382"
    names = {
        ("backbones", "exits"): ["83722a814b1b", "078b007d6a30", "164912e031a3"],
        ("exits", "exits"): ["4d745e1efba9", "e2a3c23ac44f", "2c740a1e735f"],
        ("exits", "joint"): ["c91e7fc82dac", "a820f020655b", "91e4847c8eaf"],
    }
    for (phase, mode), expected in names.items():
        assert [plan.trial_id for plan in drawn(phase, mode)] == expected


def test_the_mode_of_the_heads_can_be_searched():
    modes = {plan.training.mode for plan in drawn("exits", "[exits, joint]")}
    assert modes == {"exits", "joint"}
    plans = drawn("exits", "[joint]")
    assert [plan.trial_id for plan in plans] == [plan.trial_id for plan in drawn("exits", "joint")]


@pytest.mark.parametrize("phase", ["backbones", "exits"])
def test_a_trial_s_name_does_not_depend_on_the_epoch_budget(phase):
    def names(epochs: int, rate: float = 0.1) -> list[str]:
        text = f"name: x\n{phase}: {{epochs: {epochs}, schedule: constant, learning_rate: {rate}, precision: fp32}}"
        return [plan.trial_id for plan in planned(phase, text, "digest")]

    assert names(3) == names(30) != names(3, 0.2)


def test_pretrained_weights_come_from_a_folder_a_safetensors_file_or_a_state_dict(tmp_path, network):
    store(tmp_path / "trial", network)
    weights = network.backbone.state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    torch.save(weights, tmp_path / "weights.pth")
    torch.save({"state_dict": weights, "epoch": 7}, tmp_path / "wrapped.pt")
    for name in ("trial", "trial/best", "trial/last", "weights.safetensors", "weights.pth", "wrapped.pt"):
        checkpoint, tensors = load_pretrained(tmp_path / name)
        assert (checkpoint is not None) == name.startswith("trial")
        fresh = new_network(NETWORK, INFO, 99)
        load_backbone_weights(fresh, tensors)
        assert all(torch.equal(value, weights[key]) for key, value in fresh.backbone.state_dict().items())


class Malicious:
    def __init__(self, target) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("way", ["pickle", "torch", "legacy torch", "torch wrapped"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pickle_with_code_in_it_is_refused_and_not_executed(tmp_path, way, suffix):
    path, target = tmp_path / f"weights{suffix}", tmp_path / "executed"
    if way == "pickle":
        path.write_bytes(pickle.dumps(Malicious(target)))
    elif way == "torch wrapped":
        torch.save({"state_dict": {"a": torch.ones(1), "b": Malicious(target)}}, path)
    else:
        torch.save(Malicious(target), path, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(UserError, match="cannot be read as weights") as error:
        load_pretrained(path)
    assert "\n" not in str(error.value) and not target.exists()
    if way == "pickle":
        pickle.loads(path.read_bytes())
        assert target.exists(), "the same file does harm where it is trusted"


def test_weights_of_another_network_are_refused_in_one_line(tmp_path, network):
    torch.save(network.backbone.state_dict(), tmp_path / "three_classes.pt")
    _, tensors = load_pretrained(tmp_path / "three_classes.pt")
    ten = new_network(NETWORK, replace(INFO, class_names=tuple(map(str, range(10)))), 0)
    before = {name: value.clone() for name, value in ten.state_dict().items()}
    with pytest.raises(UserError, match=r"shape \[3, .*this network's is \[10, ") as error:
        load_backbone_weights(ten, tensors)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in ten.state_dict().items())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_under_a_usual_key_is_opened(tmp_path, key):
    weights = {"module.features.0.weight": torch.ones(2, 2)}
    torch.save({key: weights, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "w.pt")
    checkpoint, tensors = load_pretrained(tmp_path / "w.pt")
    assert checkpoint is None
    assert list(tensors) == list(weights)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"garbage" * 99, b"PK\x03\x04 half a zip"])
def test_what_holds_no_weights_is_refused_in_one_line(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as error:
        load_pretrained(tmp_path / name)
    assert "\n" not in str(error.value)


def test_files_with_something_else_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    torch.save({"a": 3}, tmp_path / "numbers.pt")
    for name, message in (("empty", "holds no checkpoint"), ("list.pt", "no state_"), ("numbers.pt", "no state_")):
        with pytest.raises(UserError, match=message):
            load_pretrained(tmp_path / name)


def test_an_identifier_of_weights_survives_text_pickling_and_copies():
    weights = WeightsId("abc123", "0f0f")
    assert (weights.trial_id, weights.digest, weights.file_stem) == ("abc123", "0f0f", "abc123-0f0f")
    assert str(weights) == "abc123@0f0f" and json.dumps([weights]) == '["abc123@0f0f"]'
    for same in (WeightsId.parse("abc123@0f0f"), pickle.loads(pickle.dumps(weights)), deepcopy(weights)):
        assert same == weights and type(same) is WeightsId and same.digest == "0f0f"
