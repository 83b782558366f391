"use strict";
// Unpacks plotly.js, draws the figures, and marks a trial in all of them and in the tables at once.
(() => {
  const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=:?@^_`{|}~";
  const REMOVED = ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"];
  // plotly.js 4 has a button that uploads a figure with its data; a study's numbers stay on this machine.
  const CONFIG = {displaylogo: false, responsive: true, showSendToCloud: false, modeBarButtonsToRemove: REMOVED};
  const PRINTED = {width: 640, height: 340, autosize: false};  // a figure on paper, in pixels

  // Base 85: five characters are four bytes, the first character the most significant.
  const bytesOf = (text, size) => {
    const digit = new Uint8Array(128), bytes = new Uint8Array(Math.ceil(text.length / 5) * 4);
    [...ALPHABET].forEach((character, i) => { digit[character.charCodeAt(0)] = i; });
    for (let i = 0, at = 0; i < text.length; i += 5, at += 4) {
      let value = 0;
      for (let k = i; k < i + 5; k++) value = value * 85 + (k < text.length ? digit[text.charCodeAt(k)] : 84);
      bytes[at] = value >>> 24; bytes[at + 1] = value >>> 16; bytes[at + 2] = value >>> 8; bytes[at + 3] = value;
    }
    return bytes.subarray(0, size);
  };

  const unpacked = id => {
    const place = document.getElementById(id);
    const stream = new DecompressionStream("deflate"), writer = stream.writable.getWriter();
    writer.write(bytesOf(place.textContent, Number(place.dataset.bytes)));
    writer.close();
    return new Response(stream.readable).text();
  };

  const say = (divs, text) => divs.forEach(div => { div.textContent = text; });

  // A trace that is drawn over the others where the marked trial is.
  const mark = (figure, ink) => {
    const curves = figure.data.some(trace => trace.mode === "lines" && trace.customdata);
    const style = curves ? {mode: "lines", line: {width: 5, color: ink}}
      : {mode: "markers", marker: {symbol: "circle-open", size: 24, color: ink, line: {width: 3}}};
    return {x: [], y: [], hoverinfo: "skip", showlegend: false, name: "marked", meta: "mark", ...style};
  };

  const prepared = (figure, hover, ink) => {
    const linked = figure.data.filter(trace => trace.customdata);
    for (const trace of linked) {
      if (!trace.hovertemplate) trace.hovertext = trace.customdata.map(number => hover[number] ?? "");
    }
    if (linked.length) figure.data.push(mark(figure, ink));
    return figure;
  };

  // Coordinates of a trial in a figure, from the first trace that has it.
  const places = (figure, number) => {
    for (const trace of figure.data) {
      const at = (trace.customdata ?? []).flatMap((n, i) => n === number ? [i] : []);
      if (at.length) return {x: [at.map(i => trace.x[i])], y: [at.map(i => trace.y[i])]};
    }
    return {x: [[]], y: [[]]};
  };

  const tracked = figure => figure.data.findIndex(trace => trace.meta === "mark");

  const link = divs => {
    const plots = divs.filter(div => tracked(div) >= 0);
    let pinned = null, shown = null, due = 0;
    const draw = () => {
      due = 0;
      for (const row of document.querySelectorAll("[data-trial]")) {
        row.classList.toggle("hot", Number(row.dataset.trial) === shown);
      }
      for (const div of plots) {
        if (div !== hovered) Plotly.restyle(div, places(div, shown), [tracked(div)]);
      }
    };
    let hovered = null;
    const show = (number, from = null) => {
      hovered = from;
      if (number === shown && !from) return;
      shown = number;
      due ||= requestAnimationFrame(draw);
    };
    const pin = number => {
      pinned = number === pinned ? null : number;
      show(pinned);
      const row = document.querySelector(`#trials tr[data-trial="${pinned}"]`), box = row?.closest(".wide");
      if (row) box.scrollTop = row.offsetTop - box.clientHeight / 2;
    };
    harness.mark = number => { pinned = number; show(number); };
    harness.marked = () => shown;
    for (const div of plots) {
      const number = event => event.points[0]?.customdata ?? null;
      div.on("plotly_hover", event => { if (number(event) !== null) show(number(event), div); });
      div.on("plotly_unhover", () => show(pinned));
      div.on("plotly_click", event => { if (number(event) !== null) pin(number(event)); });
    }
    for (const row of document.querySelectorAll("[data-trial]")) {
      const number = Number(row.dataset.trial);
      for (const [on, off] of [["mouseenter", "mouseleave"], ["focusin", "focusout"]]) {
        row.addEventListener(on, () => show(number));
        row.addEventListener(off, () => show(pinned));
      }
      row.querySelector("button.trial")?.addEventListener("click", () => pin(number));
    }
  };

  const printable = divs => {
    const below = div => div.layout.legend?.y < 0;  // a legend under the axis title, placed by the plot's height
    const screen = new Map(divs.map(div => [div, {height: div.layout.height, "legend.y": div.layout.legend?.y ?? null}]));
    addEventListener("beforeprint", () => divs.forEach(div =>
      Plotly.relayout(div, {...PRINTED, ...(below(div) && {"legend.y": -0.36})})));
    addEventListener("afterprint", () => divs.forEach(div =>
      Plotly.relayout(div, {width: null, autosize: true, ...screen.get(div)})));
  };

  harness.charts = async () => {
    const divs = [...document.querySelectorAll(".plotly-graph-div")];
    if (!("DecompressionStream" in window)) {
      say(divs, "This browser is too old to draw the plots. Chromium 80, Firefox 113 and Safari 16.4 can.");
      return;
    }
    const [figures, hover] = (await Promise.all(["figures", "hover"].map(unpacked))).map(text => JSON.parse(text));
    const script = document.createElement("script");
    script.textContent = await unpacked("plotly");
    document.head.append(script);
    const ink = getComputedStyle(document.body).color;
    for (const div of divs) {
      const {data, layout} = prepared(figures[div.id], hover, ink);
      await Plotly.newPlot(div, data, layout, CONFIG);
    }
    link(divs);
    printable(divs);
    document.documentElement.dataset.drawn = divs.length;
  };
})();
