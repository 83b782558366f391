"""The same recipe and seed give the same file: in any process, alone or among others."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.models.build import build_model
from harness.models.seeding import draws, seeded
from harness.recipe import Model, parse_recipe
from harness.registries import REGISTRIES
from harness.train import lanes
from harness.train.fit import Trained, advance, finish, fit
from harness.train.forward import mapped
from harness.train.lanes import Examples
from harness.train.schedule import begin

STUDENTS = ("dropout", "depth", "torch_noise", "numpy_noise", "numpy_start")
DRAWING = STUDENTS[:-1]
SHAPE, CLASSES = (1, 4, 4), 2

PROCESS = """
import hashlib, json, sys
from pathlib import Path
from harness.trial import run as trial
from tests.jobs import job

def files(trees, name):
    folders = [Path(sys.argv[1]) / name / str(i) for i in range(len(trees))]
    jobs = [job(t, f, i) for i, (t, f) in enumerate(zip(trees, folders))]
    for record in trial.start(jobs, []).records:
        assert record.status == "ok", record.reason
    return [hashlib.sha256((f / "model.onnx").read_bytes()).hexdigest() for f in folders]

print(json.dumps({name: files(trees, name) for name, trees in json.loads(sys.stdin.read()).items()}))
"""


def tree(student: str, seed: int = 3, **sections: Any) -> dict[str, Any]:
    made = {
        "task": {"name": "tests.drawing_students:task"},
        "student": {"model": f"tests.drawing_students:{student}"},
        "train": {"epochs": 3, "batch_size": 16, "lr": 0.05},
        "seed": seed,
    }
    return {**made, **sections}


def in_a_process(groups: dict[str, list[dict[str, Any]]], folder: Path) -> dict[str, list[str]]:
    """sha256 of the files of each group's recipes, trained in one fresh process."""
    given = json.dumps(groups)
    ran = subprocess.run([sys.executable, "-c", PROCESS, str(folder)], input=given, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_a_recipe_and_its_seed_decide_the_file(tmp_path: Path) -> None:
    """Alone, in another process after another trial, and in a group of three."""
    pruned = {"prune": {"kind": "channel", "ratio": 0.5, "score": "taylor", "at": 0.4}, "quant": {"bits": 4}}
    recipes = {name: tree(name) for name in STUDENTS} | {"pruned": tree("dropout", **pruned)}
    alone = in_a_process({name: [t] for name, t in recipes.items()}, tmp_path / "a")
    groups = {name: [{**t, "seed": 9}, t, {**t, "seed": 4}] for name, t in recipes.items() if name != "numpy_start"}
    others = {"first": [tree("dropout", seed=77)], "numpy_start": [recipes["numpy_start"]]}
    among = in_a_process({**others, **groups}, tmp_path / "b")
    assert {name: among[name][name in groups] for name in recipes} == {name: found[0] for name, found in alone.items()}
    for name in groups:
        assert len(set(among[name])) == 3, f"{name}: another seed gives another file"


def recipe(student: str, seed: int = 3) -> Any:
    return parse_recipe(tree(student, seed), REGISTRIES)


def examples() -> Examples:
    g = torch.Generator().manual_seed(1)
    y = torch.arange(96) % 2
    return Examples(torch.randn(96, *SHAPE, generator=g) + y.reshape(-1, 1, 1, 1), y)


def module(student: str) -> torch.nn.Module:
    return build_model(Model(name=f"tests.drawing_students:{student}"), SHAPE, CLASSES, 5)


def weights(trained: Trained) -> torch.Tensor:
    return torch.cat([v.flatten() for v in trained.module.state_dict().values()])


@pytest.mark.parametrize("student", DRAWING)
def test_lanes_of_students_that_draw_equal_them_alone(student: str) -> None:
    """Three of one start and one order of samples: only what they draw differs."""
    data, seeds = examples(), (3, 4, 3)
    alone = [weights(fit(recipe(student, seed), module(student), data)) for seed in seeds]
    runs = [begin(recipe(student, seed), module(student), data) for seed in seeds]
    same_order = [lanes.replace(r, order=torch.Generator().manual_seed(0)) for r in runs]
    for run, wanted in zip(advance(runs, 3), alone, strict=True):
        assert torch.equal(weights(finish(run)), wanted)
    first, other, twin = (weights(finish(run)) for run in advance(same_order, 3))
    assert torch.equal(first, twin) and not torch.equal(first, other)


def test_training_in_parts_draws_what_training_at_once_draws() -> None:
    data = examples()
    whole = weights(fit(recipe("dropout"), module("dropout"), data))
    runs = [begin(recipe("dropout"), module("dropout"), data)]
    for until in (1, 3):
        torch.rand(until)
        runs = advance(runs, until)
    assert torch.equal(weights(finish(runs[0])), whole)


def test_the_mapped_form_gives_every_lane_its_own_dropout() -> None:
    net = module("dropout")
    stacked = {name: p.detach().expand(4, *p.shape) for name, p in net.named_parameters()}
    seen, _ = mapped(net)(stacked, {}, {}, torch.ones(4, 8, *SHAPE), True)
    assert len({tuple(lane.flatten().tolist()) for lane in seen["logits"]}) == 4


@pytest.mark.parametrize("student", STUDENTS)
def test_what_draws_is_found_and_never_stacked(student: str) -> None:
    net, x = module(student), torch.zeros(4, *SHAPE)
    assert draws(lambda: net.train()(x)) == (student in DRAWING)
    assert not draws(lambda: net.eval()(x))
    runs = [begin(recipe(student, seed), module(student), examples()) for seed in (1, 2)]
    students = [lanes.Student(r.module, r.plan, r.state, r.hparams) for r in runs]
    lanes._FASTEST.clear()
    form = lanes.fastest(students, examples(), torch.arange(32).reshape(2, 16))
    assert form == "alone" or student not in DRAWING


def test_generators_start_from_the_seed_and_are_left_as_they_were() -> None:
    def drawn() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    before = drawn()
    found = []
    for words in ((5,), (5,), (5, 1), (5, 2)):
        with seeded(*words):
            found.append(drawn())
    after = drawn()
    assert found[0] == found[1]
    assert all(len(set(column)) == 3 for column in zip(*found, strict=True)), "other words, other numbers"
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    assert (drawn(), drawn()) == (before, after)
