"""A small file from somebody else costs little memory and little time, whatever it states."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.errors import SpaceError
from harness.export import packed
from harness.export.packed import DEFLATE, MAGIC, SPARSE, STORED, unpack
from harness.runtimes.base import load
from harness.space.space import load_space
from harness.tasks.arrays import arrays
from harness.tasks.split import rows_of
from tests.bundles import results
from tests.spaces import BASE, write

TEXT = "".join(f"{name}: {value}\n" for name, value in BASE.items())
MIB = 1 << 20


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def stored(data: bytes) -> bytes:
    return bytes([STORED]) + varint(len(data)) + data


def sparse(raw: int, gaps: bytes, values: bytes) -> bytes:
    return bytes([SPARSE]) + varint(raw) + gaps + values


def skeleton() -> bytes:
    """A graph with one initializer whose data lies in a part of its own."""
    tensor = TensorProto(name="w", data_type=TensorProto.INT8, dims=[MIB], raw_data=b"")
    graph = helper.make_graph([], "g", [], [], initializer=[tensor])
    return helper.make_model(graph).SerializeToString(deterministic=True)


def states(size: int, *parts: bytes) -> bytes:
    return MAGIC + varint(size) + bytes(16) + b"".join(parts)


def nested_sparse(depth: int, raw: int) -> bytes:
    """Sparse parts in sparse parts, each stating twice the bytes of the one around it."""
    inner = stored(b"") if not depth else nested_sparse(depth - 1, 2 * raw)
    return sparse(raw, inner, stored(b""))


def grown(code: str, *given: str) -> tuple[float, float]:
    """MiB and seconds of CPU that a fresh process needs more for ``work`` than for its imports."""
    script = (
        "import resource, sys, time\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (120, 120))\n"
        f"{code}\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, started = peak(), time.process_time()\n"
        "work(*sys.argv[1:])\n"
        "print(peak() - before, time.process_time() - started)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, *given], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    mib, seconds = map(float, ran.stdout.split())
    return mib, seconds


UNPACK = (
    "from pathlib import Path\n"
    "from harness.export.packed import unpack\n"
    "def work(*names):\n"
    "    for name in names:\n"
    "        try:\n"
    "            unpack(Path(name).read_bytes())\n"
    "        except ValueError:\n"
    "            pass\n"
)


def test_sparse_parts_in_sparse_parts_cost_no_memory(tmp_path: Path) -> None:
    """96 bytes that state 1 MiB took 3 GB: each nesting doubled what may be decoded."""
    head = stored(skeleton())
    bombs = {
        "nested": states(MIB, head, nested_sparse(10, MIB // 2)),
        "flat": states(MIB, head, sparse(MIB // 2, *2 * [sparse(MIB, stored(b""), stored(b""))])),
        "entries": states(8 * MIB, head, sparse(4 * MIB, *2 * [deflated(4 * MIB)])),
        "zeros": states(2**31 - 1, head, sparse(2**31 - 1000, stored(b"\0"), stored(b"\0"))),
    }
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    mib, seconds = grown(UNPACK, *(str(tmp_path / name) for name in bombs))
    assert mib < 64
    assert seconds < 10


def deflated(count: int) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = coder.compress(bytes(count)) + coder.flush()
    return bytes([DEFLATE]) + varint(count) + varint(len(data)) + data


def test_a_sparse_part_holds_plain_parts_only() -> None:
    inner = sparse(500, stored(b""), stored(b""))
    with pytest.raises(ValueError, match="method 3 is unknown"):
        unpack(states(MIB, stored(skeleton()), sparse(1000, inner, stored(b""))))


def test_a_file_states_no_more_than_so_many_times_its_size() -> None:
    data = states(2**30, stored(skeleton()), sparse(2**29, stored(b"\0"), stored(b"\0")))
    with pytest.raises(ValueError, match="states 1073741824 bytes"):
        unpack(data)
    zeros = numpy_helper.from_array(np.zeros(2**23, np.int8), "w")
    model = helper.make_model(helper.make_graph([], "g", [], [], initializer=[zeros]))
    whole = model.SerializeToString(deterministic=True)
    assert unpack(packed.pack(whole)) == whole, "the writer keeps to the rule of the reader"


def external(name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    return tensor


def _branch(node: onnx.NodeProto | None = None, tensor: TensorProto | None = None) -> onnx.GraphProto:
    made = node or helper.make_node("Identity", ["w"], ["y"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    return helper.make_graph([made], "branch", [], [output], initializer=[tensor] if tensor else [])


def places_of_external_data() -> dict[str, onnx.ModelProto]:
    """One model for each place of the format that can hold a tensor."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    constant = helper.make_node("Constant", [], ["y"], value=external())
    either = helper.make_node("If", ["x"], ["y"], then_branch=_branch(tensor=external()), else_branch=_branch(constant))
    loose = onnx.SparseTensorProto(values=external(), indices=numpy_helper.from_array(np.arange(4)), dims=[8])
    models = {
        "initializer": _branch(tensor=external()),
        "Constant": _branch(constant),
        "If": _branch(either),
        "Constant in If": _branch(helper.make_node("If", ["x"], ["y"], then_branch=_branch(constant))),
        "sparse_value": _branch(helper.make_node("Constant", [], ["y"], sparse_value=loose)),
        "tensors": _branch(helper.make_node("Own", [], ["y"], domain="own", values=[external()])),
    }
    made = {name: helper.make_model(graph) for name, graph in models.items()}
    made["sparse_initializer"] = helper.make_model(_branch())
    made["sparse_initializer"].graph.sparse_initializer.append(loose)
    made["function"] = helper.make_model(_branch())
    made["function"].functions.append(
        helper.make_function("own", "f", ["x"], ["y"], [constant], [helper.make_opsetid("", 21)])
    )
    made["training"] = helper.make_model(_branch())
    made["training"].training_info.add().initialization.CopyFrom(_branch(tensor=external()))
    for model in made.values():
        model.graph.input.append(value)
        if not model.graph.output:
            model.graph.output.append(output)
    return made


