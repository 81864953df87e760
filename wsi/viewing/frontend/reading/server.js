// Requests to the server that shows this page.

export class Refused extends Error {
  /** @param {number} status 0: no answer @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Ask the server; an answer that is not a success is `Refused`, with the server's own sentence.
 * @param {string} method
 * @param {string} address
 * @param {{body?: unknown, kind?: string, headers?: Record<string, string>}} [more]
 * @returns {Promise<{body: any, etag: string}>}
 */
export async function ask(method, address, { body, kind = "application/json", headers = {} } = {}) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": kind, ...headers } };
  let answer;
  try {
    answer = await fetch(address, { method, credentials: "same-origin", cache: "no-store", headers, ...sent });
  } catch {
    throw new Refused(0, "The server does not answer: is `gigamil view` still running?");
  }
  const told = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, told?.error ?? `The server answered ${answer.status}.`);
  return { body: told, etag: answer.headers.get("ETag") ?? told?.etag ?? "" };
}
