"""The user's source files of a space: the modules that it names and what these import from the same folder."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from harness.search.preflight import find_spec, named
from harness.space.space import Space

INSTALLED = {"site-packages", "dist-packages"}


def code(space: Space) -> dict[str, str]:
    """``code FILE`` -> digest of each file. FILE is relative to the folder that holds the package."""
    digests: dict[str, str] = {}
    for path, target in named(space):
        module = target.partition(":")[0]
        spec = find_spec(path, target, module)
        if spec.origin is None or module.split(".")[0] == "harness":
            continue
        root = Path(spec.origin).resolve().parents[module.count(".") + (Path(spec.origin).name == "__init__.py")]
        installed = module.split(".")[0] if INSTALLED & set(root.parts) else ""
        _follow(root, module, installed, digests)
    return digests


def _follow(root: Path, module: str, installed: str, digests: dict[str, str]) -> None:
    """Add the digests of ``module`` below ``root`` and of the modules that it imports. If ``installed`` names a
    package, only modules of that package are added."""
    plain = root.joinpath(*module.split("."))
    path = next((p for p in (plain.with_suffix(".py"), plain / "__init__.py") if p.is_file()), None)
    first = module.split(".")[0]
    if path is None or first == "harness" or (installed and first != installed):
        return
    name, content = f"code {path.relative_to(root)}", path.read_bytes()
    if name in digests:
        return
    digests[name] = f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for imported in _imports(content, package):
        _follow(root, imported, installed, digests)


def _imports(content: bytes, package: str) -> Iterator[str]:
    """Dotted names in import statements that may be modules."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
