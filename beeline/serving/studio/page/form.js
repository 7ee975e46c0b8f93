// The widgets of conditions and of samplers, made from what the server says a model offers.

import { button, el, select, slider } from "./dom.js";

const EACH = "\u0000each";
const ANY = "\u0000any";
const CHIPS = 16; // classes that are shown as buttons; more are a list
const STEPS = [...Array(16).keys()].map((k) => k + 1).concat(20, 24, 32, 40, 50, 64, 80, 100, 128, 200, 256, 400, 512, 1000);
let names = 0;

/** The conditions of a model. */
export class Conditions {
  constructor(box, model, changed, { each = true } = {}) {
    this.parts = model.conditions.map((spec) => [spec, WIDGETS[spec.kind](spec, model, changed, each)]);
    const cells = this.parts.filter(([spec]) => spec.kind === "cell");
    const others = this.parts.filter(([spec]) => spec.kind !== "cell").map(([, part]) => part.whole);
    box.replaceChildren(...others);
    if (cells.length) {
      const table = el("fieldset", { className: "cells" }, el("legend", { textContent: "Known cells" }));
      table.append(el("p", { className: "hint", textContent: "Tick what you know; the rest is drawn." }));
      table.append(...cells.map(([, part]) => part.whole));
      box.append(table);
    }
  }

  /** The condition for `n` samples as a request has it; null for none. */
  value(n) {
    const found = {};
    for (const [spec, part] of this.parts) {
      const value = part.value(n);
      if (value !== undefined) found[spec.name] = value;
    }
    return Object.keys(found).length ? found : null;
  }

  set(condition) {
    for (const [spec, part] of this.parts) part.set(condition?.[spec.name]);
  }

  /** A number of samples in which every class has as many. */
  get classes() {
    const choice = this.parts.find(([spec]) => spec.kind === "choice");
    return choice ? choice[0].options.length : 0;
  }
}

const WIDGETS = { choice, cell, prompt, numbers, picture };

function choice(spec, model, changed, each) {
  const options = spec.options.map((name) => [name, name]);
  if (each) options.unshift([EACH, "one of each"]);
  if (model.free) options.push([ANY, "any"]);
  const read = (value, n) => {
    if (value === ANY) return undefined;
    return value === EACH ? Array.from({ length: n }, (_, k) => spec.options[k % spec.options.length]) : value;
  };
  const key = (value) => (value === undefined ? (model.free ? ANY : options[0][0]) : Array.isArray(value) ? EACH : String(value));
  if (options.length > CHIPS) {
    const made = select(spec.name, options, options[0][0], changed);
    return { whole: made.whole, value: (n) => read(made.input.value, n), set: (v) => (made.input.value = key(v)) };
  }
  const group = `choice-${names++}`;
  const radios = options.map(([value]) => el("input", { type: "radio", name: group, value, on: { change: changed } }));
  radios[0].checked = true;
  const chips = radios.map((radio, k) =>
    el("label", { className: options[k][0] < " " ? "chip wide" : "chip" }, radio, el("span", { textContent: options[k][1] })));
  return {
    whole: el("fieldset", { className: "chips" }, el("legend", { textContent: spec.name }), ...chips),
    value: (n) => read(radios.find((radio) => radio.checked).value, n),
    set: (v) => radios.forEach((radio) => (radio.checked = radio.value === key(v))),
  };
}

function cell(spec, model, changed) {
  const options = spec.options?.map((value, k) => el("option", { value: k, textContent: String(value) })) ?? [];
  const input = options.length ? el("select", {}, ...options) : el("input", { type: spec.cell === "number" ? "number" : "text" });
  if (spec.cell === "number") Object.assign(input, { step: spec.whole ? 1 : "any", min: spec.least ?? "", max: spec.most ?? "" });
  if (!options.length && spec.least !== null) {
    const middle = (Number(spec.least) + Number(spec.most)) / 2;
    input.value = spec.cell !== "number" ? spec.least : spec.whole ? Math.round(middle) : Number(middle.toPrecision(4));
    input.title = `${spec.least} to ${spec.most}`;
  }
  input.setAttribute("aria-label", spec.name);
  const known = el("input", { type: "checkbox", on: { change: () => update() } });
  const update = () => {
    input.disabled = !known.checked;
    changed();
  };
  input.disabled = true;
  input.addEventListener("input", changed);
  const value = () => {
    if (options.length) return spec.options[Number(input.value)];
    return spec.cell === "number" ? input.valueAsNumber : input.value;
  };
  return {
    whole: el("div", { className: "cell" }, el("label", {}, known, el("span", { textContent: spec.name })), input),
    value: () => (known.checked && (options.length || input.value !== "") ? value() : undefined),
    set(v) {
      known.checked = v !== undefined;
      input.disabled = !known.checked;
      if (v !== undefined) input.value = options.length ? spec.options.indexOf(v) : v;
    },
  };
}

function prompt(spec, model, changed) {
  const input = el("textarea", { rows: 3, placeholder: "what to draw", on: { change: changed } });
  return {
    whole: el("label", {}, el("span", { textContent: spec.name }), input),
    value: () => input.value.trim() || undefined,
    set: (v) => (input.value = v ?? ""),
  };
}

