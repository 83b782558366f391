"""Mistakes that are answered before the first trial: in the driver before Ray starts, or by the first worker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.errors import SpaceError
from harness.recipe import parse_recipe
from harness.records import read_record
from harness.registries import REGISTRIES
from harness.search.budget import Budget
from harness.search.driver import Outcome, search
from harness.search.jobs import Finished
from harness.search.preflight import check_given
from harness.space.settings import Settings
from harness.space.space import load_space
from harness.tasks.digits import digits
from harness.trial import run as trial
from harness.trial.proof import loaded, skill_of

ROOT = Path(__file__).resolve().parent.parent


class Counted:
    """A wrong function or a missing file must not get as far as Ray."""

    def __init__(self) -> None:
        self.pools = 0

    def __call__(self, *_: object) -> None:
        self.pools += 1
        raise RuntimeError("Ray would start here")


def answered(folder: Path, **sections: str) -> str:
    """The mistake of a search that reaches no Ray and leaves no folder."""
    lines = {"task": "{name: digits}", "student": "{model: mlp, hidden: {choice: [[4], [8]]}}", **sections}
    (folder / "space.yaml").write_text("".join(f"{name}: {text}\n" for name, text in lines.items()))
    pools = Counted()
    with pytest.raises(SpaceError) as caught:
        search(load_space(folder / "space.yaml"), folder / "results", progress=False, make_pool=pools)  # pyright: ignore
    assert pools.pools == 0 and not (folder / "results").exists()
    return str(caught.value)


MINE = """
raise RuntimeError("a check must not run this module")
from somewhere import helper
def network(input_shape, classes, width=4): ...
def few(input_shape): ...
def needs(input_shape, classes, depth): ...
def any_option(*given, **options): ...
def data(share=0.5): ...
try:
    late = helper
except ImportError:
    other = 3
