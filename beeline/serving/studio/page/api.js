// Requests to the server: JSON, files, and streams of server-sent events.

const KEY = "beeline-key";
let askForKey = async () => null;

/** A refusal of the server, with its message for users. */
export class Refusal extends Error {}

/** Set the function that asks a user for a key; it gives null where there is none. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

async function call(path, options = {}) {
  for (;;) {
    const headers = { ...options.headers };
    const key = sessionStorage.getItem(KEY);
    if (key) headers.Authorization = `Bearer ${key}`;
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("The server does not answer. Is it still running?");
    }
    if (answer.status === 401) {
      const given = await askForKey();
      if (given) {
        sessionStorage.setItem(KEY, given);
        continue;
      }
    }
    if (!answer.ok) {
      const answered = await answer.json().catch(() => ({}));
      throw new Refusal(answered.error?.message ?? `The server answered with the status ${answer.status}.`);
    }
    return answer;
  }
}

const post = (path, body, signal, accept = "application/json") =>
  call(path, {
    method: "POST",
    body: JSON.stringify(body),
    signal,
    headers: { "Content-Type": "application/json", Accept: accept },
  });

export const controls = async () => (await (await call("/v1/controls")).json()).data;
export const copies = async (request) => (await post("/v1/copies", request)).json();
export const edit = async (request, signal) => (await post("/v1/edit", request, signal)).json();
export const file = async (request, type) => (await post("/v1/sample", request, undefined, type)).blob();

/** Draw samples. `seen(event)` is called for every state; the promise gives the last event, with the samples. */
export async function stream(request, signal, seen) {
  const reader = (await post("/v1/stream", request, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refusal("The server ended the stream before the samples were there.");
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const event = JSON.parse(part.replace(/^data: /, ""));
      if (event.error) throw new Refusal(event.error);
      if ("samples" in event) return event;
      seen?.(event);
    }
  }
}
