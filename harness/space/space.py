"""A search space: a recipe with holes, and the settings of the search.

``load_space`` reads and checks a file completely. It validates recipes with both ends of every range and every choice,
so that a mistake is found at once and not after an hour of search. The sampler gives codes (see
:mod:`harness.space.distributions`) by a hole's ``internal`` name; ``Space.fill`` makes the recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from harness.errors import SpaceError
from harness.files.access import Plain
from harness.methods import Registries, nearest
from harness.recipe import IGNORED, SECTIONS, Recipe, flatten, parse_recipe
from harness.records import DIRECTIONS
from harness.space import settings as budget
from harness.space.baselines import Baseline, make_baselines, resolve_params
from harness.space.distributions import SELECTORS, Hole, origin, resolve
from harness.space.reader import FORMS, MAX_CHOICES, HoleReader
from harness.space.settings import Objective, Resources, Settings
from harness.space.source import Source, overridden, read_source, without_passwords
from harness.space.starting_points import First, read_first

__all__ = ["Baseline", "Hole", "Objective", "Resources", "Settings", "Space", "load_recipe", "load_space"]

_PROBES = 100  # values per range that are validated when a space is loaded; fewer if there are many holes
_ALL_PROBES = 2000  # values of all ranges together; bounds the time of loading
# settings that may differ between two runs of one study
_UNIDENTIFIED = {
    "search": ("trials", "time_s", "epochs_total", "timeout_s", "retries", "storage", "lanes", "allow_weak")
}


@dataclass(frozen=True)
class Space:
    """A checked search space.

    text   the YAML including overrides: reading it gives this space again, except for the password in the storage's
           URL, which is masked
    tree   the recipe's sections with :class:`Hole` objects in them
    holes  all holes, including those that exist only in some branch of a choice
    first  trials to run before the sampler's own
    """

    file: str
    text: str
    tree: Mapping[str, Any]
    holes: tuple[Hole, ...]
    objectives: tuple[Objective, ...]
    constraints: Mapping[str, Mapping[str, float]]
    settings: Settings
    source: Source = field(repr=False)
    registries: Registries = field(repr=False)
    first: tuple[First, ...] = ()

    def sample(self, pick: Callable[[Hole], Any]) -> dict[str, Any]:
        """The codes (internal name -> code) that ``pick`` gives to the holes that exist under these codes."""
        return resolve_params(self.tree, pick)

    def places(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        """The parameters scaled to [0, 1], hole by hole (:meth:`Hole.places`)."""
        return tuple(place for h in self.holes for place in h.places(params.get(h.internal)))

    def fill(self, params: Mapping[str, Any], seed: int = 0) -> Recipe:
        """The recipe at ``params`` (as ``sample`` returns them).

        Raises:
            SpaceError: a parameter is missing, unknown or outside its hole.
        """

        used: dict[str, Any] = {}

        def pick(hole: Hole) -> Any:
            if hole.internal not in params:
                raise SpaceError(hole.internal, "has no value", file=self.file)
            used[hole.internal] = hole.check(params[hole.internal])
            return used[hole.internal]

        tree = resolve(self.tree, pick)
        for name in params:
            if name not in used:
                raise SpaceError(
                    name,
                    "is not a parameter of this space here",
                    params[name],
                    nearest(name, used),
                    file=self.file,
                )
        try:
            return parse_recipe({**tree, "seed": seed}, self.registries)
        except SpaceError as error:
            if isinstance(error.got, Mapping) and not error.remedy:
                error.remedy = FORMS
            raise self.source.place(error, origin(self.tree, used, error.path)) from None

    def baselines(self) -> list[Baseline]:
        """The baselines ``widest-fp32`` and ``widest-int8``, then up to 8 of ``width-sweep``."""
        return make_baselines(self.tree, self.registries, lambda tree: parse_recipe(tree, self.registries))

    def changed(self, overrides: Sequence[str]) -> Space:
        """This space with values replaced, as by the ``overrides`` of :func:`load_space`."""
        return _checked(overridden(self.source, overrides), self.registries) if overrides else self

    def fingerprint(self) -> str:
        """A hash that identifies the study, of :meth:`identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What identifies the study: the file's content without ``resources``, ``track`` and the settings in
        ``_UNIDENTIFIED``, such as the budget and the storage."""
        tree = {k: v for k, v in self.source.tree.items() if k not in ("resources", "track", *IGNORED)}
        for section, names in _UNIDENTIFIED.items():
            settings: dict[str, Any] = tree.get(section) or {}
            tree[section] = {k: v for k, v in settings.items() if k not in names}
        return tree


def load_space(
    path: str | Path | Mapping[str, Any], registries: Registries | None = None, overrides: Sequence[str] = ()
) -> Space:
    """Read and check a search space.

    Args:
        path: the YAML file, or a dict of its content: ``{"task": {"name": "digits"}, "quant": {"bits": {"choice":
            [4, 8]}}, ...}``. The ``file`` of the space, and that of its mistakes, is empty for a dict.
        registries: the known methods (default: all that are shipped).
        overrides: dotted assignments that replace values of the file, such as ``search.trials=20``.

    Raises:
        SpaceError: with file, line, dotted name, rule, value and remedy of the first mistake.
    """
    return _checked(read_source(path, overrides), registries or _shipped())


def _checked(source: Source, registries: Registries) -> Space:
    _check_sections(source, (*SECTIONS, *budget.SECTIONS))
    reader = HoleReader(source)
    tree = {name: reader.read(value, name, name, (name,)) for name, value in source.tree.items() if name in SECTIONS}
    _check_holes(source, reader.holes)
    with source.at("", ()):
        objectives = budget.read_objectives(source.tree)
        measured = (*DIRECTIONS, *(o.name for o in objectives if o.name not in DIRECTIONS))
        space = Space(
            source.file,
            without_passwords(source, ("search", "storage")),
            tree,
            tuple(reader.holes),
            objectives,
            budget.read_constraints(source.tree, measured, _own_task(tree)),
            budget.read_settings(source.tree),
            source,
            registries,
            read_first(source.tree.get("first", []), reader.holes, dict(flatten(tree))),
        )
    _check_fills(space)
    return space


def load_recipe(path: str | Path, registries: Registries | None = None) -> Recipe:
    """Read and check a recipe: a YAML file without holes."""
    source = read_source(path)
    _check_sections(source, (*SECTIONS, *budget.SECTIONS))
    remedy = f"This is a search space: use `harness search {source.file}`."
    reader = HoleReader(source)
    for name, value in source.tree.items():
        if name in budget.SECTIONS:
            raise source.place(SpaceError(name, "does not belong in a recipe", remedy=remedy), (name,))
        if name in SECTIONS:
            reader.read(value, name, name, (name,))
        if reader.holes:
            hole = reader.holes[0]
            raise source.place(SpaceError(hole.name, "a recipe has no holes", remedy=remedy), hole.name.split("."))
    with source.at("", ()):
        return parse_recipe(source.tree, registries or _shipped())


def _shipped() -> Registries:
    from harness.registries import REGISTRIES  # only declarations; the only import of a higher package

    return REGISTRIES


def _check_sections(source: Source, sections: Sequence[str]) -> None:
    tree: Plain = source.tree
    if not isinstance(tree, dict) or not tree:
        error = SpaceError(
            "",
            "must be a mapping of sections" if tree else "the file is empty",
            remedy=f"Sections: {', '.join(sections)}.",
        )
        raise source.place(error, ())
    for name in tree:
        if name not in sections and name not in IGNORED:
            raise source.place(SpaceError(name, "unknown section", remedy=nearest(name, sections)), (name,))


def _check_holes(source: Source, holes: Sequence[Hole]) -> None:
    """Check that no hole is at a forbidden place and that there is at least one."""
    if "seed" in source.tree:
        raise source.place(
            SpaceError(
                "seed",
                "the search gives every trial its seed",
                remedy="Remove it; the search's own is `search.seed`.",
            ),
            ("seed",),
        )
    for hole in holes:
        section = hole.name.partition(".")[0]
        if section == "task":
            error = SpaceError(hole.name, "the task cannot be searched", remedy="Write a constant.")
            raise source.place(error, hole.name.split("."))
        if section == "teacher" and hole.kind != "choice":
            error = SpaceError(
                hole.name,
                f"a hole of the teacher must be a choice, but got {hole.kind}",
                remedy="Every teacher is trained once; write {choice: [a, b]}.",
            )
            raise source.place(error, hole.name.split("."))
    if not holes:
        raise source.place(
            SpaceError(
                "",
                "a search space needs at least one hole",
                remedy=f"{FORMS} To train this recipe use `harness train {source.file or 'RECIPE'}`.",
            ),
            (),
        )


def _own_task(tree: Mapping[str, Any]) -> bool:
    """Whether the task is the user's own function, which may return further metrics."""
    task: Plain = tree.get("task")
    return isinstance(task, dict) and ":" in str(task.get("name"))


def _check_fills(space: Space) -> None:
    """Check that every probed value of every hole gives a valid recipe."""
    ranges = {hole.name for hole in space.holes if hole.kind != "choice"}
    for forced in [{}, *(probe for hole in space.holes for probe in _probes(space, hole))]:
        try:
            space.fill(space.sample(lambda hole, f=forced: f.get(hole.internal, hole.default)))
        except SpaceError as error:
            if error.path in ranges and error.got is not SpaceError.UNSET:
                error.rule += " over the hole's whole range"
                error.got = _end_outside(space, error)
            raise


def _end_outside(space: Space, error: SpaceError) -> Any:
    """The end of the range that violates the rule, because the file shows it; else the value that was tried."""
    for hole in space.holes:
        if hole.name != error.path or hole.kind == "choice":
            continue
        for end in hole.bounds():
            try:
                space.fill(
                    space.sample(lambda h, o=hole, e=end: e if h is o else dict(o.parents).get(h.internal, h.default))
                )
            except SpaceError as violation:
                if violation.path == error.path:
                    return violation.got
    return error.got


def _probes(space: Space, hole: Hole) -> Iterator[dict[str, Any]]:
    """Codes of ``hole`` to try, each with the choices that it needs to exist and with every kind that its section may
    have, because kinds that share a parameter can differ in its range."""
    section = hole.name.partition(".")[0]
    parents = dict(hole.parents)
    kinds = [
        h
        for h in space.holes
        if h.internal not in parents and h is not hole and h.name in [f"{section}.{word}" for word in SELECTORS]
    ]
    most = MAX_CHOICES if hole.kind == "choice" else max(10, min(_PROBES, _ALL_PROBES // len(space.holes)))
    codes = hole.spread(most) if hole.kind != "float" or hole.step else hole.bounds()
    for code in codes:
        for chosen in product(*(h.spread(_PROBES) for h in kinds)):
            yield {
                **{h.internal: c for h, c in zip(kinds, chosen, strict=True)},
                **parents,
                hole.internal: code,
            }
