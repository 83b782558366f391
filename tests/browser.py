"""Opens a page of ours in headless Chromium and says what became of it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--no-first-run", "--disable-extensions", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)  # fmt: skip
# Runs before the page's own policy is read, so that what the policy forbids is heard of.
PROBE = """<script>
(() => {
  const errors = [], refused = [];
  addEventListener("error", e => errors.push(String(e.message)));
  addEventListener("unhandledrejection", e => errors.push(String(e.reason)));
  addEventListener("securitypolicyviolation", e => refused.push(e.violatedDirective + " " + e.blockedURI));
  for (const kind of ["error", "warn"]) {
    const before = console[kind];
    console[kind] = (...all) => { errors.push(all.join(" ")); before(...all); };
  }
  const ink = canvas => {
    const copy = Object.assign(document.createElement("canvas"), {width: 200, height: 100});
    const flat = copy.getContext("2d");
    flat.drawImage(canvas, 0, 0, 200, 100);
    return flat.getImageData(0, 0, copy.width, copy.height).data.filter((v, i) => i % 4 === 3 && v > 0).length;
  };
  const plot = div => ({
    id: div.id,
    marks: div.querySelectorAll(".points path, .lines path, .barlayer path, path.js-line").length,
    ink: [...div.querySelectorAll("canvas")].map(ink).reduce((a, b) => a + b, 0),
    says: [...div.querySelectorAll(".no-webgl")].map(e => e.textContent).join(""),
    text: [...new Set([...div.querySelectorAll("text")].filter(e => e.textContent)
           .map(e => getComputedStyle(e).fill))],
    card: getComputedStyle(div.closest(".card")).backgroundColor,
    width: div.getBoundingClientRect().right,
  });
  requestAnimationFrame = act => setTimeout(() => act(performance.now()), 16);  // no frame is drawn for a dumped page
  const later = ms => new Promise(resolve => setTimeout(resolve, ms));
  const drawn = async () => {  // plotly.js is unpacked first
    for (let i = 0; i < 200 && !document.documentElement.dataset.drawn; i++) await later(50);
    await later(300);
  };
  const act = async () => { /* script */ };
  addEventListener("load", async () => {
    await drawn();
    let result = null;
    try { result = (await act()) ?? null; } catch (error) { errors.push(String(error.stack)); }
    parent.postMessage(JSON.stringify({
      errors, refused, result,
      plots: [...document.querySelectorAll(".js-plotly-plot")].map(plot),
      places: document.querySelectorAll(".plotly-graph-div").length,
      requests: performance.getEntriesByType("resource").map(e => e.name).filter(n => !/^(data|blob):/.test(n)),
      inner: innerWidth,
      wide: document.documentElement.scrollWidth,
    }), "*");
  });
})();
</script>"""

# A window is never narrower than 500 pixels, a frame is.
FRAME = """<!doctype html><html><body style="margin: 0">
<iframe src="{0}" style="border: 0; width: {1}px; height: {2}px"></iframe>
<script>addEventListener("message", e => document.documentElement.dataset.found = e.data)</script></body></html>"""


def opened(
    page: Path,
    folder: Path,
    width: int = 1400,
    dark: bool = False,
    picture: Path | None = None,
    script: str = "",
    name: str = "",
) -> Any:
    """What a copy of ``page`` with the probe in it found; skips where there is no Chromium.

    Args:
        script: the body of an asynchronous JavaScript function that runs when all plots are drawn; it may
            ``await later(ms)``, and what it returns becomes ``result``.
        name: of the copy (default: that of the page with ``probed-`` in front).
    Returns:
        ``errors`` (of scripts and on the console), ``refused`` (by the page's policy), ``requests`` (for
        anything but the page), ``places`` for plots, ``plots`` (``marks`` drawn, pixels of ``ink`` on
        canvases, colors of ``text`` on the ``card``), ``inner`` and ``wide``: the window's width and the page's,
        ``result``.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    copy = folder / (name or f"probed-{page.stem}.html")
    copy.write_text(page.read_text().replace("<head>", "<head>" + PROBE.replace("/* script */", script), 1))
    frame = folder / f"framed-{page.stem}.html"
    height, profile = 3600 if picture else 900, folder / "profile"
    shown = [f"--window-size={max(width, 500)},{height}", f"--user-data-dir={profile}", "--virtual-time-budget=12000"]
    shown.append(f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    frame.write_text(FRAME.format(copy.as_uri(), width, height))
    made = [f"--screenshot={picture}"] if picture else ["--dump-dom"]
    ran = subprocess.run([chromium, *FLAGS, *shown, *made, frame.as_uri()], capture_output=True, text=True, timeout=500)
    if picture:
        return None
    found = re.search(r'data-found="([^"]*)"', ran.stdout)
    assert found, f"the page never ended: {ran.stderr[-2000:]}"
    return json.loads(html.unescape(found[1]))


def contrast(color: str, other: str) -> float:
    """Contrast of two ``rgb(r, g, b)`` (WCAG 2.2, 1.4.3: text needs 4.5)."""

    def luminance(text: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (int(v) / 255 for v in re.findall(r"\d+", text)[:3])
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, deep = sorted((luminance(color), luminance(other)), reverse=True)
    return (light + 0.05) / (deep + 0.05)
