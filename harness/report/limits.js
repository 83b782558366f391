"use strict";
// The front point that `harness pick` takes within limits. The rule is that of `pick` in harness/report/picks.py.
(() => {
  const within = (point, limit) => {
    const value = point.values[limit.name];
    return value !== null && (limit.side === "most" ? value <= limit.value : value >= limit.value);
  };

  // Ascending; what was not measured comes last. JavaScript's sort keeps the order of equal points, as pandas' does.
  const by = (name, sign = 1) => (a, b) => {
    const x = a.values[name], y = b.values[name];
    return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
  };

  // Without limits the recommended point; else the best quality, in a tie the smaller file, or the smallest file if only
  // qualities are limited.
  harness.choose = (data, limits) => {
    const recommended = data.points.find(point => point.number === data.recommended);
    if (!limits.length && recommended) return recommended;
    const good = data.points.filter(point => limits.every(limit => within(point, limit)));
    const better = by(data.quality.name, data.quality.up ? -1 : 1), smaller = by("size_bytes");
    const small = limits.length > 0 && !limits.some(limit => limit.cost);
    good.sort((a, b) => small ? smaller(a, b) || better(a, b) : better(a, b) || smaller(a, b));
    return good[0] ?? null;
  };

  // The point that misses the limits least: relative to each limit, a miss in a quality counts ten times.
  harness.nearest = (data, limits) => {
    const miss = point => limits.reduce((sum, {name, side, value, weight}) => {
      const over = (side === "most" ? 1 : -1) * (point.values[name] - value);
      return point.values[name] === null ? NaN : sum + Math.max(over, 0) / Math.max(Math.abs(value), 1e-9) * weight;
    }, 0);
    return data.points.reduce((best, point) => miss(point) < (best ? miss(best) : Infinity) ? point : best, null);
  };

  // The limit in a field's text, as `pick` reads it from its argument; null for no limit.
  harness.limit = (field, text) => {
    const number = Number(text);
    if (text.trim() === "" || !Number.isFinite(number)) return null;
    const scaled = field.percent ? number : Number((number * field.factor).toPrecision(12));
    const shown = field.percent ? `${number}%` : String(field.whole ? Math.floor(scaled) : scaled);
    const value = field.percent ? number / 100 : Number(shown);
    const words = field.assigns ? [field.option, `${field.name}=${shown}`] : [field.option, shown];
    return {name: field.name, side: field.side, value, words, weight: field.weight, cost: field.cost};
  };

  const form = document.getElementById("limits");
  if (!form) return;
  const data = JSON.parse(document.getElementById("limit-data").textContent);
  const inputs = [...form.querySelectorAll("input")];
  const answer = document.getElementById("chosen"), found = document.getElementById("found");

  const update = () => {
    const limits = inputs.map((input, i) => harness.limit(data.fields[i], input.value)).filter(Boolean);
    const point = harness.choose(data, limits), near = point ?? harness.nearest(data, limits);
    const wrong = inputs.some(input => input.validity.badInput);
    answer.dataset.number = point ? point.number : "";
    const told = near ? `trial ${near.number}: ${near.text}` : "";
    answer.textContent = wrong ? "A field holds no number."
      : !point ? `No point of the front is within these limits.${told && ` The nearest is ${told}`}`
      : limits.length ? `Take ${told}` : `Without limits: ${told}`;
    found.hidden = !point || wrong;
    if (!point) return;
    const [pick, train] = found.querySelectorAll("code");
    pick.textContent = harness.command("pick", "", ...limits.flatMap(limit => limit.words));
    pick.parentElement.hidden = !data.own;
    train.textContent = harness.command("train", point.yaml);
    document.getElementById("chosen-model").textContent = point.model;
    if (limits.length) harness.mark?.(point.number);
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update));
  update();
})();
