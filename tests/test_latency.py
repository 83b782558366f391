"""The lab: statistics on a fake clock, the child's life and death. Nothing asserts on real speed."""

import os
import random
import signal
import subprocess
import sys
import time

import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.errors import MAX_REASON, SpaceError, TrialError
from harness.machine.host import environment
from harness.measure import lab as latency
from harness.measure.lab import Lab, alone_on_this_host, precise, related, verdict
from harness.measure.timing import ASK_EVERY, MIN_BLOCKS, Target, drift, time_blocks
from harness.records import Measurement
from harness.runtimes.base import load
from tests.fake_trial import tiny_model


class Clock:
    """Seconds that pass only when a target runs."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def target(self, seconds) -> Target:
        def run(i: int) -> None:
            self.now += seconds(self.now) if callable(seconds) else seconds

        return Target(run)


def test_blocks_hold_exact_times_interleaved_and_enough_of_them():
    clock = Clock()
    order: list[str] = []
    fast, slow = clock.target(0.0002), clock.target(0.003)
    named = [Target(lambda i, t=t, n=n: (order.append(n), t.run(i))) for n, t in (("f", fast), ("s", slow))]
    blocks = time_blocks(named, budget_s=0.05, clock=clock)
    assert len(blocks[0]) == len(blocks[1]) >= MIN_BLOCKS
    assert all(block == pytest.approx([0.2] * 5) for block in blocks[0]), "five of 0.2 ms fill a block of 1 ms"
    assert all(block == pytest.approx([3.0]) for block in blocks[1])
    switches = sum(a != b for a, b in zip(order, order[1:], strict=False))
    assert switches >= len(blocks[0])  # never all of one, then all of the other


def test_a_short_budget_still_gives_the_least_number_of_blocks():
    clock = Clock()
    assert len(time_blocks([clock.target(1.0)], budget_s=0.01, clock=clock)[0]) == MIN_BLOCKS


def test_files_are_timed_until_every_median_is_precise():
    clock = Clock()
    steady = clock.target(0.001)
    rng = random.Random(0)
    shaking = clock.target(lambda now: rng.uniform(0.001, 0.002))
    assert len(time_blocks([steady], 1.0, clock=clock, enough=precise)[0]) == ASK_EVERY
    assert len(time_blocks([steady, shaking], 0.5, clock=clock, enough=precise)[0]) > 4 * ASK_EVERY
    assert len(time_blocks([steady], 1.0, clock=clock)[0]) > 10 * ASK_EVERY


def test_a_machine_that_changes_its_speed_from_turn_to_turn_is_followed():
    assert related([9.0, 6.0, 6.0, 12.0], [3.0, 2.0, 2.0, 4.0]) == pytest.approx([7.5] * 4)
    clock, rng = Clock(), random.Random(0)
    speeds = [rng.uniform(0.5, 1.0) for _ in range(100)]  # another every 0.2 s

    def moody(takes: float) -> Target:
        return clock.target(lambda now: takes / speeds[int(now / 0.2)])

    blocks = time_blocks([moody(0.004), moody(0.002)], 1.0, clock=clock)
    assert precise(blocks) and not precise(blocks[:1]) and not precise(blocks[1:])


def test_drift_and_verdict():
    steady, slower = [1.0] * 30, [1.0] * 10 + [1.05] * 10 + [1.2] * 10
    assert drift(steady) == 0 and drift(slower) == pytest.approx(0.2)
    quiet = Measurement(name="latency_ms", unit="ms", values=[1.0, 1.01, 0.99, 1.0, 1.0, 1.01, 1.0, 0.99, 1.0])
    noisy = quiet.model_copy(update={"values": [1.0, 2.0, 0.5, 1.5, 3.0, 0.7, 1.1, 0.9, 2.2]})
    assert verdict(quiet, 0.01) == "ok"
    assert verdict(quiet, 0.2) == "unstable" and verdict(noisy, 0.0) == "unstable"


def test_interval_covers_the_median_as_often_as_it_says():
    """Binomial coverage of the order-statistic interval, counted on normal samples."""
    import numpy as np

    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(600):
        low, high = Measurement(name="x", unit="ms", values=rng.normal(size=31).tolist()).interval()
        inside += low <= 0 <= high
    assert 0.93 <= inside / 600 <= 0.995


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_model(8))
    return path


def test_the_lab_measures_interleaved_and_names_its_conditions(model):
    with Lab() as lab:
        first, second = lab.measure([model, model], model, budget_s=0.02)
        child = psutil.Process(lab._child.pid)
        assert not any("torch" in m.path for m in child.memory_maps())
    assert len(first.values) >= MIN_BLOCKS and all(v > 0 for v in first.values)
    assert {"runtime", "threads", "batch_size", "load_ms", "host", "cpu_model", "reference_drift", "verdict"} <= set(
        first.conditions
    )
    assert second.unit == "ms"
    assert not child.is_running()


def test_a_dead_child_is_replaced_and_a_bad_file_is_an_error(model, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x00garbage")
    with Lab() as lab:
        lab.measure([model], None, budget_s=0.01)
        os.kill(lab._child.pid, signal.SIGKILL)
        assert lab.measure([model], None, budget_s=0.01)
        with pytest.raises(TrialError, match=r"bad\.onnx.*not an ONNX model"):
            lab.measure([tmp_path / "bad.onnx"], None, budget_s=0.01)
        assert lab.measure([model], None, budget_s=0.01)


def test_the_child_ends_with_its_parent(model):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom harness.measure.lab import Lab\nlab = Lab()\n"
        "lab.measure([Path(sys.argv[1])], None, budget_s=0.01)\nprint(lab._child.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(model)], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_external_data_is_refused(tmp_path):
    import numpy as np

    tensor = numpy_helper.from_array(np.zeros(8, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])],
        initializer=[tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="other.bin", size_threshold=0)
    with pytest.raises(SpaceError, match="outside the file"):
        load("onnxruntime", tmp_path / "m.onnx")


def test_logits_do_not_depend_on_the_batch(model):
    import numpy as np

    x = np.random.default_rng(0).random((10, 4), np.float32)
    loaded = load("onnxruntime", model)
    assert np.array_equal(loaded.logits(x, batch=3), loaded.logits(x, batch=10))


def test_missing_file_and_environment(tmp_path):
    with pytest.raises(SpaceError, match="no such file"):
        load("onnxruntime", tmp_path / "none.onnx")
    found = environment()
    assert found["cores"] >= 1 and len(found["host"]) == 12 and found["cpu_model"]


RUNTIME = """
import ctypes, os, subprocess, sys
import numpy as np
from harness.runtimes.base import Loaded

