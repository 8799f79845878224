// What the scripts of all pages share: tables, charts, and the switch of the theme.
const $ = (id) => document.getElementById(id);
const unpack = async (name) => {
  const text = $("blob-" + name);
  if (!text) return null;
  const letters = atob(text.textContent), bytes = new Uint8Array(letters.length);
  for (let k = 0; k < bytes.length; k++) bytes[k] = letters.charCodeAt(k);
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
  const left = options.left || (options.plain ? 10 : 58), right = width - (options.right || 10), top = 22 + (width < 420 ? 15 * ((options.names || 1) - 1) : 0), bottom = height - 24 - (options.below || 0);
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
  const count = Math.max(2, Math.floor((right - left) / (options.numbers ? 70 : 120)));
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
const dashes = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [14, 4]];
// A line of the look that a chart draws: a colour, or the ink's if there is none, and dashes.
const swatch = (colour, dash) => {
  const box = $("swatch").content.firstElementChild.cloneNode(true);
  box.firstElementChild.setAttribute("stroke", colour || "currentColor");
  box.firstElementChild.setAttribute("stroke-dasharray", dash.join(" "));
  return box;
};
// The legend of charts, whose boxes switch what they draw on and off.
const key = (box, entries, changed) => {
  for (const one of entries) {
    const label = document.createElement("label"), check = document.createElement("input");
    check.type = "checkbox";
    check.checked = one.shown;
    check.addEventListener("change", () => { one.shown = check.checked; changed(); });
    label.append(check, swatch(one.colour, one.dash), one.label || one.name);
    box.append(label);
  }
};

let redraw = () => {};
$("theme").addEventListener("click", () => {
  const dark = css("color-scheme") === "dark" || getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.className = dark ? "light" : "dark";
  redraw();
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
let waiting;
window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => redraw(), 80); });
window.addEventListener("beforeprint", () => redraw());
