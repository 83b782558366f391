"""Importance of each parameter for each objective.

A score for a parameter that cannot change an objective is noise (a distillation temperature cannot change latency).
Only parameters that can change the objective are scored:

    size_bytes              parameters that shape the file before training; all parameters if training decides the size
    latency_ms, load_ms     likewise for the graph that runs; unstructured pruning does not change it
    any other objective     every parameter

Parameters that shape a file: the student, ``prune.kind`` and ``quant.kind``, options declared ``shapes``
(:class:`harness.methods.Param`), and the leaves of ``deploy`` on which the quantity depends.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.methods import Method
from harness.search.study import Study
from harness.space.distributions import Hole
from harness.space.space import Space

log = logging.getLogger(__name__)
GRAPH = ("latency_ms", "load_ms", "device_latency_ms")
PRICED = ("size_bytes", *GRAPH)
# Leaves of ``deploy`` that do not change a quantity. The runtime unpacks a file on loading, so the format does not
# change the latency.
_FREE = {
    "size_bytes": ("deploy.batch_size", "deploy.threads"),
    "load_ms": (),
    "latency_ms": ("deploy.format",),
    "device_latency_ms": ("deploy.format",),
}
_BYTES = ("size_bytes", "load_ms")  # depend on the stored bytes, not only on the graph
_DEFAULT_KIND = {"prune": "none", "quant": "uniform"}


def importances(study: Study) -> dict[str, dict[str, float]]:
    """Share of each parameter in each objective's variance: objective -> parameter -> share.

    Scored are the parameters that can change the objective and that all complete trials have (PED-ANOVA, Watanabe
    et al. 2023). The evaluator scores what makes a target low, so objectives to maximize are negated. An objective
    with fewer than 4 different values has no scores.
    """
    complete = [t for t in study.trials(TrialState.COMPLETE) if t.params]
    shared = [h for h in study.space.holes if all(h.internal in t.params for t in complete)]
    shares: dict[str, dict[str, float]] = {}
    for i, objective in enumerate(study.space.objectives):
        names = [h.internal for h in shared if touches(study.space, h, objective.name)]
        few = len({t.values[i] for t in complete}) < 4
        sign = -1.0 if objective.direction == "maximize" else 1.0
        shares[objective.name] = {} if few or not names else _scores(study.optuna, names, i, sign)
    return shares


def _scores(study: optuna.Study, names: list[str], index: int, sign: float) -> dict[str, float]:
    def target(trial: FrozenTrial) -> float:
        return sign * trial.values[index]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = optuna.importance.get_param_importances(study, params=names, target=target)
    except (ValueError, RuntimeError) as error:  # for example if all trials have equal parameters
        log.info("no importances: %s", error)
        return {}
    return {k: float(v) for k, v in scores.items() if math.isfinite(v)}


def touches(space: Space, hole: Hole, objective: str) -> bool:
    """Whether the parameter can change the objective anywhere in the space."""
    if objective not in PRICED:
        return True
    if hole.name in _FREE[objective]:
        return False
    pruners = [space.registries.pruners[k] for k in _kinds(space, "prune", hole)]
    if any(m.graph_known == "after" for m in pruners) or _ranks_all_layers(space, hole):
        return True  # training decides which channels are left
    if objective in _BYTES and (_packed(space, hole) or any(m.structure_known == "after" for m in pruners)):
        return True
    return _shapes(space, hole)


def _shapes(space: Space, hole: Hole) -> bool:
    """Whether the parameter changes the file's structure as known before training."""
    section, _, leaf = hole.name.partition(".")
    leaf = leaf.partition(".")[0]  # the option's name, without the layer of a per-layer value
    if section in ("student", "deploy"):
        return leaf != "checkpoint"
    registries: Mapping[str, Mapping[str, Method]]
    registries = {"prune": space.registries.pruners, "quant": space.registries.quantizers}
    if section not in registries:
        return False
    methods = [registries[section][k] for k in _kinds(space, section, hole)]
    options = [m.options for m in methods]
    if leaf in ("", "kind"):
        return any(p.shapes for method_options in options for p in method_options.values())
    return any(method_options[leaf].shapes for method_options in options if leaf in method_options)


def _kinds(space: Space, section: str, hole: Hole) -> set[str]:
    """The kinds that ``section`` may have where the hole exists."""
    default = _DEFAULT_KIND[section]
    nodes = _reached(space.tree.get(section, {"kind": default}), dict(hole.parents))
    return {str(kind) for node in nodes for kind in _reached(node.get("kind", default), dict(hole.parents))}


def _ranks_all_layers(space: Space, hole: Hole) -> bool:
    """Whether, where the hole exists, an option may let training decide the structure (channels ranked over all
    layers)."""
    chosen = dict(hole.parents)
    for node in _reached(space.tree.get("prune", {"kind": "none"}), chosen):
        for kind in _reached(node.get("kind", "none"), chosen):
            later = space.registries.pruners[str(kind)].after_where
            if any(value in _reached(node.get(name), chosen) for name, value in later.items()):
                return True
    return False


def _packed(space: Space, hole: Hole) -> bool:
    """Whether the file may be entropy-coded where the hole exists. Then its size depends on the trained values."""
    nodes = _reached(space.tree.get("deploy", {}), dict(hole.parents))
    return any("packed" in _reached(node.get("format", "onnx"), dict(hole.parents)) for node in nodes)


def _reached(node: Any, chosen: Mapping[str, int]) -> list[Any]:
    """The values that ``node`` may take after the choices in ``chosen``: hole -> index."""
    if not isinstance(node, Hole):
        return [node]
    choices = [node.choices[chosen[node.internal]]] if node.internal in chosen else node.choices
    return [value for choice in choices for value in _reached(choice, chosen)]
