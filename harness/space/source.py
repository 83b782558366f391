"""Read a user's YAML into plain values with their line numbers, without running code.

The YAML library only composes nodes; this module turns them into Python values, so no constructor runs on a tag.
Duplicate keys, tags, aliases that multiply and huge files are reported with their line, and so is every later mistake.
"""

from __future__ import annotations

import difflib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from harness.errors import SpaceError
from harness.files.access import read_bytes
from harness.files.passwords import masked
from harness.space.shipped import located, shipped

MAX_BYTES = 1_000_000
MAX_VALUES = 10_000
MAX_DEPTH = 50
_NO_YAML = (".npz", ".safetensors", ".pt", ".pth")
_TAG = "tag:yaml.org,2002:"

Keys = tuple[str, ...]


@dataclass(frozen=True)
class Where:
    """Where a value is written: a line of a file, or a command line option (without a line)."""

    file: str
    line: int | None = None


@dataclass(frozen=True)
class Source:
    """A YAML file as plain values.

    text   the file's text, with the overrides written into it
    tree   mappings (keys are text), lists, numbers, texts, booleans, None
    where  path of keys (list indices as text) -> where it is written
    """

    file: str
    text: str
    tree: Any
    where: Mapping[Keys, Where]

    def locate(self, keys: Sequence[str]) -> Where:
        """Where the value at ``keys`` is written, else the nearest section that contains it."""
        path = tuple(keys)
        while path and path not in self.where:
            path = path[:-1]
        return self.where.get(path, Where(self.file))

    def place(self, error: SpaceError, keys: Sequence[str]) -> SpaceError:
        """Set the file and line of ``error`` to those of ``keys``, unless they are already set."""
        if not error.file:
            where = self.locate(keys)
            error.file, error.line = where.file, where.line
        return error

    @contextmanager
    def at(self, name: str, keys: Sequence[str]) -> Iterator[None]:
        """Within this context, a SpaceError about the recipe's dotted ``name`` gets the file and line of ``keys``."""
        try:
            yield
        except SpaceError as error:
            below = error.path.removeprefix(name).lstrip(".") if error.path.startswith(name) else ""
            raise self.place(error, (*keys, *below.split("."))) from None


def read_source(origin: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Source:
    """Read a YAML file, or a dict of the same content, and apply overrides ``a.b=value``, whose values are YAML.

    The name of a shipped space, such as ``digits``, stands for its file, unless there is a file of that name.
    """
    if isinstance(origin, Mapping):
        file, text = "", _as_text(origin)
    else:
        file = str(located(Path(origin)))
        text = _read_text(Path(file))
    tree, lines = _parse(text, file)
    where = {keys: Where(file, line if file else None) for keys, line in lines.items()}
    return overridden(Source(file, text, tree, where), overrides)


def overridden(source: Source, overrides: Sequence[str]) -> Source:
    """The source with overrides ``a.b=value`` applied."""
    tree, text, where = deepcopy(source.tree), source.text, dict(source.where)
    for option in overrides:
        tree, text = _override(tree, text, where, option)
    return Source(source.file, text, tree, where)


def _as_text(tree: Mapping[str, Any]) -> str:
    """The YAML of a dict. Paths become text, tuples become lists.

    Raises:
        SpaceError: a value is not plain; or a number is of another library's type, such as ``numpy.float64``.
    """
    stream, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    # The order of the holes is that of the dict. The library declares the attribute as None.
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    yaml.default_flow_style = False  # a text that ends a line is masked without what follows it
    try:
        yaml.dump(_plain(tree, ()), stream)
    except RecursionError:
        raise SpaceError("", f"must be nested less than {MAX_DEPTH} deep") from None
    return stream.getvalue()


def _plain(value: Any, keys: Keys) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(below, (*keys, str(key))) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below, (*keys, str(i))) for i, below in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise SpaceError(".".join(keys), "must be text, a number, a boolean, None, a list or a dict", kind)


