// The studio: one model, its conditions and its sampler, and the views that use them.

import { controls, onKeyNeeded, Refusal, stream } from "./api.js";
import { Compare, clean } from "./compare.js";
import { $, ask, button, complain, el, later } from "./dom.js";
import { Draw, one } from "./draw.js";
import { Edit } from "./edit.js";
import { Evaluations } from "./evaluations.js";
import { Conditions, SamplerForm } from "./form.js";
import { History } from "./history.js";
import { usual, viewFor } from "./views.js";

const THEMES = { auto: ["◐", "automatic"], light: ["☀", "light"], dark: ["☾", "dark"] };
const KEYS = [["D or Enter", "draw"], ["R", "another seed"], ["L", "keep the seed, or not"], ["P", "play from noise to data"],
  ["Esc", "stop"], ["1 to 5", "the views"], ["?", "this list"]];

class App {
  constructor(models) {
    this.models = models;
    this.history = new History(this);
    this.draws = new Draw(this);
    this.edit = new Edit(this);
    this.views = { draw: this.draws, evaluations: new Evaluations(this), compare: new Compare(this), edit: this.edit, history: this.history };
    this.changed = later(() => this.tab.changed(), 140);
    $("model").replaceChildren(...models.map((model) => el("option", { value: model.id, textContent: model.id })));
    $("model").addEventListener("change", () => this.choose($("model").value));
    for (const name of ["seed", "n"]) $(name).addEventListener("input", () => (this.count(), this.changed()));
    $("dice").addEventListener("click", () => (this.roll(), this.draw({ live: false, kept: true })));
    $("lock").addEventListener("click", () => this.lock(!this.locked));
    $("draw").addEventListener("click", () => (document.body.classList.contains("busy") ? this.stop() : this.draw({})));
    $("controls").addEventListener("submit", (event) => event.preventDefault());
  }

  get locked() {
    return $("lock").getAttribute("aria-pressed") === "true";
  }

  lock(on) {
    $("lock").setAttribute("aria-pressed", on);
    $("lock").textContent = on ? "🔒" : "🔓";
    this.status(on ? "The seed is kept." : "Every draw has another seed.");
  }

  roll() {
    $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
  }

  seed() {
    const given = $("seed");
    if (!given.checkValidity()) throw new Refusal(`The seed is ${given.value || "empty"}, which is no whole number from 0; give one, such as 7.`);
    return Number(given.value);
  }

  condition(n) {
    return this.conditions.value(n);
  }

  /** The settings of the sampler beside steps and solver. */
  samplerFor() {
    const { steps, solver, ...others } = this.sampler.value() ?? {};
    return others;
  }

  request() {
    const n = Number($("n").value);
    return clean({ model: this.model.id, n, seed: this.seed(), condition: this.condition(n), sampler: this.sampler.value() });
  }

  count() {
    document.querySelector("#count output").textContent = $("n").value;
  }

  /** Show what a model offers, and the view that is open. */
  choose(id, open = true) {
    this.model = this.models.find((model) => model.id === id) ?? this.models[0];
    $("model").value = this.model.id;
    this.conditions = new Conditions($("conditions"), this.model, () => this.changed());
    this.sampler = new SamplerForm($("sampler"), this.model, () => this.changed());
    const [n, most] = usual[this.model.view.kind].map((count) => Math.min(count, this.model.samples));
    const { classes } = this.conditions;
    $("n").max = most;
    $("n").value = classes && classes <= 16 && n < 50 ? classes * Math.max(1, Math.round(n / classes)) : n;
    this.count();
    $("facts").textContent = [this.model.facts.network, this.model.facts.data, this.model.facts["made by"] && `made by ${this.model.facts["made by"]}`].filter(Boolean).join(" · ");
    if (open) this.open(this.name ?? "draw");
  }

  open(name) {
    this.stop();
    this.name = name;
    this.tab = this.views[name];
    for (const tab of document.querySelectorAll("[role=tab]")) {
      const on = tab.dataset.tab === name;
      tab.setAttribute("aria-selected", on);
      tab.tabIndex = on ? 0 : -1;
    }
    document.body.dataset.view = name;
    $("stage").setAttribute("aria-labelledby", `tab-${name}`);
    $("draw").textContent = name === "edit" ? "Edit" : "Draw";
    complain("");
    return this.attempt(() => this.tab.open($("stage")));
  }

  /** Draw in the view that is open; an earlier run is stopped. */
  async draw({ live = false, first = false, kept = false } = {}) {
    this.stop();
    if (!live && !first && !kept && !this.locked && this.name !== "edit") this.roll();
    const run = (this.running = new AbortController());
    const slow = setTimeout(() => this.busy(true), live || first ? 250 : 0);
    await this.attempt(async () => {
      await this.tab.draw(run.signal, { live, first });
      document.body.dataset.first ??= Math.round(performance.now()); // milliseconds from the request of the page
      if (!run.signal.aborted) this.status("");
    });
    clearTimeout(slow);
    if (this.running === run) this.running = null;
    if (!this.running) this.busy(false);
  }

