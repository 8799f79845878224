"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const unpack = async (name) => {
    const text = $("blob-" + name);
    if (!text) return null;
    const bytes = Uint8Array.from(atob(text.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };
  const floats = async (name) => { const found = await unpack(name); return found && new Float32Array(found); };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const when = (time) => new Date(time).toISOString().slice(0, 16).replace("T", " ");
  const short = (value) => Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
  const element = (name, text) => { const made = document.createElement(name); made.textContent = text; return made; };

  // Columns sort by their headings; the tables are complete without the script.
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((cell, at) => {
      const button = element("button", cell.textContent);
      button.type = "button";
      cell.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = cell.getAttribute("aria-sort") === "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => row.cells[at].textContent.trim();
        const number = (row) => parseFloat(value(row).replace(/,/g, ""));
        const compare = (a, b) => {
          const [x, y] = [number(a), number(b)];
          if (isNaN(x) || isNaN(y)) return isNaN(x) && isNaN(y) ? value(a).localeCompare(value(b)) : isNaN(x) ? -1 : 1;
          return x - y;
        };
        const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? 1 : -1) * compare(a, b));
        table.tBodies[0].append(...rows);
      });
    });
  }

  // Charts ------------------------------------------------------------------------------------------------------
  const ticks = (low, high, count) => {
    const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Math.abs(at) < step / 1e6 ? 0 : at);
    return found;
  };
  // A plot area with axes: returns the context and the two scales.
  const plot = (canvas, x, y, options = {}) => {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "12px system-ui, sans-serif";
    pen.fillStyle = css("--paper");
    pen.fillRect(0, 0, width, height);
    const left = options.plain ? 10 : 58, right = width - (options.right || 10), top = 22 + (width < 420 ? 15 * Math.min(5, (options.names || 1) - 1) : 0), bottom = height - 24 - (options.below || 0);
    const scale = options.log ? Math.log10 : (value) => value;
    const [low, high] = [scale(y[0]), scale(y[1])];
    const X = (value) => left + (right - left) * (value - x[0]) / (x[1] - x[0] || 1);
    const Y = (value) => bottom - (bottom - top) * (scale(value) - low) / (high - low || 1);
    pen.strokeStyle = css("--rule");
    pen.fillStyle = css("--soft");
    pen.lineWidth = 1;
    pen.textAlign = "right";
    const marks = options.plain ? [] : ticks(y[0], y[1], 5);
    for (const mark of marks) {
      if (options.log && mark <= 0) continue;
      pen.beginPath(); pen.moveTo(left, Y(mark)); pen.lineTo(right, Y(mark)); pen.stroke();
      pen.fillText(short(mark), left - 6, Y(mark) + 4);
    }
    pen.textAlign = "center";
    const count = Math.max(2, Math.floor((right - left) / 120));
    const across = options.time ? Array.from({ length: count }, (_, k) => x[0] + (x[1] - x[0]) * (k + 0.5) / count) : ticks(x[0], x[1], count).filter((mark) => options.numbers || x[1] <= 1 || Number.isInteger(mark));
    const long = x[1] - x[0] > 12 * 864e5;
    for (const mark of across) pen.fillText(options.time ? (long ? when(mark).slice(0, 10) : when(mark).slice(5)) : short(mark), X(mark), height - 8);
    pen.textAlign = "left";
    pen.fillText(options.label || "", 4, 13);
    return { pen, X, Y, left, right, top, bottom, height };
  };
  const line = (pen, points, colour, dash = [], width = 1.6) => {
    pen.beginPath();
    points.forEach(([x, y], k) => k ? pen.lineTo(x, y) : pen.moveTo(x, y));
    pen.strokeStyle = colour; pen.lineWidth = width; pen.setLineDash(dash); pen.stroke(); pen.setLineDash([]);
  };
  const shade = (pen, below, above, colour, alpha) => {
    pen.beginPath();
    [...below, ...[...above].reverse()].forEach(([x, y], k) => k ? pen.lineTo(x, y) : pen.moveTo(x, y));
    pen.closePath(); pen.globalAlpha = alpha; pen.fillStyle = colour; pen.fill(); pen.globalAlpha = 1;
  };
  const span = (values, room = 0.08) => {
    const [least, most] = [Math.min(...values), Math.max(...values)], extra = (most - least) * room || 1;
    return [least - extra, most + extra];
  };
  const legend = (area, entries) => {
    let at = area.right, y = 13;
    area.pen.textAlign = "right";
    for (const [name, colour, dash] of [...entries].reverse()) {
      const label = name.length > 26 ? name.slice(0, 25) + "…" : name;
      const wide = area.pen.measureText(label).width + 34;
      if (at < area.right && at - wide < area.left + 130) { at = area.right; y += 15; }
      area.pen.fillStyle = css("--ink");
      area.pen.fillText(label, at, y);
      line(area.pen, [[at - wide + 8, y - 4], [at - wide + 29, y - 4]], colour, dash || []);
      at -= wide + 6;
    }
  };

  let meta, candles, quantiles, equity, targets;
  try {
    meta = JSON.parse(new TextDecoder().decode(await unpack("meta")));
    [candles, equity, targets] = await Promise.all(["candles", "equity", "targets"].map(floats));
    quantiles = await Promise.all(meta.forecasters.map((_, k) => unpack("quantiles" + k)));
  } catch (error) {
    $("failed").hidden = false;
    return;
  }
  const { horizon: H, origins, times, interval, levels, forecasters } = meta;
  const M = origins.length, N = times.length, Q = levels.length;
  const channel = (k) => candles.subarray(k * N, (k + 1) * N);
  const [open, high, low, close, volume] = [0, 1, 2, 3, 4].map(channel);
  // The inverse of `quantile_steps`: see payload.py. Int16Array wraps as NumPy does.
  const decoded = quantiles.map((buffer) => {
    const bytes = new Uint8Array(buffer), size = M * H * Q, out = new Int16Array(size), parts = new Int16Array(size);
    for (let k = 0; k < size; k++) { const folded = bytes[k] | (bytes[size + k] << 8); parts[k] = (folded >>> 1) ^ -(folded & 1); }
    for (let q = 0; q < Q; q++) for (let h = 1; h < H; h++) for (let m = 0; m < M; m++) parts[(q * H + h) * M + m] += parts[(q * H + h - 1) * M + m];
    const middle = (Q - 1) / 2;
    for (let m = 0; m < M; m++) for (let h = 0; h < H; h++) {
      const part = (q) => parts[(q * H + h) * M + m], at = (m * H + h) * Q;
      out[at + middle] = part(0);
      for (let q = middle + 1; q < Q; q++) out[at + q] = out[at + q - 1] + part(q);
      for (let q = middle - 1; q >= 0; q--) out[at + q] = out[at + q + 1] - part(q + 1);
    }
    return out;
  });
  const place = new Map(times.map((time, k) => [time, k]));
  const after = (time) => place.get(time) ?? (place.get(time - interval) ?? N - 1) + 1;
  const starts = origins.map(after);

  // Forecast browser --------------------------------------------------------------------------------------------
  let current = Math.floor(M / 2);
  const first = $("first"), second = $("second"), slider = $("slider"), date = $("date");
  second.append(new Option("none", "-1"));
  forecasters.forEach((one, k) => { first.append(new Option(one.name, k)); second.append(new Option(one.name, k)); });
  first.value = meta.main;
  slider.max = M - 1;
  date.min = when(origins[0]).replace(" ", "T");
  date.max = when(origins[M - 1]).replace(" ", "T");
  const loss = (who, m) => {
    const start = starts[m], last = close[start - 1];
    if (start + H > N) return NaN;
    let sum = 0;
    for (let h = 0; h < H; h++) {
      const real = 1e4 * (close[start + h] / last - 1);
      for (let q = 0; q < Q; q++) { const gap = real - decoded[who][(m * H + h) * Q + q] * meta.unit; sum += gap * (levels[q] - (gap < 0)); }
    }
    return sum / (H * Q);
  };
  const drawFan = () => {
    const start = starts[current], last = close[start - 1], back = Math.min(start, window.innerWidth < 640 ? 36 : 72);
    const from = start - back, to = Math.min(start + H, N), chosen = +first.value, other = +second.value;
    const price = (who, h, q) => last * (1 + decoded[who][(current * H + h) * Q + q] * meta.unit / 1e4);
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
    const median = decoded[chosen][(current * H + H - 1) * Q + (Q - 1) / 2] * meta.unit / 100;
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
  for (const one of [first, second, $("trader")]) if (one) one.addEventListener("change", () => show(current));
  document.addEventListener("keydown", (event) => {
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.closest(".scroll")) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); show(current + step); }
  });

  // Quality and accounts ----------------------------------------------------------------------------------------
  const colourOf = (name) => (forecasters.find((one) => one.name === name) || {}).colour || css("--ink");
  const drawQuality = () => {
    if (!$("skill")) return;
    const all = meta.skill.flatMap((one) => one.value).concat(0), names = [...new Set(meta.skill.map((one) => one.forecaster))];
    const area = plot($("skill"), [0, H + 1], span(all), { names: names.length, label: meta.skill.length ? "CRPS against the opponent, %" : "No comparison is stored" });
    line(area.pen, [[area.left, area.Y(0)], [area.right, area.Y(0)]], css("--ink"), [], 1);
    names.forEach((name, k) => {
      const of = (end) => meta.skill.find((one) => one.forecaster === name && one.metric.endsWith("." + end)) || { step: [], value: [] };
      const [middle, lows, highs] = ["difference_pct", "low_pct", "high_pct"].map(of), aside = (k - (names.length - 1) / 2) * 5;
      const ratio = meta.skill.find((one) => one.forecaster === name && one.metric === "ratio") || middle;
      line(area.pen, ratio.step.map((step, i) => [area.X(step), area.Y(ratio.value[i])]), colourOf(name));
      shade(area.pen, lows.step.map((step, i) => [area.X(step), area.Y(lows.value[i])]), highs.step.map((step, i) => [area.X(step), area.Y(highs.value[i])]), colourOf(name), 0.1);
      middle.step.forEach((step, i) => {
        const x = area.X(step) + aside, a = lows.step.indexOf(step), b = highs.step.indexOf(step);
        if (a >= 0 && b >= 0) line(area.pen, [[x, area.Y(lows.value[a])], [x, area.Y(highs.value[b])]], colourOf(name), [], 2);
        area.pen.fillStyle = colourOf(name); area.pen.beginPath(); area.pen.arc(x, area.Y(middle.value[i]), 3.2, 0, 7); area.pen.fill();
      });
    });
    legend(area, names.map((name) => [name, colourOf(name)]));
    const dashes = { coverage50: [2, 3], coverage80: [7, 4], coverage95: [] };
    const cover = plot($("coverage"), [1, H], [0, 100], { names: forecasters.length, label: "Inside, %" });
    for (const level of [50, 80, 95]) line(cover.pen, [[cover.left, cover.Y(level)], [cover.right, cover.Y(level)]], css("--soft"), [], 1);
    for (const one of meta.coverage) line(cover.pen, one.step.map((step, i) => [cover.X(step), cover.Y(one.value[i])]), colourOf(one.forecaster), dashes[one.metric]);
    legend(cover, forecasters.map((one) => [one.name, one.colour]));
  };
  const lookOf = (name) => [name, colourOf(name), [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [14, 4]][forecasters.findIndex((one) => one.name === name) % 6]];
  const drawTiming = () => {
    if (!$("pit")) return;
    const step = $("pitstep").value, named = Object.entries(meta.pit).filter(([, by]) => (by[step] || []).length);
    if (named.length) {
      const most = Math.max(2, ...named.flatMap(([, by]) => by[step]));
      const area = plot($("pit"), [0, 1], [0, most * 1.06], { names: named.length, label: "Density" });
      line(area.pen, [[area.left, area.Y(1)], [area.right, area.Y(1)]], css("--soft"), [], 1);
      for (const [name, by] of named) line(area.pen, by[step].flatMap((value, k) => [[area.X(k / by[step].length), area.Y(value)], [area.X((k + 1) / by[step].length), area.Y(value)]]), ...lookOf(name).slice(1));
      legend(area, named.map(([name]) => lookOf(name)));
    }
    const hours = Object.entries(meta.hours);
    $("hours").parentElement.hidden = !hours.length;
    if (hours.length) {
      const values = hours.flatMap(([, one]) => one).filter((value) => value !== null);
      const area = plot($("hours"), [0, 23], span(values), { names: hours.length, label: "CRPS, bps" });
      for (const [name, one] of hours) line(area.pen, one.flatMap((value, k) => value === null ? [] : [[area.X(k), area.Y(value)]]), ...lookOf(name).slice(1));
      legend(area, hours.map(([name]) => lookOf(name)));
    }
    $("fluctuation").parentElement.hidden = !meta.fluctuation.length;
    if (meta.fluctuation.length) {
      const all = meta.fluctuation.flatMap((one) => [...one.value, one.critical, -one.critical]), at = meta.fluctuation.flatMap((one) => one.time);
      const area = plot($("fluctuation"), [Math.min(...at), Math.max(...at)], span(all), { time: true, names: meta.fluctuation.length, label: "Standard errors" });
      line(area.pen, [[area.left, area.Y(0)], [area.right, area.Y(0)]], css("--soft"), [], 1);
      for (const one of meta.fluctuation) {
        for (const end of [-1, 1]) line(area.pen, [[area.left, area.Y(end * one.critical)], [area.right, area.Y(end * one.critical)]], css("--soft"), [7, 4], 1);
        line(area.pen, one.time.map((time, k) => [area.X(time), area.Y(one.value[k])]), ...lookOf(one.forecaster).slice(1));
      }
      legend(area, meta.fluctuation.map((one) => lookOf(one.forecaster)));
    }
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
      const y = area.top + j * tall + 23, colour = accountColour(one), x = X(one.real);
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
    const L = meta.equityTimes.length, log = $("log").checked, every = Math.max(1, Math.floor(L / 2000));
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
    const above = plot($("equity"), x, [log ? lowest * 0.98 : lowest - room, highest + room], { time: true, log, names: shown.length, label: "Equity / initial cash", right: 10 });
    const under = plot($("drawdown"), x, [worst * 1.05 || -1, 0], { time: true, label: "Drawdown, %" });
    line(above.pen, [[above.left, above.Y(1)], [above.right, above.Y(1)]], css("--ink"), [], 1);
    if (band) shade(above.pen, ...band.map((end) => end.map((one, i) => [above.X(meta.equityTimes[meta.bands.at[i]]), above.Y(one)])), accountColour({ name: $("band").value }), 0.12);
    const looks = shown.map((one) => [one.name, accountColour(one), accountDash(one)]);
    shown.forEach(({ k }, j) => {
      const points = (scaled) => { const found = []; for (let i = 0; i < L; i += every) if (!log || value(k, i) > 0) found.push([i, scaled(i)]); return found; };
      line(above.pen, points((i) => above.Y(value(k, i))).map(([i, y]) => [above.X(meta.equityTimes[i]), y]), looks[j][1], looks[j][2]);
      line(under.pen, points((i) => under.Y(falls[j][i])).map(([i, y]) => [under.X(meta.equityTimes[i]), y]), looks[j][1], looks[j][2]);
    });
    legend(above, looks);
    drawWeights(shown);
  };
  // An account has the colour of its forecaster, and its strategy's dash; those on none are in the ink's colour.
  const strategies = [...new Set(meta.accounts.map((one) => one.name.split("@")[0]))], dashes = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [14, 4]];
  const accountColour = (one) => one.name.includes("@") ? colourOf(one.name.split("@").slice(1).join("@")) : css("--ink");
  const accountDash = (one) => dashes[strategies.indexOf(one.name.split("@")[0]) % dashes.length];
  if ($("accounts")) meta.accounts.forEach((one) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = one.shown;
    box.addEventListener("change", () => { one.shown = box.checked; drawAccounts(); });
    label.append(box, " " + one.name);
    $("accounts").append(label);
  });
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

  const redraw = () => { if (M) drawFan(); drawQuality(); drawTiming(); drawAccounts(); drawPlacebos(); };
  $("theme").addEventListener("click", () => {
    const dark = css("color-scheme") === "dark" || getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.className = dark ? "light" : "dark";
    redraw();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let waiting;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 80); });
  window.addEventListener("beforeprint", redraw);
  if (M) show(current);
  redraw();
  document.documentElement.dataset.ready = "yes";
})();
