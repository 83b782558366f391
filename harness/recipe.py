"""A recipe: everything that determines one trial (a search space without holes).

The registries (plain dicts of :class:`~harness.methods.Method`) define what the sections may contain. The caller
passes them in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import SpaceError
from harness.methods import (
    FLOAT_BITS,
    DistillMethod,
    Method,
    Param,
    Registries,
    checked,
    declarations,
    declared,
    is_mapping,
    mapping,
    nearest,
)
from harness.normalize import Normalization, Normalize, read_normalize


@dataclass(frozen=True, kw_only=True)
class Selected:
    """One registry entry and its validated keyword arguments."""

    name: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Task(Selected):
    """The data and their normalization.

    normalize  ``auto``: by mean and standard deviation of the training part (or as the user's task function
               returns them); ``none``: raw samples; or the user's numbers
    """

    normalize: Normalization = "auto"

    def to_tree(self) -> dict[str, Any]:
        """The section; ``auto`` is left out."""
        normalize = self.normalize
        tree = {"name": self.name, **self.options}
        if isinstance(normalize, Normalize):
            tree["normalize"] = {"mean": list(normalize.mean), "std": list(normalize.std)}
        elif normalize != "auto":
            tree["normalize"] = normalize
        return tree


@dataclass(frozen=True, kw_only=True)
class Model(Selected):
    """A model family, its options and its initial weights (``checkpoint``: a safetensors or weights-only file)."""

    checkpoint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Train:
    """The training of a student or teacher. ``precision`` applies to convolutions and matrix products, forward
    and backward; parameters, loss and optimizer stay float32."""

    epochs: int = declared(int, 10, low=1, doc="passes over the training samples")
    batch_size: int = declared(int, 64, low=1, doc="samples per training step")
    lr: float = declared(float, 0.05, low=0, low_open=True, doc="learning rate of the first step")
    optimizer: str = declared(str, "sgd", choices=("sgd", "adamw"), doc="the rule of a step")
    momentum: float = declared(float, 0.9, low=0, high=1, high_open=True, doc="of `sgd`; beta1 of `adamw`")
    weight_decay: float = declared(float, 0.0, low=0, doc="factor of the weights in a step; `adamw`: decoupled")
    schedule: str = declared(
        str, "cosine", choices=("cosine", "constant"), doc="of the learning rate; `cosine`: half a cosine, down to 0"
    )
    precision: str = declared(
        str, "float32", choices=("float32", "bfloat16"), doc="of convolutions and matrix products in training"
    )


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The teacher: a model that is trained once and reused for equal settings and data, or a given checkpoint."""

    model: Model
    train: Train = Train()
    clip: Selected = field(default_factory=lambda: Selected(name="none"))
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Deploy:
    """The deployment: runtime, batch size, threads and file format.

    ``packed`` is entropy-coded, for devices with little flash memory. ``metadata: short`` adds the facts of
    :mod:`harness.export.facts` to the file, 20 to 70 bytes.
    """

    runtime: str = declared(str, "onnxruntime", doc="what runs the file, and scores and times it")
    batch_size: int = declared(int, 1, low=1, doc="samples per inference when latency is measured")
    threads: int = declared(int, 1, low=1, doc="of the runtime when latency is measured")
    format: str = declared(str, "onnx", choices=("onnx", "packed"), doc="`packed`: entropy-coded, model.hpk")
    metadata: str = declared(str, "short", choices=("short", "none"), doc="`short`: how to use the file, in bytes")