@pytest.mark.parametrize("place", places_of_external_data())
@pytest.mark.parametrize("form", ["onnx", "packed"])
def test_data_outside_the_file_is_refused_wherever_it_is_named(place: str, form: str, tmp_path: Path) -> None:
    data = places_of_external_data()[place].SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data if form == "onnx" else MAGIC + varint(len(data)) + packed._digest(data) + stored(data))
    with pytest.raises(SpaceError, match="lies outside the file, which is refused"):
        load("onnxruntime", path)
    from harness.measure.bundle import write_bundle

    with pytest.raises(SpaceError, match="lies outside the file, which is refused"):
        write_bundle([path], tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


LOAD = (
    "from harness.errors import SpaceError\n"
    "from harness.space.space import load_space\n"
    "import harness.registries\n"
    "def work(*names):\n"
    "    for name in names:\n"
    "        try:\n"
    "            load_space(name)\n"
    "        except SpaceError as error:\n"
    "            assert len(str(error)) < 2000, str(error)[:3000]\n"
    "        else:\n"
    "            raise AssertionError(name)\n"
)


def large_spaces() -> dict[str, str]:
    """Spaces that took minutes to be refused."""
    holes = "\n".join(f"  h{i}: {{int: [1, 1000000]}}" for i in range(800))
    nested = "1"
    for _ in range(45):
        nested = f"[{nested}, 2]"
    return {
        "holes": f"task: {{name: digits}}\nstudent:\n  model: own:net\n{holes}\n",
        "task": f"task:\n  name: own:data\n{holes}\nstudent: {{model: convnet, width: 8}}\n",
        "list": f"{TEXT}search: {{seed: [{', '.join(['1'] * 300_000)}]}}\n",
        "choice": f"{TEXT}train: {{lr: {{choice: [{', '.join(map(str, range(1, 40_000)))}]}}}}\n",
        "kinds": f"{TEXT}train: {{{', '.join(f'k{i}: {{choice: [1, 2]}}' for i in range(1000))}}}\n",
        "deep": f"{TEXT}search: {{seed: {nested}}}\n",
    }


def test_a_large_space_is_refused_in_seconds(tmp_path: Path) -> None:
    """800 holes took 26 minutes, a list of 900 kB 128 seconds."""
    names = []
    for name, text in large_spaces().items():
        names.append(str(tmp_path / f"{name}.yaml"))
        Path(names[-1]).write_text(text)
    mib, seconds = grown(LOAD, *names)
    assert mib < 256
    assert seconds < 20


@pytest.mark.parametrize(
    "value", ["[.nan, 1]", "[.nan, .nan]", "[[1, .nan], [1, 2]]", "[{kind: x, y: .nan}, 1]", "[.inf, 1]"]
)
def test_a_choice_holds_finite_numbers(value: str, tmp_path: Path) -> None:
    """NaN differs from itself: it was a StopIteration."""
    with pytest.raises(SpaceError, match="finite"):
        load_space(write(tmp_path, f"{TEXT}train: {{lr: {{choice: {value}}}}}\n"))


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def header(shape: str, descr: str = "|u1") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def odd_arrays(folder: Path) -> dict[str, Path]:
    """Archives whose headers state more than, less than or other than what follows."""
    good = io.BytesIO()
    np.save(good, np.arange(4))
    x = header("(2, 3)") + bytes(6)
    return {
        "6 TiB": npz(folder / "a.npz", x=header("(1099511627776, 6)") + b"xx", y=good.getvalue()),
        "overflow": npz(folder / "b.npz", x=header(f"({2**62}, {2**62})"), y=good.getvalue()),
        "negative": npz(folder / "c.npz", x=header("(-1, 6)"), y=good.getvalue()),
        "a bomb": npz(folder / "d.npz", x=header("(1073741824,)") + bytes(1000), y=good.getvalue()),
        "objects": npz(folder / "e.npz", x=header("(2,)", "|O") + b"\x80\x04N.", y=good.getvalue()),
        "no header": npz(folder / "f.npz", x=b"\x93NUMPY\x01\x00\xff\xff", y=good.getvalue()),
        "code": npz(folder / "g.npz", x=header("().__class__"), y=good.getvalue()),
        "bytes": npz(folder / "h.npz", x=b"not an array", y=good.getvalue()),
        "version": npz(folder / "i.npz", x=x.replace(b"\x01\x00", b"\x09\x09", 1), y=good.getvalue()),
    }


def test_an_archive_that_states_terabytes_is_one_message(tmp_path: Path) -> None:
    for name, path in odd_arrays(tmp_path).items():
        started = time.process_time()
        with pytest.raises(SpaceError) as caught:
            arrays(str(path), str(path))
        assert len(str(caught.value)) < 1000, name
        with pytest.raises(SpaceError):
            rows_of(str(path.rename(path.with_suffix(".renamed"))), 10, ("x", "y"))
        assert time.process_time() - started < 2, name


def odd_results() -> dict[str, str]:
    """Texts that are no results of a device."""
    session = json.loads(results())["sessions"][0]
    file = json.loads(results())["files"][0]
    found: dict[str, str] = {
        "a list": "[]", "nothing": "", "deep": "[" * 100_000, "null": "null", "NaN": results(batch_size=float("nan")),
        "huge": results(threads=10**400), "no sessions": results(sessions=[]), "no files": results(files=[]),
        "one file": results(files=[file]), "text": results(sessions="abc"), "numbers": results(files=[1, 2]),
        "batch": results(batch_size="1e9999"), "path": results(files=[{**file, "path": 3}] * 2),
        "surrogate": results(runtime="\ud800"), "infinite": results(batch_size=float("inf")),
    }  # fmt: skip
    for key, values in {
        "blocks": (None, [], [[]], [[[]]], [[["a"]]] * 2, [[[0.0] * 3] * 3] * 2, [[[-1.0]]] * 2, [[[1e400]]] * 2, 7),
        "load_ms": (None, [], ["x"], [1.0]), "host": (None, 3, []), "complaints": (None, "x", [1]), "core": ("x",),
        "options": (None, [1], "x", [{"a": 1}]), "cpu_model": (None,),
    }.items():  # fmt: skip
        for i, value in enumerate(values):
            found[f"{key} {i}"] = results(sessions=[{**session, key: value}] * 2)
    return found


def test_odd_results_of_a_device_are_one_message(tmp_path: Path) -> None:
    from harness.measure.bundle import read_results

    path = tmp_path / "results.json"
    path.write_text(results())
    made, _ = read_results(path)
    assert len(made.timings) == 2
    for name, text in odd_results().items():
        path.write_text(text)
        with pytest.raises(SpaceError) as caught:
            read_results(path)
        assert len(str(caught.value)) < 1000, name
