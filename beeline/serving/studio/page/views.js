// How samples are shown: pictures, points, signals, rows of a table, texts, and arrays of numbers.

import { button, el } from "./dom.js";

/** A view for a model in a box. `show(samples, n)` draws them, also states along a trajectory. */
export function viewFor(model, box, chosen = null) {
  const Kind = KINDS[model.view.kind];
  return new Kind(model, box, chosen);
}

/** How many samples are usual for a kind of data, and the most that the page draws at once. */
export const usual = { pictures: [20, 64], points: [500, 2000], signals: [4, 16], rows: [12, 64], texts: [12, 64], fields: [9, 36] };

const LARGEST = 200; // pixels on the screen for one sample

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Canvases in a grid; a sample can be chosen. */
class Tiles {
  constructor(model, box, chosen) {
    Object.assign(this, { model, box, chosen, canvases: [], shape: model.view.shape });
    box.className = `view ${model.view.kind}`;
    box.replaceChildren();
  }

  prepare(n, width, height) {
    if (this.canvases.length === n && this.canvases[0].width === width) return;
    this.canvases = Array.from({ length: n }, () => el("canvas", { width, height }));
    const tiles = this.canvases.map((canvas, k) => {
      if (!this.chosen) return el("div", { className: "tile" }, canvas);
      const tile = button("", () => this.chosen(k, canvas), { className: "tile", ariaLabel: `Sample ${k + 1}`, data: { k } });
      tile.append(canvas);
      return tile;
    });
    const columns = this.columns(n);
    this.box.style.setProperty("--columns", columns);
    this.box.classList.toggle("single", n === 1);
    this.box.replaceChildren(...tiles);
  }

  /** As many columns as make the samples large, and all of them visible at once. */
  columns(n) {
    const wide = this.box.clientWidth || 320;
    const high = Math.max(innerHeight - 350, 280);
    let best = [0, Math.min(n, 8)];
    for (let k = 1; k <= Math.min(n, 16); k++) {
      const side = Math.min(wide / k, LARGEST);
      if (Math.ceil(n / k) * side > high) continue;
      const worth = side * (n % k === 0 ? 1.5 : 1); // rows that are all full look better
      if (worth > best[0]) best = [worth, k];
    }
    return best[1];
  }

  /** A small picture of the samples for the history. */
  thumbnail() {
    return sheet(this.canvases.slice(0, 4));
  }
}

class Pictures extends Tiles {
  async show(samples, n) {
    const { width, height } = this.model.view;
    const order = (this.order = (this.order ?? 0) + 1);
    const image = new Image();
    image.src = samples;
    await image.decode();
    if (order < this.shown) return; // a later state is there already
    this.shown = order;
    this.prepare(n, width, height);
    const wide = Math.ceil(Math.sqrt(n));
    const zoom = image.naturalWidth / (wide * (width + 1) + 1);
    this.canvases.forEach((canvas, k) => {
      const x = ((k % wide) * (width + 1) + 1) * zoom;
      const y = (Math.floor(k / wide) * (height + 1) + 1) * zoom;
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(image, x, y, width * zoom, height * zoom, 0, 0, width, height);
    });
  }
}

class Fields extends Tiles {
  async show(samples, n) {
    const channels = samples[0].map ? samples[0] : [];
    const [height, width] = [channels[0].length, channels[0][0].length ?? 1];
    this.prepare(n, width, height);
    const all = samples.flat(3);
    const low = Math.min(...all.slice(0, 100_000));
    const high = Math.max(...all.slice(0, 100_000));
    samples.forEach((sample, k) => {
      const context = this.canvases[k].getContext("2d");
      const pixels = context.createImageData(width, height);
      for (let i = 0; i < width * height; i++) {
        const value = (c) => (255 * ((sample[c][Math.floor(i / width)][i % width] ?? 0) - low)) / (high - low || 1);
        const colours = sample.length >= 3 ? [value(0), value(1), value(2)] : Array(3).fill(value(0));
        pixels.data.set([...colours, 255], 4 * i);
      }
      context.putImageData(pixels, 0, 0);
    });
  }
}

class Signals extends Tiles {
  async show(samples, n, done = false) {
    this.prepare(n, 600, 160);
    samples.forEach((channels, k) => wave(this.canvases[k], channels));
    if (done) samples.forEach((channels, k) => channels[0].length >= 1000 && this.listen(k, channels[0]));
  }

  /** An audio element for a signal that is long enough to be heard. */
  listen(k, values) {
    const rate = values.length >= 16_000 ? 16_000 : 8_000;
    const audio = el("audio", { controls: true, src: URL.createObjectURL(wav(values, rate)), ariaLabel: `Sound ${k + 1}` });
    const tile = this.canvases[k].parentElement;
    tile.nextElementSibling?.matches("audio") && tile.nextElementSibling.remove();
    tile.after(audio);
  }
}

function wave(canvas, channels) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.strokeStyle = ink("--line");
  context.strokeRect(0, height / 2, width, 0);
  const most = Math.max(1e-9, ...channels.map((values) => values.reduce((a, v) => Math.max(a, Math.abs(v)), 0)));
  channels.slice(0, 8).forEach((values, c) => {
    context.strokeStyle = `hsl(${38 + 47 * c} 85% 50%)`;
    context.lineWidth = 1.5;
    context.beginPath();
    values.forEach((v, i) => context.lineTo((i / (values.length - 1)) * width, (0.5 - 0.46 * (v / most)) * height));
    context.stroke();
  });
}

