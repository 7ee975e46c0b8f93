// The view that draws: samples, the trajectory that led there, and the request as code.

import { copies, file, stream } from "./api.js";
import { ask, button, el, save } from "./dom.js";
import { viewFor } from "./views.js";

const TYPES = { ".png": "image/png", ".csv": "text/csv", ".npy": "application/x-npy", ".txt": "text/plain" };
const PACE = 34; // milliseconds for which a state is shown at least, where there is no hurry
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** The slider along the trajectory from noise to data. */
export class Trajectory {
  constructor(show) {
    this.show = show;
    this.frames = [];
    this.input = el("input", { type: "range", min: 0, max: 0, step: 1, value: 0, aria: { label: "Time along the trajectory" }, on: { input: () => this.go(Number(this.input.value)) } });
    this.play = button("▶", () => this.replay(), { className: "icon", ariaLabel: "Play from noise to data", title: "Play (P)" });
    this.whole = el("div", { className: "trajectory" }, this.play,
      el("div", { className: "line" }, el("span", { textContent: "noise" }), this.input, el("span", { textContent: "data" })));
  }

  set(frames) {
    this.frames = frames;
    this.input.max = Math.max(frames.length - 1, 0);
    this.input.value = this.input.max;
    this.whole.classList.toggle("short", frames.length < 2);
    this.update();
  }

  update() {
    const at = Number(this.input.value);
    this.input.style.setProperty("--at", this.frames.length > 1 ? at / (this.frames.length - 1) : 1);
    this.input.setAttribute("aria-valuetext", `t = ${(this.frames[at]?.t ?? 1).toFixed(2)}`);
  }

  async go(k) {
    this.input.value = k;
    this.update();
    await this.show(this.frames[k].samples, k === this.frames.length - 1);
  }

  async replay() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const pause = Math.max(PACE, 1400 / this.frames.length);
    for (let k = 0; k < this.frames.length && turn === this.turn; k++) {
      await this.go(k);
      await wait(pause);
    }
  }
}

/** Draw a request into a view. The states are shown as they come, or with `calmly` not at all. */
export async function drawInto(view, request, signal, { calmly = false, trajectory = null } = {}) {
  const frames = [];
  const begin = performance.now();
  let ended = false;
  view.begin?.();
  view.known = request.condition;
  const showing = (async () => {
    for (let k = 0; !calmly && !calm.matches && !signal.aborted; ) {
      if (k < frames.length) {
        await view.show(frames[k++].samples, request.n);
        trajectory?.input.style.setProperty("--at", frames[k - 1].t);
        await wait(PACE);
      } else if (ended) return;
      else await wait(8);
    }
  })();
  try {
    const last = await stream(request, signal, (event) => event.preview && frames.push({ t: event.progress, samples: event.preview }));
    const seconds = (performance.now() - begin) / 1000;
    ended = true;
    await showing;
    signal.throwIfAborted();
    frames.push({ t: 1, samples: last.samples });
    if (calmly && frames.length > 1) await view.show(frames[0].samples, request.n); // where trajectories begin
    await view.show(last.samples, request.n, true);
    trajectory?.set(frames);
    return { ...last, seconds, frames };
  } finally {
    ended = true;
  }
}

export class Draw {
  constructor(app) {
    this.app = app;
  }

  open(stage) {
    const { app } = this;
    this.box = el("div");
    this.view = viewFor(app.model, this.box, (k, canvas) => this.chosen(k, canvas));
    this.trajectory = new Trajectory((samples, done) => this.view.show(samples, this.request.n, done));
    this.meta = el("p", { className: "meta" });
    const saves = app.model.formats.filter((one) => TYPES[one]).map((one) =>
      button(`Save ${one}`, () => app.attempt(async () => save(await file(this.request, TYPES[one]), `samples${one}`)), { className: "small" }));
    this.code = el("pre", { hidden: true, tabIndex: 0, aria: { label: "Code" } });
    const code = ["command", "python", "curl"].map((kind) =>
      button(`Copy as ${{ command: "command", python: "Python", curl: "curl" }[kind]}`, () => this.copy(kind), { className: "small", data: { copy: kind } }));
    stage.replaceChildren(this.box, this.trajectory.whole, this.meta, el("div", { className: "actions" }, ...saves, ...code), this.code);
    return this.last?.model === app.model ? this.again() : app.draw({ first: true });
  }

  /** Show what was drawn last. */
  async again() {
    const { frames, result } = this.last;
    if (frames.length > 1) await this.view.show(frames[0].samples, this.request.n);
    await this.view.show(result.samples, this.request.n, true);
    this.trajectory.set(frames);
    this.update(result);
  }

  changed() {
    this.app.draw({ live: true });
  }

  async draw(signal, { live, first }) {
    const { app } = this;
    const request = app.request();
    const result = await drawInto(this.view, request, signal, { calmly: live || first, trajectory: this.trajectory });
    this.request = request;
    this.last = { model: app.model, frames: result.frames, result };
    this.code.hidden = true;
    this.update(result);
    app.history.add({ kind: "draw", request, evaluations: result.evaluations, seconds: result.seconds, picture: this.view.thumbnail() });
  }

  update({ evaluations, seconds, seeds }) {
    const count = evaluations === null ? "evaluations until it is accurate" : `${evaluations} evaluation${evaluations === 1 ? "" : "s"}`;
    const range = seeds.length > 1 ? `seeds ${seeds[0]} to ${seeds.at(-1)}` : `seed ${seeds[0]}`;
    this.meta.textContent = `${count} · ${seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`} · ${range}`;
  }

  async copy(kind) {
    await this.app.attempt(async () => {
      const text = (await copies(this.request))[kind] ?? "Samples have a watermark here, which a command of your own does not make; use curl.";
      this.code.textContent = text;
      this.code.hidden = false;
      this.code.dataset.kind = kind;
      await navigator.clipboard?.writeText(text).then(() => this.app.status("Copied."), () => this.app.status("Select the text to copy it."));
    });
  }

  /** One sample, large, with what can be done with it. */
  chosen(k, canvas) {
    const { app } = this;
    const seed = this.last.result.seeds[k];
    const large = el("canvas", { width: canvas.width, height: canvas.height, className: "large" });
    large.getContext("2d").drawImage(canvas, 0, 0);
    const condition = one(this.request.condition, k);
    const keep = button("Draw this one alone", () => {
      box.close();
      app.restore({ ...this.request, n: 1, seed, condition });
      app.lock(true);
      app.draw({ live: true });
    });
    const change = button("Edit this picture", () => {
      box.close();
      app.edit.take(large, condition);
      app.open("edit");
    });
    const store = button("Save .png", () => large.toBlob((blob) => save(blob, `sample-${seed}.png`)));
    const said = condition ? ` · ${Object.entries(condition).map(([name, value]) => `${name} ${value}`).join(", ")}` : "";
    const box = ask(`Seed ${seed}${said}`, large, el("div", { className: "actions" }, keep, app.model.edits.length ? change : null, store));
  }
}

/** The condition of one sample where the samples have different ones. */
export function one(condition, k) {
  if (!condition) return condition;
  return Object.fromEntries(Object.entries(condition).map(([name, v]) => [name, Array.isArray(v) && typeof v[0] === "string" ? v[k] : v]));
}
