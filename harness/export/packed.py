"""The packed format: an ONNX model with entropy-coded weights, restored bit for bit.

    magic   4 bytes  ``HPK1``
    size    varint   bytes of the ONNX model
    digest  16 bytes BLAKE2b of the ONNX model
    part    the model without the data of its large initializers
    part    one for each initializer whose data was taken out, in their order

A part is ``method`` (1 byte), ``raw`` (varint: its decoded bytes) and what the method needs:

    0  stored    raw bytes
    1  deflate   varint length, a raw deflate stream
    2  shuffle   as 1, of float32 values with regrouped bytes: first all first bytes, then all second bytes, ...
    3  sparse    two parts of another method, gaps and values, one byte per entry: the cumulative sum of the
                 gaps gives the positions of the values; everything else is zero

A varint is little-endian base 128. Integers are deflated with Huffman codes only (zlib's
Z_HUFFMAN_ONLY): weights have no repeats to find, and Huffman codes come within a fraction of a bit of
the entropy. A file that does not begin with the magic is plain ONNX: the writer uses plain ONNX where packing does not
make the file smaller.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from harness.errors import SpaceError
from harness.export.narrow import to_gaps
from harness.files.access import MODEL_BYTES, read_bytes

MAGIC = b"HPK1"
DIGEST = 16
MAX_RATIO = 1000  # a model has at most 1 MiB plus this many times its packed file's bytes; guards against bombs
TAKE_OUT = 64  # an initializer of at least this many bytes gets its own part, with a header of a few bytes
CHUNK = 2**16  # entries of a sparse part that are decoded at once; bounds the memory for positions
STORED, DEFLATE, SHUFFLE, SPARSE = range(4)


def pack(model: bytes) -> bytes:
    """The packed form of a serialized ONNX model; the model itself if packing does not make it smaller."""
    skeleton, tensors = _take_out(model)
    parts = [_coded(skeleton, huffman=False), *(_tensor(t) for t in tensors)]
    packed = MAGIC + _varint(len(model)) + _digest(model) + b"".join(parts)
    return packed if len(packed) < len(model) <= _most(packed) else model


def _most(data: bytes) -> int:
    """The largest allowed size of the model in packed ``data``, in bytes. More is treated as a decompression bomb."""
    return 2**20 + MAX_RATIO * len(data)


def unpack(data: bytes, limit: int = MODEL_BYTES) -> bytes:
    """The ONNX model, bit for bit.

    Args:
        limit: largest size of the model in bytes; a larger one is refused before anything is decoded.
    Raises:
        ValueError: the data is truncated or altered, or states sizes that do not fit or are more than ``MAX_RATIO``
            times the data's. Changes of unused bits in a deflate stream (the rest of its last byte, codes that do
            not occur) are not detected.

    Nothing larger than the stated size is allocated, and nothing in the data is executed.
    """
    if not data.startswith(MAGIC):
        return data
    reader = _Reader(data, len(MAGIC))
    size = reader.varint()
    if size > min(limit, _most(data)):
        raise ValueError(f"it states {size} bytes, more than the {min(limit, _most(data))} allowed")
    digest = reader.take(DIGEST)
    reader.budget = size
    skeleton = reader.part()
    model = _fill(skeleton, reader)
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes follow its end")
    if len(model) != size or _digest(model) != digest:
        raise ValueError("its content was altered: the digest does not match")
    return model


def load(path: Path | str) -> onnx.ModelProto:
    """The ONNX model in a packed or plain file.

    Raises:
        SpaceError: no such file, or it is damaged.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(read(Path(path)))
    except SpaceError:
        raise
    except Exception as error:  # protobuf's DecodeError is not public
        raise SpaceError(str(path), f"is not an ONNX model ({type(error).__name__})") from None
    return model


def read(path: Path) -> bytes:
    """The bytes of the ONNX model in a packed or plain file.

    Raises:
        SpaceError: no such file, or it is damaged.
    """
    try:
        return unpack(read_bytes(path, MODEL_BYTES))
    except FileNotFoundError:
        raise SpaceError(str(path), "no such file") from None
    except ValueError as error:
        raise SpaceError(str(path), f"is damaged: {error}", remedy="Copy it again from where it was made.") from None


def _take_out(model: bytes) -> tuple[bytes, list[onnx.TensorProto]]:
    """The model without the data of its large initializers, and these initializers.

    If the model does not serialize to the same bytes, it is returned whole with an empty list: it could not be
    restored bit for bit.
    """
    proto = onnx.ModelProto.FromString(model)
    if proto.SerializeToString(deterministic=True) != model:
        return model, []
    large = [t for t in proto.graph.initializer if len(t.raw_data) >= TAKE_OUT]
    copies = [onnx.TensorProto.FromString(t.SerializeToString()) for t in large]
    for tensor in large:
        tensor.raw_data = b""  # present but empty: this marks the tensor for `_emptied`
    return proto.SerializeToString(deterministic=True), copies


