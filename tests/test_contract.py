"""The declarations in the registries say exactly what the functions take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pytest

from harness.errors import SpaceError
from harness.methods import REQUIRED, Method, Param
from harness.registries import REGISTRIES

TECHNIQUES = ("clips", "pruners", "quantisers", "distills")
BROUGHT = {"models": ("input_shape", "classes"), "tasks": ()}  # by the caller, beside the recipe's options
ALL = [
    (kind, name, method)
    for kind in ("tasks", "models", *TECHNIQUES, "runtimes")
    for name, method in getattr(REGISTRIES, kind).items()
]
IDS = [f"{kind}.{name}" for kind, name, _ in ALL]
CONFIGURED = [case for case in ALL if case[0] != "runtimes"]


def own_parameters(kind: str, method: Method) -> Mapping[str, inspect.Parameter]:
    """The function's parameters that the recipe fills: keyword-only ones of a technique, those
    after ``(input_shape, classes)`` of a model, all of a task."""
    parameters = inspect.signature(method.load()).parameters
    if kind in TECHNIQUES:
        return {n: p for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return {n: p for n, p in parameters.items() if n not in BROUGHT[kind]}


def same(declared: Any, written: Any) -> bool:
    if isinstance(declared, list):
        return list(written) == declared
    return type(declared) is type(written) and declared == written


@pytest.mark.parametrize(("kind", "name", "method"), ALL, ids=IDS)
def test_the_target_can_be_loaded_and_says_what_it_is(kind: str, name: str, method: Method) -> None:
    found = method.load()
    assert found.__doc__, "a method opens with what it does"
    assert found.__module__.startswith("harness.")


@pytest.mark.parametrize(("kind", "name", "method"), CONFIGURED, ids=IDS[: len(CONFIGURED)])
def test_declared_parameters_are_the_functions(kind: str, name: str, method: Method) -> None:
    parameters = own_parameters(kind, method)
    assert set(parameters) == set(method.params)
    for option, parameter in parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty, f"{option} has no type"
        assert parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
        declared = method.params[option].default
        if parameter.default is not inspect.Parameter.empty:
            assert same(declared, parameter.default), f"{option}: {declared!r} is not {parameter.default!r}"


@pytest.mark.parametrize(("kind", "name", "method"), CONFIGURED, ids=IDS[: len(CONFIGURED)])
def test_defaults_and_off_values_obey_their_own_ranges(kind: str, name: str, method: Method) -> None:
    for option, param in method.options.items():
        if param.default is not REQUIRED:
            assert param.check(option, param.default) == param.default
    for option, value in (method.off or {}).items():
        assert method.options[option].check(option, value) == value


@pytest.mark.parametrize("kind", TECHNIQUES)
def test_a_technique_can_be_off(kind: str) -> None:
    assert any(method.off is not None for method in getattr(REGISTRIES, kind).values())


@pytest.mark.parametrize("kind", TECHNIQUES)
def test_methods_of_one_technique_are_called_alike(kind: str) -> None:
    """The step calls every method of a technique with the same tensors, in the same places."""
    positional = set()
    for method in getattr(REGISTRIES, kind).values():
        parameters = inspect.signature(method.load()).parameters.values()
        positional.add(sum(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters))
    assert len(positional) == 1


@pytest.mark.parametrize(
    "param",
    [
        Param(float, low=0, high=1),
        Param(int, low=1),
        Param(str, choices=("a", "b")),
        Param(bool),
        Param(list, low=1),
    ],
)
def test_a_wrong_value_is_answered_with_the_rule(param: Param) -> None:
    for value in (None, object(), float("nan"), {}):
        with pytest.raises(SpaceError, match=r"^x.*: must be"):
            param.check("x", value)
