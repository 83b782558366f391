"""Importances name only what can touch an objective; what can is read from exported files."""

import json

import pytest

from harness.methods import REQUIRED
from harness.registries import REGISTRIES
from harness.search.importances import touches
from harness.space.space import load_space
from harness.trial import run as trial
from tests.jobs import job
from tests.searching import SPACE, search_here, space_of

TREE = {"task": {"name": "digits"}, "student": {"model": "convnet", "width": 8}, "train": {"epochs": 1}}
CHANGED = {"ratio": 0.6, "round_to": 3, "scope": "global", "of": "weights", "bits": 6, "activation_bits": 4}
CASES = [
    *(("prune", kind, method) for kind, method in REGISTRIES.pruners.items()),
    *(("quant", kind, method) for kind, method in REGISTRIES.quantizers.items()),
]


def other(name, param):
    """A value beside the default."""
    if param.choices:
        return next(c for c in param.choices if c != param.default)
    if param.type is bool:
        return not param.default
    return {"percentile": 80.0, "range": 1.5, "strength": 1e-2, "attempts": 2}.get(name, 1.0)


def cost(section, options, folder):
    found = trial.untrained(job({**TREE, "quant": {"bits": 3}, section: options}, folder).recipe, folder)
    return found.structure, found.size_bytes


@pytest.mark.parametrize(("section", "kind", "method"), CASES, ids=[f"{s}.{k}" for s, k, _ in CASES])
def test_what_is_declared_to_shape_a_file_does_and_nothing_else(section, kind, method, tmp_path):
    """All options that do not shape it at other values at once: the same graph and bytes. Each that does: another."""
    needed = {n: {"ratio": 0.3, "bits": 3}[n] for n, p in method.options.items() if p.default is REQUIRED}
    usual = {"kind": kind, **needed}
    before = cost(section, usual, tmp_path)
    free = {n: other(n, p) for n, p in method.options.items() if not p.shapes and p.default is not REQUIRED}
    assert cost(section, usual | free, tmp_path) == before
    bits = {"bits": 4} if kind == "power_of_two" else {}
    for name in (n for n, p in method.options.items() if p.shapes):
        changed = cost(section, usual | {name: (CHANGED | bits)[name]}, tmp_path)
        assert changed[0] != before[0] or changed[1] != before[1], name


def run(folder, number, **sections):
    """Structure and bytes of a trained file."""
    record = trial.run(job({**TREE, **sections, "seed": 3}, folder / str(number), number))
    assert record.status == "ok", record.reason
    return record.structure, record.artifact.size_bytes


def trained(folder, **sections):
    """With a small and with a large learning rate."""
    train = {"epochs": 3, "schedule": "constant"}
    rates = ((0, 1e-4, {"kind": "none"}), (1, 0.3, {"kind": "norm", "threshold": 0.5}))
    return [run(folder, n, train={**train, "lr": lr}, clip=clip, **sections) for n, lr, clip in rates]


def test_training_touches_what_the_declarations_say(tmp_path):
    """Channels: neither. Single weights: the bytes. Channels by attempts: both. Entropy coding: the bytes."""
    low, high = trained(tmp_path / "a", prune={"kind": "channel", "ratio": 0.4}, quant={"bits": 3})
    assert low == high
    weight = {"kind": "weight", "ratio": 0.9, "scope": "global"}
    low, high = trained(tmp_path / "b", prune=weight, quant={"bits": 8}, student={"model": "mlp", "hidden": [64, 64]})
    assert low[0] == high[0] and low[1] != high[1]
    attempts = {"kind": "rollback", "ratio": 0.8, "tolerance": 0.0, "step": 0.4}
    low, high = trained(tmp_path / "c", prune=attempts, quant={"bits": 8})
    assert low[0] != high[0] and low[1] != high[1]
    low, high = trained(tmp_path / "d", quant={"bits": 4}, deploy={"format": "packed"})
    assert low[0] == high[0] and low[1] != high[1]