/** A WAV file of 16 bits. */
export function wav(values, rate) {
  const data = new DataView(new ArrayBuffer(44 + 2 * values.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => data.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  data.setUint32(4, 36 + 2 * values.length, true);
  text(8, "WAVEfmt ");
  [[16, 16, 4], [20, 1, 2], [22, 1, 2], [24, rate, 4], [28, 2 * rate, 4], [32, 2, 2], [34, 16, 2]].forEach(([at, v, size]) =>
    size === 4 ? data.setUint32(at, v, true) : data.setUint16(at, v, true));
  text(36, "data");
  data.setUint32(40, 2 * values.length, true);
  const most = Math.max(1e-9, values.reduce((a, v) => Math.max(a, Math.abs(v)), 0));
  values.forEach((v, i) => data.setInt16(44 + 2 * i, Math.round((32_000 * v) / most), true));
  return new Blob([data], { type: "audio/wav" });
}

/** A scatter of the first two columns, with the trajectories that led there. */
class Points {
  constructor(model, box) {
    Object.assign(this, { model, box, first: null, span: null, bounds: null });
    box.className = "view points";
    this.canvas = el("canvas", { width: 1100, height: 1100, aria: { role: "img", label: "Scatter of the samples" } });
    box.replaceChildren(this.canvas);
  }

  begin() {
    this.first = this.span = null;
  }

  async show(samples, n) {
    const points = samples.map((row) => (Array.isArray(row) ? [row[0], row[1] ?? 0] : [row, 0]));
    if (!this.first || this.first.length !== n) this.first = points;
    const reach = (axis, pick, k) => pick(...points.map((p) => p[axis]), ...(this.span ? [this.span[axis][k]] : []));
    const span = (this.span = [0, 1].map((axis) => [reach(axis, Math.min, 0), reach(axis, Math.max, 1)])); // of all states
    const size = Math.max(...span.map(([a, b]) => b - a), 1e-9) * 1.08;
    this.bounds = span.map(([a, b]) => [(a + b - size) / 2, size]);
    this.paint(points);
  }

  paint(points) {
    const context = this.canvas.getContext("2d");
    const side = this.canvas.width;
    const at = ([x, y]) => [((x - this.bounds[0][0]) / this.bounds[0][1]) * side, side - ((y - this.bounds[1][0]) / this.bounds[1][1]) * side];
    context.clearRect(0, 0, side, side);
    context.strokeStyle = ink("--trail");
    context.lineWidth = 1;
    points.slice(0, 300).forEach((point, k) => {
      context.beginPath();
      context.moveTo(...at(this.first[k]));
      context.lineTo(...at(point));
      context.stroke();
    });
    const classes = Object.values(this.known ?? {}).find(Array.isArray) ?? [];
    const order = [...new Set(classes)];
    const colour = (k) => (order.length > 1 ? `hsl(${38 + (360 * order.indexOf(classes[k])) / order.length} 80% 50%)` : ink("--accent"));
    for (const [k, point] of points.entries()) {
      context.fillStyle = colour(k);
      context.beginPath();
      context.arc(...at(point), points.length > 800 ? 3 : 5, 0, 7);
      context.fill();
    }
    this.box.dataset.count = points.length;
  }

  thumbnail() {
    return sheet([this.canvas]);
  }
}

class Rows {
  constructor(model, box) {
    Object.assign(this, { model, box });
    box.className = "view rows";
  }

  async show(samples) {
    const columns = this.model.view.columns;
    const known = Object.keys(this.known ?? {});
    const head = el("tr", {}, ...columns.map((name) => el("th", { scope: "col", textContent: name, className: known.includes(name) ? "known" : "" })));
    const text = (v) => (v === null || v === undefined ? "—" : typeof v === "number" ? String(Number(v.toPrecision(6))) : String(v));
    const rows = samples.map((row) =>
      el("tr", {}, ...columns.map((name) => el("td", { textContent: text(row[name]), className: `${typeof row[name]}${known.includes(name) ? " known" : ""}` }))));
    this.box.replaceChildren(el("div", { className: "scroll", tabIndex: 0, aria: { role: "region", label: "Rows" } },
      el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows))));
    this.rows = samples;
  }

  thumbnail() {
    const canvas = el("canvas", { width: 120, height: 60 });
    const context = canvas.getContext("2d");
    context.fillStyle = "#888";
    context.font = "11px sans-serif";
    this.rows?.slice(0, 4).forEach((row, k) => context.fillText(Object.values(row).slice(0, 3).join(" · "), 3, 13 * (k + 1)));
    return canvas.toDataURL();
  }
}

class Texts extends Rows {
  async show(samples) {
    this.box.className = "view texts";
    this.box.replaceChildren(el("ol", {}, ...samples.map((text) => el("li", { textContent: text }))));
    this.rows = samples.map((text) => [text]);
  }
}

const KINDS = { pictures: Pictures, fields: Fields, signals: Signals, points: Points, rows: Rows, texts: Texts };

/** Canvases side by side as a small data URL. */
export function sheet(canvases, side = 48) {
  const made = el("canvas", { width: Math.max(1, side * canvases.length), height: side });
  const context = made.getContext("2d");
  context.imageSmoothingEnabled = (canvases[0]?.width ?? 0) > side;
  canvases.forEach((canvas, k) => context.drawImage(canvas, k * side, 0, side, side));
  return made.toDataURL("image/png");
}
