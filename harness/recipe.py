"""A recipe: everything that determines one trial (a search space without holes).

What the sections may contain comes from the registries (plain dicts of
:class:`~harness.methods.Method`), which the caller hands in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import SpaceError
from harness.methods import FLOAT_BITS, REQUIRED, DistillMethod, Method, Param, Registries, nearest
from harness.normalize import Normalization, Normalize, read_normalize

Part = TypeVar("Part", bound="Frozen")


class Frozen(BaseModel):
    """Base of the parts: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Selected(Frozen):
    """One registry entry and its validated keyword arguments."""

    name: str
    options: dict[str, Any] = {}


class Task(Selected):
    """The data, and how samples are normalized before the network sees them.

    normalize  ``auto``: by mean and standard deviation of the training part (or as the user's task function
               returns them), ``none``: raw samples, or numbers of the user's own
    """

    normalize: Normalization = "auto"

    def to_tree(self) -> dict[str, Any]:
        """The section; ``auto`` is left out."""
        own = self.normalize
        told = {"mean": list(own.mean), "std": list(own.std)} if isinstance(own, Normalize) else own
        return {"name": self.name, **self.options, **({} if own == "auto" else {"normalize": told})}


class Model(Selected):
    """A model family, its options and where its weights start (``checkpoint``: a safetensors
    or weights-only file)."""

    checkpoint: str | None = None


class Train(Frozen):
    """How a student (or teacher) is trained. ``precision`` is that of convolutions and products, forward
    and backward; parameters, loss and optimizer stay float32."""

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    lr: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    schedule: Literal["cosine", "constant"] = "cosine"
    precision: Literal["float32", "bfloat16"] = "float32"


class Teacher(Frozen):
    """The teacher: a model trained once per content, or a given checkpoint."""

    model: Model
    train: Train = Train()
    clip: Selected = Selected(name="none")
    seed: int = 0


class Deploy(Frozen):
    """Where the file must run, and as which file: ``packed`` is entropy-coded, for flash-bound devices;
    ``metadata``: the file itself says how to feed it, in some 20 to 70 bytes."""

    runtime: str = "onnxruntime"
    batch_size: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)
    format: Literal["onnx", "packed"] = "onnx"
    metadata: Literal["short", "none"] = "short"


class Recipe(Frozen):
    """What a trial is. ``teacher`` is None where nothing is distilled."""

    task: Task
    teacher: Teacher | None
    student: Model
    train: Train
    clip: Selected
    prune: Selected
    quant: Selected
    distill: Selected
    deploy: Deploy
    seed: int = 0

    def to_tree(self) -> dict[str, Any]:
        """The nested plain dict that :func:`parse_recipe` reads back to an equal recipe."""

        def model(m: Model) -> dict[str, Any]:
            start = {"checkpoint": m.checkpoint} if m.checkpoint else {}
            return {"model": m.name, **m.options, **start}

        teacher = (
            None
            if self.teacher is None
            else {
                **model(self.teacher.model),
                **self.teacher.train.model_dump(),
                "clip": {"kind": self.teacher.clip.name, **self.teacher.clip.options},
                "seed": self.teacher.seed,
            }
        )
        return {
            "task": self.task.to_tree(),
            "teacher": teacher,
            "student": model(self.student),
            "train": self.train.model_dump(),
            **{
                s: {"kind": getattr(self, s).name, **getattr(self, s).options}
                for s in ("clip", "prune", "quant", "distill")
            },
            "deploy": self.deploy.model_dump(),
            "seed": self.seed,
        }

    def flat(self) -> dict[str, Any]:
        """Dotted name -> leaf value (lists as one leaf): the columns of the report."""
        return dict(flatten(self.to_tree()))

    def key(self) -> str:
        """Digest without the seed: equal for recipes that are the same experiment."""
        return key_of(self.to_tree())


