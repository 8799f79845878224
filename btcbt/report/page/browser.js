// The forecast browser, of one symbol at a time, and what the charts of a page know of its forecasters.
let meta, equity;
try {
  meta = JSON.parse(new TextDecoder().decode(await unpack("meta")));
  equity = await floats("equity");
} catch (error) {
  $("failed").hidden = false;
  return;
}
const { horizon: H, interval, levels, forecasters } = meta, Q = levels.length;
// What is open: times, origins, fans, fills and decisions of a symbol, and its candles; see `enter`.
let book, origins, times, M, N, open, high, low, close, volume, targets, starts, decoded, current;
// The inverse of `quantile_steps`, see fans.py, in bps; Int16Array wraps as NumPy does.
const decode = (buffer, { steps, units }, M) => {
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
const first = $("first"), second = $("second"), slider = $("slider"), date = $("date");
const chosen = () => [+first.value, +second.value].filter((who) => who >= 0);
// Forecasts are unpacked when they are first shown.
const load = async (who, from = book, into = decoded) => {
  if (who >= 0 && !into[who]) into[who] = decode(await unpack(`quantiles${who}${from.suffix}`), from.fans[who], from.origins.length);
};
const nearest = (time) => origins.reduce((best, one, k) => Math.abs(one - time) < Math.abs(origins[best] - time) ? k : best, 0);
// Open a symbol: its numbers, the end of its blobs' names, and its decisions (accounts x origins). The last one asked
// for stays, at the origin that was shown.
let asked = 0;
const enter = async (numbers, suffix, decisions) => {
  const mine = ++asked, opened = { ...numbers, suffix }, fans = [], candles = await floats("candles" + suffix);
  if (!first.options.length) {
    second.append(new Option("none", "-1"));
    forecasters.forEach((one, k) => { if (opened.fans[k].steps.length) for (const select of [first, second]) select.append(new Option(one.name, k)); });
    first.value = meta.main;
  }
  await Promise.all(chosen().map((who) => load(who, opened, fans)));
  if (mine !== asked) return;
  const time = book ? origins[current] : undefined;
  ({ origins, times } = book = opened);
  [M, N, targets, decoded] = [origins.length, times.length, decisions, fans];
  [open, high, low, close, volume] = [0, 1, 2, 3, 4].map((k) => candles.subarray(k * N, (k + 1) * N));
  const place = new Map(times.map((time, k) => [time, k]));
  starts = origins.map((time) => place.get(time) ?? (place.get(time - interval) ?? N - 1) + 1);
  current = time === undefined ? Math.floor(M / 2) : nearest(time);
  slider.max = M - 1;
  date.min = when(origins[0]).replace(" ", "T");
  date.max = when(origins[M - 1]).replace(" ", "T");
  await Promise.all(chosen().map((who) => load(who)));
  show(current);
};
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
  const from = start - back, to = Math.min(start + H, N), main = +first.value, other = +second.value;
  const price = (who, h, q) => last * (1 + decoded[who][(current * H + h) * Q + q] / 1e4);
  let bottom = Infinity, top = -Infinity, most = 0;
  for (let k = from; k < to; k++) { bottom = Math.min(bottom, low[k]); top = Math.max(top, high[k]); most = Math.max(most, volume[k]); }
  for (const who of [main, other]) if (who >= 0) for (let h = 0; h < H; h++) { bottom = Math.min(bottom, price(who, h, 0)); top = Math.max(top, price(who, h, Q - 1)); }
  const room = (top - bottom) * 0.04, base = origins[current];
  const area = plot($("fan"), [base - back * interval, base + H * interval], [bottom - room, top + room], { time: true, names: other < 0 ? 1 : 2, label: "Price (quote currency)", below: 70 });
  const { pen, X, Y } = area, wide = Math.max(1, (X(base) - X(base - interval)) * 0.64), ink = css("--ink");
  const colour = forecasters[main].colour, at = (h) => X(base + (h + 1) * interval);
  for (const [edge, alpha] of [[0, 0.16], [1, 0.22], [2, 0.3]]) {
    pen.beginPath(); pen.moveTo(X(base), Y(last));
    for (let h = 0; h < H; h++) pen.lineTo(at(h), Y(price(main, h, edge)));
    for (let h = H - 1; h >= 0; h--) pen.lineTo(at(h), Y(price(main, h, Q - 1 - edge)));
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
  line(pen, median(main, (Q - 1) / 2), colour, [], 2.2);
  if (other >= 0) {
    const shade = forecasters[other].colour;
    line(pen, median(other, (Q - 1) / 2), shade, [7, 4], 2.2);
    line(pen, median(other, 0), shade, [2, 3]); line(pen, median(other, Q - 1), shade, [2, 3]);
  }
  line(pen, [[X(base), area.top], [X(base), area.height - 26]], css("--soft"), [3, 3], 1);
  const trader = $("trader") ? +$("trader").value : -1;
  if (trader >= 0) book.fills.time.forEach((time, i) => {
    if (book.fills.account[i] !== trader || time < base - back * interval || time >= base + H * interval) return;
    const up = book.fills.side[i] === "buy" ? 1 : -1, x = X(time), y = Y(book.fills.price[i]);
    pen.beginPath(); pen.moveTo(x, y); pen.lineTo(x - 5.5, y + 10 * up); pen.lineTo(x + 5.5, y + 10 * up); pen.closePath();
    pen.fillStyle = css(up > 0 ? "--gain" : "--loss"); pen.fill();
    pen.strokeStyle = css("--paper"); pen.lineWidth = 1; pen.stroke();
  });
  legend(area, [[forecasters[main].name, colour], ...(other >= 0 ? [[forecasters[other].name, forecasters[other].colour, [7, 4]]] : [])]);
};
const describe = () => {
  const start = starts[current], last = close[start - 1], main = +first.value;
  const percent = (value) => (value >= 0 ? "+" : "") + value.toFixed(2) + " %";
  const median = decoded[main][(current * H + H - 1) * Q + (Q - 1) / 2] / 100;
  const known = start + H <= N ? "outcome " + percent(100 * (close[start + H - 1] / last - 1)) : "outcome not known yet";
  $("shown").textContent = `Origin ${current + 1} of ${M.toLocaleString("en")}, ${when(origins[current])} UTC. After ${H} candles: ${forecasters[main].name} median ${percent(median)}, ${known}.`;
  const box = $("decided");
  if (!meta.accounts.length) { box.textContent = "No strategy trades in this run."; return; }
  const row = meta.decided.times.indexOf(origins[current]), rows = meta.decided.times.length;
  const table = document.createElement("table"), head = document.createElement("tr");
  table.append(element("caption", "Decisions at this origin and fills at the next open"));
  for (const text of ["account", "decided weight", "fill", "size", "price", "fee"]) { const cell = element("th", text); cell.scope = "col"; head.append(cell); }
  table.append(head);
  meta.decided.names.forEach((name, k) => {
    const line = document.createElement("tr"), weight = row < 0 ? NaN : targets[k * rows + row];
    const account = meta.accounts.findIndex((one) => one.name === name), fills = book.fills;
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
  if (!chosen().every((who) => decoded[who])) return;
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
  if (!isNaN(wanted)) show(nearest(wanted));
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
