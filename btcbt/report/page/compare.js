let meta, growth;
try {
  meta = JSON.parse(new TextDecoder().decode(await unpack("meta")));
  growth = await floats("growth");
} catch (error) {
  $("failed").hidden = false;
  return;
}
meta.runs.forEach((one, k) => { one.shown = true; one.dash = dashes[k % dashes.length]; });
const drawDifferences = () => {
  const rows = meta.differences, canvas = $("differences"), lines = [];
  let before = "";
  for (const row of rows) {
    const head = `${row.run} ${row.name}`;
    if (head !== before) lines.push({ head });
    lines.push(row);
    before = head;
  }
  canvas.style.height = 56 + 19 * lines.length + "px";
  const values = rows.flatMap((row) => [row.difference, row.low, row.high]).filter((value) => value !== null);
  const area = plot(canvas, span([...values, 0]), [0, 0], { label: "Difference to A, %", plain: true, numbers: true, left: 58 });
  const { pen, X } = area, tall = (area.bottom - area.top) / lines.length;
  line(pen, [[X(0), area.top], [X(0), area.bottom]], css("--ink"), [3, 3], 1);
  lines.forEach((row, k) => {
    const y = area.top + (k + 0.5) * tall;
    pen.textAlign = "left";
    if (row.head) {
      pen.fillStyle = css("--ink");
      pen.fillText(row.head, 8, y + 4);
      return;
    }
    const { colour } = meta.runs.find((one) => one.name === row.run);
    pen.fillStyle = css("--soft");
    pen.fillText(row.ahead, 20, y + 4);
    if (row.low !== null) line(pen, [[X(row.low), y], [X(row.high), y]], colour, [], 2.5);
    if (row.difference === null) return;
    pen.beginPath(); pen.arc(X(row.difference), y, 4.5, 0, 7);
    pen.fillStyle = row.ahead === "path" ? css("--paper") : colour; pen.fill();
    pen.strokeStyle = colour; pen.lineWidth = 2; pen.stroke();
  });
};
const drawEquity = () => {
  if (!$("equity")) return;
  const L = meta.times.length, log = $("log").checked;
  const shown = meta.curves.map((one, k) => ({ ...meta.runs.find((run) => run.name === one.run), k, account: one.account })).filter((one) => one.shown && one.account === $("account").value);
  const values = shown.flatMap(({ k }) => [...growth.subarray(k * L, (k + 1) * L)]).filter((value) => !log || value > 0);
  const area = plot($("equity"), [meta.times[0], meta.times[L - 1]], span([...values, 1], log ? 0.01 : 0.04), { time: true, log, label: "Equity / equity before the first candle" });
  line(area.pen, [[area.left, area.Y(1)], [area.right, area.Y(1)]], css("--ink"), [], 1);
  for (const one of shown) {
    const points = meta.times.flatMap((time, i) => { const value = growth[one.k * L + i]; return log && value <= 0 ? [] : [[area.X(time), area.Y(value)]]; });
    line(area.pen, points, one.colour, one.dash, 2);
  }
};
if ($("account")) {
  for (const name of new Set(meta.curves.map((one) => one.account))) $("account").append(new Option(name, name));
  for (const name of ["account", "log"]) $(name).addEventListener("change", drawEquity);
  key($("runs"), meta.runs.map((one) => Object.assign(one, { label: `${one.name}: ${one.title}` })), drawEquity);
}
redraw = () => { drawDifferences(); drawEquity(); };
redraw();
document.documentElement.dataset.ready = "yes";
