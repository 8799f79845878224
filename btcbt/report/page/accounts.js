// The look of forecasters and accounts, and the charts of accounts.
forecasters.forEach((one) => { one.dash = dashes[one.order % dashes.length]; });
const colourOf = (name) => (forecasters.find((one) => one.name === name) || {}).colour || css("--ink");
const isShown = (name) => (forecasters.find((one) => one.name === name) || {}).shown;
const lookOf = (name) => { const one = forecasters.find((other) => other.name === name); return [one.colour, one.dash]; };
// An account has the colour of its forecaster, and its strategy's dash; those on none are in the ink's colour.
const strategies = [...new Set(meta.accounts.map((one) => one.name.split("@")[0]))];
for (const one of meta.accounts) {
  one.colour = one.name.includes("@") ? colourOf(one.name.split("@").slice(1).join("@")) : "";
  one.dash = dashes[strategies.indexOf(one.name.split("@")[0]) % dashes.length];
}
const accountColour = (one) => one.colour || css("--ink");
const drawEquity = () => {
    const L = meta.equityTimes.length, log = $("log").checked;
  const shown = meta.accounts.map((one, k) => ({ ...one, k })).filter((one) => one.shown);
  const value = (k, i) => equity[k * L + i] / meta.cash;
  let lowest = 1, highest = 1, worst = 0;
  const falls = shown.map(({ k }) => {
    let peak = 1;
    return Array.from({ length: L }, (_, i) => {
      const one = value(k, i);
      peak = Math.max(peak, one);
      if (one > 0 || !log) lowest = Math.min(lowest, one);
      highest = Math.max(highest, one);
      worst = Math.min(worst, 100 * (one / peak - 1));
      return 100 * (one / peak - 1);
    });
  });
  const band = meta.bands.of[$("band").value];
  if (band) { lowest = Math.min(lowest, ...band[0]); highest = Math.max(highest, ...band[1]); }
  const room = (highest - lowest) * 0.04 || 0.01, x = [meta.equityTimes[0], meta.equityTimes[L - 1]];
  const above = plot($("equity"), x, [log ? lowest * 0.98 : lowest - room, highest + room], { time: true, log, label: "Equity / initial cash" });
  const under = plot($("drawdown"), x, [worst * 1.05 || -1, 0], { time: true, label: "Drawdown, %" });
  line(above.pen, [[above.left, above.Y(1)], [above.right, above.Y(1)]], css("--ink"), [], 1);
  if (band) shade(above.pen, ...band.map((end) => end.map((one, i) => [above.X(meta.bands.times[i]), above.Y(one)])), accountColour(meta.accounts.find((one) => one.name === $("band").value)), 0.12);
  shown.forEach((one, j) => {
    const { k } = one;
    const points = (scaled) => { const found = []; for (let i = 0; i < L; i++) if (!log || value(k, i) > 0) found.push([i, scaled(i)]); return found; };
    line(above.pen, points((i) => above.Y(value(k, i))).map(([i, y]) => [above.X(meta.equityTimes[i]), y]), accountColour(one), one.dash);
    line(under.pen, points((i) => under.Y(falls[j][i])).map(([i, y]) => [under.X(meta.equityTimes[i]), y]), accountColour(one), one.dash);
  });
};
// Weights over time, a named row each: blue is long, orange short, fainter is smaller.
const drawWeights = (canvas, label, rows) => {
  canvas.hidden = !rows.length;
  if (!rows.length) return;
  canvas.style.height = 46 + 26 * rows.length + "px";
  const at = meta.decided.times, area = plot(canvas, [at[0], at[at.length - 1]], [0, 0], { time: true, label, plain: true });
  const tall = (area.bottom - area.top) / rows.length, columns = Math.floor(area.right - area.left);
  rows.forEach(([name, weights], j) => {
    const sums = new Float64Array(columns), counts = new Float64Array(columns);
    at.forEach((time, m) => { const weight = weights[m], c = Math.min(columns - 1, Math.floor(area.X(time) - area.left)); if (!isNaN(weight)) { sums[c] += weight; counts[c]++; } });
    // A column without an origin of its own has the weight of the one before.
    for (let c = 0, last = 0; c < columns; c++) {
      if (counts[c]) last = sums[c] / counts[c];
      area.pen.globalAlpha = Math.min(1, Math.abs(last));
      area.pen.fillStyle = css(last > 0 ? "--gain" : "--loss");
      area.pen.fillRect(area.left + c, area.top + j * tall + 12, 1, tall - 13);
    }
    area.pen.globalAlpha = 1;
    area.pen.fillStyle = css("--ink"); area.pen.textAlign = "left";
    area.pen.fillText(name, area.left, area.top + j * tall + 9);
  });
};
// The switches of the charts of accounts.
const followAccounts = (draw) => {
  if (!$("accounts")) return;
  key($("accounts"), meta.accounts, draw);
  $("log").addEventListener("change", draw);
  $("band").append(new Option("none", ""), ...Object.keys(meta.bands.of).map((name) => new Option(name, name)));
  const main = meta.accounts.find((one) => one.shown && one.name.endsWith("@" + forecasters[meta.main].name));
  $("band").value = main && meta.bands.of[main.name] ? main.name : "";
  $("band").addEventListener("change", draw);
};
