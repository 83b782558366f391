"""What a search says while it prepares: the epochs of a teacher, as lines every few seconds."""

from __future__ import annotations

from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.search import progress
from harness.search.cluster import tell_driver
from harness.search.progress import Progress
from harness.trial.announce import announce, announce_to
from harness.trial.run import prepare

TREE = {
    "task": {"name": "digits"},
    "teacher": {"model": "mlp", "hidden": [4], "epochs": 3},
    "student": {"model": "mlp", "hidden": [4]},
    "distill": {"kind": "logits", "weight": 0.5},
}


def test_a_teachers_epochs_are_announced(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    heard: list[str] = []
    announce_to(heard.append)
    try:
        tree = parse_recipe(TREE, REGISTRIES).to_tree()
        prepare([tree], str(tmp_path / "study"))
        assert heard == [f"teacher mlp: epoch {epoch} of 3" for epoch in (1, 2, 3)]
        prepare([tree], str(tmp_path / "again"))
        assert len(heard) == 3, "a teacher from the cache does not train"
    finally:
        announce_to(lambda text: None)
    announce("goes nowhere")


def test_a_line_for_the_driver_starts_no_ray(monkeypatch):
    """``ray.get_runtime_context`` starts a Ray where there is none."""
    asked: list[str] = []
    monkeypatch.setattr("ray.get_runtime_context", lambda: asked.append("context"))
    tell_driver("teacher: epoch 1")
    assert not asked


def test_steps_are_lines_every_few_seconds(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("study", 3, shown=True) as shown:
        for second in range(12):
            now[0] = 100.0 + second
            shown.step(f"teacher: epoch {second}")
    assert capsys.readouterr().err.split("\n")[:-1] == ["teacher: epoch 5", "teacher: epoch 10"]


def test_nothing_is_said_where_nothing_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(progress, "STEP_S", 0)
    with Progress("study", 3, shown=False) as quiet:
        quiet.step("teacher: epoch 1")
    assert capsys.readouterr().err == ""
