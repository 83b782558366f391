"""What is said of a user's network before the first trial."""

from __future__ import annotations

import pytest

from harness.errors import SpaceError, reason_of
from harness.recipe import Recipe, parse_recipe
from harness.registries import REGISTRIES
from harness.search.examination import say_proven
from harness.trial.job import Proven
from harness.trial.proof import prove_student


def recipe(network: str, **options) -> Recipe:
    student = {"model": f"tests.own_networks:{network}", **options}
    return parse_recipe({"task": {"name": "digits"}, "student": student, "train": {"epochs": 1}}, REGISTRIES)


def test_frozen_parameters_are_named_since_they_are_trained() -> None:
    seen = prove_student(recipe("counting"), "cpu")
    assert list(seen.frozen) == ["stem.weight", "stem.bias"]
    said: list[str] = []
    say_proven(seen, said.append)
    assert said == ["trained like all others, though they have requires_grad=False: stem.weight, stem.bias"]
    say_proven(Proven(), said.append)
    assert len(said) == 1


def test_a_buffer_that_is_assigned_is_answered_with_the_cure() -> None:
    with pytest.raises(SpaceError) as caught:
        prove_student(recipe("counting", assigns=True), "cpu")
    text = str(caught.value)
    assert text.startswith("student.model: 'tests.own_networks:counting' must be trained for a step")
    assert "self.mean.copy_(...)" in text and "ONNX operators" not in text


def test_colors_of_a_terminal_stay_out_of_reasons() -> None:
    assert reason_of(ValueError("\x1b[96mfailed\x1b[0m here")) == "ValueError: failed here"
