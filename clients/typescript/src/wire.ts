/** Requests and replies as they are on the wire (JSON): written in parts that fit, read as from a stranger. */

import type { Activation, Missing, Outcome, RefusalKind } from "./types.js";

export const CONTENT_TYPE = "Content-Type";
export const TIMEOUT_MS = "Rerank-Timeout-Ms";
const SERVICE_ERROR_CODE = "nats-service-error-code";
const SERVICE_ERROR = "nats-service-error";
const WORKER = "rerank-worker";
const ACTIVATION = "rerank-activation";

/** More than the headers of a request take; the server counts them against `max_payload` as well. */
export const HEADERS_BYTES_MAX = 256;
const DETAIL_CHARS_MAX = 300;
const WORKER_CHARS_MAX = 100;
const STREAM_CHARS_MAX = 100;
const MODEL_CHARS_MAX = 200;

const CODES: ReadonlyMap<RefusalKind, number> = new Map([
  ["invalid_request", 400],
  ["unknown_model", 404],
  ["too_large", 413],
  ["overloaded", 429],
  ["unavailable", 429],
  ["deadline_exceeded", 504],
  ["internal", 500],
]);

/** One request: the documents from `first` on, as a body that fits into a message. */
export interface Part {
  readonly first: number;
  readonly count: number;
  /** How many rankings its reply has to hold. */
  readonly rankings: number;
  readonly body: Uint8Array;
}

/** What else a request says. */
export interface Fields {
  raw_scores?: true;
  truncate?: false;
  model?: string;
}

/** The value of the budget header; never zero, which would be malformed. */
export function timeoutMs(leftMs: number): string {
  return Math.max(leftMs, 0.001).toFixed(3);
}

/**
 * The requests for `texts`, in their order: one where it fits into `bytesMax`, else several of like size.
 *
 * A text that does not fit by itself is in none of them, nor is what is left after `partsMax`. Parts ask for logits
 * whatever `fields` say: scores that an activation has saturated are all alike, and cannot be merged.
 */
export function split(
  query: string,
  texts: readonly string[],
  topK: number | undefined,
  fields: Fields,
  bytesMax: number,
  partsMax: number,
): Part[] {
  const headOf = (said: Fields) =>
    `${JSON.stringify({ query: wellFormed(query), ...said, top_k: topK }).slice(0, -1)},"documents":[`;
  const roomBehind = (text: string) => bytesMax - HEADERS_BYTES_MAX - Buffer.byteLength(text) - 2;
  const encoded = texts.map((text) => JSON.stringify(wellFormed(text)));
  const sizes = encoded.map((text) => Buffer.byteLength(text) + 1);
  let head = headOf(fields);
  if (sizes.reduce((sum, size) => sum + size, 0) > roomBehind(head)) {
    head = headOf({ ...fields, raw_scores: true });
  }
  const room = roomBehind(head);
  const fitting = sizes.filter((size) => size <= room);
  const bytesAll = fitting.reduce((sum, size) => sum + size, 0);
  // Parts of like size take a like time. The texts at both ends of a part may stick out of its share by half.
  let share = bytesAll;
  if (bytesAll > room) {
    const biggest = fitting.reduce((big, size) => Math.max(big, size), 0);
    share = bytesAll / Math.ceil(bytesAll / Math.max(room - biggest, room / 2));
  }

  const parts: Part[] = [];
  let [first, size, before] = [0, 0, 0];
  const end = (last: number) => {
    if (last > first && parts.length < partsMax) {
      const count = last - first;
      const body = Buffer.from(`${head}${encoded.slice(first, last).join(",")}]}`);
      parts.push({ first, count, rankings: Math.min(topK ?? count, count), body });
    }
  };
  for (const [place, taken] of sizes.entries()) {
    if (taken > room) {
      end(place);
      [first, size] = [place + 1, 0];
      continue;
    }
    if (size > 0 && (size + taken > room || before + taken / 2 > share * (parts.length + 1))) {
      end(place);
      [first, size] = [place, 0];
    }
    size += taken;
    before += taken;
  }
  end(sizes.length);
  return parts;
}

/** Half of a surrogate pair has no place in UTF-8: it becomes U+FFFD. */
function wellFormed(text: string): string {
  return text.toWellFormed();
}

