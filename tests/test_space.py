"""A search space: what it reads, what it refuses and how, and that fill undoes sample."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from harness.errors import SpaceError
from harness.space.distributions import Hole
from harness.space.settings import Objective, Resources
from harness.space.space import Space, load_space
from tests.spaces import chooser, space_of, write

SHIPPED = sorted((Path(__file__).parent.parent / "search_spaces").rglob("*.yaml"))


def hole(space: Space, internal: str) -> Hole:
    return next(h for h in space.holes if h.internal == internal)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_spaces_load_fill_and_have_baselines(path: Path) -> None:
    space = load_space(path)
    for seed in range(20):
        params = space.sample(chooser(random.Random(seed)))
        assert space.fill(params, seed).seed == seed
    names = [b.name for b in space.baselines()]
    assert names[:2] == ["widest-fp32", "widest-int8"]
    of_a_source = path.parent.name == "sources"  # some of them fix the student's shape
    assert (0 if of_a_source else 3) <= names.count("width-sweep") <= 8
    assert any("article" in first.name for first in space.first) == of_a_source
    assert path.read_text().startswith("#")


def test_the_spaces_that_are_shipped() -> None:
    assert {p.stem for p in SHIPPED} == {
        "clip_distill",
        "teacher_gradients",
        "clip_mnist",
        "clip_standardized",
        "prune_distill",
        "digits",
        "mnist_mlp",
        "mnist_lenet300",
        "mnist_lenet5",
        "fashion_convnet",
        "cifar10_resnet20",
    }


def test_holes_of_every_kind(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        train="{lr: {float: [1e-3, 1e-1], log: true}, epochs: {int: [2, 10], step: 4},"
        " momentum: {float: [0, 0.9], step: 0.3, default: 0.6}}",
        quant="{bits: {choice: [2, 4, 8, 32], default: 8}}",
        clip="{kind: {choice: [none]}}",
    )
    lr, epochs, momentum = hole(space, "train.lr"), hole(space, "train.epochs"), hole(space, "train.momentum")
    assert (lr.low, lr.high, lr.log) == (1e-3, 1e-1, True) and lr.default == pytest.approx(1e-2)
    assert type(lr.low) is float and type(epochs.low) is int and epochs.spread(9) == [2, 6, 10]
    assert momentum.default == 0.6 and momentum.spread(9) == pytest.approx([0, 0.3, 0.6, 0.9])
    bits = hole(space, "quant.bits")
    assert bits.ordered and bits.labels == ("2", "4", "8", "32") and bits.default == 2
    assert not hole(space, "clip.kind").ordered


def test_unsorted_numbers_and_texts_are_not_ordered(tmp_path: Path) -> None:
    space = space_of(tmp_path, student="{model: convnet, width: {choice: [8, 4]}, norm: {choice: [batch, none]}}")
    assert [h.ordered for h in space.holes] == [False, False]
    assert [h.default for h in space.holes] == [0, 0]


def test_holes_in_lists(tmp_path: Path) -> None:
    space = space_of(tmp_path, student="{model: mlp, hidden: [{int: [8, 64], log: true}, {choice: [4, 8]}]}")
    assert [h.name for h in space.holes] == ["student.hidden.0", "student.hidden.1"]
    recipe = space.fill({"student.hidden.0": 20, "student.hidden.1": 1})
    assert recipe.student.options["hidden"] == [20, 8]


def test_a_choice_between_sections_has_conditional_holes(tmp_path: Path) -> None:
    clip = """
  choice:
    - {kind: none}
    - {kind: norm, threshold: {float: [0.1, 10], log: true}}
    - {kind: value, threshold: {float: [0.001, 1]}}