function numbers(spec, model, changed) {
  if (spec.length || spec.size > 8) {
    const input = el("textarea", { rows: 3, placeholder: `[${spec.length ? "[" : ""}0.5, 1, …`, on: { change: changed } });
    return {
      whole: el("label", {}, el("span", { textContent: `${spec.name} (JSON)` }), input),
      value: () => (input.value.trim() ? JSON.parse(input.value) : undefined),
      set: (v) => (input.value = v === undefined ? "" : JSON.stringify(v)),
    };
  }
  const most = 3 * (spec.scale ?? 1);
  const sliders = Array.from({ length: spec.size }, (_, k) =>
    slider(spec.size > 1 ? `${spec.name} ${k + 1}` : spec.name, { min: -most, max: most, step: most / 300, value: 0 }, changed));
  return {
    whole: el("div", {}, ...sliders.map((one) => one.whole)),
    value: () => sliders.map((one) => Number(one.input.value)),
    set: (v) => sliders.forEach((one, k) => one.set(v?.[k] ?? 0)),
  };
}

function picture(spec, model, changed) {
  let pixels;
  const read = async (file) => {
    const image = await createImageBitmap(file);
    const canvas = el("canvas", { width: spec.side, height: spec.side });
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, spec.side, spec.side);
    const data = context.getImageData(0, 0, spec.side, spec.side).data;
    pixels = Array.from({ length: spec.side }, (_, y) =>
      Array.from({ length: spec.side }, (_, x) => [...data.subarray(4 * (y * spec.side + x), 4 * (y * spec.side + x) + 3)]));
    changed();
  };
  const input = el("input", { type: "file", accept: "image/*", on: { change: () => input.files[0] && read(input.files[0]) } });
  return {
    whole: el("label", {}, el("span", { textContent: spec.name }), input),
    value: () => pixels,
    set: (v) => (pixels = v),
  };
}

/** The settings of a sampler. Those that are unchanged are left out of a request. */
export class SamplerForm {
  constructor(box, model, changed) {
    this.parts = model.sampler.map((spec) => [spec, (spec.options ? component : number)(spec, changed)]);
    const reset = button("Reset", () => (this.set(null), changed()), { className: "quiet small" });
    box.replaceChildren(el("div", { className: "head" }, el("h2", { textContent: "Sampler" }), reset));
    box.append(...this.parts.map(([, part]) => part.whole));
  }

  value() {
    const found = {};
    for (const [spec, part] of this.parts) {
      const value = part.value();
      if (value !== undefined && value !== spec.default) found[spec.name] = value;
    }
    return Object.keys(found).length ? found : null;
  }

  set(sampler) {
    for (const [spec, part] of this.parts) part.set(sampler?.[spec.name] ?? null);
  }
}

const title = (name) => name.replaceAll("_", " ");

function number(spec, changed) {
  if (spec.least === spec.most) {
    const text = el("p", { className: "fixed", textContent: `${title(spec.name)}: ${spec.default}, as it was trained` });
    return { whole: text, value: () => undefined, set() {} };
  }
  if (!spec.whole) {
    const made = slider(title(spec.name), { min: spec.least, max: spec.most, step: 0.1, value: spec.default, title: spec.description }, changed);
    return { whole: made.whole, value: () => Number(made.input.value), set: (v) => made.set(v ?? spec.default) };
  }
  let values = [];
  const shown = el("output");
  const input = el("input", { type: "range", min: 0, step: 1, title: spec.description, on: { input: () => update() } });
  const update = () => {
    shown.textContent = values[input.value];
    input.setAttribute("aria-valuetext", shown.textContent);
    changed();
  };
  const set = (v) => {
    values = [...new Set([...STEPS.filter((step) => step <= spec.most), v])].sort((a, b) => a - b);
    input.max = values.length - 1;
    input.value = values.indexOf(v);
    shown.textContent = v;
    input.setAttribute("aria-valuetext", v);
  };
  set(spec.default);
  return {
    whole: el("label", { className: "slider" }, el("span", { textContent: title(spec.name) }), input, shown),
    value: () => values[input.value],
    set: (v) => set(v ?? spec.default),
  };
}

function component(spec, changed) {
  const own = ["", `${spec.default.replace("()", "")} — of the model`];
  const options = spec.options.map((option) => [option.name, option.name, option.what]);
  const what = el("p", { className: "hint" });
  const more = el("div", { className: "more" });
  let inputs = [];
  const made = select(title(spec.name), [own, ...options], "", () => (show(), changed()));
  const show = (text = "") => {
    const option = spec.options.find((one) => one.name === made.input.value);
    what.textContent = option?.what ?? "";
    inputs = (option?.settings ?? []).map((setting) => {
      if (setting.text) return { text: () => `${setting.name}=${setting.text}` };
      const input = el("input", { type: "number", title: setting.description, on: { change: changed } });
      const given = text.match(new RegExp(`\\b${setting.name}=(-?[0-9.e+-]+)`));
      Object.assign(input, { step: setting.whole ? 1 : "any", min: setting.least ?? setting.above ?? "", max: setting.most ?? setting.below ?? "" });
      input.value = given ? given[1] : setting.default;
      const whole = el("label", {}, el("span", { textContent: setting.name }), input);
      return { whole, text: () => (input.value === String(setting.default) ? "" : `${setting.name}=${input.value}`) };
    });
    more.replaceChildren(...inputs.filter((one) => one.whole).map((one) => one.whole));
  };
  return {
    whole: el("div", { className: "component" }, made.whole, what, more),
    value() {
      if (!made.input.value) return undefined;
      const given = inputs.map((one) => one.text()).filter(Boolean);
      return given.length ? `${made.input.value}(${given.join(", ")})` : made.input.value;
    },
    set(v) {
      made.input.value = v ? v.split("(")[0] : "";
      show(v ?? "");
    },
  };
}