TRAIN, DEPLOY = declarations(Train), declarations(Deploy)  # what the two sections may hold


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a trial. ``teacher`` is None if nothing is distilled."""

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
                **asdict(self.teacher.train),
                "clip": {"kind": self.teacher.clip.name, **self.teacher.clip.options},
                "seed": self.teacher.seed,
            }
        )
        return {
            "task": self.task.to_tree(),
            "teacher": teacher,
            "student": model(self.student),
            "train": asdict(self.train),
            **{
                s: {"kind": getattr(self, s).name, **getattr(self, s).options}
                for s in ("clip", "prune", "quant", "distill")
            },
            "deploy": asdict(self.deploy),
            "seed": self.seed,
        }

    def flat(self) -> dict[str, Any]:
        """Dotted name -> leaf value (lists as one leaf): the columns of the report."""
        return dict(flatten(self.to_tree()))

    def key(self) -> str:
        """A hash of everything but the seed: recipes that differ only in the seed have equal keys."""
        return key_of(self.to_tree())


def key_of(tree: Mapping[str, Any]) -> str:
    """:meth:`Recipe.key` of a complete tree, as returned by :meth:`Recipe.to_tree` and stored in records. The tree is
    not validated."""
    bare = {name: part for name, part in tree.items() if name != "seed"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()[:32]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of a nested dict with dotted names, in order; a list is one leaf."""
    leaves: list[tuple[str, Any]] = []
    for name, value in tree.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        leaves += flatten(value, path) if is_mapping(value) else [(path, value)]
    return leaves


SECTIONS = ("task", "teacher", "student", "train", "clip", "prune", "quant", "distill", "deploy", "seed")
IGNORED = ("promise",)  # sections of a best/*.yaml that are no part of the recipe


def parse_recipe(tree: object, registries: Registries) -> Recipe:
    """Validate a nested dict (no holes) into a :class:`Recipe`.

    Raises:
        SpaceError: with the dotted path of the first mistake.
    """
    if not is_mapping(tree):
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
        task=_task(tree["task"], r),
        teacher=_teacher(tree.get("teacher"), student, r),
        student=student,
        train=Train(**checked("train", tree.get("train", {}), TRAIN)),
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


def _selected(
    path: str,
    value: Any,
    selector: str,
    registry: Mapping[str, Method],
    default: str | None = None,
    user_code: bool = False,
) -> Selected:
    options = _section(path, value, selector, registry)
    name = options.pop(selector, default)
    method = _method(f"{path}.{selector}", name, registry, user_code)
    return Selected(name=name, options=options if method.free else checked(path, options, method.options))


def _section(path: str, value: Any, selector: str, registry: Mapping[str, Method]) -> dict[str, Any]:
    return mapping(path, value, f"Example: {{{selector}: {next(iter(registry))}}}.")


def _task(value: Any, registries: Registries) -> Task:
    options = _section("task", value, "name", registries.tasks)
    normalize = read_normalize("task.normalize", options.pop("normalize", "auto"))
    chosen = _selected("task", options, "name", registries.tasks, user_code=True)
    return Task(name=chosen.name, options=chosen.options, normalize=normalize)


def _method(path: str, name: Any, registry: Mapping[str, Method], user_code: bool) -> Method:
    if isinstance(name, str) and user_code and ":" in name:
        return Method(name, free=True)
    if not isinstance(name, str) or name not in registry:
        also = " Or your own `package.module:function`." if user_code else ""
        raise SpaceError(path, "unknown name", name, nearest(name, registry) + also)
    return registry[name]


def _model(path: str, value: Any, registry: Mapping[str, Method]) -> Model:
    options = _section(path, value, "model", registry)
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
    options = _section("teacher", value, "model", registries.models)
    train = {k: options.pop(k) for k in list(options) if k in TRAIN}
    seed = Param(int, 0, low=0).check("teacher.seed", options.pop("seed", 0))
    clip = _selected("teacher.clip", options.pop("clip", {"kind": "none"}), "kind", registries.clips)
    model = _model("teacher", options, registries.models)
    return Teacher(model=model, train=Train(**checked("teacher", train, TRAIN)), clip=clip, seed=seed)


def _distill(tree: Mapping[str, Any], registry: Mapping[str, DistillMethod]) -> Selected:
    chosen = _selected("distill", tree.get("distill", {"kind": "none"}), "kind", registry)
    if registry[chosen.name].needs and tree.get("teacher") is None:
        raise SpaceError("distill.kind", f"{chosen.name!r} needs a teacher", remedy="Add a `teacher:` section.")
    return chosen


def _deploy(value: Any, registry: Mapping[str, Method]) -> Deploy:
    deploy = Deploy(**checked("deploy", value, DEPLOY))
    _method("deploy.runtime", deploy.runtime, registry, user_code=True)
    return deploy