def without_passwords(source: Source, keys: Keys) -> str:
    """The text, with the password masked in the URL at ``keys`` and in comments."""
    tree, at = deepcopy(source.tree), source.tree
    for key in keys:
        at = at.get(key) if isinstance(at, dict) else None
    text = source.text
    if isinstance(at, str) and masked(at) != at:
        _assign(tree, keys, masked(at), source.file)
        text = _rewrite(text, tree, keys, masked(at), source.file)
    for line in dict.fromkeys(text.splitlines()):
        if masked(line) != line:
            safe = text.replace(line, masked(line))
            text = safe if _parse(safe, source.file)[0] == tree else text  # keep the line if its value would change
    return text


def _read_text(path: Path) -> str:
    def mistake(rule: str, remedy: str = "") -> SpaceError:
        return SpaceError("", rule, remedy=remedy, file=str(path))

    try:
        if path.is_dir():
            raise mistake("is a folder, not a YAML file", _files_like(path / "x.yaml"))
        data = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        raise mistake("no such file", _files_like(path)) from None
    except (OSError, ValueError) as error:
        raise mistake(f"cannot be read ({error})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        advice = f"For data or a checkpoint: harness init {path.name}." if path.suffix in _NO_YAML else ""
        raise mistake(f"is not a text file (byte {error.start} is not UTF-8)", advice) from None
    if "\0" in text:
        raise mistake("is not a text file (it holds zero bytes)")
    return text


def _files_like(path: Path) -> str:
    try:
        names = sorted(p.name for p in path.parent.glob("[!.]*.yaml"))
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f"Did you mean {str(path.parent / close[0])!r}?"
    here = f"There are: {', '.join(names[:10])}. " if names else ""
    return f"{here}Shipped spaces, by name: {', '.join(shipped())}."


def _parse(text: str, file: str) -> tuple[Any, dict[Keys, int]]:
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Bounded
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a reused anchor is legal
            root = yaml.compose(text)
        return _Plain(yaml, file).read(root)
    except RecursionError:
        raise SpaceError("", f"must be nested less than {MAX_DEPTH} deep", file=file) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        rule = f"is not valid YAML ({error.problem or error.context})"
        raise SpaceError("", rule, file=file, line=line) from None
    except YAMLError as error:
        raise SpaceError("", f"is not a text file ({str(error).splitlines()[0]})", file=file) from None


class _Bounded(Composer):
    """Stops composing at ``MAX_VALUES``, because the library takes a minute for a megabyte."""

    composed = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.composed += 1
        if self.composed > 2 * MAX_VALUES:  # keys count too
            raise ComposerError(
                None, None, f"it holds more than {MAX_VALUES:,} values", self.parser.peek_event().start_mark
            )
        return super().compose_node(parent, index)


class _Plain:
    """Turns composed nodes into plain values and records the line of each."""

    def __init__(self, yaml: YAML, file: str):
        self.yaml, self.file = yaml, file
        self.lines: dict[Keys, int] = {}
        self.count = 0

    def read(self, root: Any) -> tuple[Any, dict[Keys, int]]:
        tree = None if root is None else self.value(root, ())
        return tree, self.lines

    def mistake(self, node: Any, keys: Keys, rule: str, remedy: str = "") -> SpaceError:
        return SpaceError(".".join(keys), rule, remedy=remedy, file=self.file, line=node.start_mark.line + 1)

    def value(self, node: Any, keys: Keys) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise self.mistake(
                node,
                keys[:1],
                f"a file must hold at most {MAX_VALUES:,} values",
                "Aliases (`*name`) that name aliases multiply.",
            )
        if len(keys) > MAX_DEPTH:
            raise self.mistake(node, keys[:1], f"must be nested less than {MAX_DEPTH} deep")
        self.lines.setdefault(keys, node.start_mark.line + 1)
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            return self.mapping(node, keys)
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*keys, str(i))) for i, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self.scalar(node, keys)
        raise self.tagged(node, keys)

    def tagged(self, node: Any, keys: Keys) -> SpaceError:
        tag = str(node.tag).replace(_TAG, "!!")
        return self.mistake(node, keys, f"YAML tags are not allowed, but got {tag}", "Write the value itself.")

    def mapping(self, node: MappingNode, keys: Keys) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, ScalarNode):
                raise self.mistake(key, keys, "a key must be a plain word")
            if key.tag == _TAG + "merge":
                raise self.mistake(key, keys, "merge keys (`<<`) are not supported", "Write the keys out.")
            inner = (*keys, key.value)
            if key.value in result:
                raise self.mistake(key, inner, "duplicate key", f"It is first written in line {self.lines[inner]}.")
            self.lines[inner] = key.start_mark.line + 1
            result[key.value] = self.value(item, inner)
        return result

    def scalar(self, node: ScalarNode, keys: Keys) -> Any:
        build = self.yaml.constructor
        kind = str(node.tag).removeprefix(_TAG)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return bool(build.construct_yaml_bool(node))
            if kind == "float":
                return float(build.construct_yaml_float(node))
            if kind == "int":
                number = int(build.construct_yaml_int(node))
                if abs(number) < 2**63:
                    return number
                raise self.mistake(node, keys, "a number must be below 2**63 in size")
        except (ValueError, OverflowError, KeyError):
            raise self.mistake(node, keys, f"is not a valid {kind}, but got {node.value[:40]!r}") from None
        if kind in ("str", "timestamp", "value"):
            return str(node.value)
        raise self.tagged(node, keys)


