"""A first search space for the user's data or network: what `harness init` writes."""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.errors import SpaceError
from harness.tasks import TASKS
from harness.tasks.checks import Samples, checked, numbered
from harness.tasks.npz import UNREADABLE, names_in, read_npz

VALIDATION, TEST = (float(TASKS["arrays"].options[name].default) for name in ("validation", "test_share"))
CHECKPOINTS = (".safetensors", ".pt", ".pth")
IMAGES = (".png", ".jpg", ".jpeg")
_CHANGE = "  # CHANGE THIS"
_OBJECTS = "Convert before saving: y.astype(str) for texts, x.astype('float32') for numbers."
_WRITE = "Write one with numpy.savez_compressed('data.npz', x=x, y=y)."
_PARTS = {"train": ("train*.npz",), "test": ("test*.npz",), "validation_samples": ("val*.npz",)}


@dataclass(frozen=True)
class Draft:
    """A space's YAML, what was found, and what the user must still write into it."""

    text: str
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """The lines of a task, and of its training samples the shape, number and classes (None: not known)."""

    task: str
    shape: tuple[int, ...] | None = None
    samples: int = 0
    notes: tuple[str, ...] = ()


def draft(paths: Sequence[str | Path], model: str | None = None) -> Draft:
    """A space for what is at ``paths``: an .npz file, a folder of them, a checkpoint, or data and a checkpoint.

    Args:
        model: ``package.module:function`` that builds the checkpoint's network.
    Raises:
        SpaceError: nothing that can be used is there, or the arrays cannot be used; says what is wrong.
    """
    data = [Path(p) for p in paths if Path(p).suffix not in CHECKPOINTS]
    checkpoints = [Path(p) for p in paths if Path(p).suffix in CHECKPOINTS]
    for kind in (data, checkpoints):
        if len(kind) > 1:
            rule = "takes one data file or folder, and one checkpoint"
            raise SpaceError("PATH", rule, " ".join(map(str, kind)), "For several files, give their folder.")
    for path in (*data, *checkpoints):
        if not path.is_file() and not path.is_dir():
            raise SpaceError("PATH", "there is no such file or folder", str(path))
    if model is not None and not re.fullmatch(r"[\w.]+:\w+", model):
        raise SpaceError("--model", "must be package.module:function", model)
    found = _look(data[0]) if data else _Found(f"{{name: arrays, train: data.npz}}{_CHANGE}")
    missing = [] if data else ["task: your data, an .npz with x and y (docs: own data)"]
    if checkpoints:
        missing += [] if model else ["student.model: the function that builds the checkpoint's network"]
        return Draft(_trained_text(found, checkpoints[0], model), [*found.notes], missing)
    return Draft(_text(found), [*found.notes], missing)


def _look(path: Path) -> _Found:
    """What the file or folder holds."""
    if path.is_file():
        return _file(path)
    parts = {name: sorted(f for p in patterns for f in path.glob(p)) for name, patterns in _PARTS.items()}
    others = sorted(path.glob("*.npz"))
    if len(parts["train"]) == 1 and not parts["test"]:
        return _file(parts["train"][0])  # which may hold all parts
    if parts["train"]:
        return _folder(path, {name: files for name, files in parts.items() if files})
    if len(others) == 1:
        return _file(others[0])
    here = sorted(f.name for f in path.iterdir())[:8]
    rule = "must hold one .npz, or train*.npz and test*.npz"
    if any(f.suffix.lower() in IMAGES for f in (*path.glob("*"), *path.glob("*/*"))):
        raise SpaceError(str(path), "image files are not read", here, f"Put the pixels into one array: {_WRITE}")
    raise SpaceError(str(path), rule, here, _WRITE)


def _file(path: Path) -> _Found:
    """One .npz with ``x`` and ``y``, or with ``x_train``, ``y_train`` and so on."""
    try:
        names = names_in(path)
    except UNREADABLE as error:
        raise SpaceError(str(path), f"cannot be read as .npz ({str(error)[:200]})", remedy=_WRITE) from error
    whole = ("x_train", "y_train") if "x_train" in names else ("x", "y")
    samples, classes = _samples([path], whole)
    share = VALIDATION * (1 if "x_test" in names else 1 - TEST) if "x_validation" not in names else None
    return _described(f"{{name: arrays, train: {_quoted(path)}}}", samples, classes, share)


def _folder(folder: Path, parts: Mapping[str, Sequence[Path]]) -> _Found:
    """A folder with parts, each of one file or several."""
    samples, classes = _samples(parts["train"], ("x", "y"))
    whole = Path(glob.escape(str(folder)))  # in a pattern, the folder's name stands for itself
    ways = [
        f"{name}: {_quoted(files[0] if len(files) == 1 else whole / _PARTS[name][0])}" for name, files in parts.items()
    ]
    share = VALIDATION * (1 if "test" in parts else 1 - TEST) if "validation_samples" not in parts else None
    return _described(f"{{name: arrays, {', '.join(ways)}}}", samples, classes, share)


def _samples(files: Sequence[Path], names: tuple[str, str]) -> tuple[Samples, tuple[str, ...]]:
    """The samples in these files, checked as by the task ``arrays``, and the names of the classes."""
    parts = []
    for file in files:
        try:
            x, y = read_npz(file, names)
        except UNREADABLE as error:
            said = str(error.args[0] if error.args else error)
            remedy = _OBJECTS if "objects" in said else _WRITE
            raise SpaceError(str(file), f"must hold {' and '.join(names)} ({said:.200})", remedy=remedy) from error
        parts.append(checked(str(file), "samples", x, y))
    if len(shapes := {(x.shape[1:], str(x.dtype), y.dtype.kind) for x, y in parts}) > 1:
        found = [str(shape) for shape in sorted(map(str, shapes))]
        raise SpaceError(str(files[0].parent), "samples and labels of all parts must be of one shape and type", found)
    joined = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    numbered_parts, classes = numbered(str(files[0]), {"train": joined})
    return numbered_parts["train"], classes


