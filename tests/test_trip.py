"""One trip of a parameter: hole -> recipe -> training step -> file's record -> report -> recipe -> production."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from harness import production
from harness.recipe import flatten
from harness.records import Measurement, read_record, write_json_durably, write_record
from harness.report import load_study, write_report
from harness.space.space import Space, load_recipe, load_space
from harness.train import lanes
from harness.trial import run as trial
from harness.trial.job import TrialJob

# Every leaf that a space may search on this student, each with a value that no default has.
SPACE = """
task: {name: digits}
teacher: {model: mlp, hidden: [16], epochs: 1}
student: {model: convnet, width: {choice: [8, 12]}, stages: {choice: [1, 2]}, norm: {choice: [batch, none]}}
train:
  epochs: {choice: [2, 3]}
  batch_size: {choice: [50, 100]}
  lr: {float: [0.01, 0.5]}
  momentum: {float: [0, 0.99]}
  weight_decay: {float: [0, 0.1]}
  schedule: {choice: [cosine, constant]}
clip: {kind: norm, threshold: {float: [0.1, 10]}}
prune: {kind: channel, ratio: {float: [0, 0.9]}, at: {float: [0.1, 0.9]}}
quant: {bits: {choice: [2, 3, 4, 5, 6, 8]}, start: {float: [0, 0.9]}}
distill: {kind: logits, weight: {float: [0, 1]}, temperature: {float: [1, 10]}}
deploy: {batch_size: {choice: [1, 3]}}
"""
CHOSEN: dict[str, Any] = {
    "student.width": 12,
    "student.stages": 2,
    "student.norm": "none",
    "train.epochs": 3,
    "train.batch_size": 100,
    "train.lr": 0.123,
    "train.momentum": 0.77,
    "train.weight_decay": 0.0123,
    "train.schedule": "constant",
    "clip.threshold": 3.21,
    "prune.ratio": 0.45,
    "prune.at": 0.34,
    "quant.bits": 5,
    "quant.start": 0.21,
    "distill.weight": 0.43,
    "distill.temperature": 2.34,
    "deploy.batch_size": 3,
}
IN_THE_STEP = {
    "train.lr": ("optim", "lr"),
    "train.momentum": ("optim", "momentum"),
    "train.weight_decay": ("optim", "weight_decay"),
    "clip.threshold": ("clip", "threshold"),
    "quant.bits": ("quant", "bits"),
    "distill.weight": ("distill", "weight"),
    "distill.temperature": ("distill", "temperature"),
}


class Spy:
    """Stands before ``lanes.step`` and keeps what the steps were given."""

    def __init__(self) -> None:
        self.hparams: list[Any] = []
        self.plans: list[Any] = []
        self.sizes: set[int] = set()
        self._step = lanes.step

    def __call__(self, plan: Any, state: Any, batch: Any, hparams: Any, **options: Any) -> Any:
        self.hparams.append(hparams)
        self.plans.append(plan)
        self.sizes.add(len(batch[0]))
        return self._step(plan, state, batch, hparams, **options)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(SPACE)
    return load_space(path)


@pytest.fixture(scope="module")
def trip(space: Space, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The whole way of one recipe, with what the training steps saw on it."""
    folder = tmp_path_factory.mktemp("study")
    params = {h.internal: h.choices.index(CHOSEN[h.name]) if h.choices else CHOSEN[h.name] for h in space.holes}
    recipe = space.fill(params, seed=5)
    with pytest.MonkeyPatch.context() as patch:
        searching, producing = Spy(), Spy()
        logits = trial.prepare([recipe.to_tree()], str(folder)).logits
        patch.setattr(lanes, "step", searching)
        record = trial.run(TrialJob(recipe, 0, folder / "trials" / "00000", params), logits)
        assert record.status == "ok", record.reason
        timed = Measurement(name="latency_ms", unit="ms", values=[0.5, 0.6], conditions={"host": "here"})
        write_record(folder / "trials" / "00000", record.with_measurements(timed))
        write_json_durably(
            folder / "study.json", {"name": "trip", "objectives": ["accuracy", "size_bytes", "latency_ms"]}
        )
        data = load_study(folder)
        write_report(data)
        patch.setattr(lanes, "step", producing)
        produced = production.train(load_recipe(folder / "best" / "knee.yaml"), folder / "made")
    return {
        "folder": folder,
        "recipe": recipe,
        "params": params,
        "data": data,
        "searching": searching,
        "producing": producing,
        "produced": produced,
    }


def test_the_list_above_names_every_hole(space: Space) -> None:
    assert {h.name for h in space.holes} == set(CHOSEN)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_value_is_the_same_wherever_it_stands(trip: dict[str, Any], name: str) -> None:
    folder: Path = trip["folder"]
    record = read_record(folder / "trials" / "00000")
    assert record is not None
    rows = list(csv.DictReader((folder / "report" / "trials.csv").read_text().splitlines()))
    places = {
        "recipe": dict(trip["recipe"].flat())[name],
        "record": dict(flatten(record.recipe))[name],
        "table": trip["data"].trials.loc[0, name],
        "csv": type(CHOSEN[name])(rows[0][name]),
        "best": dict(load_recipe(folder / "best" / "knee.yaml").flat())[name],
        "production": dict(flatten(trip["produced"].record.recipe))[name],
    }
    assert places == dict.fromkeys(places, CHOSEN[name])


@pytest.mark.parametrize("who", ["searching", "producing"])
@pytest.mark.parametrize("name", IN_THE_STEP)
def test_the_training_step_gets_the_sampled_number(trip: dict[str, Any], name: str, who: str) -> None:
    section, keyword = IN_THE_STEP[name]
    given = getattr(trip[who].hparams[0], section)
    each = [g[keyword] for g in given.values()] if section == "quant" else [given[keyword]]  # by layer
    assert each and all(float(value) == pytest.approx(CHOSEN[name], rel=1e-6) for value in each)


@pytest.mark.parametrize("who", ["searching", "producing"])
def test_the_others_shape_the_training(trip: dict[str, Any], who: str) -> None:
    spy: Spy = trip[who]
    steps = len(spy.plans)
    assert steps % CHOSEN["train.epochs"] == 0 and CHOSEN["train.batch_size"] in spy.sizes
    quantizing = [plan.quantize is not None for plan in spy.plans]
    assert quantizing.index(True) == steps // 3, "from the first epoch that begins at or after quant.start"
    widths = [plan.layout.shapes["stage1.conv.weight"][0] for plan in spy.plans]
    removed_at = next(i for i, width in enumerate(widths) if width < 12)
    assert widths[0] == CHOSEN["student.width"] and removed_at == 2 * steps // 3, "the first epoch at or after prune.at"
    assert trip["produced"].record.structure == read_record(trip["folder"] / "trials" / "00000").structure


def test_production_repeats_the_file_that_the_search_promised(trip: dict[str, Any]) -> None:
    promised = trip["folder"] / "trials" / "00000" / "model.onnx"
    assert (trip["folder"] / "made" / "model.onnx").read_bytes() == promised.read_bytes()
    assert trip["produced"].record.measurements["latency_ms"].conditions["batch_size"] == CHOSEN["deploy.batch_size"]
