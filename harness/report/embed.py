"""What both pages hold besides their text: plotly.js compressed, figures and other data as JSON, the templates.

A page is one file that opens offline. plotly.js is 4.8 MB, so it is deflated and written in base 85, which takes 1.25
characters a byte (base 64 takes 1.33); the browser inflates it (``DecompressionStream``: Chromium 80, Firefox 113,
Safari 16.4).
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import plotly.graph_objects as go
import plotly.io
import plotly.offline
from jinja2 import Environment, PackageLoader

# Base 85 with the characters that have a meaning in HTML replaced. The page's charts.js has the same alphabet.
ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=:?@^_`{|}~"
_PYTHONS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_SAFE = bytes.maketrans(_PYTHONS, ALPHABET)


def rendered(
    template: str, figures: Mapping[str, go.Figure], hover: Mapping[int, str] | None = None, **content: Any
) -> str:
    """The HTML of a page. ``figures`` are drawn where the template has a place with their id; ``hover`` holds the
    texts of trials, as pseudo-HTML of plotly."""
    environment = Environment(
        loader=PackageLoader("harness.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    heights = {name: int(figure.layout.height) for name, figure in figures.items()}
    drawn = ",".join(
        f"{json.dumps(name)}:{plotly.io.to_json(figure, engine='json')}" for name, figure in figures.items()
    )
    return environment.get_template(template).render(
        figures=heights,
        hover=packed(json.dumps(dict(hover or {}), ensure_ascii=False)),
        drawn=packed(f"{{{drawn}}}"),
        plotly=packed_plotly(),
        **content,
    )


def packed(text: str) -> dict[str, Any]:
    """``text`` deflated and in base 85, and the number of deflated bytes; nothing in it has a meaning in HTML."""
    deflated = zlib.compress(text.encode(), 9)
    return {"text": base64.b85encode(deflated).translate(_SAFE).decode(), "bytes": len(deflated)}


@cache
def packed_plotly() -> dict[str, Any]:
    """plotly.js, packed."""
    return packed(plotly.offline.get_plotlyjs())


def script_json(value: Any) -> str:
    """``value`` as JSON for a ``script`` element: characters that HTML gives a meaning are written as escapes. NaN and
    infinity become null."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def figure_id(*names: str) -> str:
    """A figure's HTML id. The names come from the study's files, which are not trusted, so other characters than
    letters and digits become ``_``."""
    return re.sub(r"\W", "_", "_".join(names))
