// Small helpers for elements.

export const $ = (id) => document.getElementById(id);

/** An element with properties; `on` holds listeners, `data` data attributes, `aria` ARIA attributes. */
export function el(tag, { on = {}, data = {}, aria = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  for (const [name, value] of Object.entries(data)) made.dataset[name] = value;
  for (const [name, value] of Object.entries(aria)) made.setAttribute(name === "role" ? name : `aria-${name}`, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const button = (text, click, more = {}) => el("button", { type: "button", textContent: text, on: { click }, ...more });

/** A slider with its value beside the label. */
export function slider(text, { min, max, step, value, title = "" }, changed) {
  const shown = el("output", { textContent: value });
  const input = el("input", { type: "range", title, on: { input: () => update() } });
  Object.assign(input, { min, max, step, value });
  const update = () => {
    shown.textContent = input.value;
    changed(Number(input.value));
  };
  const whole = el("label", { className: "slider" }, el("span", { textContent: text }), input, shown); // a label is that of the first control in it
  return {
    whole,
    input,
    set(to) {
      input.value = to;
      shown.textContent = input.value;
    },
  };
}

export function select(text, options, value, changed) {
  const input = el("select", { on: { change: () => changed(input.value) } });
  for (const [key, name, title] of options) input.append(el("option", { value: key, textContent: name, title: title ?? "" }));
  input.value = value;
  return { whole: el("label", {}, el("span", { textContent: text }), input), input };
}

/** Show a message of what went wrong until the next one, or until it is dismissed. */
export function complain(message) {
  const box = $("alert");
  box.replaceChildren();
  box.hidden = !message;
  if (message) box.append(el("p", { textContent: message }), button("×", () => complain(""), { ariaLabel: "Dismiss", className: "quiet" }));
}

/** Open the dialog with a title and elements. */
export function ask(title, ...children) {
  const box = $("dialog");
  const close = button("×", () => box.close(), { className: "quiet close", ariaLabel: "Close" });
  box.replaceChildren(el("h2", { textContent: title }), close, ...children);
  box.setAttribute("aria-label", title);
  if (!box.open) box.showModal();
  return box;
}

export function save(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A function that runs `call` once, some time after the last of several calls. */
export function later(call, milliseconds) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...given), milliseconds);
  };
}