"""


@pytest.mark.parametrize(
    ("section", "text", "line", "expected"),
    [
        ("task", '{name: "no_such:data"}', 1, "task.name: cannot import 'no_such:data' (there is no module 'no_such')"),
        ("task", '{name: "OWN:dat"}', 1, "has no function 'dat'. Did you mean 'data'?"),
        (
            "task",
            '{name: "OWN:data", shares: 1}',
            1,
            "takes (share=0.5) and has no such option. Did you mean 'share'?",
        ),
        ("task", "{name: arrays, train: no.npz, test: no.npz}", 1, "task.train: no such file, but got 'no.npz'"),
        ("task", "{name: digits, split: no.npz}", 1, "task.split: no such file, but got 'no.npz'"),
        ("student", '{model: "OWN:few", width: {choice: [1, 2]}}', 2, "and must take that, but got '(input_shape)'"),
        ("student", '{model: "OWN:needs", width: {choice: [1, 2]}}', 2, "but also needs depth"),
        ("student", '{model: "OWN:network", depth: {choice: [1, 2]}}', 2, "and has no such option"),
        (
            "student",
            "{model: mlp, hidden: {choice: [[4], [8]]}, checkpoint: no.pt}",
            2,
            "student.checkpoint: no such file",
        ),
        ("student", '{choice: [{model: mlp}, {model: "no_such.deep:net"}]}', 2, "there is no module 'no_such'"),
        ("teacher", '{model: "OWN:absent", epochs: 2}', 3, "has no function 'absent'"),
        ("deploy", '{runtime: "OWN:data"}', 3, "is called as (path, threads) and must take that"),
    ],
)
def test_answered_before_ray_with_file_and_line(section, text, line, expected, own_module, tmp_path):
    found = answered(tmp_path, **{section: text.replace("OWN", own_module(MINE))})
    assert found.startswith(f"{tmp_path / 'space.yaml'}:{line}: {section}.")
    assert expected in found


@pytest.mark.parametrize("student", ["any_option", "network", "late", "helper", "other"])
def test_what_may_be_right_is_not_refused(student, own_module, tmp_path):
    name = own_module(MINE)
    student = f'{{model: "{name}:{student}", width: {{choice: [1, 2]}}}}'
    (tmp_path / "space.yaml").write_text(f"task: {{name: digits}}\nstudent: {student}\n")
    check_given(load_space(tmp_path / "space.yaml"))


def test_a_function_in_folders_without_init_files_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spaces_of_mine" / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "spaces_of_mine" / "deep" / "deeper" / "mine.py").write_text(MINE)
    assert "has no function 'dat'" in answered(tmp_path, task='{name: "spaces_of_mine.deep.deeper.mine:dat"}')
    assert "no module 'spaces_of_mine.no'" in answered(tmp_path, task='{name: "spaces_of_mine.no.mine:dat"}')


@pytest.mark.parametrize("space", sorted((ROOT / "search_spaces").rglob("*.yaml")), ids=lambda path: path.stem)
def test_what_a_shipped_space_names_is_found(space, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_given(load_space(space))


def test_numbers_that_cannot_be(tmp_path):
    with pytest.raises(SpaceError, match="trials: must be at least 1, but got -1"):
        Budget.of(Settings(), -1)
    assert "train.lr: must be a number with 0 < value over the hole's whole range, but got -0.1" in mistake_of(
        tmp_path, train="{lr: {float: [-0.1, 0.1]}}"
    )


def mistake_of(folder: Path, **sections: str) -> str:
    lines = {"task": "{name: digits}", "student": "{model: mlp}", **sections}
    (folder / "space.yaml").write_text("".join(f"{name}: {text}\n" for name, text in lines.items()))
    with pytest.raises(SpaceError) as caught:
        load_space(folder / "space.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--trials=-1", "--trials: must be at least 1, but got -1. Example: --trials 60."),
        ("--time=-5m", "--time: must be a number above 0 of s, m or h, but got '-5m'. Example: --time 30m."),
        ("--time=nan", "--time: must be a number above 0 of s, m or h, but got 'nan'"),
        ("--epochs-total=0", "--epochs-total: must be at least 1, but got 0"),
    ],
)
def test_options_that_cannot_be(option, expected, tmp_path):
    ran = harness("search", str(ROOT / "search_spaces" / "digits.yaml"), option, cwd=tmp_path)
    assert (ran.returncode, list(tmp_path.iterdir())) == (2, [])
    assert expected in ran.stderr


def test_skill_is_the_share_of_the_way_from_chance():
    """Against sklearn's balanced accuracy, which adjusted is that share for the recalls."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    rng = np.random.default_rng(0)
    labels = rng.choice(3, 400, p=[0.8, 0.15, 0.05])
    for noise in (0.0, 0.5, 3.0):
        logits = np.eye(3)[labels] + noise * rng.normal(size=(400, 3))
        guess, seen = logits.argmax(1), skill_of(logits, labels, 3)
        assert seen.accuracy == pytest.approx(accuracy_score(labels, guess))
        even = balanced_accuracy_score(labels, guess, adjusted=True)
        assert seen.skill == pytest.approx(max(even, (seen.accuracy - seen.chance) / (1 - seen.chance)))
    constant = skill_of(np.tile([1.0, 0, 0], (400, 1)), labels, 3)
    assert constant.weak and constant.skill == pytest.approx(0)
    assert skill_of(np.eye(3)[labels], labels, 3).skill == 1
    assert skill_of(np.full((400, 3), np.nan), labels, 3).accuracy == 0


