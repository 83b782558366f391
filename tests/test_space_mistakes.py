"""Every mistake in a space is one message: file, line, dotted name, rule, value got, remedy."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.errors import SpaceError
from harness.space.space import load_recipe, load_space
from tests.spaces import BASE, mistake, space_of, write

SHIPPED = sorted((Path(__file__).parent.parent / "search_spaces").rglob("*.yaml"))


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (
            "search.trials=0",
            "option `search.trials=0`: search.trials: must be an integer with 1 <= value, but got 0",
        ),
        ("search.trails=5", "option `search.trails=5`: search.trails: unknown key. Did you mean 'trials'?"),
        ("trian.epochs=5", "option `trian.epochs=5`: trian: unknown section. Did you mean 'train'?"),
        (
            "train.epochs=x",
            "option `train.epochs=x`: train.epochs: must be an integer with 1 <= value, but got 'x'",
        ),
        ("train.epochs", "option `train.epochs`: an override is written `section.key=value`"),
        ("=3", "an override is written"),
        ("train..lr=3", "an override is written"),
        ("train.lr=[", "option `train.lr=[`:1: is not valid YAML"),
        ("student.model.x=1", "student.model: is a value, not a section that has keys, but got 'convnet'"),
        ("student.width.choice.9=1", "student.width.choice: is a list of 3 values"),
        ("train.lr=!!python/name:os.system x", "YAML tags are not allowed"),
        ("quant.bits=9", "option `quant.bits=9`: quant.bits: must be one of 1, 2, 3"),
    ],
)
def test_a_wrong_override_names_the_option(tmp_path: Path, option: str, expected: str) -> None:
    assert expected in mistake(tmp_path, (option,))


HOLE_MISTAKES = [
    ("{lr: {float: [0.1, 0.01]}}", "`low < high` must hold, but got low=0.1, high=0.01. Use [0.01, 0.1]."),
    ("{lr: {float: [0.1, 0.1]}}", "`low < high` must hold"),
    ("{lr: {float: [0, 0.1], log: true}}", "`log: true` needs low > 0, but got low=0.0"),
    ("{epochs: {int: [0, 5], log: true}}", "`log: true` needs low > 0, but got low=0. Use low=1."),
    (
        "{lr: {float: [0.1, 0.3], log: true, step: 0.1}}",
        "train.lr.step: `step` and `log: true` exclude each other",
    ),
    (
        "{epochs: {int: [1, 10], step: 4}}",
        "train.epochs.step: must divide high - low = 9, but got 4. Use high=9.",
    ),
    ("{lr: {float: [0.1, 0.3], step: 0.15}}", "must divide high - low = 0.2"),
    ("{epochs: {int: [1, 10], step: 0}}", "train.epochs.step: must be > 0, but got 0"),
    ("{epochs: {int: [1, 10], step: 1.5}}", "train.epochs.step: must be an integer, but got 1.5"),
    ("{lr: {float: [0.1]}}", "`float` must be a list of two numbers, low and high, but got [0.1]"),
    ("{lr: {float: 0.1}}", "`float` must be a list of two numbers"),
    ("{lr: {float: [0.1, high]}}", "train.lr.high: must be a finite number, but got 'high'"),
    ("{lr: {float: [true, 2]}}", "train.lr.low: must be a finite number, but got True"),
    ("{lr: {float: [0.1, .inf]}}", "train.lr.high: must be a finite number, but got inf"),
    ("{lr: {float: [.nan, 1]}}", "train.lr.low: must be a finite number, but got nan"),
    ("{lr: {float: [-1e308, 1e308]}}", "the range is too wide"),
    ("{epochs: {int: [1, 2.5]}}", "train.epochs.high: must be an integer, but got 2.5"),
    ("{epochs: {int: [1.0, 2]}}", "train.epochs.low: must be an integer, but got 1.0"),
    ("{lr: {float: [0.1, 1], log: 1}}", "train.lr.log: must be true or false, but got 1"),
    ("{lr: {float: [0.1, 1], lgo: true}}", "train.lr.lgo: unknown key in a float hole. Did you mean 'log'?"),
    (
        "{lr: {float: [0.1, 1], default: 2}}",
        "train.lr.default: must be a value of the hole, float from 0.1 to 1.0, but got 2",
    ),
    ("{epochs: {int: [1, 9], step: 2, default: 2}}", "in steps of 2, but got 2"),
    ("{lr: {float: [0.1, 1], int: [1, 2]}}", "a hole has one kind, but got float and int"),
    ("{lr: {flaot: [0.1, 1]}}", "unknown kind of hole 'flaot'. Did you mean 'float'?"),
    ("{lr: {choices: [0.1, 1]}}", "unknown kind of hole 'choices'. Did you mean 'choice'?"),
    ("{lr: {uniform: [0.1, 1]}}", "A hole is {float: [low, high]}"),
    ("{lr: {choice: []}}", "`choice` must be a list of at least one entry, but got []"),
    ("{lr: {choice: 3}}", "`choice` must be a list of at least one entry, but got 3"),
    ("{lr: {choice: [0.1, 0.2, 0.1]}}", "the entries of `choice` must differ, but got 0.1"),
    ("{epochs: {choice: [1, 1.0]}}", "the entries of `choice` must differ, but got 1.0"),
    ("{lr: {choice: [0.1], log: true}}", "unknown key in a choice hole"),
    ("{lr: {choice: [0.1, 0.2], default: 0.3}}", "train.lr.default: must be one of the choices, but got 0.3"),
]


@pytest.mark.parametrize(("train", "expected"), HOLE_MISTAKES)
def test_a_wrong_hole_names_file_line_and_rule(tmp_path: Path, train: str, expected: str) -> None:
    text = mistake(tmp_path, train=train)
    assert f"{tmp_path / 'space.yaml'}:4: train." in text
    assert expected in text


VALUE_MISTAKES = [
    (
        {"clip": "{kind: norm, treshold: {float: [1, 2]}}"},
        "clip.treshold: unknown key. Did you mean 'threshold'?",
    ),
    (
        {"prune": "{kind: channel, ratio: {float: [0, 1.0]}}"},
        "prune.ratio: must be a number with 0 <= value < 1 over the hole's whole range, but got 1.0",
    ),
    ({"prune": "{kind: weight, ratio: {float: [-0.1, 0.5]}}"}, "over the hole's whole range, but got -0.1"),
    ({"quant": "{bits: {choice: [2, 4, 9]}}"}, "quant.bits: must be one of 1, 2, 3, 4"),
    (
        {"quant": "{bits: {int: [2, 32]}}"},
        "quant.bits: must be one of 1, 2, 3, 4, 5, 6, 7, 8, 32 over the hole's whole range, but got 17",
    ),
    ({"quant": "{bits: {choice: [2, 8.0]}}"}, "quant.bits: must be one of"),
    ({"quant": '{bits: {choice: [2, "8"]}}'}, "but got '8'"),
    ({"quant": "{bits: {choice: [2, true]}}"}, "but got True"),
    ({"clip": "{kind: norm, threshold: {float: [0, 1]}}"}, "clip.threshold: must be a number with 0 < value"),
    ({"clip": "{kind: norm, threshold: .inf}"}, "but got inf"),
    ({"clip": "{kind: norm, threshold: .nan}"}, "but got nan"),
    (
        {"distill": "{kind: logits, weight: {float: [0, 2]}}"},
        "distill.weight: must be a number with 0 <= value <= 1",
    ),
    ({"clip": "{kind: nrom, threshold: 1}"}, "clip.kind: unknown name, but got 'nrom'. Did you mean 'norm'?"),
    ({"clip": "{kind: {choice: [norm, vlaue]}, threshold: 1}"}, "but got 'vlaue'. Did you mean 'value'?"),
    ({"prune": "{kind: {choice: [channel, weight]}, ratio: 0.5, at: 0.1}"}, "prune.at: unknown key"),
    ({"clip": "{kind: [norm]}"}, "clip.kind: unknown name, but got ['norm']"),
    ({"train": "{epochs: {float: [1, 5]}}"}, "train.epochs: must be an integer with 1 <= value"),
    ({"train": "{epohcs: 3}"}, "train.epohcs: unknown key. Did you mean 'epochs'?"),
    ({"train": "{epochs: '3'}"}, "train.epochs: must be an integer with 1 <= value, but got '3'"),
    ({"train": "{epochs: 3.0}"}, "train.epochs: must be an integer with 1 <= value, but got 3.0"),
    ({"train": "{lr: true}"}, "train.lr: must be a number with 0 < value, but got True"),
    ({"train": "{lr: {float: [-1, 1]}}"}, "train.lr: must be a number with 0 < value"),
    ({"train": "{optimizer: adm}"}, "train.optimizer: must be one of sgd, adamw, but got 'adm'"),
    ({"train": "3"}, "train: must be a mapping, but got 3"),
    ({"train": "{float: [0, 1]}"}, "train: must be a mapping"),
    (
        {"deploy": "{runtime: onnxruntme}"},
        "deploy.runtime: unknown name, but got 'onnxruntme'. Did you mean 'onnxruntime'?",
    ),
    ({"clpi": "{kind: none}"}, "clpi: unknown section. Did you mean 'clip'?"),
    ({"seed": "3"}, "seed: the search gives every trial its seed"),
    ({"objectives": "[]"}, "objectives: must be a list of at least one objective, but got []"),
    ({"objectives": "accuracy"}, "objectives: must be a list"),
    (
        {"objectives": "[accuracy, accuracy]"},
        "objectives.1: an objective is listed twice, but got 'accuracy'",
    ),
    ({"objectives": "[accuracy, size]"}, "objectives.1: unknown objective, but got 'size'"),
    ({"objectives": "[acuracy]"}, "Did you mean 'accuracy'?"),
    ({"objectives": "[3]"}, "objectives.0: must be a name or {name:, direction:}, but got 3"),
    ({"objectives": "[{name: f1}]"}, "objectives.0.direction: must be maximize or minimize, but got None"),
    ({"objectives": "[{name: f1, direction: maximise}]"}, "but got 'maximise'. Did you mean 'maximize'?"),
    ({"objectives": "[{name: accuracy, direction: minimize}]"}, "objectives.0.direction: must be maximize"),
    ({"objectives": "[{name: f1, directoin: maximize}]"}, "objectives.0.directoin: unknown key"),
    ({"objectives": "[accuracy, size_bytes, latency_ms, load_ms]"}, "objectives: must be at most 3"),
    ({"constraints": "{latency_ms: {}}"}, "constraints.latency_ms: must give `min`, `max` or both"),
    ({"constraints": "{latency_ms: 5}"}, "constraints.latency_ms: must give `min`, `max` or both, but got 5"),
    ({"constraints": "{latency_ms: {maximum: 5}}"}, "constraints.latency_ms.maximum: unknown key"),
    ({"constraints": "{latency_ms: {max: '5'}}"}, "constraints.latency_ms.max: must be a finite number"),
    ({"constraints": "{latency_ms: {max: 1, min: 2}}"}, "`min <= max` must hold, but got min=2, max=1"),
    (
        {"constraints": "{latency: {max: 5}}"},
        "constraints.latency: unknown quantity. Did you mean 'latency_ms'?",
    ),
    ({"constraints": "[5]"}, "constraints: must be a mapping"),
    ({"search": "{trials: 0}"}, "search.trials: must be an integer with 1 <= value, but got 0"),
    ({"search": "{trials: -3}"}, "but got -3"),
    ({"search": "{trials: 2.0}"}, "search.trials: must be an integer"),
    ({"search": "{trials: true}"}, "but got True"),
    ({"search": "{trials: '9'}"}, "but got '9'"),
    ({"search": "{trials: {int: [1, 2]}}"}, "search.trials: must be an integer"),
    ({"search": "{timeout_s: 0}"}, "search.timeout_s: must be a number with 0 < value"),
    ({"search": "{sampler: tep}"}, "search.sampler: must be one of auto, tpe, nsga2, random, sobol, gp, but got 'tep'"),
    ({"search": "{trails: 3}"}, "search.trails: unknown key. Did you mean 'trials'?"),
    ({"search": "3"}, "search: must be a mapping"),
    ({"resources": "{gpu: 0.4}"}, "resources.gpu: must be whole, or one k-th of a GPU, but got 0.4"),
    ({"resources": "{gpu: 1.5}"}, "resources.gpu: must be whole above 1, but got 1.5. Use 2."),
    ({"resources": "{gpu: -1}"}, "resources.gpu: must be a number with 0 <= value"),
    ({"resources": "{slots: 0}"}, "resources.slots: must be an integer with 1 <= value"),
    ({"resources": "{gpus: 1}"}, "resources.gpus: unknown key. Did you mean 'gpu'?"),
]


@pytest.mark.parametrize(("sections", "expected"), VALUE_MISTAKES, ids=lambda v: str(v)[:50])
def test_a_wrong_value_names_file_line_and_rule(tmp_path: Path, sections: dict[str, str], expected: str) -> None:
    text = mistake(tmp_path, **sections)
    assert text.startswith(f"{tmp_path / 'space.yaml'}:4: ")
    assert expected in text


def test_task_and_teacher_holes(tmp_path: Path) -> None:
    assert ":1: task.name: the task cannot be searched" in mistake(tmp_path, task="{name: {choice: [digits, mnist]}}")
    text = mistake(tmp_path, teacher="{model: convnet, width: {int: [8, 64]}}")
    assert ":2: teacher.width: a hole of the teacher must be a choice, but got int" in text
    space = space_of(tmp_path, teacher="{model: convnet, width: {choice: [32, 64]}}")
    assert [h.name for h in space.holes] == ["teacher.width", "student.width"]


def test_the_line_is_that_of_the_branch(tmp_path: Path) -> None:
    clip = "\n  choice:\n    - {kind: none}\n    - kind: norm\n      threshold: {float: [0, 1]}"
    assert ":8: clip.threshold: must be a number with 0 < value" in mistake(tmp_path, clip=clip)


def test_a_range_is_checked_under_every_kind(tmp_path: Path) -> None:
    """A parameter that two kinds share is tried with both (only the second knows no `round_to`)."""
    prune = "{ratio: {float: [0, 0.9]}, round_to: 4, kind: {choice: [channel, weight]}}"
    assert "prune.round_to: unknown key" in mistake(tmp_path, prune=prune)


def test_a_space_needs_a_hole(tmp_path: Path) -> None:
    text = mistake(tmp_path, student="{model: convnet}")
    assert "a search space needs at least one hole" in text and "harness train" in text


def test_missing_sections(tmp_path: Path) -> None:
    assert "task: a recipe needs this section" in mistake(tmp_path, task="")
    assert "distill.kind: 'logits' needs a teacher" in mistake(
        tmp_path, teacher="", distill="{kind: logits, weight: 1}"
    )


RAW_MISTAKES = [
    (
        "task: {name: digits}\ntask: {name: mnist}\n",
        ":2: task: duplicate key. It is first written in line 1.",
    ),
    ("train:\n  lr: 1\n  lr: 2\n", ":3: train.lr: duplicate key"),
    (
        "task: !!python/object/apply:os.system ['true']\n",
        ":1: task: YAML tags are not allowed, but got !!python/object/apply:os.system",
    ),
    ("a: 1\nb: !mine 3\n", ":2: b: YAML tags are not allowed, but got !mine"),
    ("a: !!set {x, y}\n", "YAML tags are not allowed, but got !!set"),
    ("a: !!binary aGk=\n", "YAML tags are not allowed, but got !!binary"),
    ("a: !!int x\n", "is not a valid int, but got 'x'"),
    ("a: 99999999999999999999\n", ":1: a: a number must be below 2**63 in size"),
    ("a: " + "9" * 5000 + "\n", "is not a valid int"),
    ("a: &a {x: 1}\nb: {<<: *a}\n", ":2: b: merge keys (`<<`) are not supported"),
    ("{a: 1, [x]: 2}\n", "a key must be a plain word"),
    ("a: [1, 2\nb: 3\n", "is not valid YAML"),
    ("a: b: c\n", ":1: is not valid YAML (mapping values are not allowed here)"),
    ("a: *nowhere\n", "is not valid YAML (found undefined alias 'nowhere')"),
    ("a: 1\n---\nb: 2\n", ":2: is not valid YAML"),
    ("a: &x [*x]\n", "must be nested less than 50 deep"),
    ("[" * 20_000, "must be nested less than 50 deep"),
    ("[" * 60 + "]" * 60, "must be nested less than 50 deep"),
    ("", "the file is empty"),
    ("# nothing\n", "the file is empty"),
    ("3\n", "must be a mapping of sections"),
    ("- a\n", "must be a mapping of sections"),
    ("a: \x01\n", "is not a text file"),
]


@pytest.mark.parametrize(("text", "expected"), RAW_MISTAKES, ids=lambda v: v[:40])
def test_wrong_yaml_names_file_and_line(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    for load in (load_space, load_recipe):
        with pytest.raises(SpaceError) as caught:
            load(path)
        assert str(caught.value).startswith(str(path)) and expected in str(caught.value)


def test_aliases_that_multiply(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(SpaceError, match="more than 10,000 values|at most 10,000 values"):
        load_space(write(tmp_path, "\n".join(lines)))


def test_files_that_are_none(tmp_path: Path) -> None:
    write(tmp_path, "a: 1\n")
    (tmp_path / "binary.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    (tmp_path / "zero.yaml").write_bytes(b"a: 1\0\0\0")
    (tmp_path / "huge.yaml").write_bytes(b"# " + b"x" * 1_000_000)
    for name, expected in {
        "spcae.yaml": "no such file. Did you mean '",
        "binary.yaml": "is not a text file",
        "zero.yaml": "zero bytes",
        "huge.yaml": "must be at most 1,000,000 bytes",
        "": "is a folder, not a YAML file",
        "a\0b": "",
    }.items():
        with pytest.raises(SpaceError) as caught:
            load_space(tmp_path / name)
        assert expected in str(caught.value)


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in BASE.items()), encoding="utf-8-sig")
    assert len(load_space(path).holes) == 1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_fuzz_damaged_files_are_read_or_refused(tmp_path: Path, path: Path) -> None:
    """Whatever a slip of the editor does, the answer is a space or a SpaceError that names the file."""
    rng, text = random.Random(0), path.read_text()
    for _ in range(150):
        i, j = sorted(rng.sample(range(len(text)), 2))
        damage = rng.choice(
            [
                "",
                "\n",
                "\t",
                ": ",
                "]",
                "{",
                "'",
                "&a ",
                "*a",
                "!x ",
                "-",
                "0",
                "true",
                "1e999",
                "{choice: []}",
            ]
        )
        broken = text[:i] + damage + text[rng.choice([i, i + 1, i + 3, j]) :]
        try:
            space = load_space(write(tmp_path, broken))
            assert space.baselines()
        except SpaceError as error:
            assert str(error).startswith(str(tmp_path))