HEAD = """
task: {name: digits}
teacher: {model: convnet, width: {choice: [16, 32]}}
student: {model: convnet, width: {choice: [4, 8]}}
train: {epochs: 2, lr: {float: [0.01, 0.3]}}
distill: {kind: logits, weight: {float: [0, 1]}, temperature: {float: [1, 10]}}
"""
QUANT = "quant: {bits: {choice: [2, 8]}, start: {float: [0, 1]}, activation_bits: {int: [2, 8]}}\n"
TRAINING = {"teacher.width", "train.lr", "distill.weight", "distill.temperature", "quant.start"}
SHAPING = {"student.width", "quant.bits", "quant.activation_bits"}
SPACES = {
    "channels": (
        "prune: {kind: channel, ratio: {float: [0, 0.9]}, at: {float: [0, 1]}}\n",
        SHAPING | {"prune.ratio"},
        SHAPING | {"prune.ratio"},
    ),
    "together": (
        "prune: {kind: channel, scope: global, ratio: {float: [0, 0.9]}}\n",
        SHAPING | TRAINING | {"prune.ratio"},
        SHAPING | TRAINING | {"prune.ratio"},
    ),
    "weights": (
        "prune: {kind: weight, ratio: {float: [0, 0.9]}}\n",
        SHAPING | TRAINING | {"prune.ratio"},
        SHAPING,
    ),
    "attempts": (
        "prune: {kind: {choice: [none, rollback]}, ratio: {float: [0, 0.9]}}\n",
        SHAPING | TRAINING | {"prune.kind", "prune.ratio"},
        SHAPING | TRAINING | {"prune.kind", "prune.ratio"},
    ),
    "packed": ("deploy: {format: {choice: [onnx, packed]}}\n", SHAPING | TRAINING | {"deploy.format"}, SHAPING),
    "run": (
        "deploy: {threads: {choice: [1, 2]}, runtime: {choice: [onnxruntime, openvino]}}\n",
        SHAPING | {"deploy.runtime"},
        SHAPING | {"deploy.runtime", "deploy.threads"},
    ),
    "by_layer": (
        "prune: {kind: channel, ratio: {default: 0.1, first: {float: [0, 0.5]}}}\n",
        SHAPING | {"prune.ratio.first"},
        SHAPING | {"prune.ratio.first"},
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_who_can_touch_size_and_latency(name, tmp_path):
    text, size, latency = SPACES[name]
    if name == "attempts":  # kinds that share no options are branches
        text = "prune: {choice: [{kind: none}, {kind: rollback, ratio: {float: [0, 0.9]}}]}\n"
        size, latency = ((s - {"prune.kind"}) | {"prune"} for s in (size, latency))
    (tmp_path / "space.yaml").write_text(HEAD + QUANT + text)
    space = load_space(tmp_path / "space.yaml")
    for objective, wanted in (("size_bytes", size), ("latency_ms", latency), ("accuracy", None)):
        found = {h.name for h in space.holes if touches(space, h, objective)}
        assert found == (wanted or {h.name for h in space.holes}), objective


def test_a_branch_knows_its_own_kind(tmp_path):
    """When channels go is nothing to the bytes, though in the other branch training decides them."""
    branches = "prune: {choice: [{kind: channel, ratio: 0.5, at: {float: [0, 1]}}, {kind: weight, ratio: 0.5}]}\n"
    (tmp_path / "space.yaml").write_text(HEAD + branches)
    space = load_space(tmp_path / "space.yaml")
    found = {h.name for h in space.holes if touches(space, h, "size_bytes")}
    assert "train.lr" in found and "prune" in found and "prune.at" not in found


def test_a_study_scores_no_parameter_for_what_it_cannot_touch(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_FAKE", str(tmp_path))
    text = SPACE.replace("[4, 8, 16]", "[4, 8, 16, 32, 64]").replace("trials: 14", "trials: 30, sampler: random")
    space = space_of(tmp_path, text=text)
    search_here(space, tmp_path / "study")
    found = json.loads((tmp_path / "study" / "importances.json").read_text())
    for objective in ("size_bytes", "latency_ms"):
        assert set(found[objective]) == {"student.width", "quant.bits"}
        assert found[objective]["student.width"] > 0.7, "the fake's bytes are those of its width"
    assert {"train.lr", "distill.weight"} < set(found["accuracy"])
