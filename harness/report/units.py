"""Numbers as text with units, the same on the page, in figures and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

TITLES = {
    "accuracy": "Accuracy (validation)",
    "test_accuracy": "Accuracy (test)",
    "size_bytes": "File size",
    "latency_ms": "Latency",
    "load_ms": "Load time",
    "device_latency_ms": "Latency on the device",
}
HEADS = {
    "size_bytes": "size",
    "latency_ms": "latency",
    "load_ms": "load time",
    "device_latency_ms": "device latency",
    "duration_s": "duration",
}


def missing(value: Any) -> bool:
    """Whether a value was not measured: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def size(value: float) -> str:
    """A file size as text; 1 kB = 1000 bytes."""
    if missing(value):
        return ""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if value >= factor * 0.9995:
            return f"{_three(value / factor)} {unit}"
    return f"{value:.0f} B"


def time(value: float) -> str:
    """A time given in ms as text: in milliseconds, below 1 ms in microseconds."""
    if missing(value):
        return ""
    return f"{_three(value)} ms" if value >= 0.9995 else f"{_three(value * 1000)} µs"


def share(value: float) -> str:
    return "" if missing(value) else f"{100 * value:.2f} %"


def points(value: float) -> str:
    """A difference of two accuracies, in percentage points."""
    return f"{100 * value:.2f} points"


def _three(value: float) -> str:
    """Three significant digits, no exponent."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def plain(value: Any) -> str:
    """A value of a recipe, rounded to three significant digits."""
    if missing(value):
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if not value.is_integer() or abs(value) >= 1e6 else f"{value:.0f}"
    return str(value)


def score(value: float) -> str:
    """A metric of the task: four decimals, outside 1e-3 to 10 four significant digits."""
    if missing(value):
        return ""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 10 else f"{value:.4g}"


def quantity(name: str, value: float) -> str:
    """A measured value with its unit. A name that is neither a cost nor an accuracy is a metric of the task."""
    if "accuracy" in name:
        return share(value)
    if name.endswith("_bytes"):
        return size(value)
    return time(value) if name.endswith("_ms") else score(value)


def difference(name: str, value: float) -> str:
    """A difference of two values of a quality."""
    return points(value) if "accuracy" in name else score(value)


def title(name: str) -> str:
    """A quantity's name on an axis or in a legend, with the split of the data that it was measured on."""
    if name.startswith("test_"):
        return TITLES.get(name, f"{name[5:]} (test)")
    return TITLES.get(name, f"{name} (validation)")


def head(name: str) -> str:
    """A quantity's name above a column, without a unit, because the cells have units."""
    return f"test {name[5:]}" if name.startswith("test_") else HEADS.get(name, name)


SCALES = {
    "_bytes": (("MB", 1e6), ("kB", 1e3), ("B", 1.0)),
    "_ms": (("s", 1e3), ("ms", 1.0), ("µs", 1e-3)),
    "_s": (("s", 1.0),),
}


def scale(name: str, values: Sequence[float]) -> tuple[str, float]:
    """One unit for all values of a quantity, and its size in the quantity's own unit: the largest in which the median
    is at least 1 and no value is below 0.1. An accuracy is in percent; a metric of the task has no unit (``""``)."""
    if "accuracy" in name:
        return "%", 0.01
    units = next((units for end, units in SCALES.items() if name.endswith(end)), (("", 1.0),))
    known = sorted(v for v in values if not missing(v) and v > 0) or [0.0]
    least, middle = known[0], known[len(known) // 2]
    return next((unit for unit in units if least >= 0.1 * unit[1] and middle >= unit[1]), units[-1])


def scaled(name: str, value: float, unit: tuple[str, float]) -> str:
    """A value in the unit that :func:`scale` chose for its column."""
    word, factor = unit
    if missing(value):
        return ""
    if not word:
        return score(value)
    if word == "%":
        return share(value)
    return f"{value / factor:.0f} B" if word == "B" else f"{_three(value / factor)} {word}"


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a log axis: 1, 2 and 5 times powers of ten (only powers of ten over more than three decades), or
    round linear steps where the range spans less than a factor of three."""
    decades = math.log10(high / low) if high > low > 0 else 0.0
    if decades < math.log10(3):
        return linear_ticks(low, high, 10)
    steps = (1, 2, 5) if decades <= 3 else (1,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [s * 10.0**p for p in powers for s in steps]
    return [t for t in ticks if low <= t <= high]


def linear_ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """About ``wanted`` ticks at round steps in the range."""
    raw = max(high - low, 1e-9) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
