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


def rendered(template: str, figures: Mapping[str, go.Figure], **content: Any) -> str:
    """The HTML of a page. ``figures`` are drawn where the template has a place with their id."""
    environment = Environment(
        loader=PackageLoader("harness.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    heights = {name: int(figure.layout.height) for name, figure in figures.items()}
    drawn = "{" + ",".join(f"{script_json(name)}:{_figure_json(f)}" for name, f in figures.items()) + "}"
    packed, size = packed_plotly()
    return environment.get_template(template).render(
        figures=heights, figures_json=drawn, plotly=packed, plotly_size=size, **content
    )


@cache
def packed_plotly() -> tuple[str, int]:
    """plotly.js, deflated, in base 85, and the number of deflated bytes."""
    deflated = zlib.compress(plotly.offline.get_plotlyjs().encode(), 9)
    return base64.b85encode(deflated).translate(_SAFE).decode(), len(deflated)


def script_json(value: Any) -> str:
    """``value`` as JSON for a ``script`` element, which nothing in it can end. NaN and infinity become null."""
    return _quoted(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _figure_json(figure: go.Figure) -> str:
    return _quoted(str(plotly.io.to_json(figure, engine="json")))


def _quoted(text: str) -> str:
    """JSON in which characters that HTML gives a meaning are written as escapes; JSON has them in strings only."""
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