def _described(task: str, samples: Samples, classes: tuple[str, ...], share: float | None) -> _Found:
    """The samples in words; ``share`` of them will be used for validation (None: validation has its own)."""
    x, y = samples
    counts = np.bincount(y)
    named = f" ({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''})" if classes else ""
    notes = [
        f"{len(x):,} samples of shape {x.shape[1:]} {x.dtype}, {len(counts)} classes{named}; "
        f"the most frequent class has {counts.max() / len(y):.1%}"
    ]
    if len(x.shape) == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        notes.append(f"channels come first: if the last axis ({x.shape[3]}) is channels, use x.transpose(0, 3, 1, 2)")
    if share is not None:
        held = max(1, round(share * len(x)))
        error = 1.96 * math.sqrt(0.9 * 0.1 / held)  # half of the 95 % interval of a share of 0.9
        notes.append(
            f"about {held} of them for validation: an accuracy of 90 % will be known to +-{100 * error:.1f} points"
        )
    return _Found(task, x.shape[1:], len(x), tuple(notes))


def _quoted(path: Path) -> str:
    """The path as a YAML text that names exactly this file."""
    text = f"./{path}" if str(path).startswith("~") else str(path)  # ~ is the home folder
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SpaceError("PATH", "must be a name in UTF-8", text, "Rename the file or folder.") from None
    if re.fullmatch(r"[A-Za-z_/][\w/.-]*\.(npz|safetensors|pt|pth)", text, re.ASCII):
        return text
    quoted = json.dumps(text, ensure_ascii=False)  # JSON is YAML, but for these characters
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ufeff]", lambda match: f"\\u{ord(match[0]):04x}", quoted)


def _text(found: _Found) -> str:
    teacher, student = _networks(found.shape)
    epochs, batch = _schedule(found.samples)
    return f"""\
# A first search space. A leaf is a value, a range {{float: [low, high]}} or a choice {{choice: [...]}}.
task:    {found.task}
teacher: {{{teacher}, epochs: {2 * epochs}, batch_size: {batch}, lr: 0.05}}  # students learn from it
student: {{{student}}}
train:   {{epochs: {epochs}, batch_size: {batch}, lr: {{float: [0.01, 0.3], log: true}}}}
{_techniques()}{_rest()}"""


def _trained_text(found: _Found, checkpoint: Path, model: str | None) -> str:
    epochs, batch = _schedule(found.samples)
    name = f'"{model}"' if model else f'"my_module:my_network"{_CHANGE} to the function that builds the network'
    return f"""\
# A first search space for a trained network: it is the start of every student, and its own teacher.
# Validation and test samples must be new to the network. If it was trained on some of them, give others:
# task: {{name: arrays, train: ..., validation_samples: ..., test: ...}}
task:    {found.task}
teacher: self
student:
  model: {name}
  checkpoint: {_quoted(checkpoint)}
train:   {{epochs: {max(3, epochs // 2)}, batch_size: {batch}, lr: {{float: [0.002, 0.05], log: true}}}}
{_techniques()}{_rest()}"""


def _techniques() -> str:
    return """\
clip:    {choice: [{kind: none}, {kind: norm, threshold: {float: [0.1, 10], log: true}}]}  # gradients
prune:   {kind: channel, ratio: {float: [0, 0.9]}}  # this share of the channels is removed
quant:   {bits: {choice: [2, 3, 4, 6, 8, 32]}}      # of the weights; 32: not quantized
distill: {kind: logits, weight: {float: [0, 1]}, temperature: {float: [1, 10], log: true}}
"""


def _rest() -> str:
    return """\
deploy:  {runtime: onnxruntime, batch_size: 1, threads: 1}  # what latencies are measured with
objectives: [accuracy, size_bytes, latency_ms]
# constraints: {latency_ms: {max: 1}, size_bytes: {max: 100000}}  # points outside are not on the front
search:  {trials: 60}  # or time_s: 3600
"""


def _networks(shape: tuple[int, ...] | None) -> tuple[str, str]:
    """Teacher and student families for samples of this shape."""
    if shape is None or len(shape) == 1 or min(shape[1:]) == 1:
        features = 64 if shape is None else math.prod(shape)
        widest = 2 ** min(8, max(5, round(math.log2(features)) + 1))
        hidden = ", ".join(f"[{width}]" for width in (widest // 8, widest // 4, widest // 2, widest))
        return f"model: mlp, hidden: [{2 * widest}]", f"model: mlp, hidden: {{choice: [{hidden}]}}"
    side = min(shape[1:])
    stages = 2 if side < 16 else 3
    return (
        f"model: convnet, stages: {stages}, width: 48",
        f"model: convnet, stages: {stages}, width: {{choice: [4, 8, 16, 32]}}",
    )


def _schedule(samples: int) -> tuple[int, int]:
    """Epochs and batch size: small data sets need more passes, large ones larger batches."""
    if not samples:
        return 10, 64
    epochs = min(40, max(5, round(800 / math.sqrt(samples))))
    return epochs, 16 if samples < 500 else 64 if samples < 20_000 else 128