def key_of(tree: Mapping[str, Any]) -> str:
    """:meth:`Recipe.key` of a whole tree (as :meth:`Recipe.to_tree` gives it and records keep it) without
    checking the tree again."""
    bare = {name: part for name, part in tree.items() if name != "seed"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()[:32]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of a nested dict with dotted names, in order; a list is one leaf."""
    leaves: list[tuple[str, Any]] = []
    for name, value in tree.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        leaves += flatten(value, path) if isinstance(value, Mapping) else [(path, value)]
    return leaves


SECTIONS = ("task", "teacher", "student", "train", "clip", "prune", "quant", "distill", "deploy", "seed")
IGNORED = ("promise",)  # what a best/*.yaml carries beside the recipe


def parse_recipe(tree: Mapping[str, Any], registries: Registries) -> Recipe:
    """Validate a nested dict (no holes) into a :class:`Recipe`.

    Raises:
        SpaceError: with the dotted path of the first mistake.
    """
    if not isinstance(tree, Mapping):
        raise SpaceError("", "a recipe must be a mapping of sections", tree, f"Sections: {', '.join(SECTIONS)}.")
    for name in tree:
        if name not in SECTIONS and name not in IGNORED:
            raise SpaceError(str(name), "unknown section", remedy=nearest(name, SECTIONS))
    for name in ("task", "student"):
        if name not in tree:
            raise SpaceError(name, "a recipe needs this section", remedy=f"Add `{name}:`.")
    r = registries
    student = _model("student", tree["student"], r.models)
    return Recipe(
        task=_task(tree["task"], r.tasks),
        teacher=_teacher(tree.get("teacher"), student, r),
        student=student,
        train=_fixed("train", tree.get("train", {}), Train),
        clip=_selected("clip", tree.get("clip", {"kind": "none"}), "kind", r.clips),
        prune=_selected("prune", tree.get("prune", {"kind": "none"}), "kind", r.pruners),
        quant=_selected("quant", tree.get("quant", {"bits": FLOAT_BITS}), "kind", r.quantizers, default="uniform"),
        distill=_distill(tree, r.distills),
        deploy=_deploy(tree.get("deploy", {}), r.runtimes),
        seed=Param(int, 0, low=0).check("seed", tree.get("seed", 0)),
    )


def parse_recorded(tree: Mapping[str, Any], registries: Registries, place: Path) -> Recipe:
    """:func:`parse_recipe` of what a record or study holds; a mistake names the file or folder ``place``."""
    try:
        return parse_recipe(tree, registries)
    except SpaceError as error:
        error.file = error.file or str(place)
        raise


def _mapping(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SpaceError(path, "must be a mapping", value)
    return {str(k): v for k, v in value.items()}


def _selected(
    path: str,
    value: Any,
    selector: str,
    registry: Mapping[str, Method],
    default: str | None = None,
    user_code: bool = False,
) -> Selected:
    options = _mapping(path, value)
    name = options.pop(selector, default)
    method = _method(f"{path}.{selector}", name, registry, user_code)
    return Selected(name=name, options=_options(path, options, method))


def _task(value: Any, registry: Mapping[str, Method]) -> Task:
    options = _mapping("task", value)
    normalize = read_normalize("task.normalize", options.pop("normalize", "auto"))
    chosen = _selected("task", options, "name", registry, user_code=True)
    return Task(name=chosen.name, options=chosen.options, normalize=normalize)


def _method(path: str, name: Any, registry: Mapping[str, Method], user_code: bool) -> Method:
    if isinstance(name, str) and user_code and ":" in name:
        return Method(name, free=True)
    if not isinstance(name, str) or name not in registry:
        also = " Or your own `package.module:function`." if user_code else ""
        raise SpaceError(path, "unknown name", name, nearest(name, registry) + also)
    return registry[name]


def _options(path: str, options: dict[str, Any], method: Method) -> dict[str, Any]:
    if method.free:
        return options
    declared = method.options
    for name in options:
        if name not in declared:
            raise SpaceError(f"{path}.{name}", "unknown key", remedy=nearest(name, declared))
    checked = {}
    for name, param in declared.items():
        if name in options:
            checked[name] = param.check(f"{path}.{name}", options[name])
        elif param.default is REQUIRED:
            raise SpaceError(f"{path}.{name}", "is required and " + param.rule(), remedy=f"Add `{name}:`.")
        else:
            checked[name] = param.default
    return checked


def _model(path: str, value: Any, registry: Mapping[str, Method]) -> Model:
    options = _mapping(path, value)
    checkpoint = options.pop("checkpoint", None)
    if checkpoint is not None and not isinstance(checkpoint, str):
        raise SpaceError(f"{path}.checkpoint", "must be the path of a weights file", checkpoint)
    chosen = _selected(path, options, "model", registry, user_code=True)
    return Model(name=chosen.name, options=chosen.options, checkpoint=checkpoint)


def _teacher(value: Any, student: Model, registries: Registries) -> Teacher | None:
    if value is None:
        return None
    if value == "self":
        if student.checkpoint is None:
            raise SpaceError(
                "teacher",
                "`self` needs a student that starts from a checkpoint",
                remedy="Add `student.checkpoint: FILE`, or describe the teacher.",
            )
        return Teacher(model=student)
    options = _mapping("teacher", value)
    train = {k: options.pop(k) for k in list(options) if k in Train.model_fields}
    seed = Param(int, 0, low=0).check("teacher.seed", options.pop("seed", 0))
    clip = _selected("teacher.clip", options.pop("clip", {"kind": "none"}), "kind", registries.clips)
    model = _model("teacher", options, registries.models)
    return Teacher(model=model, train=_fixed("teacher", train, Train), clip=clip, seed=seed)


def _distill(tree: Mapping[str, Any], registry: Mapping[str, DistillMethod]) -> Selected:
    chosen = _selected("distill", tree.get("distill", {"kind": "none"}), "kind", registry)
    if registry[chosen.name].needs and tree.get("teacher") is None:
        raise SpaceError("distill.kind", f"{chosen.name!r} needs a teacher", remedy="Add a `teacher:` section.")
    return chosen


def _deploy(value: Any, registry: Mapping[str, Method]) -> Deploy:
    deploy = _fixed("deploy", value, Deploy)
    _method("deploy.runtime", deploy.runtime, registry, user_code=True)
    return deploy


def _fixed(path: str, value: Any, model: type[Part]) -> Part:
    options = _mapping(path, value)
    for name in options:
        if name not in model.model_fields:
            raise SpaceError(f"{path}.{name}", "unknown key", remedy=nearest(name, model.model_fields))
    for name, got in options.items():
        if isinstance(got, bool):
            raise SpaceError(f"{path}.{name}", "must not be true or false", got)
    try:
        return model(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SpaceError(f"{path}.{name}", first["msg"][0].lower() + first["msg"][1:], first["input"]) from None