def test_a_weak_checkpoint_is_refused_and_its_normalization_named(tmp_path, monkeypatch):
    accuracy = raw_checkpoint(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def seen(normalize, allow=False, **sections):
        mine = {"model": "mine:net", "checkpoint": "mine.safetensors"}
        tree = {"task": {"name": "mine:data", "normalize": normalize}, "student": mine, "teacher": "self", **sections}
        return loaded(parse_recipe(tree, REGISTRIES), allow)

    with pytest.raises(SpaceError) as caught:
        seen("auto")
    assert caught.value.path == "student.checkpoint" and "write `normalize: none`" in str(caught.value)
    said = r"must classify at least (.+)% of .*, or (.+)% as the mean over .*, but got '?([\d.]+)% and ([\d.]+)%"
    right = re.search(said, str(caught.value))
    assert right is not None, str(caught.value)
    least, least_recall, accuracy_seen, recall = map(float, right.groups())
    assert recall < least_recall < least and accuracy_seen < least
    [found] = seen("none")
    assert (found["where"], found["weak"], found["better"]) == ("student", False, "")
    assert found["accuracy"] == pytest.approx(accuracy)
    [found] = seen("auto", allow=True)
    assert found["weak"] and found["accuracy"] < 0.55
    assert found["better"] == f"{accuracy:.2%} with `task.normalize: none`"
    teacher = {"model": "mine:net", "checkpoint": "mine.safetensors"}
    with pytest.raises(SpaceError, match="teacher.checkpoint: the network in mine.safetensors"):
        seen("auto", student={"model": "mlp"}, teacher=teacher)


# From here on whole searches.


def harness(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)


class InThisProcess:
    """A pool without Ray: every job runs where the test runs."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Any, ...]] = []
        self.logits: dict[str, Any] = {}

    free = property(lambda self: 1 - len(self.jobs))
    running = property(lambda self: [job for job, *_ in self.jobs])

    def idle(self, slot: int) -> bool:
        return not self.jobs

    def share(self, logits: dict[str, Any]) -> None:
        self.logits = logits

    def submit(self, job: int, name: str, *args: Any, logits: bool = False, **_: Any) -> None:
        self.jobs.append((job, name, (*args, *([self.logits] if logits else []))))

    def call(self, name: str, *args: Any, hear: Any = None) -> Any:
        return getattr(trial, name)(*args)

    def wait(self, timeout_s: float) -> list[Finished]:
        job, name, args = self.jobs.pop()
        return [Finished(job, self.call(name, *args))]

    def close(self) -> None:
        pass


def searched(folder: Path, text: str, *overrides: str) -> Outcome:
    (folder / "s.yaml").write_text(text)
    space = load_space("s.yaml", overrides=overrides)
    return search(space, folder / "results", make_pool=lambda *_: InThisProcess())  # pyright: ignore


MY_NETWORK = """
from torch import nn
from harness.tasks.digits import digits

def net(input_shape, classes):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, classes),
    )

def data():
    found = digits()
    parts = {name: getattr(found, name) for name in ("train", "validation", "test")}
    x = {f"x_{name}": (15 * x).numpy() for name, (x, _) in parts.items()}
    return {**x, **{f"y_{name}": y.numpy() for name, (_, y) in parts.items()}}
