// The same noise with 1 to 32 evaluations.

import { clean } from "./compare.js";
import { drawInto } from "./draw.js";
import { el } from "./dom.js";
import { viewFor } from "./views.js";

const TOGETHER = 4; // requests at a time

export class Evaluations {
  constructor(app) {
    this.app = app;
  }

  open(stage) {
    const { app } = this;
    this.budgets = app.model.budgets;
    this.found = new Map();
    this.box = el("div");
    this.view = viewFor(app.model, this.box);
    this.counts = this.budgets.map((budget) => budget.evaluations);
    this.input = el("input", { type: "range", id: "evaluations", min: 0, max: this.counts.length - 1, step: 1, value: 0, on: { input: () => this.show() } });
    this.output = el("output");
    this.strip = el("div", { className: "strip", aria: { hidden: "true" } });
    this.note = el("p", { className: "hint" });
    const alone = this.counts.length < 2;
    this.input.disabled = alone;
    if (alone) this.note.textContent = "This model draws with one number of evaluations, for which it was trained. Compare it with another model in the view Compare.";
    stage.replaceChildren(
      el("label", { className: "slider big" }, el("span", { textContent: "Evaluations of the network" }), this.input, this.output),
      this.box, this.strip, el("p", { className: "meta" }), this.note);
    this.meta = stage.querySelector(".meta");
    return app.draw({ first: true });
  }

  changed() {
    this.app.draw({ live: true });
  }

  /** Draw all numbers of evaluations, the one that is shown first. */
  async draw(signal) {
    const { app } = this;
    this.found = new Map();
    this.strip.replaceChildren(...this.budgets.map((_, k) => el("i", { on: { click: () => this.go(k) } })));
    const base = app.request();
    const n = Math.min(base.n, app.model.view.kind === "points" ? 500 : 20);
    const order = [Number(this.input.value), ...this.budgets.keys()].filter((k, i, all) => all.indexOf(k) === i);
    const next = order.values();
    const worker = async () => {
      const hidden = viewFor(app.model, el("div"));
      for (const k of next) {
        if (signal.aborted) return;
        await this.one(k, { ...base, n, condition: app.condition(n) }, hidden, signal);
      }
    };
    await Promise.all(Array.from({ length: TOGETHER }, worker));
  }

  /** Draw with one of the numbers of evaluations. */
  async one(k, base, hidden, signal) {
    const { sampler, evaluations } = this.budgets[k];
    const request = clean({ ...base, sampler: { ...this.app.samplerFor(), ...sampler } });
    const result = await drawInto(hidden, request, signal, { calmly: true });
    this.found.set(k, { request, result, evaluations: result.evaluations ?? evaluations });
    const picture = hidden.canvases?.[0] ?? hidden.canvas;
    if (picture) {
      const small = el("canvas", { width: Math.min(picture.width, 96), height: Math.min(picture.height, 96) });
      small.getContext("2d").drawImage(picture, 0, 0, small.width, small.height);
      this.strip.children[k].append(small);
    }
    this.strip.children[k].append(el("small", { textContent: evaluations }));
    if (k === Number(this.input.value)) await this.show();
  }

  go(k) {
    this.input.value = k;
    return this.show();
  }

  async show() {
    const k = Number(this.input.value);
    this.output.textContent = this.counts[k];
    this.input.setAttribute("aria-valuetext", `${this.counts[k]} evaluations`);
    [...this.strip.children].forEach((one, i) => one.classList.toggle("now", i === k));
    this.strip.children[k]?.scrollIntoView({ block: "nearest", inline: "center" });
    const found = this.found.get(k);
    if (!found) return;
    const { request, result } = found;
    this.view.known = request.condition;
    this.view.begin?.();
    if (result.frames.length > 1) await this.view.show(result.frames[0].samples, request.n);
    await this.view.show(result.samples, request.n, true);
    this.meta.textContent = `${found.evaluations} evaluation${found.evaluations === 1 ? "" : "s"} of the network for each sample, from the same noise`;
  }
}
