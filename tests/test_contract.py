"""The declarations in the registries say exactly what the functions take, and a trial's record says
what its file holds: zeros, levels, bytes and accuracy are read here with onnx alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from harness.errors import SpaceError
from harness.methods import REQUIRED, Method, Param
from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.trial import run as trial
from harness.trial import score as scoring
from tests.jobs import job

TECHNIQUES = ("clips", "pruners", "quantizers", "distills")
BROUGHT = {"models": ("input_shape", "classes"), "tasks": ()}  # by the caller, beside the recipe's options
ALL = [
    (kind, name, method)
    for kind in ("tasks", "models", *TECHNIQUES, "runtimes")
    for name, method in getattr(REGISTRIES, kind).items()
]
IDS = [f"{kind}.{name}" for kind, name, _ in ALL]
CONFIGURED = [case for case in ALL if case[0] != "runtimes"]


def own_parameters(kind: str, method: Method) -> Mapping[str, inspect.Parameter]:
    """The function's parameters that the recipe fills: keyword-only ones of a technique, those
    after ``(input_shape, classes)`` of a model, all of a task."""
    parameters = inspect.signature(method.load()).parameters
    if kind in TECHNIQUES:
        return {n: p for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return {n: p for n, p in parameters.items() if n not in BROUGHT[kind]}


def same(declared: Any, written: Any) -> bool:
    if isinstance(declared, list):
        return list(written) == declared
    return type(declared) is type(written) and declared == written


@pytest.mark.parametrize(("kind", "name", "method"), ALL, ids=IDS)
def test_the_target_can_be_loaded_and_says_what_it_is(kind: str, name: str, method: Method) -> None:
    found = method.load()
    assert found.__doc__, "a method opens with what it does"
    assert found.__module__.startswith("harness.")


@pytest.mark.parametrize(("kind", "name", "method"), CONFIGURED, ids=IDS[: len(CONFIGURED)])
def test_declared_parameters_are_the_functions(kind: str, name: str, method: Method) -> None:
    parameters = own_parameters(kind, method)
    assert set(parameters) == set(method.params)
    for option, parameter in parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty, f"{option} has no type"
        assert parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
        declared = method.params[option].default
        if parameter.default is not inspect.Parameter.empty:
            assert same(declared, parameter.default), f"{option}: {declared!r} is not {parameter.default!r}"


@pytest.mark.parametrize(("kind", "name", "method"), CONFIGURED, ids=IDS[: len(CONFIGURED)])
def test_defaults_and_off_values_obey_their_own_ranges(kind: str, name: str, method: Method) -> None:
    for option, param in method.options.items():
        if param.default is not REQUIRED:
            assert param.check(option, param.default) == param.default
    for option, value in (method.off or {}).items():
        assert method.options[option].check(option, value) == value


@pytest.mark.parametrize(
    ("kind", "section"), [*zip(TECHNIQUES, ("clip", "prune", "quant", "distill"), strict=True)], ids=TECHNIQUES
)
def test_a_technique_that_a_recipe_does_not_name_is_off(kind: str, section: str) -> None:
    recipe = parse_recipe({"task": {"name": "digits"}, "student": {"model": "mlp"}}, REGISTRIES)
    chosen = getattr(recipe, section)
    off = getattr(REGISTRIES, kind)[chosen.name].off
    assert off is not None
    assert {option: chosen.options[option] for option in off} == off


@pytest.mark.parametrize("kind", TECHNIQUES)
def test_methods_of_one_technique_are_called_alike(kind: str) -> None:
    """The step calls every method of a technique with the same tensors, in the same places."""
    positional = set()
    for method in getattr(REGISTRIES, kind).values():
        parameters = inspect.signature(method.load()).parameters.values()
        positional.add(sum(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters))
    assert len(positional) == 1


@pytest.mark.parametrize(
    "param",
    [
        Param(float, low=0, high=1),
        Param(int, low=1),
        Param(str, choices=("a", "b")),
        Param(bool),
        Param(list, low=1),
    ],
)
def test_a_wrong_value_is_answered_with_the_rule(param: Param) -> None:
    for value in (None, object(), float("nan"), {}):
        with pytest.raises(SpaceError, match=r"^x.*: must be"):
            param.check("x", value)


WEIGHT, OTHERS = "weight", ("none", "channel", "rollback")
WITHOUT_ZERO = {"dorefa", "pact"}  # their grids: every zero in the file is a pruned weight
WIDTHS = [(kind, bits) for kind, m in REGISTRIES.quantizers.items() for bits in m.params["bits"].choices if bits < 32]
FILED = [
    *((kind, bits, WEIGHT, {"ratio": ratio, "scope": scope, "end": 0.5})
      for i, (kind, bits) in enumerate(WIDTHS)
      for ratio, scope in [((0.9, "layer"), (0.6, "global"), (0.3, "layer"), (0.97, "global"))[i % 4]]),
    *((kind, bits, OTHERS[i % 3], {} if i % 3 == 0 else {"ratio": 0.4, "at": 0.0})
      for i, (kind, bits) in enumerate(WIDTHS[::3])),
    *((kind, bits, "rollback", {"ratio": 0.5, "of": of, "at": 0.0, "step": 0.25, "tolerance": 1.0})
      for kind, bits, of in [("uniform", 1, "weights"), ("lsq", 1, "both"), ("dorefa", 2, "weights"),
                             ("standardized", 3, "both"), ("power_of_two", 2, "weights")]),
]  # fmt: skip
FILED_IDS = [f"{kind}{bits}-{prune}{options.get('ratio', '')}" for kind, bits, prune, options in FILED]


def read_file(path: Path, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits, and the integers of every weight, computed from the file by onnx's reference operators."""
    model = onnx.load(path)
    made_by = {name: node for node in model.graph.node for name in node.output}
    names = []
    for node in model.graph.node:
        source = made_by.get(node.input[1]) if node.op_type in ("Conv", "Gemm") else None
        if source is not None and source.op_type == "DequantizeLinear":
            names.append(source.input[0])
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    unfolded = [name for name in names if name not in stored]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unfolded)
    logits, *values = ReferenceEvaluator(model).run(None, {"input": x})
    stored |= dict(zip(unfolded, values, strict=True))
    return logits, [stored[name] for name in names]


