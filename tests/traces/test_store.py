"""The store of traces: computed once, read afterwards."""

import numpy as np
import pytest
import torch
from support.tiny_network import TINY, image_set

from study import UserError
from study.checkpoints.description import WeightsId, read_description
from study.checkpoints.tensors import save
from study.data.settings import DataInfo
from study.networks.construction import new_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.traces import store as module
from study.traces.files import stored_traces, write_trace
from study.traces.store import TraceStore
from study.traces.trace import SplitLogits
from study.training.learning_curves import Epoch
from study.training.loop import TrainingState
from study.training.settings import TrainingSettings

INFO = DataInfo(
    name="grey",
    image_size=8,
    class_names=("a", "b", "c"),
    flip=False,
    crop_padding=0,
    digest="d1ge5t",
    channels=1,
    mean=(0.4,),
    std=(0.2,),
    settings={},
)
NETWORK = NetworkSettings(backbone=TINY, head=HeadSettings(kind="linear"))
IMAGES = {"calibration": image_set(30, 1), "validation": image_set(40, 2)}


@pytest.fixture
def store(tmp_path) -> TraceStore:
    network = new_network(NETWORK, INFO, 3)
    epoch = Epoch(
        epoch=1,
        learning_rate=0.1,
        train_loss=1.0,
        validation_loss=1.0,
        classifier_accuracy=0.5,
        exit_accuracies=(0.5, 0.5),
        score=0.5,
        seconds=1.0,
    )
    save(
        tmp_path / "checkpoints" / "trial",
        network,
        TrainingState((epoch,), {}),
        settings=NETWORK,
        training=TrainingSettings(mode="original"),
        info=INFO,
        parent=None,
    )
    return TraceStore(tmp_path / "traces", tmp_path / "checkpoints", IMAGES["calibration"], torch.device("cpu"))


def weights_of(store: TraceStore) -> WeightsId:
    return WeightsId("trial", read_description(store.checkpoints / "trial" / "best").weights_hash)


def test_a_network_is_loaded_once_for_all_splits_and_never_for_a_stored_trace(store, monkeypatch):
    loaded, load = [], module.load_best
    monkeypatch.setattr(module, "load_best", lambda *arguments: loaded.append(arguments) or load(*arguments))
    weights = weights_of(store)
    first = {name: store.get(weights, "fp32", name, images, f"digest-{name}") for name, images in IMAGES.items()}
    assert len(loaded) == 1
    for name, images in IMAGES.items():
        again = store.get(weights, "fp32", name, images, f"digest-{name}")
        np.testing.assert_array_equal(again.logits, first[name].logits)
        np.testing.assert_array_equal(again.labels, images.labels)
    assert len(loaded) == 1
    found = {one.split: one for one in stored_traces(store.traces)}
    assert found.keys() == IMAGES.keys()
    assert {(one.weights, one.precision) for one in found.values()} == {(weights, "fp32")}
    assert weights.trial_id == "trial"


def test_other_images_at_the_same_place_are_traced_anew(store):
    weights = weights_of(store)
    one = store.get(weights, "fp32", "validation", IMAGES["validation"], "first-digest")
    assert store.find(weights, "fp32", "validation", "other-digest") is None
    other = store.get(weights, "fp32", "validation", image_set(40, 5), "other-digest")
    assert not np.array_equal(one.logits, other.logits)


def test_weights_that_the_checkpoint_does_not_hold_are_refused(store):
    with pytest.raises(UserError, match="does not hold the weights"):
        store.get(WeightsId("trial", "0" * 16), "fp32", "validation", IMAGES["validation"], "digest")


@pytest.mark.parametrize("half", [False, True])
def test_logits_in_another_order_of_memory_are_written_as_they_read(tmp_path, half):
    logits = np.arange(24, dtype=np.float32).reshape(3, 2, 4).transpose(1, 0, 2)
    split = SplitLogits(logits, np.array([0, 9, 3])[::2])
    write_trace(tmp_path / "one", split, {"weights": "a@b", "precision": "fp32", "split": "validation"}, half=half)
    (stored,) = stored_traces(tmp_path)
    assert np.array_equal(stored.read().logits, logits) and stored.read().labels.tolist() == [0, 3]


@pytest.mark.parametrize("half", [False, True])
def test_logits_are_mapped_and_the_file_stays_as_it_is(tmp_path, half):
    split = SplitLogits(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.array([0, 3]))
    write_trace(tmp_path / "one", split, {"weights": "a@b", "precision": "fp32", "split": "validation"}, half=half)
    (stored,) = stored_traces(tmp_path)
    found = stored.read()
    assert found.logits.dtype == np.float32 and np.array_equal(found.logits, split.logits)
    assert np.array_equal(found.labels, split.labels)
    if not half:
        base = found.logits
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap) and found.logits.flags.aligned
    found.logits[:] = 7
    assert np.array_equal(stored.read().logits, split.logits)
