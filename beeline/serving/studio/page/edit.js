// Edits of a picture, inside a mask that is drawn by hand.

import { edit } from "./api.js";
import { button, el, select, slider } from "./dom.js";
import { Conditions } from "./form.js";
import { sheet } from "./views.js";

const SIDE = 8; // of the mask on the screen: pixels for one pixel of the model, at least

export class Edit {
  constructor(app) {
    this.app = app;
    this.source = null;
    this.from = null;
  }

  /** Take a picture from the samples, with its condition. */
  take(canvas, condition) {
    this.source = canvas;
    this.from = condition;
    this.of = this.app.model;
  }

  open(stage) {
    const { app } = this;
    const { model } = app;
    if (!model.edits.length) {
      const why = model.view.kind !== "pictures" ? "It draws no pictures; edit its data with beeline edit." : "No edit fits this model; choose its teacher, or another one.";
      stage.replaceChildren(el("p", { className: "empty", textContent: `This model has no edits here. ${why}` }));
      return;
    }
    const { width, height } = model.view;
    const zoom = Math.max(SIDE, Math.ceil(384 / Math.max(width, height)));
    this.mask = el("canvas", { width, height });
    this.canvas = el("canvas", { id: "mask", width: width * zoom, height: height * zoom, tabIndex: 0, className: "paint",
      aria: { role: "application", label: "Picture: paint where it may change. Arrow keys move the brush, space paints, delete clears." } });
    this.result = el("canvas", { width, height, className: "large", aria: { role: "img", label: "The edited picture" } });
    this.zoom = zoom;
    this.cursor = [Math.floor(width / 2), Math.floor(height / 2)];
    this.brush = slider("Brush", { min: 1, max: Math.max(4, Math.round(width / 2)), step: 1, value: Math.max(2, Math.round(width / 6)) }, () => this.paint());
    this.erase = el("input", { type: "checkbox" });
    this.pointer();
    const upload = el("input", { type: "file", accept: "image/png,image/jpeg", on: { change: () => upload.files[0] && this.upload(upload.files[0]) } });
    this.to = el("div");
    this.old = el("div");
    const changed = () => {};
    this.toForm = new Conditions(this.to, model, changed, { each: false });
    this.fromForm = new Conditions(this.old, { ...model, free: true }, changed, { each: false });
    this.fromForm.set(this.of === model ? this.from : null);
    this.aim();
    this.method = select("Method", model.edits.map(({ name, what, mask }) => [name, mask ? `${name} (needs a mask)` : name, what]), model.edits[0].name, () => this.update());
    this.what = el("p", { className: "hint" });
    this.meta = el("p", { className: "meta" });
    const masks = el("div", { className: "actions" },
      el("label", { className: "check" }, this.erase, el("span", { textContent: "Erase" })),
      button("Clear the mask", () => this.fill(null), { className: "small" }),
      button("All of it", () => this.fill("#fff"), { className: "small" }));
    stage.replaceChildren(el("div", { className: "sides" },
      el("section", { className: "side", aria: { label: "Before" } }, el("h2", { textContent: "Paint where it may change" }), this.canvas, this.brush.whole, masks,
        el("label", { className: "file" }, el("span", { textContent: "Another picture" }), upload)),
      el("section", { className: "side", aria: { label: "After" } }, el("h2", { textContent: "After" }), this.result, this.meta,
        named("Change it to", this.to), el("details", {}, el("summary", { textContent: "What it is now, and method" }), named("It is", this.old), this.method.whole, this.what))));
    this.update();
    if (this.of !== model) return this.fresh();
    this.paint();
  }

  /** A new picture of the model to begin with. */
  async fresh() {
    await this.app.first((canvas, condition) => this.take(canvas, condition));
    this.fromForm.set(this.from);
    this.aim();
    this.paint();
  }

  /** Another class than that of the picture as the first choice. */
  aim() {
    const spec = this.app.model.conditions.find((one) => one.kind === "choice");
    if (!spec) return;
    const own = spec.options.indexOf(String(this.from?.[spec.name]));
    this.toForm.set({ [spec.name]: spec.options[(own + Math.ceil(spec.options.length / 2)) % spec.options.length] });
  }

  update() {
    this.what.textContent = this.app.model.edits.find((one) => one.name === this.method.input.value).what;
  }