@pytest.mark.parametrize(("kind", "bits", "prune", "options"), FILED, ids=FILED_IDS)
def test_the_record_says_what_the_file_holds(
    tmp_path: Path, kind: str, bits: int, prune: str, options: dict[str, Any]
) -> None:
    tree = {
        "task": {"name": "digits"},
        "student": {"model": "mlp", "hidden": [24, 12]},
        "train": {"epochs": 2, "batch_size": 32, "lr": 0.1},
        "prune": {"kind": prune, **options},
        "quant": {"kind": kind, "bits": bits},
    }
    record = trial.run(job(tree, tmp_path))
    assert record.status == "ok", record.reason
    path = tmp_path / "model.onnx"
    x, y = scoring.data_of(parse_recipe(tree, REGISTRIES)).validation
    logits, weights = read_file(path, x.float().numpy())
    assert [w.dtype for w in weights] == [np.int8] * 3
    zeros, total = sum(int((w == 0).sum()) for w in weights), sum(w.size for w in weights)
    assert record.diagnostics["sparsity"] == pytest.approx(zeros / total, abs=1e-12)
    assert record.diagnostics["pruned"] <= record.diagnostics["sparsity"]
    levels = [set(np.unique(w).tolist()) for w in weights]
    masked = prune == WEIGHT or options.get("of", "channels") != "channels"
    if prune == WEIGHT:
        each = [round(options["ratio"] * w.size) for w in weights]
        pruned = sum(each) if options["scope"] == "layer" else round(options["ratio"] * total)
        assert record.diagnostics["pruned"] == pytest.approx(pruned / total, abs=1e-12)
        assert all((w == 0).sum() >= n for w, n in zip(weights, each, strict=True) if options["scope"] == "layer")
    assert (record.diagnostics["pruned"] > 0) == masked
    if masked:
        pruned = round(record.diagnostics["pruned"] * total)
        assert zeros == pruned if kind in WITHOUT_ZERO or bits == 1 else zeros >= pruned
        levels = [found - {0} for found in levels]
    assert all(len(found) <= 2**bits for found in levels)
    assert record.value("size_bytes") == path.stat().st_size
    accuracy = (logits.argmax(1) == y.numpy()).mean()
    assert abs(record.value("accuracy") - accuracy) <= 2 / len(y)  # a value on a half may round either way