def speaks():
    print("a line of Python's", flush=True)
    os.write(1, b"{not an answer}\\n")
    ctypes.CDLL(None).puts(b"a line of C's")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["echo", "a line of a process'"], check=True)
    return sys.stdin.read()

def printing(path, threads):
    speaks()
    return Loaded((4,), lambda x: speaks() and None)

def leaving(path, threads):
    sys.exit(3)

def interrupted(path, threads):
    return Loaded((4,), ctrl_c)

def ctrl_c(x):
    raise KeyboardInterrupt

def long(path, threads):
    raise OSError("x" * 5_000_000)

def dying(path, threads):
    os._exit(1)
"""


def test_what_a_runtime_prints_reads_or_raises_stays_out_of_the_answers(model, own_module, monkeypatch):
    name = own_module(RUNTIME)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), os.environ["PYTHONPATH"]]))
    with Lab(timeout_s=30) as lab:
        [found] = lab.measure([model], None, f"{name}:printing", budget_s=0.01)
        assert found.values
        child = lab._child.pid
        for runtime, said in (("leaving", "SystemExit: 3"), ("interrupted", "KeyboardInterrupt"), ("long", "OSError")):
            with pytest.raises(TrialError, match=said) as raised:
                lab.measure([model], None, f"{name}:{runtime}", budget_s=0.01)
            assert len(str(raised.value)) < MAX_REASON + 100
        assert lab._child.pid == child, "none of them cost the process"
        with pytest.raises(TrialError, match="died or gave no answer"):
            lab.measure([model], None, f"{name}:dying", budget_s=0.01)


def test_a_lab_waits_so_long_for_another_one(model, monkeypatch):
    monkeypatch.setattr(latency, "OTHERS_S", 0.3)
    with alone_on_this_host(), Lab() as lab, pytest.raises(TrialError, match="another process has measured on this"):
        lab.measure([model], None, budget_s=0.01)
    with Lab() as lab:
        assert lab.measure([model], None, budget_s=0.01)
