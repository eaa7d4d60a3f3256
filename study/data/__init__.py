"""Data sets, splits, and preprocessing in batches on the device.

An image passes these steps: source (torchvision, scikit-learn, a folder) -> uint8 array ``[N, C, H, W]`` -> the splits
train, calibration and validation (``loading.load_dataset``), or test (``loading.load_test_set``) -> a tensor
(``batches.place``) -> a batch on the device (``to_device``) -> ``augment`` (training only) -> ``normalize`` -> network.
"""