"""
    space = space_of(tmp_path, clip=clip)
    norm = hole(space, "clip[norm].threshold")
    assert norm.name == "clip.threshold" and norm.parents == (("clip", 1),)
    assert hole(space, "clip").labels == ("none", "norm", "value")
    assert set(space.sample(lambda h: h.default)) == {"student.width", "clip"}
    params = space.sample(lambda h: {"clip": 2, "clip[value].threshold": 0.5}.get(h.internal, h.default))
    assert params["clip[value].threshold"] == 0.5 and "clip[norm].threshold" not in params
    assert space.fill(params).flat()["clip.threshold"] == 0.5


def test_parameters_have_places_between_0_and_1(tmp_path: Path) -> None:
    norm = "{kind: norm, threshold: {float: [0.01, 1], log: true}}"
    space = space_of(tmp_path, clip=f"{{choice: [{{kind: none}}, {norm}, {{kind: agc, threshold: 0.1}}]}}")
    assert [h.internal for h in space.holes] == ["student.width", "clip", "clip[norm].threshold"]
    width = hole(space, "student.width")
    assert [width.places(code) for code in (0, len(width.choices) - 1, None)] == [(0.0,), (1.0,), (0.5,)]
    params = {"student.width": 0, "clip": 1, "clip[norm].threshold": 0.1}
    assert space.places(params) == pytest.approx((0, 0, 1, 0, 0.5)), "a kind has a place, and no order"
    assert space.places({**params, "clip[norm].threshold": 1.0})[-1] == 1.0
    assert space.places({"student.width": 0, "clip": 0}) == (0.0, 1.0, 0.0, 0.0, 0.5)


def test_equal_labels_are_told_apart_and_models_name_branches(tmp_path: Path) -> None:
    student = (
        "{choice: [{model: mlp, hidden: [{int: [4, 8]}]}, {model: convnet, width: {int: [4, 8]}},"
        " {model: convnet, stages: {int: [1, 3]}}]}"
    )
    names = [h.internal for h in space_of(tmp_path, student=student).holes]
    assert names == [
        "student",
        "student[mlp].hidden.0",
        "student[convnet#1].width",
        "student[convnet#2].stages",
    ]


def test_a_choice_may_hold_holes(tmp_path: Path) -> None:
    space = space_of(tmp_path, prune="{kind: channel, ratio: {choice: [0.0, {float: [0.2, 0.8]}]}}")
    assert [h.internal for h in space.holes][1:] == ["prune.ratio", "prune.ratio[1]"]
    assert space.fill({"student.width": 0, "prune.ratio": 0}).prune.options["ratio"] == 0
    assert space.fill({"student.width": 0, "prune.ratio": 1, "prune.ratio[1]": 0.3}).prune.options["ratio"] == 0.3


def test_default_of_a_section_choice_is_its_label(tmp_path: Path) -> None:
    space = space_of(tmp_path, clip="{choice: [{kind: none}, {kind: norm, threshold: 1}], default: norm}")
    assert hole(space, "clip").default == 1


def test_settings_objectives_constraints(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        search="{trials: 7, sampler: nsga2, seed: 3, timeout_s: 5, retries: 0, storage: 'sqlite:///x'}",
        resources="{cpu: 2, gpu: 0.25, slots: 3}",
        objectives="[accuracy, {name: f1, direction: maximize}]",
        constraints="{latency_ms: {max: 5}, f1: {min: 0.5, max: 1}}",
    )
    s = space.settings
    assert (s.trials, s.sampler, s.seed, s.timeout_s, s.retries, s.storage) == (
        7,
        "nsga2",
        3,
        5.0,
        0,
        "sqlite:///x",
    )
    assert s.resources == Resources(2, 0.25, 3)
    assert space.objectives == (Objective("accuracy", "maximize"), Objective("f1", "maximize"))
    assert space.constraints == {"latency_ms": {"max": 5.0}, "f1": {"min": 0.5, "max": 1.0}}


def test_defaults_of_settings(tmp_path: Path) -> None:
    space = space_of(tmp_path)
    assert (space.settings.trials, space.settings.sampler, space.settings.storage) == (None, "auto", None)
    assert [o.name for o in space.objectives] == ["accuracy", "size_bytes", "latency_ms"]
    assert [o.direction for o in space.objectives] == ["maximize", "minimize", "minimize"]


@pytest.mark.parametrize("gpu", ["0", "0.5", "0.25", "0.3333", "1", "2"])
def test_gpu_shares_that_ray_can_place(tmp_path: Path, gpu: str) -> None:
    assert space_of(tmp_path, resources=f"{{gpu: {gpu}}}").settings.resources.gpu == float(gpu)


def test_your_own_task_may_be_constrained_by_its_metrics(tmp_path: Path) -> None:
    space = space_of(tmp_path, task="{name: 'my.module:data', size: 3}", constraints="{f1: {min: 0.5}}")
    assert space.constraints == {"f1": {"min": 0.5}}


def test_aliases_are_copies(tmp_path: Path) -> None:
    space = space_of(tmp_path, train="{lr: &r {float: [0.01, 0.1]}, weight_decay: *r}")
    assert [h.name for h in space.holes][1:] == ["train.lr", "train.weight_decay"]


def test_numbers_are_plain_python(tmp_path: Path) -> None:
    space = space_of(tmp_path, train="{lr: 1e-3, epochs: 0x10}")
    train = space.fill({"student.width": 0}).train
    assert train.lr == 0.001 and type(train.lr) is float and train.epochs == 16 and type(train.epochs) is int


def test_reading_a_space_imports_neither_torch_nor_optuna() -> None:
    code = (
        f"import sys; from harness.space.space import load_space; load_space({str(SHIPPED[0])!r}).baselines();"
        "print([m for m in ('torch', 'optuna', 'ray', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.strip() == "[]"


def test_overrides_replace_values_and_are_kept_in_the_text(tmp_path: Path) -> None:
    options = ("search.trials=20", "train.epochs=3", "train.lr={float: [1e-3, 1e-2]}")
    space = space_of(tmp_path, options, train="{lr: 0.1}  # the rate", search="{trials: 60}")
    assert space.settings.trials == 20 and hole(space, "train.lr").high == 0.01
    assert space.fill(space.sample(lambda h: h.default)).train.epochs == 3
    assert "# the rate" in space.text
    again = load_space(write(tmp_path, space.text))
    assert again.fingerprint() == space.fingerprint() and again.settings == space.settings


def test_overrides_reach_into_lists_and_make_sections(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        ("student.hidden.1=7", "resources.cpu=2"),
        student="{model: mlp, hidden: [{int: [4, 8]}, 16]}",
    )
    assert space.settings.resources.cpu == 2
    assert space.fill({"student.hidden.0": 4}).student.options["hidden"] == [4, 7]


def test_an_override_of_a_shared_alias_changes_one_place(tmp_path: Path) -> None:
    space = space_of(tmp_path, ("train.lr.log=true",), train="{lr: &r {float: [0.01, 0.1]}, weight_decay: *r}")
    assert [h.log for h in space.holes] == [False, True, False]
    assert load_space(write(tmp_path, space.text)).fingerprint() == space.fingerprint()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, "student.width: has no value"),
        ({"student.width": 3}, "student.width: must be a position from 0 to 2, but got 3"),
        ({"student.width": -1}, "must be a position"),
        ({"student.width": True}, "must be a position"),
        ({"student.width": "1"}, "must be a position"),
        ({"student.width": 1.0}, "must be a position"),
        (
            {"student.width": 1, "train.lr": 1.0},
            "train.lr: is not a parameter of this space here, but got 1.0",
        ),
    ],
)
def test_fill_refuses_wrong_parameters(tmp_path: Path, params: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space_of(tmp_path).fill(params)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0.5, "must be float from 0.0 to 0.3"),
        (math.nan, "must be float"),
        (math.inf, "must be float"),
        ("0.1", "must be float"),
    ],
)
def test_fill_refuses_values_outside_a_range(tmp_path: Path, code: Any, expected: str) -> None:
    space = space_of(tmp_path, train="{momentum: {float: [0, 0.3]}}")
    with pytest.raises(SpaceError, match=expected):
        space.fill({"student.width": 0, "train.momentum": code})


def test_fill_takes_numpy_numbers_and_gives_plain_ones(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    space = space_of(tmp_path, train="{lr: {float: [0.1, 1]}, epochs: {int: [1, 5]}}")
    recipe = space.fill(
        {"student.width": numpy.int64(1), "train.lr": numpy.float64(0.5), "train.epochs": numpy.int32(2)}
    )
    assert type(recipe.train.epochs) is int and type(recipe.train.lr) is float


# random spaces: each leaf a constant or a hole over a part of its valid range
def _number_hole(low: float, high: float, integer: bool) -> st.SearchStrategy[Any]:
    kind = "int" if integer else "float"
    ends = st.integers(int(low), int(high)) if integer else st.floats(low, high, allow_subnormal=False)

    @st.composite
    def strategy(draw: st.DrawFn) -> Any:
        a, b = sorted((draw(ends), draw(ends)))
        if not a < b:
            return a
        form = draw(st.sampled_from(["constant", "range", "log", "step", "choice"]))
        if form == "constant":
            return a
        if form == "choice":
            return {"choice": draw(st.permutations([a, b]))}
        written: dict[str, Any] = {kind: [a, b]}
        if form == "log" and a > 0:
            written["log"] = True
        if form == "step":
            parts = draw(st.integers(1, 5))
            written["step"] = (b - a) / parts if not integer else b - a
        return written

    return strategy()


def _section(**leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(leaves)


def _maybe_choice(*branches: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*branches, st.tuples(*branches).map(lambda b: {"choice": list(b)}))


RATIO = _number_hole(0, 0.95, False)
SPACES = st.fixed_dictionaries(
    {
        "task": st.just({"name": "digits"}),
        "teacher": st.just({"model": "mlp"}),
        "student": _maybe_choice(
            _section(model=st.just("mlp"), hidden=st.lists(_number_hole(1, 99, True), min_size=1, max_size=3)),
            _section(
                model=st.just("convnet"),
                width=_number_hole(1, 64, True),
                norm=st.sampled_from(["batch", {"choice": ["none", "batch"]}]),
            ),
        ),
        "train": _section(lr=_number_hole(1e-4, 1, False), epochs=_number_hole(1, 50, True)),
        "clip": _maybe_choice(
            _section(kind=st.just("none")),
            _section(kind=st.just("norm"), threshold=_number_hole(1e-3, 10, False)),
            _section(kind=st.just("value"), threshold=_number_hole(1e-3, 1, False)),
        ),
        "prune": _maybe_choice(
            _section(
                kind=st.just("channel"),
                ratio=st.one_of(RATIO, st.just({"choice": [0.96, {"float": [0.1, 0.2]}]})),
            ),
            _section(kind=st.just("weight"), ratio=RATIO),
        ),
        "quant": _section(bits=st.sampled_from([8, {"choice": [2, 4, 8, 32]}, {"choice": [32, 2]}, {"int": [2, 8]}])),
        "distill": _maybe_choice(
            _section(kind=st.just("none")),
            _section(kind=st.just("logits"), weight=RATIO, temperature=_number_hole(0.1, 20, False)),
        ),
        "deploy": _section(threads=_number_hole(1, 4, True)),
        "constant": st.just(None),
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=SPACES, seed=st.integers(0, 2**31))
def test_fuzz_fill_undoes_sample(tmp_path: Path, tree: dict[str, Any], seed: int) -> None:
    """No sampled parameters are refused, and each lands under its dotted name in the recipe."""
    del tree["constant"]
    tree["train"]["momentum"] = {"float": [0.0, 0.9]}  # at least one hole
    path = tmp_path / "random.yaml"
    with open(path, "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(tree, file)
    space = load_space(path)
    by_name = {h.internal: h for h in space.holes}
    assert len(by_name) == len(space.holes)
    params = space.sample(chooser(random.Random(seed)))
    recipe = space.fill(params, seed)
    flat = recipe.flat()
    for internal, code in params.items():
        h = by_name[internal]
        value = h.choices[code] if h.kind == "choice" else code
        if isinstance(value, dict):
            value = value["kind"] if "kind" in value else value["model"]
            assert value in (flat.get(f"{h.name}.kind"), flat.get(f"{h.name}.model"))
        elif not isinstance(value, Hole):
            name, _, position = h.name.rpartition(".")
            assert (flat[name][int(position)] if position.isdecimal() else flat[h.name]) == value
    assert space.fill(params, seed) == recipe
    for baseline in space.baselines():
        if baseline.params is not None:
            assert space.fill(baseline.params) == baseline.recipe


def test_fingerprint_ignores_the_budget_and_the_writing(tmp_path: Path) -> None:
    first = space_of(tmp_path, search="{trials: 5, seed: 1}", train="{lr: 1e-3}").fingerprint()
    assert (
        first
        == space_of(
            tmp_path,
            search="{seed: 1, trials: 99, timeout_s: 3, retries: 4}",
            train="{lr: 0.001}  # same",
            resources="{cpu: 2}",
        ).fingerprint()
    )
    for changed in (
        {"search": "{seed: 2}"},
        {"search": "{seed: 1, sampler: random}"},
        {"objectives": "[accuracy]"},
        {"student": "{model: convnet, width: {choice: [4, 8]}}"},
        {"constraints": "{latency_ms: {max: 5}}"},
    ):
        assert first != space_of(tmp_path, **{"search": "{seed: 1}", "train": "{lr: 1e-3}", **changed}).fingerprint()
