"""Baselines: the widest student with every technique off, the same in int8, and every width."""

from __future__ import annotations

from pathlib import Path

from tests.spaces import space_of


def test_widest_baselines_are_off_and_expressed(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        clip="{choice: [{kind: norm, threshold: {float: [0.1, 1]}}, {kind: none}]}",
        prune="{kind: channel, ratio: {float: [0, 0.9]}}",
        quant="{bits: {choice: [2, 8, 32]}}",
        distill="{kind: logits, weight: {float: [0, 1]}}",
        train="{lr: {float: [0.1, 0.5], default: 0.2}}",
    )
    fp32, int8, *sweep = space.baselines()
    assert fp32.params == {
        "student.width": 2,
        "train.lr": 0.2,
        "clip": 1,
        "prune.ratio": 0.0,
        "quant.bits": 2,
        "distill.weight": 0.0,
    }
    flat = fp32.recipe.flat()
    assert (flat["student.width"], flat["clip.kind"], flat["prune.ratio"], flat["quant.bits"]) == (
        16,
        "none",
        0.0,
        32,
    )
    assert flat["distill.weight"] == 0.0 and flat["train.lr"] == 0.2
    assert int8.params == {**fp32.params, "quant.bits": 1} and int8.recipe.quant.options["bits"] == 8
    assert [b.recipe.student.options["width"] for b in sweep] == [4, 8]
    assert all(b.name == "width-sweep" and b.recipe.quant.options["bits"] == 32 for b in sweep)
    assert all(space.fill(b.params or {}) == b.recipe for b in space.baselines())


def test_baselines_that_the_space_cannot_express_are_built_beside_it(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        clip="{kind: norm, threshold: 1}",
        prune="{kind: weight, ratio: {float: [0.5, 0.9]}}",
        quant="{bits: {choice: [2, 4]}}",
        distill="{kind: logits, weight: {float: [0.5, 1]}}",
    )
    fp32, int8, *sweep = space.baselines()
    for baseline in (fp32, int8, *sweep):
        assert baseline.params is None
        assert {baseline.recipe.clip.name, baseline.recipe.prune.name, baseline.recipe.distill.name} == {"none"}
    assert fp32.recipe.quant.options["bits"] == 32 and int8.recipe.quant.options["bits"] == 8


def test_a_space_without_techniques_has_its_int8_baseline_too(tmp_path: Path) -> None:
    fp32, int8, *_ = space_of(tmp_path).baselines()
    assert fp32.params == {"student.width": 2} and int8.params is None
    assert int8.recipe.quant.options["bits"] == 8


def test_off_is_found_in_nested_choices(tmp_path: Path) -> None:
    prune = "{choice: [{kind: weight, ratio: 0.5}, {kind: channel, ratio: {choice: [0.5, {float: [0.0, 0.3]}]}}]}"
    fp32 = space_of(tmp_path, prune=prune).baselines()[0]
    assert fp32.params is not None and fp32.recipe.prune.options["ratio"] == 0
    assert fp32.params["prune"] == 1 and fp32.params["prune[channel].ratio[1]"] == 0.0


def test_widest_of_lists_ranges_and_texts(tmp_path: Path) -> None:
    student = "{model: mlp, hidden: {choice: [[64, 64], [100], [8, 8, 8]]}}"
    assert space_of(tmp_path, student=student).baselines()[0].recipe.student.options["hidden"] == [64, 64]
    student = "{model: convnet, width: {int: [4, 64], log: true}, norm: {choice: [none, batch], default: batch}}"
    widest = space_of(tmp_path, student=student).baselines()[0].recipe.student
    assert widest.options["width"] == 64 and widest.options["norm"] == "batch"


def test_width_sweep_spreads_ranges_and_is_thinned(tmp_path: Path) -> None:
    def widths(student: str) -> list[int]:
        sweep = [b for b in space_of(tmp_path, student=student).baselines() if b.name == "width-sweep"]
        return [b.recipe.student.options["width"] for b in sweep]

    assert widths("{model: convnet, width: {int: [8, 64], log: true}}") == [8, 16, 32]
    assert widths("{model: convnet, width: {int: [8, 32], step: 8}}") == [8, 16, 24]
    many = widths(f"{{model: convnet, width: {{choice: {list(range(1, 41))}}}}}")
    assert len(many) == 8 and many[0] == 1 and many[-1] == 39 and sorted(set(many)) == many
    both = widths("{model: convnet, width: {choice: [1, 2, 3, 4, 5]}, stages: {choice: [1, 2, 3]}}")
    assert len(both) == 8
    assert widths("{model: convnet, width: 8, norm: {choice: [batch, none]}}") == [8]


def test_a_constant_student_has_no_sweep(tmp_path: Path) -> None:
    space = space_of(tmp_path, student="{model: convnet}", train="{lr: {float: [0.1, 1]}}")
    assert [b.name for b in space.baselines()] == ["widest-fp32", "widest-int8"]
