let meta, candles, equity, targets;
try {
  meta = JSON.parse(new TextDecoder().decode(await unpack("meta")));
  [candles, equity, targets] = await Promise.all(["candles", "equity", "targets"].map(floats));
} catch (error) {
  $("failed").hidden = false;
  return;
}
const { horizon: H, origins, times, interval, levels, forecasters } = meta;
const M = origins.length, N = times.length, Q = levels.length;
const channel = (k) => candles.subarray(k * N, (k + 1) * N);
const [open, high, low, close, volume] = [0, 1, 2, 3, 4].map(channel);
// The inverse of `quantile_steps`, see fans.py, in bps; Int16Array wraps as NumPy does.
const decode = (buffer, { steps, units }) => {
  const S = steps.length, bytes = new Uint8Array(buffer), size = M * S * Q, parts = new Int16Array(size), out = new Float32Array(M * H * Q), row = new Int16Array(Q);
  for (let k = 0; k < size; k++) { const folded = bytes[k] | (bytes[size + k] << 8); parts[k] = (folded >>> 1) ^ -(folded & 1); }
  for (let q = 0; q < Q; q++) for (let s = 1; s < S; s++) for (let m = 0; m < M; m++) parts[(q * S + s) * M + m] += parts[(q * S + s - 1) * M + m];
  const middle = (Q - 1) / 2;
  for (let m = 0; m < M; m++) for (let s = 0; s < S; s++) {
    row[middle] = parts[s * M + m];
    for (let q = middle + 1; q < Q; q++) row[q] = row[q - 1] + parts[(q * S + s) * M + m];
    for (let q = middle - 1; q >= 0; q--) row[q] = row[q + 1] - parts[((q + 1) * S + s) * M + m];
    const h = steps[s] - 1, before = s ? steps[s - 1] - 1 : -1;
    for (let q = 0; q < Q; q++) {
      const value = row[q] * units[h], from = before < 0 ? 0 : out[(m * H + before) * Q + q];
      for (let k = before + 1; k <= h; k++) out[(m * H + k) * Q + q] = from + (value - from) * (k - before) / (h - before);
    }
  }
  return out;
};
// Forecasts are unpacked when they are first shown.
const decoded = [];
const load = async (who) => { if (who >= 0 && !decoded[who]) decoded[who] = decode(await unpack("quantiles" + who), forecasters[who]); };
const place = new Map(times.map((time, k) => [time, k]));
const after = (time) => place.get(time) ?? (place.get(time - interval) ?? N - 1) + 1;
const starts = origins.map(after);

