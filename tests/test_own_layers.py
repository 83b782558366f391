"""Attention, recurrent layers and linear layers on sequences: trained, compressed, exported, and computed alike."""

import numpy as np
import pytest
import torch
from torch import nn

from harness.export.export import export
from harness.measure.audit import audit
from harness.tasks.digits import digits
from harness.train.fit import Trained
from harness.train.predict import normalized
from harness.train.quantization_points import left_alone, weighted_layers
from harness.train.shrink import shrink
from tests.both_sides import by_onnxruntime, by_torch, trained
from tests.own_networks import encoder, recurrent

BUILDERS = {
    "encoder": encoder,
    "lstm": recurrent,
    "gru": lambda shape, classes: recurrent(shape, classes, kind="GRU"),
    "shared": lambda shape, classes: Shared(shape[-1], classes),
}
UNTOUCHED = {"encoder": 3, "lstm": 1, "gru": 1, "shared": 0}  # parts that are exported as they are

# Unpacking a stream costs more bytes than these small layers save.
STORED_WIDER = {("gru", 2): "int4", ("lstm", 2): "int4", ("shared", 2): "int4", ("shared", 7): "int8"}


class Shared(nn.Module):
    """One linear layer called twice, on sequences of other values; a mask that is no part of the state."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.mix = nn.Linear(features, features, bias=False)
        self.head = nn.Linear(features, classes)
        self.register_buffer("mask", torch.linspace(0.5, 1.5, features), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mix(torch.relu(self.mix(x.squeeze(1)) * self.mask))
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def data():
    return digits()


def built(name: str, data, bits: int, **sections) -> Trained:
    torch.manual_seed(0)
    return trained(BUILDERS[name](data.input_shape, 10), data, 512, quant={"bits": bits}, **sections)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 8, 4, 2])
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_the_file_computes_what_torch_does(name, bits, data, templates, tmp_path):
    if (name, bits) == ("shared", 8):
        bits = 7  # onnxruntime cannot turn a weight that two products share to uint8, as x64quantprecision has it
    made, path = built(name, data, bits), tmp_path / "m.onnx"
    export(made, templates, path, data.input_shape, data.mean, data.std)
    x = data.validation[0][:200]
    want = by_torch(made, normalized(x, data))
    got = by_onnxruntime(path, x)
    if bits == 32:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    else:  # the file's biases are whole steps of weight times activation; an edge may fall to either side
        close = np.abs(got - want).max(1) <= {8: 2e-3, 7: 4e-3, 4: 1e-2, 2: 2e-2}[bits] * np.abs(want).max()
        assert close.mean() >= 0.98 and (got.argmax(1) == want.argmax(1)).mean() >= 0.98
    stored = [layer.stored for layer in audit(path).layers]
    layers = weighted_layers(made.module)
    narrow = {32: "float32", 8: "int8", 7: "7-bit", 4: "int4", 2: "2-bit"}[bits]
    if (name, bits) in STORED_WIDER:
        narrow = STORED_WIDER[name, bits]
    assert stored.count(narrow) >= len(layers)  # one that is called twice is listed twice
    assert len(left_alone(made.module)) == UNTOUCHED[name]


@pytest.mark.slow
def test_linear_layers_on_sequences_run_on_integer_kernels(data, templates, tmp_path):
    path = tmp_path / "m.onnx"
    export(built("encoder", data, 8), templates, path, data.input_shape, data.mean, data.std)
    operators = audit(path).operators
    assert operators["DequantizeLinear"] > 0 and "MatMul" in operators
    narrow = [layer for layer in audit(path).layers if layer.stored == "int8"]
    assert len(narrow) == 6 and all(layer.integer for layer in narrow)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder", "lstm", "gru"])
def test_channel_pruning_takes_what_is_free_and_leaves_the_rest(name, data, templates, tmp_path):
    made, path = built(name, data, 8, prune={"kind": "channel", "ratio": 0.5, "at": 0.5}), tmp_path / "m.onnx"
    kept = made.diagnostics["channels_kept"]
    free = {"encoder": ["layers.layers.0.linear1", "layers.layers.1.linear1"]}.get(name, ["hidden"])
    assert all(kept[layer][0] == kept[layer][1] // 2 for layer in free)
    assert all(now == before for layer, (now, before) in kept.items() if layer not in free)
    export(made, templates, path, data.input_shape, data.mean, data.std)
    x = data.validation[0][:100]
    want = by_torch(made, normalized(x, data))
    got = by_onnxruntime(path, x)
    assert (got.argmax(1) == want.argmax(1)).mean() >= 0.98


class Heads(nn.Module):
    """Attention of a user's own: the widths of query and key are split into heads."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out, self.wide, self.head = nn.Linear(8, 8), nn.Linear(8, 32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.squeeze(1)
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        seen = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(torch.relu(self.wide(self.out(seen)))).mean(1)


def test_a_removal_that_would_change_the_function_is_left_out():
    torch.manual_seed(0)
    module = Heads().eval()
    small, slices, kept = shrink(module, (1, 8, 8), lambda channels: torch.arange(len(channels.weights) // 2))
    assert kept["wide"] == (16, 32)
    assert kept["query"] == kept["key"] == (8, 8)
    masked = Heads().eval()
    masked.load_state_dict(
        {
            name: values * torch.zeros(values.numel()).index_fill(0, slices[name].flatten(), 1).reshape(values.shape)
            for name, values in module.state_dict().items()
        }
    )
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(small.eval()(x), masked(x), rtol=1e-4, atol=1e-5)
