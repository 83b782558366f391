"""Narrow storage of integer and sparse weights inside a plain ONNX file.

Every container below is a few standard operators over initializers. onnxruntime folds them into
one int8 (or float32) constant when it loads the file, so narrow files run as fast as wide ones.

- 8 bits: INT8. 4 bits: INT4 and Cast. Any other width: a stream of bits.
- Integers that do not fit their width in two's complement are stored as indices into a table of 2**bits values.
- A pruned layer whose grid has no zero has one value more than its bits can hold: it is stored a bit wider, or sparse.
- Sparse: positions are stored as byte-sized gaps and summed up; the values are scattered into zeros.

OpenVINO 2026.4 does not fold streams and computes the layers behind them wrongly, so its files use INT4 and INT8 only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.methods import FLOAT_BITS

MAX_GAP = 255  # the largest gap that a byte holds


@dataclass
class Parts:
    """Nodes and initializers of a graph, in order."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def tensor(self, name: str, values: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output


def to_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """The low ``bits`` bits of uint8 values as a stream, least significant first, in bytes."""
    planes = (values.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes.reshape(-1), bitorder="little")


def from_bits(stream: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Inverse of :func:`to_bits`."""
    planes = np.unpackbits(stream, bitorder="little")[: count * bits].reshape(count, bits)
    return (planes.astype(np.uint8) << np.arange(bits, dtype=np.uint8)).sum(1).astype(np.uint8)


def to_gaps(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gaps (uint8) and positions of a sparse vector's entries.

    The cumulative sum of the gaps gives the positions. Entries of value 0 split a run of more than 255 zeros,
    so the value at a position may be zero. If all values are zero, one entry at position 0 is
    kept, because onnxruntime cannot multiply by an empty stream.
    """
    positions, last = [], 0
    for position in np.flatnonzero(flat).tolist():
        while position - last > MAX_GAP:
            last += MAX_GAP
            positions.append(last)
        positions.append(position)
        last = position
    where = np.asarray(positions or [0], np.int64)
    return np.diff(where, prepend=0).astype(np.uint8), where


def _width(values: np.ndarray, bits: int) -> int:
    """Bits of a dense integer: ``bits``, or one more if more than 2**bits different values occur.

    That happens in a pruned layer whose grid has no zero, such as -1, 0 and 1 at one bit.
    """
    return bits + 1 if bits < 8 and len(np.unique(values)) > 2**bits else bits


@dataclass
class _Vector:
    """Integers to be written into the shared stream; ``shape`` is restored if it has several axes."""

    name: str
    values: np.ndarray
    shape: tuple[int, ...]


class Store:
    """Collects a file's weights and writes each in its dense or sparse form, whichever is smaller.

    Integers of 4 and 8 bits are tensors of their own. For each other width, one chain of operators unpacks the integers
    of all layers, so that its 300 bytes occur once per width.
    """

    SPARSE_OVERHEAD = 260  # bytes of the nodes and small tensors of one sparse weight

    def __init__(self, narrow: bool, unfolds: bool = True):
        """``unfolds``: whether the runtime folds streams and gaps into constants when it loads the file. If not, only
        INT4 and INT8 are used."""
        self._narrow, self._unfolds, self._parts, self._after = narrow, unfolds, Parts(), Parts()
        self._waiting: dict[int, list[_Vector]] = {}

    def add(self, name: str, values: np.ndarray, bits: int, may_be_sparse: bool) -> None:
        """Add the tensor ``name``: int8 with at most 2**bits different values besides 0, or float32 with bits 32."""
        if not self._narrow:
            self._parts.tensor(name, values)
        elif may_be_sparse and self._unfolds and self._gains(values, bits):
            self._sparse(name, values, bits)
        else:
            self._dense(name, values, bits)

    def _gains(self, values: np.ndarray, bits: int) -> bool:
        where, flat = to_gaps(values.reshape(-1))[1], values.reshape(-1)
        stored = len(where) * (1 + _width(flat[where], bits) / 8) + self.SPARSE_OVERHEAD
        return stored < values.size * _width(values, bits) / 8

    def _dense(self, name: str, values: np.ndarray, bits: int) -> None:
        bits = _width(values, bits)
        fits = bits >= 8 or bool(np.abs(values + 0.5).max(initial=0) <= 2.0 ** (bits - 1))
        if not self._unfolds and bits < FLOAT_BITS:
            small = np.abs(values + 0.5).max(initial=0) <= 8
            fits, bits = True, 4 if small else 8
        if not fits:
            self._by_table(name, values, bits)
        elif bits in (8, FLOAT_BITS):
            self._parts.tensor(name, values)
        elif bits == 4:
            self._parts.tensor(f"{name}.4", values.astype(ml_dtypes.int4))
            self._parts.node("Cast", [f"{name}.4"], name, to=TensorProto.INT8)
        else:
            self._waiting.setdefault(bits, []).append(_Vector(name, values.reshape(-1), values.shape))

    def _by_table(self, name: str, values: np.ndarray, bits: int) -> None:
        """Store indices into a table of the values that occur; negative indices count from its end."""
        table = np.unique(values)
        places = np.searchsorted(table, values)
        places = np.where(places >= 2 ** (bits - 1), places - 2**bits, places).astype(np.int8)
        table = np.pad(table, (0, 2**bits - len(table)))
        self._dense(f"{name}.i", places, bits)
        self._after.node("Cast", [f"{name}.i"], f"{name}.g", to=TensorProto.INT32)
        self._after.node("Gather", [self._parts.tensor(f"{name}.t", table.astype(np.int8)), f"{name}.g"], name)

    def _sparse(self, name: str, values: np.ndarray, bits: int) -> None:
        """Store gaps and values: CumSum of the gaps gives positions, ScatterND puts the values into zeros, Reshape
        restores the shape."""
        parts, flat = self._parts, values.reshape(-1)
        gaps, where = to_gaps(flat)
        parts.tensor(f"{name}.k", gaps)
        parts.node("Cast", [f"{name}.k"], f"{name}.j", to=TensorProto.INT64)
        parts.node("CumSum", [f"{name}.j", self._shared("_0", np.asarray(0, np.int64))], f"{name}.q")
        parts.node("Unsqueeze", [f"{name}.q", self._shared("_a", np.asarray([1], np.int64))], f"{name}.u")
        self._dense(f"{name}.v", flat[where], bits)
        size = parts.tensor(f"{name}.y", np.asarray([flat.size], np.int64))
        zero = numpy_helper.from_array(np.zeros(1, values.dtype))
        parts.node("ConstantOfShape", [size], f"{name}.z", value=zero)
        self._after.node("ScatterND", [f"{name}.z", f"{name}.u", f"{name}.v"], f"{name}.n")
        self._after.node("Reshape", [f"{name}.n", parts.tensor(f"{name}.h", np.asarray(values.shape, np.int64))], name)

    def finish(self) -> Parts:
        """All nodes and tensors. Call it once, at the end."""
        for bits, vectors in self._waiting.items():
            self._stream(f"_{bits}", bits, vectors)
        return Parts(self._parts.nodes + self._after.nodes, self._parts.tensors + self._after.tensors)

    def _shared(self, name: str, values: np.ndarray) -> str:
        if name not in {t.name for t in self._parts.tensors}:
            self._parts.tensor(name, values)
        return name

    def _stream(self, name: str, bits: int, vectors: list[_Vector]) -> None:
        """One stream of ``bits``-wide two's complement integers: bytes -> bits -> groups ->
        weighted sum (the highest bit weighs -2**(bits-1)) -> int8."""
        parts = self._parts
        joined = np.concatenate([v.values for v in vectors])
        joined = np.pad(joined, (0, -joined.size % 8))  # whole bytes at any width
        parts.tensor(f"{name}b", to_bits(joined.view(np.uint8), bits).reshape(-1, 1))
        shifts = self._shared("_s", np.arange(8, dtype=np.uint8))
        parts.node("BitShift", [f"{name}b", shifts], f"{name}p", direction="RIGHT")
        parts.node("BitwiseAnd", [f"{name}p", self._shared("_1", np.asarray(1, np.uint8))], f"{name}a")
        parts.tensor(f"{name}g", np.asarray([-1, bits], np.int64))
        parts.node("Reshape", [f"{name}a", f"{name}g"], f"{name}r")
        parts.node("Cast", [f"{name}r"], f"{name}c", to=TensorProto.FLOAT)
        weights = 2.0 ** np.arange(bits)
        weights[-1] *= -1
        parts.tensor(f"{name}w", weights.astype(np.float32))
        parts.node("MatMul", [f"{name}c", f"{name}w"], f"{name}m")
        parts.node("Cast", [f"{name}m"], f"{name}i", to=TensorProto.INT8)
        self._split(f"{name}i", joined.size, vectors)

    def _split(self, whole: str, count: int, vectors: list[_Vector]) -> None:
        """Split the ``count`` integers of ``whole`` into the vectors and the padding, if any."""
        parts = self._parts
        pieces = [v.name if len(v.shape) == 1 else f"{v.name}.p" for v in vectors]
        sizes = [v.values.size for v in vectors]
        padding = count - sum(sizes)
        outputs = [*pieces, f"{whole}e"] if padding else pieces
        if len(outputs) == 1:
            parts.nodes[-1].output[0] = pieces[0]
        else:
            lengths = parts.tensor(f"{whole}s", np.asarray([*sizes, padding][: len(outputs)], np.int64))
            parts.nodes.append(helper.make_node("Split", [whole, lengths], outputs))
        for piece, vector in zip(pieces, vectors, strict=True):
            if len(vector.shape) > 1:
                shape = parts.tensor(f"{vector.name}.h", np.asarray(vector.shape, np.int64))
                parts.node("Reshape", [piece, shape], vector.name)
