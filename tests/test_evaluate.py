"""The score at a rung: what torch's own softmax says of the same samples."""

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
def test_accuracy_and_mean_probability_of_the_true_class(monkeypatch, at_once):
    run, x, y = student()
    monkeypatch.setattr(evaluate, "SCORED_AT_ONCE", at_once)
    with torch.no_grad():
        logits = run.module(x)
    found = evaluate.score(run, x, y)
    assert found.accuracy == (logits.argmax(1) == y).double().mean()
    assert found.probability == pytest.approx(
        float(torch.exp(-nn.CrossEntropyLoss(reduction="none")(logits, y)).mean())
    )


def test_a_student_that_diverged_gets_nothing_right():
    run, x, y = student()
    broken = replace(run, state=replace(run.state, params=torch.full_like(run.state.params, torch.nan)))
    assert evaluate.score(broken, x, y) == (0.0, 0.0)