  async upload(file) {
    const { width, height } = this.app.model.view;
    const image = await createImageBitmap(file);
    const made = el("canvas", { width, height });
    const side = Math.min(image.width / width, image.height / height);
    const context = made.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (image.width - side * width) / 2, (image.height - side * height) / 2, side * width, side * height, 0, 0, width, height);
    this.take(made, null);
    this.fromForm.set(null);
    this.fill(null);
  }

  pointer() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * this.mask.width, ((event.clientY - box.top) / box.height) * this.mask.height];
    };
    let last = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      last = at(event);
      this.stroke(last, last);
      event.preventDefault();
      this.canvas.focus();
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const here = at(event);
      this.cursor = here;
      if (last) {
        this.stroke(last, here);
        last = here;
      } else this.paint();
    });
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => (last = null));
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    this.canvas.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      const bound = (v, most) => Math.min(most, Math.max(0, v));
      if (move) this.cursor = [bound(this.cursor[0] + move[0], this.mask.width), bound(this.cursor[1] + move[1], this.mask.height)];
      else if (event.key === " ") this.stroke(this.cursor, this.cursor);
      else if (event.key === "Delete") this.fill(null);
      else return;
      event.preventDefault();
      event.stopPropagation();
      this.paint();
    });
  }

  stroke([x0, y0], [x1, y1]) {
    const context = this.mask.getContext("2d");
    const radius = Number(this.brush.input.value) / 2;
    context.globalCompositeOperation = this.erase.checked ? "destination-out" : "source-over";
    context.fillStyle = "#fff";
    const steps = Math.ceil(Math.hypot(x1 - x0, y1 - y0) / Math.max(radius / 2, 0.5)) + 1;
    for (let k = 0; k <= steps; k++) {
      context.beginPath();
      context.arc(x0 + ((x1 - x0) * k) / steps, y0 + ((y1 - y0) * k) / steps, Math.max(radius, 0.5), 0, 7);
      context.fill();
    }
    this.paint();
  }

  fill(colour) {
    const context = this.mask.getContext("2d");
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, this.mask.width, this.mask.height);
    if (colour) {
      context.fillStyle = colour;
      context.fillRect(0, 0, this.mask.width, this.mask.height);
    }
    this.paint();
  }

  /** The picture with the mask over it. */
  paint() {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.imageSmoothingEnabled = this.mask.width > 64;
    if (this.source) context.drawImage(this.source, 0, 0, width, height);
    const over = el("canvas", { width: this.mask.width, height: this.mask.height });
    const tint = over.getContext("2d");
    tint.drawImage(this.mask, 0, 0);
    tint.globalCompositeOperation = "source-in";
    tint.fillStyle = "#f59e0b";
    tint.fillRect(0, 0, over.width, over.height);
    context.globalAlpha = 0.55;
    context.drawImage(over, 0, 0, width, height);
    context.globalAlpha = 1;
    context.strokeStyle = "#f59e0b";
    context.lineWidth = 2;
    context.beginPath();
    context.arc(this.cursor[0] * this.zoom, this.cursor[1] * this.zoom, (Number(this.brush.input.value) / 2) * this.zoom, 0, 7);
    context.stroke();
  }

  /** The mask as a data URL, transparent where the picture may change; null where nothing was painted. */
  painted() {
    const { width, height } = this.mask;
    const pixels = this.mask.getContext("2d").getImageData(0, 0, width, height);
    let some = false;
    for (let i = 0; i < pixels.data.length; i += 4) {
      const on = pixels.data[i + 3] >= 96;
      some ||= on;
      pixels.data.set([0, 0, 0, on ? 0 : 255], i);
    }
    const made = el("canvas", { width, height });
    made.getContext("2d").putImageData(pixels, 0, 0);
    return some ? made.toDataURL("image/png") : null;
  }

  changed() {}

  async draw(signal) {
    const { app } = this;
    if (!this.result || !this.source) return;
    const request = { model: app.model.id, data: this.source.toDataURL("image/png"), to: this.toForm.value(1), from: this.fromForm.value(1), method: this.method.input.value, seed: app.seed() };
    const mask = this.painted();
    if (mask) request.mask = mask;
    const begin = performance.now();
    const found = await edit(request, signal);
    const picture = found.samples[0];
    const context = this.result.getContext("2d");
    const pixels = context.createImageData(this.result.width, this.result.height);
    picture.flat().forEach((colour, i) => pixels.data.set([colour[0], colour[1] ?? colour[0], colour[2] ?? colour[0], 255], 4 * i));
    context.putImageData(pixels, 0, 0);
    const kept = found.kept_outside === undefined ? "" : ` · outside of the mask it changed by ${(100 * found.kept_outside).toFixed(1)} %`;
    const seconds = (performance.now() - begin) / 1000;
    this.meta.textContent = `changed by ${(100 * found.change).toFixed(1)} % of the range${kept} · ${Math.round(1000 * seconds)} ms`;
    app.history.add({ kind: "edit", request, evaluations: found.evaluations, seconds, picture: sheet([this.source, this.result]) });
  }
}

const named = (text, box) => el("div", { className: "named", aria: { role: "group", label: text } }, el("h3", { textContent: text }), box);
