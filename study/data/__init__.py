"""Data sets, splits, and batched on-device preprocessing.

The way of an image: source (torchvision, scikit-learn, a folder) -> uint8 array `[N, C, H, W]` -> cut in
train, calibration and validation (`load_dataset`; the test part has a door of its own, `load_test_set`) ->
a tensor (`place`) -> a batch on the device (`to_device`) -> `augment` (training only) -> `normalize` -> network.
"""

from study.data.batches import augment, normalize, place, to_device
from study.data.image_folder import read_image
from study.data.loading import load_dataset, load_test_set
from study.data.settings import DataInfo, Dataset, DataSettings, ImageSet, resolve

__all__ = [
    "DataInfo",
    "DataSettings",
    "Dataset",
    "ImageSet",
    "augment",
    "load_dataset",
    "load_test_set",
    "normalize",
    "place",
    "read_image",
    "resolve",
    "to_device",
]
