// The page of a run on several symbols: forest plot, rankings, the switch of symbol, accounts.
const options = (select, values, chosen) => {
  select.append(...values.map(([text, value]) => new Option(text, value)));
  select.value = chosen;
};
const clip = (text, most) => text.length > most ? text.slice(0, most - 1) + "…" : text;
const drawForest = () => {
  if (!$("forest")) return;
  const canvas = $("forest"), step = +$("ahead").value, rows = meta.forest.filter((one) => one.forecaster === $("compared").value && one.step === step);
  const names = [...meta.symbols, null].filter((symbol) => rows.some((one) => one.symbol === symbol));
  canvas.style.height = 60 + 30 * Math.max(1, names.length) + "px";
  const wide = canvas.clientWidth, narrow = wide < 520;
  const x = rows.length ? span(rows.flatMap((one) => [one.low, one.high, 0])) : [-1, 1];
  const area = plot(canvas, x, [0, 0], { label: rows.length ? "CRPS against the opponent, %" : "Nothing is compared at this step", plain: true, numbers: true, left: narrow ? 92 : 150, right: narrow ? 12 : 210 });
  const { pen, X } = area, tall = (area.bottom - area.top) / Math.max(1, names.length), colour = colourOf($("compared").value);
  line(pen, [[X(0), area.top], [X(0), area.bottom]], css("--ink"), [], 1);
  names.forEach((symbol, j) => {
    const one = rows.find((other) => other.symbol === symbol), y = area.top + (j + 0.5) * tall, sure = one.p <= 0.05;
    pen.fillStyle = css("--ink"); pen.textAlign = "left";
    pen.font = `${symbol === null ? "600 " : ""}12px system-ui, sans-serif`;
    pen.fillText(clip(symbol === null ? "all symbols" : symbol, narrow ? 13 : 22), 4, y + 4);
    if (symbol === null) line(pen, [[4, y - tall / 2], [wide - 4, y - tall / 2]], css("--rule"), [], 1);
    if (!narrow) pen.fillText(`${one.difference.toFixed(1)} (${one.low.toFixed(1)} to ${one.high.toFixed(1)}), p ${one.p.toFixed(3)}`, area.right + 14, y + 4);
    pen.beginPath();
    if (symbol === null) { pen.moveTo(X(one.low), y); pen.lineTo(X(one.difference), y - 8); pen.lineTo(X(one.high), y); pen.lineTo(X(one.difference), y + 8); pen.closePath(); }
    else { line(pen, [[X(one.low), y], [X(one.high), y]], colour, [], 2); pen.beginPath(); pen.rect(X(one.difference) - 5, y - 5, 10, 10); }
    pen.fillStyle = sure ? colour : css("--paper"); pen.fill();
    pen.strokeStyle = colour; pen.lineWidth = 2; pen.stroke();
  });
  pen.font = "12px system-ui, sans-serif";
};
const drawRankings = () => {
  if (!$("rankic")) return;
  const step = +$("rankstep").value, found = meta.rankings.filter((one) => one.step === step && isShown(one.forecaster));
  $("rankfigure").hidden = !meta.rankings.length;
  $("unranked").hidden = meta.rankings.length > 0;
  if (!meta.rankings.length) return;
  const banded = meta.rankings.find((one) => one.step === step && one.forecaster === $("rankband").value);
  const every = [...found, ...(banded ? [banded] : [])], at = every.flatMap((one) => one.time);
  if (!every.length) { plot($("rankic"), [0, 1], [-1, 1], { label: "No forecaster is chosen", plain: true }); return; }
  const [least, most] = span([0, ...found.flatMap((one) => one.mean), ...(banded ? [...banded.low, ...banded.high] : [])]);
  const area = plot($("rankic"), [Math.min(...at), Math.max(...at)], [Math.max(-1, least), Math.min(1, most)], { time: true, label: "RankIC" });
  if (banded) shade(area.pen, ...[banded.low, banded.high].map((end) => end.map((value, k) => [area.X(banded.time[k]), area.Y(Math.max(-1, Math.min(1, value)))])), colourOf(banded.forecaster), 0.16);
  line(area.pen, [[area.left, area.Y(0)], [area.right, area.Y(0)]], css("--ink"), [], 1);
  for (const one of found) line(area.pen, one.time.map((time, k) => [area.X(time), area.Y(one.mean[k])]), ...lookOf(one.forecaster));
};
const decisions = await floats("targets"), count = meta.decided.times.length, A = meta.decided.names.length;
const weightsOf = (symbol, account) => decisions.subarray((symbol * A + account) * count, (symbol * A + account + 1) * count);
const drawAccounts = () => {
  drawEquity();
  const account = +$("held").value;
  drawWeights($("weights"), "Decided weight", account < 0 ? [] : meta.symbols.map((name, k) => [clip(name, 40), weightsOf(k, account)]));
};
const enterSymbol = async () => {
  const k = +$("symbol").value;
  await enter(JSON.parse(new TextDecoder().decode(await unpack(`book-${k}`))), `-${k}`, decisions.subarray(k * A * count, (k + 1) * A * count));
};

const main = forecasters[meta.main].name;
if ($("forest")) {
  const compared = [...new Set(meta.forest.map((one) => one.forecaster))];
  options($("compared"), compared.map((name) => [name, name]), compared.includes(main) ? main : compared[0]);
  options($("ahead"), [...meta.steps.map((step) => [step, step]), ["whole path", 0]], String(H));
  for (const name of ["compared", "ahead"]) $(name).addEventListener("change", drawForest);
}
if ($("rankic")) {
  key($("key"), forecasters, drawRankings);
  options($("rankstep"), meta.steps.map((step) => [step, step]), String(H));
  options($("rankband"), [["none", ""], ...forecasters.map((one) => [one.name, one.name])], main);
  for (const name of ["rankstep", "rankband"]) $(name).addEventListener("change", drawRankings);
}
options($("symbol"), meta.symbols.map((name, k) => [name, k]), "0");
$("symbol").addEventListener("change", enterSymbol);
options($("held"), [["none", -1], ...meta.decided.names.map((name, k) => [name, k])], String(Math.max(0, meta.decided.names.findIndex((name) => name.endsWith("@" + main)))));
$("held").addEventListener("change", drawAccounts);
followAccounts(drawAccounts);
await enterSymbol();
redraw = () => { drawForest(); drawRankings(); drawFan(); drawAccounts(); };
redraw();
document.documentElement.dataset.ready = "yes";
