"""`harness init`: the space that it writes loads, fits the data, and names what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.api import drafts
from harness.errors import SpaceError
from harness.models.build import build_model
from harness.recipe import Selected
from harness.search.preflight import check_given
from harness.space.space import Space, load_space
from harness.tasks.data import load_data
from tests.verbs import harness_here


def arrays(n: int = 300, shape: tuple[int, ...] = (7,), suffix: str = "", classes: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"x{suffix}": rng.normal(size=(n, *shape)).astype(np.float32), f"y{suffix}": np.arange(n) % classes}


def space_of(made: drafts.Draft, tmp_path: Path) -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(made.text)
    return load_space(path)


def students_run(space: Space) -> None:
    """Load the data that the space names, and build each of its students and its teacher for them."""
    recipe = space.baselines()[0].recipe
    data = load_data(Selected(name=recipe.task.name, options=recipe.task.options))
    models = [b.recipe.student for b in space.baselines()]
    for model in [*models, *([recipe.teacher.model] if recipe.teacher else [])]:
        out = build_model(model, data.input_shape, data.classes, 0)(data.train[0][:2].float())
        assert out.shape == (2, data.classes)


@pytest.mark.parametrize("shape", [(3,), (200,), (8, 8), (1, 28, 28), (3, 32, 32), (30, 1), (4, 50)])
def test_a_file_of_samples_of_each_shape(tmp_path, monkeypatch, shape):
    monkeypatch.chdir(tmp_path)
    np.savez("my data.npz", **arrays(shape=shape))
    made = drafts.draft(["my data.npz"])
    space = space_of(made, tmp_path)
    students_run(space)
    assert not made.missing
    assert {b.name for b in space.baselines()} >= {"widest-fp32", "widest-int8", "width-sweep"}
    methods = {hole.name.split(".")[0] for hole in space.holes}
    assert {"student", "clip", "prune", "quant", "distill"} <= methods


def test_a_file_of_parts_and_folders_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("parts.npz", **arrays(suffix="_train"), **arrays(60, suffix="_test"))
    students_run(space_of(drafts.draft(["parts.npz"]), tmp_path))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, n in (("train_0", 200), ("train_1", 100), ("test", 60), ("validation", 30)):
        np.savez(folder / f"{name}.npz", **arrays(n))
    made = drafts.draft([folder])
    space = space_of(made, tmp_path)
    students_run(space)
    recipe = space.baselines()[0].recipe
    data = load_data(Selected(name=recipe.task.name, options=recipe.task.options))
    assert [len(getattr(data, part)[1]) for part in ("train", "validation", "test")] == [300, 30, 60]
    assert made.found[0].startswith("300 samples of shape (7,)")


def test_notes_say_classes_and_the_error_of_validation(tmp_path):
    x = arrays(1000)
    np.savez(tmp_path / "data.npz", x=x["x"], y=np.array(["a", "b", "b", "b"] * 250))
    made = drafts.draft([tmp_path / "data.npz"])
    assert "2 classes (a, b); the most frequent class has 75.0%" in made.found[0]
    # 1000 less 20 % for test, of these 15 %: 120; 1.96 * sqrt(0.9 * 0.1 / 120) = 0.0537
    assert made.found[1] == "about 120 of them for validation: an accuracy of 90 % will be known to +-5.4 points"


def test_a_checkpoint_is_start_and_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").write_bytes(b"")
    made = drafts.draft(["mine.safetensors"])
    assert "CHANGE THIS" in made.text and len(made.missing) == 2
    space_of(made, tmp_path)  # its form is right, though its names are examples
    np.savez("data.npz", **arrays())
    made = drafts.draft(["data.npz", "mine.safetensors"], "my_net:build")
    assert not made.missing and "CHANGE" not in made.text
    recipe = space_of(made, tmp_path).baselines()[0].recipe
    assert recipe.student.name == "my_net:build" and recipe.student.checkpoint == "mine.safetensors"
    assert recipe.teacher is not None and recipe.teacher.model == recipe.student


def mistake(*paths: Any) -> str:
    with pytest.raises(SpaceError) as caught:
        drafts.draft(paths)
    return str(caught.value)


def test_what_cannot_be_used_is_named(tmp_path):
    assert "there is no such file or folder" in mistake(tmp_path / "absent.npz")
    (tmp_path / "table.csv").write_text("1,2\n")
    assert "cannot be read as .npz" in mistake(tmp_path / "table.csv")
    assert "must hold one .npz, or train*.npz and test*.npz" in mistake(tmp_path)
    np.savez(tmp_path / "keys.npz", data=np.zeros(3))
    assert "must hold x and y" in mistake(tmp_path / "keys.npz")
    np.savez(tmp_path / "real.npz", x=np.zeros((9, 2)), y=np.linspace(0, 1, 9))
    assert "y must hold integers or texts" in mistake(tmp_path / "real.npz")
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "cat" / "1.png").write_bytes(b"")
    assert "image files are not read" in mistake(tmp_path / "images")
    assert "one data file or folder" in mistake(tmp_path / "keys.npz", tmp_path / "real.npz")


def test_the_verb_writes_a_file_once_and_says_what_is_next(tmp_path):
    np.savez(tmp_path / "data.npz", **arrays())
    done = harness_here("init", "data.npz", cwd=tmp_path)
    assert done.returncode == 0 and "Next:   harness search space.yaml --dry-run" in done.stdout
    assert (tmp_path / "space.yaml").is_file()
    again = harness_here("init", "data.npz", cwd=tmp_path)
    assert again.returncode == 2 and "--out: must not exist yet" in again.stderr


NAMES = ["a b", 'dq"', "back\\slash", "[a]", "f*", "**", "~", "~x", "#x", "a: b", "123", "true", "\x85n", "nl\nx", "-x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_or_folder_of_any_name_is_the_one_that_is_searched(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for folder, n in (("other", 90), (name, 200)):
        Path(folder).mkdir()
        for part in ("train_1", "train_2", "test"):
            np.savez(f"{folder}/{part}.npz", **arrays(n))
    np.savez(f"{name}.npz", **arrays(100))
    for path, samples in ((f"{name}.npz", 100), (name, 600)):
        space = space_of(drafts.draft([path]), tmp_path)
        check_given(space)
        task = space.baselines()[0].recipe.task
        data = load_data(Selected(name=task.name, options=task.options))
        assert sum(len(getattr(data, part)[1]) for part in ("train", "validation", "test")) == samples


def test_a_folder_with_one_file_of_all_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("train.npz", **arrays(suffix="_train"), **arrays(60, suffix="_test"))
    students_run(space_of(drafts.draft([tmp_path]), tmp_path))


def test_hints_for_what_newcomers_save(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((9, 2)), y=np.array(["a", "b", None] * 3, dtype=object))
    assert "Convert before saving: y.astype(str)" in mistake(path)
    np.savez(path, **arrays(shape=(16, 16, 3)))
    assert any("x.transpose(0, 3, 1, 2)" in note for note in drafts.draft([path]).found)
    np.savez(tmp_path / "train_1.npz", **arrays(shape=(3,)))
    np.savez(tmp_path / "train_2.npz", **arrays(shape=(2,)))
    assert "must be of one shape and type" in mistake(tmp_path)
    with pytest.raises(SpaceError, match="--model: must be package.module:function"):
        drafts.draft([path], 'a"b:c')


def test_nothing_is_written_through_a_link_or_into_no_folder(tmp_path):
    np.savez(tmp_path / "data.npz", **arrays())
    (tmp_path / "space.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert harness_here("init", "data.npz", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "elsewhere.yaml").exists()
    nowhere = harness_here("init", "data.npz", "--out", "no/such.yaml", cwd=tmp_path)
    assert nowhere.returncode == 2 and "--out: must be in a folder that exists" in nowhere.stderr