def _emptied(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [t for t in model.graph.initializer if t.HasField("raw_data") and not t.raw_data and 0 not in t.dims]


def _fill(skeleton: bytes, reader: _Reader) -> bytes:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(skeleton)
    except Exception as error:  # protobuf's DecodeError is not public
        raise ValueError(f"its graph cannot be read ({type(error).__name__})") from None
    emptied = _emptied(model)
    if not emptied:
        return skeleton
    for tensor in emptied:
        tensor.raw_data = reader.part()
    return model.SerializeToString(deterministic=True)


def _tensor(tensor: onnx.TensorProto) -> bytes:
    raw = tensor.raw_data
    if tensor.data_type == onnx.TensorProto.FLOAT:
        planes = np.frombuffer(raw, np.uint8).reshape(-1, 4).T.tobytes()
        shuffled = bytes([SHUFFLE]) + _varint(len(raw)) + _stream(_deflate(planes, huffman=True))
        return min(_coded(raw, huffman=False), shuffled, key=len)
    dense = min(_coded(raw, huffman=True), _coded(raw, huffman=False), key=len)
    return min(dense, _sparse(raw), key=len) if tensor.data_type == onnx.TensorProto.INT8 else dense


def _sparse(raw: bytes) -> bytes:
    flat = np.frombuffer(raw, np.uint8)
    gaps, where = to_gaps(flat)
    parts = _coded(gaps.tobytes(), huffman=True) + _coded(flat[where].tobytes(), huffman=True)
    return bytes([SPARSE]) + _varint(len(raw)) + parts


def _coded(raw: bytes, huffman: bool) -> bytes:
    """The part that holds ``raw``, deflated if that is smaller."""
    deflated = bytes([DEFLATE]) + _varint(len(raw)) + _stream(_deflate(raw, huffman))
    return min(deflated, bytes([STORED]) + _varint(len(raw)) + raw, key=len)


def _deflate(raw: bytes, huffman: bool) -> bytes:
    strategy = zlib.Z_HUFFMAN_ONLY if huffman else zlib.Z_DEFAULT_STRATEGY
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
    return coder.compress(raw) + coder.flush()


def _stream(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _digest(model: bytes) -> bytes:
    return hashlib.blake2b(model, digest_size=DIGEST).digest()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@dataclass
class _Reader:
    """Reads packed data from position ``at``; ``budget`` is the number of bytes that may still be decoded."""

    data: bytes
    at: int
    budget: int = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        value, shift = 0, 0
        while shift < 63:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("a length in it has no end")

    def part(self, plain: bool = False) -> bytes:
        """The next part, decoded. ``plain``: the part lies inside a sparse part, so it must not be sparse itself."""
        method, raw = self.take(1)[0], self.varint()
        self.budget -= raw
        if self.budget < 0:
            raise ValueError("its parts are larger than the size that it states")
        if method == STORED:
            return self.take(raw)
        if method == DEFLATE:
            return self._inflate(raw)
        if method == SHUFFLE and raw % 4 == 0:
            return np.frombuffer(self._inflate(raw), np.uint8).reshape(4, -1).T.tobytes()
        if method == SPARSE and not plain:
            return self._scatter(raw)
        raise ValueError(f"method {method} is unknown")

    def _inflate(self, raw: int) -> bytes:
        decoder = zlib.decompressobj(-15)
        try:
            inflated = decoder.decompress(self.take(self.varint()), max(raw, 1))
            inflated += b"" if decoder.eof else decoder.decompress(decoder.unconsumed_tail, 1)  # reads the end mark
        except zlib.error as error:
            raise ValueError(f"a stream in it is broken ({error})") from None
        if len(inflated) != raw or not decoder.eof or decoder.unused_data:
            raise ValueError("a stream in it has another length than stated")
        return inflated

    def _scatter(self, raw: int) -> bytes:
        spare, parts = self.budget, []
        for _ in range(2):  # gaps, then values: each has at most one entry per byte of the tensor
            self.budget = raw
            parts.append(np.frombuffer(self.part(plain=True), np.uint8))
        self.budget = spare
        gaps, values = parts
        if len(gaps) != len(values) or (len(gaps) and gaps.sum(dtype=np.int64) >= raw):
            raise ValueError("a sparse tensor in it does not fit its shape")
        flat, last = np.zeros(raw, np.uint8), 0
        for i in range(0, len(gaps), CHUNK):  # in chunks: positions take eight times the bytes of gaps
            where = last + np.cumsum(gaps[i : i + CHUNK], dtype=np.int64)
            flat[where], last = values[i : i + CHUNK], int(where[-1])
        return flat.tobytes()
