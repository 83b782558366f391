"""The accuracy at a rung: of the same samples, what torch says of them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.train import evaluate
from harness.train.lanes import Examples
from harness.train.schedule import begin


def student():
    torch.manual_seed(0)
    recipe = parse_recipe({"task": {"name": "digits"}, "student": {"model": "convnet"}}, REGISTRIES)
    x, y = torch.randn(40, 1, 4, 4), torch.randint(0, 3, (40,))
    return begin(recipe, nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), Examples(x, y, {})), x, y


@pytest.mark.parametrize("at_once", [7, 1024])
def test_accuracy_whatever_is_scored_at_once(monkeypatch, at_once):
    run, x, y = student()
    monkeypatch.setattr(evaluate, "SCORED_AT_ONCE", at_once)
    with torch.no_grad():
        right = run.module(x).argmax(1) == y
    assert evaluate.accuracy(run, x, y) == right.double().mean()


def test_a_student_that_diverged_gets_nothing_right():
    run, x, y = student()
    broken = replace(run, state=replace(run.state, params=torch.full_like(run.state.params, torch.nan)))
    assert evaluate.accuracy(broken, x, y) == 0.0
