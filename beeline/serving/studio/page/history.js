// What was drawn: kept in the browser, restored, and exported.

import { button, el, save } from "./dom.js";

const KEY = "beeline-history";
const MOST = 80;

export class History {
  constructor(app) {
    this.app = app;
    try {
      this.entries = JSON.parse(localStorage.getItem(KEY)) ?? [];
    } catch {
      this.entries = [];
    }
  }

  /** Keep a request; one that only repeats the last one is left out. */
  add(entry) {
    const [last] = this.entries;
    if (last && JSON.stringify(last.request) === JSON.stringify(entry.request)) return;
    this.entries.unshift({ time: new Date().toISOString(), ...entry });
    this.entries.length = Math.min(this.entries.length, MOST);
    this.store();
  }

  store() {
    for (;;) {
      try {
        return localStorage.setItem(KEY, JSON.stringify(this.entries));
      } catch {
        if (!this.entries.length) return; // there is no storage
        this.entries.length = Math.floor(this.entries.length / 2);
      }
    }
  }

  open(stage) {
    const cards = this.entries.map((entry) => this.card(entry));
    const out = button("Export", () => save(new Blob([JSON.stringify(this.entries, null, 1)], { type: "application/json" }), "beeline-history.json"), { className: "small" });
    const clear = button("Clear", () => {
      this.entries = [];
      this.store();
      this.open(stage);
    }, { className: "small" });
    const empty = el("p", { className: "empty", textContent: "Nothing was drawn yet." });
    stage.replaceChildren(el("div", { className: "actions" }, out, clear), ...(cards.length ? [el("div", { className: "cards" }, ...cards)] : [empty]));
  }

  card(entry) {
    const { request } = entry;
    const known = this.app.models.some((model) => model.id === request.model);
    const said = [request.condition ?? request.to, request.sampler].filter(Boolean).map((part) => Object.entries(part).map(([name, value]) => `${name} ${short(value)}`).join(", "));
    const card = button("", () => this.restore(entry), { className: "card", disabled: !known, title: known ? "Restore" : "This model is not served now" });
    card.append(el("img", { src: entry.picture, alt: "" }), el("strong", { textContent: `${entry.kind === "edit" ? "Edit · " : ""}${request.model}` }),
      el("span", { textContent: [`seed ${request.seed}`, ...said].join(" · ") }),
      el("small", { textContent: `${entry.evaluations ?? "adaptive"} evaluations · ${new Date(entry.time).toLocaleString()}` }));
    return card;
  }

  async restore({ kind, request }) {
    if (kind === "edit") {
      const image = new Image();
      image.src = request.data;
      await image.decode();
      const canvas = el("canvas", { width: image.naturalWidth, height: image.naturalHeight });
      canvas.getContext("2d").drawImage(image, 0, 0);
      this.app.restore({ model: request.model, seed: request.seed });
      this.app.edit.take(canvas, request.from);
      return this.app.open("edit");
    }
    this.app.restore(request);
    this.app.lock(true);
    this.app.draws.last = null;
    await this.app.open("draw");
  }

  changed() {}

  draw() {}
}

const short = (value) => {
  const text = Array.isArray(value) ? [...new Set(value)].join(" ") : String(value);
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
};
