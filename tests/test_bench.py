"""``harness bench`` on real files: what it prints and writes. No number is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cli.numbers import labels
from harness.export.packed import pack
from harness.measure.bench import bench
from harness.measure.lab import Job, Lab, Session
from tests.bundles import bundled, on_a_device
from tests.fake_trial import tiny_model


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for width in (4, 400):
        (tmp_path / f"w{width}.onnx").write_bytes(tiny_model(width))
    return sorted(tmp_path.glob("*.onnx"))


def test_bench_prints_ratios_and_writes_every_run(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = ["bench", *map(str, files), "--seconds", "0.02", "--processes", "2", "--json", str(out)]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    assert "w400.onnx" in ran.output and "ratios to w4.onnx on onnxruntime" in ran.output
    written = json.loads(out.read_text())
    assert len(written["sessions"]) == 2 and len(written["timings"]) == 2
    first = written["timings"][0]
    assert first["ratio"] == 1.0 and first["samples"] == sum(
        len(b) for s in written["sessions"] for b in s["blocks"][0]
    )


def test_a_missing_file_is_one_message(files: list[Path]) -> None:
    ran = CliRunner().invoke(app, ["bench", "nowhere.onnx", "--seconds", "0.02"])
    assert ran.exit_code == 1 and "nowhere.onnx" in ran.output


class Disturbed(Lab):
    """The first ``times`` processes see a busy machine."""

    left = 0

    def session(self, jobs, *args, **options):  # type: ignore[no-untyped-def]
        Disturbed.left -= 1
        complaints = ["the other cores were 90% busy"] if Disturbed.left >= 0 else []
        return Session([[[1.0] * 5] * 12 for _ in jobs], [1.0] * len(jobs), 0, "h", "cpu", complaints)


@pytest.mark.parametrize(("disturbed", "verdict"), [(3, "ok"), (4, "unstable")])
def test_disturbed_processes_are_started_again_three_times(disturbed: int, verdict: str) -> None:
    Disturbed.left = disturbed
    [timing] = bench([Job(Path("a"))], processes=5, lab=Disturbed).timings
    assert timing.verdict == verdict
    assert timing.reasons == ([] if verdict == "ok" else ["the other cores were 90% busy"])


def test_a_bundle_runs_on_its_own_and_comes_back(files: list[Path], tmp_path: Path) -> None:
    packed_file = tmp_path / "p.hpk"
    packed_file.write_bytes(pack(files[1].read_bytes()))
    bundle = bundled([files[0], packed_file], tmp_path / "bundle")
    shown = CliRunner().invoke(app, ["bench", "--import", str(bundle / "results.json")])
    assert shown.exit_code == 0 and "p.hpk" in shown.output and "2 processes" in shown.output
    again = CliRunner().invoke(app, ["bench", str(files[0]), "--bundle", str(bundle)])
    assert again.exit_code == 2 and "must be a new folder" in again.output
    (bundle / "000.onnx").write_bytes(files[1].read_bytes())
    on_a_device(bundle)
    other = CliRunner().invoke(app, ["bench", "--import", str(bundle / "results.json")])
    assert other.exit_code == 2 and "timed other files" in other.output


def test_labels_are_as_short_as_they_can_be() -> None:
    assert labels([Path("a/1/m.onnx"), Path("a/2/m.onnx"), Path("a/1/m.onnx")]) == ["1/m.onnx", "2/m.onnx", "1/m.onnx"]
    assert labels([Path("x/m.onnx"), Path("x/n.onnx")]) == ["m.onnx", "n.onnx"]
