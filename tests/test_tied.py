"""Layers that are called twice, and layers of one weight: trained, compressed, exported, and computed alike."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from harness.export.export import export
from harness.tasks.digits import digits
from harness.train.fit import Trained
from harness.train.predict import normalized
from harness.trial import run as trial
from tests import own_networks
from tests.both_sides import begun, by_onnxruntime, by_torch, trained
from tests.jobs import job

HOW = {
    "float": {},
    "weight": {"quant": {"bits": 8}, "prune": {"kind": "weight", "ratio": 0.5}},
    "channel": {"quant": {"bits": 7}, "prune": {"kind": "channel", "ratio": 0.5, "at": 0.5}},
}


STORED = {  # weights of integers, batch norms that are not folded
    "called, one norm": (3, 0),
    "called, two norms": (3, 2),
    "called, a norm once": (3, 1),
    "tied": (3, 0),
    "tied, two norms": (3, 0),
    "two names": (4, 0),
    "transposed": (2, 0),
    "embedding": (1, 0),
    "parametrized": (1, 0),
}
CUT = {
    **dict.fromkeys(["called, one norm", "called, two norms", "called, a norm once"], ("first", "c")),
    "two names": ("first", "a", "other"),
}
ALONE = {
    "embedding": ("embed", "head"),
    "parametrized": ("first.parametrizations.weight.original0", "first.parametrizations.weight.original1"),
}


@pytest.fixture(scope="module")
def data():
    return digits()


def check_file(made: Trained, path, data) -> None:
    """The file gives torch's logits; an edge of a step may fall to either side."""
    x = data.validation[0][:100]
    got, want = by_onnxruntime(path, x), by_torch(made, normalized(x, data))
    off = np.abs(got - want).max(1) / np.abs(want).max()
    assert (off <= (1e-4 if made.quantized is None else 4e-3)).mean() >= 0.97, np.sort(off)[-5:]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", sorted(own_networks.TIED))
def test_the_file_computes_what_torch_does(name, how, data, templates, tmp_path):
    torch.manual_seed(0)
    made = trained(own_networks.TIED[name](), data, 256, **HOW[how])
    path = tmp_path / "m.onnx"
    export(made, templates, path, data.input_shape, data.mean, data.std)
    check_file(made, path, data)
    layers, norms = STORED[name]
    if how == "weight":
        model = onnx.load(path)
        assert sum(t.data_type == TensorProto.INT8 and len(t.dims) > 1 for t in model.graph.initializer) == layers
        assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == norms
    if how == "channel":
        kept = made.diagnostics["channels_kept"]
        assert {layer for layer, (now, before) in kept.items() if now < before} == set(CUT.get(name, ()))
    assert set(made.diagnostics["left_alone"]) == set(ALONE.get(name, ()))


def test_a_trial_of_tied_layers(tmp_path):
    tree = {
        "task": {"name": "digits"},
        "student": {"model": "tests.own_networks:tied"},
        "train": {"epochs": 3, "lr": 0.1},
        "prune": {"kind": "weight", "ratio": 0.5},
        "quant": {"bits": 8},
    }
    record = trial.run(job(tree, tmp_path))
    assert record.status == "ok", record.reason
    assert record.diagnostics["pruned"] == pytest.approx(0.5, abs=0.01)  # of the 540 weights that there are
    layers = record.diagnostics["audit"]["layers"]
    assert len(layers) == 4 and record.value("accuracy") > 0.3
    assert record.diagnostics["parity"]["disagreements"] <= 2


def test_batch_norms_of_one_scale_are_pulled_once(data):
    regularize = {"regularize": "l1", "on": "scales", "strength": 0.01}
    prune = {"kind": "channel", "ratio": 0.5, "at": 0.5, **regularize}
    module = own_networks.Called("two")
    module.b2.weight = module.b.weight
    pulled = begun(module, data, 256, prune=prune).plan.penalized
    assert pulled.count("b.weight") == 1 and "b2.weight" not in pulled
    made = trained(module, data, 256, prune=prune)
    assert made.module.get_parameter("b2.weight") is made.module.get_parameter("b.weight")