  stop() {
    if (!this.running) return;
    this.running.abort();
    this.running = null;
    this.busy(false);
    this.status("Stopped.");
  }

  busy(on) {
    document.body.classList.toggle("busy", on);
    $("stage").setAttribute("aria-busy", on);
    $("draw").textContent = on ? "Stop" : this.name === "edit" ? "Edit" : "Draw";
    if (on) this.status("Drawing …");
  }

  status(text) {
    $("status").textContent = text;
  }

  /** Run something, and show what went wrong. */
  async attempt(call) {
    try {
      complain("");
      await call();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Refusal)) console.error(error);
      this.status("");
      complain(error.message);
    }
  }

  /** Set everything as in a request. */
  restore(request) {
    if (request.model !== this.model.id) this.choose(request.model, false);
    $("seed").value = request.seed;
    if (!request.n) return;
    $("n").value = request.n;
    this.count();
    this.conditions.set(request.condition);
    this.sampler.set(request.sampler);
  }

  /** One picture of the model to begin with, as a canvas with its condition. */
  async first(take) {
    const n = this.conditions.classes || 1;
    const view = viewFor(this.model, el("div"));
    const request = clean({ model: this.model.id, n, seed: this.seed(), condition: this.condition(n) });
    const last = await stream(request, undefined);
    await view.show(last.samples, n);
    const k = Math.min(n - 1, 3);
    take(view.canvases[k], one(request.condition ?? null, k));
  }
}

function theme(next) {
  const name = next ?? localStorage.getItem("beeline-theme") ?? "auto";
  const [sign, said] = THEMES[name] ?? THEMES.auto;
  document.documentElement.dataset.theme = name;
  $("theme").textContent = sign;
  $("theme").setAttribute("aria-label", `Colours: ${said}`);
  $("theme").title = `Colours: ${said}`;
  localStorage.setItem("beeline-theme", name);
}

function shortcuts() {
  ask("Keyboard", el("dl", { className: "keys" }, ...KEYS.flatMap(([key, what]) => [el("dt", {}, el("kbd", { textContent: key })), el("dd", { textContent: what })])));
}

function keyboard(app) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, k) => {
    tab.addEventListener("click", () => app.open(tab.dataset.tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(k + step + tabs.length) % tabs.length];
      next.focus();
      app.open(next.dataset.tab);
    });
  });
  const actions = {
    d: () => app.draw({}), r: () => $("dice").click(), l: () => $("lock").click(), p: () => app.draws.trajectory?.replay(),
    "?": shortcuts, Escape: () => app.stop(), Enter: () => app.draw({}),
  };
  tabs.forEach((tab, k) => (actions[String(k + 1)] = () => app.open(tab.dataset.tab)));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("textarea, select, input:not([type=range], [type=radio], [type=checkbox])");
    const pressing = event.key === "Enter" && event.target.matches("button, a, summary, input");
    if (event.ctrlKey || event.metaKey || event.altKey || typing || pressing || $("dialog").open) return;
    const act = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
}

/** Ask for a key that the server wants; null where the dialog is closed without one. */
function key() {
  return new Promise((done) => {
    const input = el("input", { type: "password", autocomplete: "off", ariaLabel: "Key" });
    const form = el("form", { method: "dialog" }, el("p", { textContent: "This server wants a key. It is kept until the tab is closed." }), input, button("Use it", () => form.requestSubmit(), { className: "primary" }));
    const box = ask("Key", form);
    form.addEventListener("submit", (event) => (event.preventDefault(), box.close(input.value)));
    box.addEventListener("close", () => done(box.returnValue || null), { once: true });
    input.focus();
  });
}

/** Whether pictures of few pixels are shown smooth. */
function smooth(on = localStorage.getItem("beeline-smooth") !== "no") {
  document.body.classList.toggle("smooth", on);
  $("smooth").setAttribute("aria-pressed", on);
  $("smooth").textContent = on ? "●" : "▦";
  localStorage.setItem("beeline-smooth", on ? "yes" : "no");
}

theme();
smooth();
$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  theme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
});
$("smooth").addEventListener("click", () => smooth(!document.body.classList.contains("smooth")));
$("keys").addEventListener("click", shortcuts);
onKeyNeeded(key);
try {
  const app = new App(await controls());
  keyboard(app);
  app.choose(app.models[0].id);
} catch (error) {
  complain(error.message);
}
