"""Tasks: functions that return a :class:`harness.tasks.data.Data` (three disjoint parts).

Input: the options of a recipe's ``task``. Output: checked arrays. Nothing here trains. Only the torchvision tasks
download anything, and only with ``download: true``. A new task is one function and one line in ``TASKS``.
"""

from __future__ import annotations

from harness.methods import Method, Param

_HERE = "harness.tasks"
_SPLIT = {
    "validation": Param(float, 0.15, low=0, high=1, low_open=True, high_open=True, doc="share of train"),
    "split_seed": Param(int, 0, low=0, doc="of the split into train and validation"),
    "split": Param(str, "", doc="an .npz of row numbers, train and validation; replaces the seeded split"),
}
_SUBSET = {"train_limit": Param(int, 0, low=0, doc="number of training samples to use (0: all)")}
_TORCHVISION = {**_SPLIT, **_SUBSET, "root": Param(str, "", doc="folder with the data; default: that in HARNESS_DATA")}
_TORCHVISION["download"] = Param(bool, True, doc="into the cache, where the data are not found")

TASKS = {
    "digits": Method(
        f"{_HERE}.digits:digits",
        {
            **_SPLIT,
            "test": Param(float, 0.2, low=0, high=1, low_open=True, high_open=True, doc="share set aside"),
        },
    ),
    "mnist": Method(f"{_HERE}.vision:mnist", _TORCHVISION),
    "fashion_mnist": Method(f"{_HERE}.vision:fashion_mnist", _TORCHVISION),
    "cifar10": Method(f"{_HERE}.vision:cifar10", _TORCHVISION),
    "arrays": Method(
        f"{_HERE}.arrays:arrays",
        {
            **_SPLIT,
            **_SUBSET,
            "train": Param(str, doc="an .npz with x and y, a glob of several, or one .npz with all parts"),
            "test": Param(str, "", doc="as train; without it, a share of train or the file's own x_test"),
            "test_share": Param(float, 0.2, low=0, high=1, low_open=True, high_open=True, doc="if there is no test"),
            "validation_samples": Param(str, "", doc="an .npz as train, instead of a share of train"),
        },
    ),
}
