// The page of a run: quality of its forecasts, accounts and placebo runs.
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
  drawEquity();
  const names = meta.accounts.filter((one) => one.shown).map((one) => one.name), count = meta.decided.times.length;
  const rows = names.map((name) => [name, meta.decided.names.indexOf(name)]).filter(([, k]) => k >= 0);
  drawWeights($("weights"), "Decided weight", rows.map(([name, k]) => [name, targets.subarray(k * count, (k + 1) * count)]));
};
followAccounts(drawAccounts);
if ($("key")) key($("key"), forecasters, drawQuality);
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

await enter(meta, "", await floats("targets"));
redraw = () => { drawFan(); drawQuality(); drawAccounts(); drawPlacebos(); };
redraw();
document.documentElement.dataset.ready = "yes";