"""


def raw_checkpoint(folder: Path) -> float:
    """A network that never saw normalized samples, trained by a loop of its own; its validation accuracy."""
    (folder / "mine.py").write_text(MY_NETWORK)
    scope: dict[str, Any] = {}
    exec(MY_NETWORK, scope)
    data = digits()
    torch.manual_seed(0)
    net = scope["net"]((1, 8, 8), 10)
    x, y = 15 * data.train[0].float(), data.train[1]
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(8):
        for rows in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    save_file(net.state_dict(), folder / "mine.safetensors")
    held, labels = data.validation
    return float((net.eval()(15 * held.float()).argmax(1) == labels).float().mean())


NEWCOMER = """
task: {name: "mine:data"}
teacher: self
student: {model: "mine:net", checkpoint: mine.safetensors}
train: {epochs: 2, lr: 0.01}
prune: {kind: channel, ratio: {float: [0.0, 0.5]}}
quant: {bits: 4}
distill: {kind: logits, weight: 0.5}
search: {trials: 3}
objectives: [accuracy, size_bytes]
"""


@pytest.mark.slow
def test_a_checkpoint_trained_without_normalization(tmp_path, monkeypatch, capsys):
    accuracy = raw_checkpoint(tmp_path)
    assert accuracy > 0.93
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpaceError) as caught:
        searched(tmp_path, NEWCOMER)
    assert str(caught.value).startswith("s.yaml:4: student.checkpoint: the network in mine.safetensors must classify")
    for told in ("samples with another normalization", "write `normalize: none`", "search.allow_weak"):
        assert told in str(caught.value)
    assert not (tmp_path / "results").exists()

    outcome = searched(tmp_path, NEWCOMER, "task.normalize=none")
    assert (outcome.finished, outcome.failed) == (3, 0)
    assert f"student mine.safetensors: accuracy {accuracy:.2%} on validation" in capsys.readouterr().err
    record = read_record(tmp_path / "results" / "trials" / "00000")
    assert record is not None and record.value("accuracy") == pytest.approx(accuracy, abs=0.03)
    session = onnxruntime.InferenceSession(tmp_path / "results" / "trials" / "00000" / "model.onnx")
    x, y = digits().validation
    [logits] = session.run(None, {"input": 15 * x.float().numpy()})
    assert (np.asarray(logits).argmax(1) == y.numpy()).mean() == pytest.approx(record.value("accuracy"))


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_line_refuses_it_with_exit_code_2(tmp_path):
    raw_checkpoint(tmp_path)
    (tmp_path / "s.yaml").write_text(NEWCOMER)
    ran = harness("search", "s.yaml", cwd=tmp_path)
    assert ran.returncode == 2 and not (tmp_path / "results" / "s").exists(), ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("harness: s.yaml:4: student.checkpoint: the network in mine")


OWN = """
task: {{name: digits}}
student: {{model: "tests.own_networks:{network}", width: {{choice: [8, 16]}}}}
train: {{epochs: 2, lr: 0.02}}
prune:
  choice: [{{kind: none}}, {{kind: channel, ratio: 0.5}}, {{kind: weight, ratio: 0.5}}]
quant: {{bits: {{choice: [2, 4, 32]}}}}
first:
  - {{student: {{width: 16}}, prune: {{kind: channel}}, quant: {{bits: 4}}}}
  - {{student: {{width: 16}}, prune: {{kind: weight}}, quant: {{bits: 2}}}}
search: {{trials: 5}}
objectives: [accuracy, size_bytes]
"""


@pytest.mark.slow
@pytest.mark.parametrize(("network", "alone"), [("encoder", "MultiheadAttention"), ("recurrent", "LSTM")])
def test_attention_and_recurrence_are_searched(network, alone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    outcome = searched(tmp_path, OWN.format(network=network))
    assert (outcome.finished, outcome.failed) == (5, 0)
    told = capsys.readouterr().err
    assert "exported as they are, neither pruned nor rounded" in told and f"({alone})" in told
    assert "no channels can be removed from: embed" in told
    kinds = set()
    for folder in sorted((tmp_path / "results" / "trials").iterdir()):
        record = read_record(folder)
        assert record is not None and record.status == "ok"
        assert alone in record.diagnostics["left_alone"].values()
        bits = record.recipe["quant"]["bits"]
        seen, layers = record.diagnostics["parity"], record.diagnostics["audit"]["layers"]
        if bits in (2, 4):  # 8 bits saturate on some processors
            assert seen["disagreements"] <= 0.02 * seen["n"]
            narrow = {2: {"2-bit", "int4"}, 4: {"int4"}}[bits]  # a small network is smaller as INT4 than as a stream
            assert narrow & {layer["stored"].split()[0] for layer in layers}
            kinds.add(record.recipe["prune"]["kind"])
    assert {"channel", "weight"} <= kinds


@pytest.mark.slow
def test_a_network_that_no_graph_computes_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpaceError) as caught:
        searched(tmp_path, OWN.format(network="branching"))
    rule = "'tests.own_networks:branching' must be exported to ONNX: "
    assert str(caught.value).startswith(f"s.yaml:3: student.model: {rule}")
    assert "no branches on values" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()