def _override(tree: Any, text: str, where: dict[Keys, Where], option: str) -> tuple[Any, str]:
    """Apply one override ``a.b=value`` to the tree, the text and ``where``."""
    name, equals, written = option.partition("=")
    keys = tuple(part.strip() for part in name.split("."))
    label = f"option `{option}`"
    if not equals or not all(keys):
        raise SpaceError(
            "", "an override is written `section.key=value`", remedy="Example: search.trials=20.", file=label
        )
    value, lines = _parse(written, label)
    _assign(tree, keys, value, label)
    for replaced in [k for k in where if k[: len(keys)] == keys]:
        del where[replaced]
    where.update({(*keys, *inner): Where(label) for inner in lines})
    where[keys] = Where(label)
    for depth in range(1, len(keys)):
        where.setdefault(keys[:depth], Where(label))
    return tree, _rewrite(text, tree, keys, value, label)


def _assign(tree: Any, keys: Keys, value: Any, label: str) -> None:
    at = tree
    for depth, key in enumerate(keys):
        here, last = ".".join(keys[:depth]), depth == len(keys) - 1
        if isinstance(at, list):
            if not key.isdecimal() or int(key) >= len(at):
                raise SpaceError(
                    here,
                    f"is a list of {len(at)} values: their names are 0 to {len(at) - 1}",
                    key,
                    file=label,
                )
            if last:
                at[int(key)] = value
            else:
                at = at[int(key)]
        elif isinstance(at, dict):
            if last:
                at[key] = value
            else:
                at = at.setdefault(key, {})
        else:
            raise SpaceError(here, "is a value, not a section that has keys", at, file=label)


def _rewrite(text: str, tree: Any, keys: Keys, value: Any, label: str) -> str:
    """The text with one value replaced.

    Comments are kept. If the result would not read as ``tree``, because aliases share the replaced value, the text is
    written from ``tree``, without comments.
    """
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 10_000
    yaml.preserve_quotes = True
    document = yaml.load(text)
    _assign(document, keys, deepcopy(value), label)
    stream = io.StringIO()
    yaml.dump(document, stream)
    if _parse(stream.getvalue(), label)[0] != tree:
        stream = io.StringIO()
        yaml.dump(tree, stream)
    return stream.getvalue()