// Forecast browser --------------------------------------------------------------------------------------------
let current = Math.floor(M / 2);
const first = $("first"), second = $("second"), slider = $("slider"), date = $("date");
second.append(new Option("none", "-1"));
forecasters.forEach((one, k) => {
  if (!one.steps.length) return;
  first.append(new Option(one.name, k));
  second.append(new Option(one.name, k));
});
first.value = meta.main;
await load(meta.main);
slider.max = M - 1;
date.min = when(origins[0]).replace(" ", "T");
date.max = when(origins[M - 1]).replace(" ", "T");
const loss = (who, m) => {
  const start = starts[m], last = close[start - 1];
  if (start + H > N) return NaN;
  let sum = 0;
  for (let h = 0; h < H; h++) {
    const real = 1e4 * (close[start + h] / last - 1);
    for (let q = 0; q < Q; q++) { const gap = real - decoded[who][(m * H + h) * Q + q]; sum += gap * (levels[q] - (gap < 0)); }
  }
  return sum / (H * Q);
};
const drawFan = () => {
  const start = starts[current], last = close[start - 1], back = Math.min(start, window.innerWidth < 640 ? 36 : 72);
  const from = start - back, to = Math.min(start + H, N), chosen = +first.value, other = +second.value;
  const price = (who, h, q) => last * (1 + decoded[who][(current * H + h) * Q + q] / 1e4);
  let bottom = Infinity, top = -Infinity, most = 0;
  for (let k = from; k < to; k++) { bottom = Math.min(bottom, low[k]); top = Math.max(top, high[k]); most = Math.max(most, volume[k]); }
  for (const who of [chosen, other]) if (who >= 0) for (let h = 0; h < H; h++) { bottom = Math.min(bottom, price(who, h, 0)); top = Math.max(top, price(who, h, Q - 1)); }
  const room = (top - bottom) * 0.04, base = origins[current];
  const area = plot($("fan"), [base - back * interval, base + H * interval], [bottom - room, top + room], { time: true, names: other < 0 ? 1 : 2, label: "Price (quote currency)", below: 70 });
  const { pen, X, Y } = area, wide = Math.max(1, (X(base) - X(base - interval)) * 0.64), ink = css("--ink");
  const colour = forecasters[chosen].colour, at = (h) => X(base + (h + 1) * interval);
  for (const [edge, alpha] of [[0, 0.16], [1, 0.22], [2, 0.3]]) {
    pen.beginPath(); pen.moveTo(X(base), Y(last));
    for (let h = 0; h < H; h++) pen.lineTo(at(h), Y(price(chosen, h, edge)));
    for (let h = H - 1; h >= 0; h--) pen.lineTo(at(h), Y(price(chosen, h, Q - 1 - edge)));
    pen.closePath(); pen.globalAlpha = alpha; pen.fillStyle = colour; pen.fill(); pen.globalAlpha = 1;
  }
  pen.strokeStyle = ink; pen.lineWidth = 1;
  for (let k = from; k < to; k++) {
    const middle = X(base + (k - start + 0.5) * interval), up = close[k] >= open[k];
    pen.globalAlpha = k < start ? 1 : 0.6;
    pen.beginPath(); pen.moveTo(middle, Y(high[k])); pen.lineTo(middle, Y(low[k])); pen.stroke();
    const y = Math.min(Y(open[k]), Y(close[k])), tall = Math.max(1, Math.abs(Y(open[k]) - Y(close[k])));
    pen.fillStyle = up ? css("--paper") : ink;
    pen.fillRect(middle - wide / 2, y, wide, tall); pen.strokeRect(middle - wide / 2, y, wide, tall);
    pen.fillStyle = css("--soft");
    const bar = 56 * volume[k] / (most || 1);
    pen.fillRect(middle - wide / 2, area.height - 26 - bar, wide, bar);
  }
  pen.globalAlpha = 1;
  const median = (who, q) => [[X(base), Y(last)], ...Array.from({ length: H }, (_, h) => [at(h), Y(price(who, h, q))])];
  line(pen, median(chosen, (Q - 1) / 2), colour, [], 2.2);
  if (other >= 0) {
    const shade = forecasters[other].colour;
    line(pen, median(other, (Q - 1) / 2), shade, [7, 4], 2.2);
    line(pen, median(other, 0), shade, [2, 3]); line(pen, median(other, Q - 1), shade, [2, 3]);
  }
  line(pen, [[X(base), area.top], [X(base), area.height - 26]], css("--soft"), [3, 3], 1);
  const trader = $("trader") ? +$("trader").value : -1;
  if (trader >= 0) meta.fills.time.forEach((time, i) => {
    if (meta.fills.account[i] !== trader || time < base - back * interval || time >= base + H * interval) return;
    const up = meta.fills.side[i] === "buy" ? 1 : -1, x = X(time), y = Y(meta.fills.price[i]);
    pen.beginPath(); pen.moveTo(x, y); pen.lineTo(x - 5.5, y + 10 * up); pen.lineTo(x + 5.5, y + 10 * up); pen.closePath();
    pen.fillStyle = css(up > 0 ? "--gain" : "--loss"); pen.fill();
    pen.strokeStyle = css("--paper"); pen.lineWidth = 1; pen.stroke();
  });
  legend(area, [[forecasters[chosen].name, colour], ...(other >= 0 ? [[forecasters[other].name, forecasters[other].colour, [7, 4]]] : [])]);
};
const describe = () => {
  const start = starts[current], last = close[start - 1], chosen = +first.value;
  const percent = (value) => (value >= 0 ? "+" : "") + value.toFixed(2) + " %";
  const median = decoded[chosen][(current * H + H - 1) * Q + (Q - 1) / 2] / 100;
  const known = start + H <= N ? "outcome " + percent(100 * (close[start + H - 1] / last - 1)) : "outcome not known yet";
  $("shown").textContent = `Origin ${current + 1} of ${M.toLocaleString("en")}, ${when(origins[current])} UTC. After ${H} candles: ${forecasters[chosen].name} median ${percent(median)}, ${known}.`;
  const box = $("decided");
  if (!meta.accounts.length) { box.textContent = "No strategy trades in this run."; return; }
  const row = meta.decided.times.indexOf(origins[current]), rows = meta.decided.times.length;
  const table = document.createElement("table"), head = document.createElement("tr");
  table.append(element("caption", "Decisions at this origin and fills at the next open"));
  for (const text of ["account", "decided weight", "fill", "size", "price", "fee"]) { const cell = element("th", text); cell.scope = "col"; head.append(cell); }
  table.append(head);
  meta.decided.names.forEach((name, k) => {
    const line = document.createElement("tr"), weight = row < 0 ? NaN : targets[k * rows + row];
    const account = meta.accounts.findIndex((one) => one.name === name), fills = meta.fills;
    const fill = fills.time.findIndex((time, i) => time === origins[current] && fills.account[i] === account);
    const cell = element("th", name);
    cell.scope = "row";
    line.append(cell, element("td", isNaN(weight) ? "none" : weight.toFixed(2)));
    const values = fill < 0 ? ["none", "–", "–", "–"] : [fills.side[fill], ...["size", "price", "fee"].map((key) => fills[key][fill] === null ? "–" : short(fills[key][fill]))];
    for (const text of values) line.append(element("td", text));
    table.append(line);
  });
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  scroll.append(table);
  box.replaceChildren(scroll);
};
const show = (index) => {
  current = Math.max(0, Math.min(M - 1, index));
  slider.value = current;
  slider.setAttribute("aria-valuetext", when(origins[current]) + " UTC");
  date.value = when(origins[current]).replace(" ", "T");
  drawFan();
  describe();
};
const extreme = (value, sign) => {
  let found = current, most = -Infinity;
  for (let m = 0; m < M; m++) { const one = sign * value(m); if (one > most) { most = one; found = m; } }
  show(found);
};
$("previous").addEventListener("click", () => show(current - 1));
$("next").addEventListener("click", () => show(current + 1));
$("worst").addEventListener("click", () => extreme((m) => loss(+first.value, m), 1));
$("best").addEventListener("click", () => extreme((m) => loss(+first.value, m), -1));
$("move").addEventListener("click", () => extreme((m) => starts[m] + H > N ? NaN : Math.abs(close[starts[m] + H - 1] / close[starts[m] - 1] - 1), 1));
slider.addEventListener("input", () => show(+slider.value));
date.addEventListener("change", () => {
  const wanted = Date.parse(date.value + "Z");
  if (!isNaN(wanted)) show(origins.reduce((best, time, k) => Math.abs(time - wanted) < Math.abs(origins[best] - wanted) ? k : best, 0));
});
if ($("trader")) {
  $("trader").append(new Option("none", "-1"));
  meta.accounts.forEach((one, k) => $("trader").append(new Option(one.name, k)));
  $("trader").value = Math.max(0, meta.accounts.findIndex((one) => one.name.endsWith("@" + forecasters[meta.main].name)));
}
for (const one of [first, second]) one.addEventListener("change", async () => { await load(+one.value); show(current); });
if ($("trader")) $("trader").addEventListener("change", () => show(current));
document.addEventListener("keydown", (event) => {
  if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.target.closest(".scroll")) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) { event.preventDefault(); show(current + step); }
});

