// Two samplers or two models side by side, from the same seeds.

import { drawInto } from "./draw.js";
import { button, el, select } from "./dom.js";
import { SamplerForm } from "./form.js";
import { viewFor } from "./views.js";

export class Compare {
  constructor(app) {
    this.app = app;
    this.kept = [null, null];
  }

  open(stage) {
    const { app } = this;
    const second = app.models.find((model) => model.id !== app.model.id && same(model, app.model)) ?? app.model;
    this.sides = [app.model, second].map((model, k) => this.side(this.kept[k]?.of === app.model ? this.kept[k].model : model, k));
    this.note = el("p", { className: "meta", role: "status" });
    const swap = button("⇄ Swap", () => {
      this.kept = [this.sides[1], this.sides[0]].map((side) => ({ of: app.model, model: side.model, sampler: side.form.value() }));
      this.open(stage);
    }, { className: "small" });
    stage.replaceChildren(el("div", { className: "actions" }, swap, this.note), el("div", { className: "sides" }, ...this.sides.map((side) => side.whole)));
    return app.draw({ first: true });
  }

  side(model, k) {
    const { app } = this;
    const side = { model, meta: el("p", { className: "meta" }), box: el("div"), settings: el("div", { className: "settings" }) };
    const fitting = app.models.filter((other) => same(other, app.model));
    const pick = select(`Model ${"AB"[k]}`, fitting.map((other) => [other.id, other.id]), model.id, (id) => {
      side.model = app.models.find((other) => other.id === id);
      fill(null);
      app.draw({ live: true });
    });
    const fill = (sampler) => {
      side.form = new SamplerForm(side.settings, side.model, () => app.changed());
      side.form.set(sampler);
      side.view = viewFor(side.model, side.box);
    };
    const twice = this.kept[k] === null && k === 1 && model === app.model;
    fill(this.kept[k]?.sampler ?? (twice ? model.budgets[0]?.sampler ?? null : k === 0 ? app.sampler.value() : null));
    side.whole = el("section", { className: "side", aria: { label: `Side ${"AB"[k]}` } }, pick.whole, side.box, side.meta,
      el("details", { open: innerWidth > 900 }, el("summary", { textContent: "Sampler" }), side.settings));
    return side;
  }

  changed() {
    this.app.draw({ live: true });
  }

  async draw(signal, { live, first }) {
    const { app } = this;
    this.kept = this.sides.map((side) => ({ of: app.model, model: side.model, sampler: side.form.value() }));
    const results = await Promise.all(this.sides.map(async (side) => {
      const request = { ...app.request(), model: side.model.id, sampler: side.form.value() };
      const result = await drawInto(side.view, clean(request), signal, { calmly: live || first });
      const count = result.evaluations;
      side.meta.textContent = `${count ?? "adaptive"} evaluation${count === 1 ? "" : "s"} · ${Math.round(1000 * result.seconds)} ms`;
      return result;
    }));
    const far = distance(this.sides, results);
    this.note.textContent = far === null ? "" : `From the same noise A and B differ by ${far} on average.`;
  }
}

/** Whether the same conditions have a meaning for both models. */
function same(a, b) {
  return JSON.stringify([a.view, a.conditions]) === JSON.stringify([b.view, b.conditions]);
}

export const clean = (request) => Object.fromEntries(Object.entries(request).filter(([, value]) => value !== null && value !== undefined));

/** The mean absolute difference of two results in words; null for what has no distance. */
function distance(sides, results) {
  const canvases = sides.map((side) => side.view.canvases);
  if (sides[0].model.view.kind === "pictures" && canvases[0]?.length === canvases[1]?.length) {
    let sum = 0;
    let count = 0;
    canvases[0].forEach((canvas, k) => {
      const [a, b] = [canvas, canvases[1][k]].map((one) => one.getContext("2d").getImageData(0, 0, one.width, one.height).data);
      for (let i = 0; i < a.length; i++) if (i % 4 < 3) sum += Math.abs(a[i] - b[i]);
      count += (a.length * 3) / 4;
    });
    return `${((100 * sum) / count / 255).toFixed(1)} % of the range of pixels`;
  }
  const [a, b] = results.map((result) => result.samples.flat(4));
  if (typeof a[0] !== "number" || a.length !== b.length) return null;
  return (a.reduce((all, value, i) => all + Math.abs(value - b[i]), 0) / a.length).toPrecision(3);
}