/** Reads a reply: a refusal, or a ranking that fits the request. Anything else is a bad reply. */
export function openReply(headers: Iterable<[string, readonly string[]]>, body: Uint8Array, part: Part): Outcome {
  const lower = new Map([...headers].map(([name, values]) => [name.toLowerCase(), values[0]]));
  const code = lower.get(SERVICE_ERROR_CODE);
  if (code !== undefined) {
    return refusal(code, lower.get(SERVICE_ERROR), body);
  }
  const reply = object(parsed(body));
  if (reply === undefined) {
    return badReply("the reply is not a JSON object");
  }
  const { stream, seq } = reply;
  // No worker's reply is without headers: JetStream answers what a stream has stored.
  if (lower.size === 0 && typeof stream === "string" && typeof seq === "number") {
    return badReply(
      `the JetStream stream \`${printable(stream, STREAM_CHARS_MAX)}\` captures the subject and acknowledged the request ` +
        "before a worker could answer: take the subject out of the stream's subjects",
    );
  }
  const rankings = readRankings(reply["rankings"], part);
  if (typeof rankings === "string") {
    return badReply(rankings);
  }
  const model = reply["model"];
  if (typeof model !== "string") {
    return badReply("`model`: expected a string");
  }
  const worker = lower.get(WORKER);
  const activation = lower.get(ACTIVATION);
  return {
    rankings,
    model: printable(model, MODEL_CHARS_MAX),
    worker: worker === undefined ? undefined : printable(worker, WORKER_CHARS_MAX),
    activation: (["identity", "sigmoid", "tanh"] as const).find((known) => known === activation),
  };
}

/** The score for a logit. Monotone, so it never changes an order. */
export function activated(activation: Activation, logit: number): number {
  switch (activation) {
    case "identity":
      return logit;
    case "sigmoid":
      return 1 / (1 + Math.exp(-logit));
    case "tanh":
      return Math.tanh(logit);
  }
}

function badReply(detail: string): Missing {
  return { reason: "bad_reply", detail };
}

/** The rankings, or what is wrong with them. */
function readRankings(rankings: unknown, part: Part): [number, number][] | string {
  if (!Array.isArray(rankings)) {
    return "`rankings`: expected an array";
  }
  if (rankings.length !== part.rankings) {
    return `\`rankings\`: expected ${part.rankings} of ${part.count} documents, found ${rankings.length}`;
  }
  const seen = new Set<number>();
  const read: [number, number][] = [];
  let last = Infinity;
  for (const ranking of rankings as unknown[]) {
    const { index, score } = object(ranking) ?? {};
    if (typeof index !== "number" || !Number.isInteger(index) || index < 0 || index >= part.count) {
      return "`rankings[].index`: expected the place of one of the documents";
    }
    if (seen.has(index)) {
      return "`rankings[].index`: a document is ranked more than once";
    }
    seen.add(index);
    if (typeof score !== "number" || !Number.isFinite(score)) {
      return "`rankings[].score`: expected a finite number";
    }
    if (score > last) {
      return "`rankings[].score`: higher than the one before it";
    }
    last = score;
    read.push([part.first + index, score]);
  }
  return read;
}

/** The kind by its name; failing that (a kind that came later), the one that stands for the code. */
function refusal(code: string, message: string | undefined, body: Uint8Array): Missing {
  const error = object(object(parsed(body))?.["error"]);
  const name = error?.["kind"];
  const told = error === undefined ? message : error["message"];
  const toldCode = String(error === undefined ? code.trim() : error["code"]);
  const kinds = [...CODES.keys()];
  const kind =
    kinds.find((known) => known === name) ?? kinds.find((known) => String(CODES.get(known)) === toldCode) ?? "internal";
  const named = error?.["scope"];
  // An older worker's has none.
  const byKind = ["invalid_request", "too_large", "unknown_model"].includes(kind) ? "request" : "worker";
  return {
    reason: "refused",
    kind,
    detail: typeof told === "string" ? printable(told, DETAIL_CHARS_MAX) : undefined,
    scope: named === "request" || named === "worker" ? named : byKind,
  };
}

function parsed(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    return undefined;
  }
}

function object(value: unknown): Record<string, unknown> | undefined {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
}

/** A stranger's text for a person to read: no control characters, bounded. */
function printable(text: string, charsMax: number): string {
  return text.slice(0, charsMax).toWellFormed().replace(/\p{C}/gu, " ");
}