// Quality and accounts ----------------------------------------------------------------------------------------
forecasters.forEach((one) => { one.dash = dashes[one.order % dashes.length]; });
const colourOf = (name) => (forecasters.find((one) => one.name === name) || {}).colour || css("--ink");
const isShown = (name) => (forecasters.find((one) => one.name === name) || {}).shown;
const lookOf = (name) => { const one = forecasters.find((other) => other.name === name); return [one.colour, one.dash]; };
const drawSkill = () => {
  const skill = meta.skill.filter((one) => isShown(one.forecaster)), names = [...new Set(skill.map((one) => one.forecaster))];
  const area = plot($("skill"), [0, H + 1], span(skill.flatMap((one) => one.value).concat(0)), { label: meta.skill.length ? "CRPS against the opponent, %" : "No comparison is stored" });
  line(area.pen, [[area.left, area.Y(0)], [area.right, area.Y(0)]], css("--ink"), [], 1);
  names.forEach((name, k) => {
    const of = (end) => skill.find((one) => one.forecaster === name && one.metric.endsWith("." + end)) || { step: [], value: [] };
    const [middle, lows, highs] = ["difference_pct", "low_pct", "high_pct"].map(of), aside = (k - (names.length - 1) / 2) * 5;
    const ratio = skill.find((one) => one.forecaster === name && one.metric === "ratio") || middle;
    line(area.pen, ratio.step.map((step, i) => [area.X(step), area.Y(ratio.value[i])]), ...lookOf(name));
    if (names.length < 4) shade(area.pen, lows.step.map((step, i) => [area.X(step), area.Y(lows.value[i])]), highs.step.map((step, i) => [area.X(step), area.Y(highs.value[i])]), colourOf(name), 0.1);
    middle.step.forEach((step, i) => {
      const x = area.X(step) + aside, a = lows.step.indexOf(step), b = highs.step.indexOf(step);
      if (a >= 0 && b >= 0) line(area.pen, [[x, area.Y(lows.value[a])], [x, area.Y(highs.value[b])]], colourOf(name), [], 2);
      area.pen.fillStyle = colourOf(name); area.pen.beginPath(); area.pen.arc(x, area.Y(middle.value[i]), 3.2, 0, 7); area.pen.fill();
    });
  });
};
const drawCoverage = () => {
  const level = +$("level").value, lines = meta.coverage.filter((one) => one.level === level && isShown(one.forecaster));
  const banded = meta.coverage.find((one) => one.level === level && one.forecaster === $("covered").value);
  const known = (values) => values.filter((value) => value !== null);
  const [least, most] = span([level, ...lines.flatMap((one) => known(one.share)), ...(banded ? known([...banded.low, ...banded.high]) : [])]);
  const area = plot($("coverage"), [1, H], [Math.max(0, least), Math.min(100, most)], { label: "Outcomes inside, %" });
  const points = (values) => values.flatMap((value, k) => value === null ? [] : [[area.X(k + 1), area.Y(value)]]);
  if (banded) shade(area.pen, points(banded.low), points(banded.high), colourOf(banded.forecaster), 0.16);
  line(area.pen, [[area.left, area.Y(level)], [area.right, area.Y(level)]], css("--ink"), [], 1);
  for (const one of lines) line(area.pen, points(one.share), ...lookOf(one.forecaster));
};
const drawTiming = () => {
  if (!$("pit")) return;
  const step = $("pitstep").value, named = Object.entries(meta.pit).filter(([name, by]) => isShown(name) && (by[step] || []).length);
  const most = Math.max(2, ...named.flatMap(([, by]) => by[step]));
  const pit = plot($("pit"), [0, 1], [0, most * 1.06], { label: "Density" });
  line(pit.pen, [[pit.left, pit.Y(1)], [pit.right, pit.Y(1)]], css("--ink"), [], 1);
  for (const [name, by] of named) line(pit.pen, by[step].flatMap((value, k) => [[pit.X(k / by[step].length), pit.Y(value)], [pit.X((k + 1) / by[step].length), pit.Y(value)]]), ...lookOf(name));
  const hours = Object.entries(meta.hours).filter(([name]) => isShown(name));
  $("hours").parentElement.hidden = !Object.keys(meta.hours).length;
  if (hours.length) {
    const values = hours.flatMap(([, one]) => one).filter((value) => value !== null);
    const area = plot($("hours"), [0, 23], span(values), { label: "CRPS, bps" });
    for (const [name, one] of hours) line(area.pen, one.flatMap((value, k) => value === null ? [] : [[area.X(k), area.Y(value)]]), ...lookOf(name));
  }
  const moving = meta.fluctuation.filter((one) => isShown(one.forecaster));
  $("fluctuation").parentElement.hidden = !meta.fluctuation.length;
  if (moving.length) {
    const all = moving.flatMap((one) => [...one.value, one.critical, -one.critical]), at = moving.flatMap((one) => one.time);
    const area = plot($("fluctuation"), [Math.min(...at), Math.max(...at)], span(all), { time: true, label: "Standard errors" });
    line(area.pen, [[area.left, area.Y(0)], [area.right, area.Y(0)]], css("--soft"), [], 1);
    for (const one of moving) {
      for (const end of [-1, 1]) line(area.pen, [[area.left, area.Y(end * one.critical)], [area.right, area.Y(end * one.critical)]], css("--soft"), [7, 4], 1);
      line(area.pen, one.time.map((time, k) => [area.X(time), area.Y(one.value[k])]), ...lookOf(one.forecaster));
    }
  }
};
const drawQuality = () => {
  if (!$("skill")) return;
  drawSkill();
  drawCoverage();
  drawTiming();
};
const drawWeights = (shown) => {
  const rows = shown.map((one) => meta.decided.names.indexOf(one.name)).filter((k) => k >= 0), canvas = $("weights");
  canvas.hidden = !rows.length;
  if (!rows.length) return;
  canvas.style.height = 46 + 26 * rows.length + "px";
  const at = meta.decided.times, area = plot(canvas, [at[0], at[at.length - 1]], [0, 0], { time: true, label: "Decided weight", plain: true });
  const tall = (area.bottom - area.top) / rows.length, columns = Math.floor(area.right - area.left);
  rows.forEach((row, j) => {
    const sums = new Float64Array(columns), counts = new Float64Array(columns);
    at.forEach((time, m) => { const weight = targets[row * at.length + m], c = Math.min(columns - 1, Math.floor(area.X(time) - area.left)); if (!isNaN(weight)) { sums[c] += weight; counts[c]++; } });
    // A column without an origin of its own has the weight of the one before.
    for (let c = 0, last = 0; c < columns; c++) {
      if (counts[c]) last = sums[c] / counts[c];
      area.pen.globalAlpha = Math.min(1, Math.abs(last));
      area.pen.fillStyle = css(last > 0 ? "--gain" : "--loss");
      area.pen.fillRect(area.left + c, area.top + j * tall + 12, 1, tall - 13);
    }
    area.pen.globalAlpha = 1;
    area.pen.fillStyle = css("--ink"); area.pen.textAlign = "left";
    area.pen.fillText(meta.decided.names[row], area.left, area.top + j * tall + 9);
  });
};
const drawPlacebos = () => {
  const all = meta.placebos || [];
  if (!all.length) return;
  $("placebofigure").hidden = false;
  const canvas = $("placebos");
  canvas.style.height = 50 + 34 * all.length + "px";
  const area = plot(canvas, span(all.flatMap((one) => [one.mean, one.q95, one.max, one.real])), [0, 0], { label: "Sharpe ratio per candle", plain: true, numbers: true });
  const { pen, X } = area, tall = (area.bottom - area.top) / all.length;
  all.forEach((one, j) => {
    const y = area.top + j * tall + 23, colour = accountColour(meta.accounts.find((other) => other.name === one.name) || {}), x = X(one.real);
    line(pen, [[X(one.mean), y], [X(one.max), y]], css("--soft"), [], 1);
    line(pen, [[X(one.mean), y], [X(one.q95), y]], css("--soft"), [], 5);
    pen.beginPath(); pen.moveTo(x, y - 6); pen.lineTo(x + 6, y); pen.lineTo(x, y + 6); pen.lineTo(x - 6, y); pen.closePath();
    pen.fillStyle = colour; pen.fill();
    pen.fillStyle = css("--ink"); pen.textAlign = "left";
    pen.fillText(`${one.name}, placebo p ${one.p_value.toFixed(3)}`, area.left, y - 11);
  });
};
const drawAccounts = () => {
  if (!equity || !$("equity")) return;
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
  drawWeights(shown);
};
// An account has the colour of its forecaster, and its strategy's dash; those on none are in the ink's colour.
const strategies = [...new Set(meta.accounts.map((one) => one.name.split("@")[0]))];
for (const one of meta.accounts) {
  one.colour = one.name.includes("@") ? colourOf(one.name.split("@").slice(1).join("@")) : "";
  one.dash = dashes[strategies.indexOf(one.name.split("@")[0]) % dashes.length];
}
const accountColour = (one) => one.colour || css("--ink");
if ($("accounts")) key($("accounts"), meta.accounts, () => drawAccounts());
if ($("key")) key($("key"), forecasters, drawQuality);
if ($("log")) {
  $("log").addEventListener("change", drawAccounts);
  $("band").append(new Option("none", ""), ...Object.keys(meta.bands.of).map((name) => new Option(name, name)));
  const main = meta.accounts.find((one) => one.shown && one.name.endsWith("@" + forecasters[meta.main].name));
  $("band").value = main && meta.bands.of[main.name] ? main.name : "";
  $("band").addEventListener("change", drawAccounts);
}
if ($("pitstep")) {
  const steps = Object.keys(Object.values(meta.pit)[0] || {});
  $("pitstep").append(...steps.map((step) => new Option(step, step)));
  $("pitstep").value = String(H);
  $("pitstep").addEventListener("change", drawTiming);
}

if ($("level")) {
  for (const one of forecasters) $("covered").append(new Option(one.name, one.name));
  $("covered").value = forecasters[meta.main].name;
  for (const name of ["level", "covered"]) $(name).addEventListener("change", drawCoverage);
}

redraw = () => { if (M) drawFan(); drawQuality(); drawAccounts(); drawPlacebos(); };
if (M) show(current);
redraw();
document.documentElement.dataset.ready = "yes";
