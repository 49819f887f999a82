/** The client, and one call of it. */

import { setTimeout as delay } from "node:timers/promises";

import { errors, headers, type NatsConnection } from "@nats-io/transport-node";

import { Breaker, SIZE_CLASSES, sizeClass, type Verdict } from "./breaker.js";
import { Call, merge, verdict } from "./call.js";
import { Connection, type NatsOptions } from "./connection.js";
import { BUDGET_MS_MAX, type Options, type Settings, settings } from "./options.js";
import { Switch } from "./switch.js";
import { isMissing, type Missing, type Outcome, type Reranked } from "./types.js";
import { CONTENT_TYPE, type Fields, openReply, type Part, split, TIMEOUT_MS, timeoutMs } from "./wire.js";

/** Before a retry, up to so long at random: callers that were refused together shall not come back together. */
const RETRY_PAUSE_MS_MAX = 5;

/** What has a text of its own. */
export type Text = string | { readonly text: string };

/** What a call wants other than the options say. */
export interface CallOptions<T> {
  /** The text of a document; needed where a document is neither a string nor has a `text`. */
  readonly text?: (document: T) => string;
  readonly budgetMs?: number;
  readonly rawScores?: boolean;
  readonly truncate?: boolean;
  readonly model?: string;
  /** Leaves out items with a lower score, as it is returned; those without a score stay. */
  readonly minScore?: number;
}

/** How a reranker connects. */
export interface ConnectOptions extends Options {
  /** One server or several. Unless set: `nats://127.0.0.1:4222`. */
  readonly servers?: string | readonly string[];
  /**
   * True: return at once and connect in the background; until then calls keep the ANN order (`disconnected`).
   * Unless set: false.
   */
  readonly lazy?: boolean;
  /** Given to the NATS client: `authenticator`, `tls`, `inboxPrefix`, … */
  readonly nats?: NatsOptions;
}

/**
 * Puts search results in the order of a cross-encoder, or leaves them in theirs: a call never fails.
 *
 * Use one for the whole program; calls may be made side by side. Made by `Reranker.connect` or `Reranker.over`.
 */
export class Reranker {
  readonly #settings: Settings;
  readonly #connection: Connection;
  /** A circuit for each size of calls. */
  readonly #breakers: readonly Breaker[];
  readonly #switch: Switch;
  /** Called for each call that waits, when the connection is lost. */
  readonly #waiting = new Set<() => void>();

  private constructor(checked: Settings, connection: Connection) {
    this.#settings = checked;
    this.#connection = connection;
    this.#breakers = Array.from({ length: SIZE_CLASSES }, () => new Breaker(checked.breaker));
    this.#switch = new Switch(checked.enabled, checked.log);
    connection.onLost = () => {
      for (const lost of [...this.#waiting]) {
        lost();
      }
    };
    if (checked.switchBucket !== undefined) {
      this.#switch.watch(connection, checked.switchBucket);
    }
  }

  /**
   * Connects to NATS. A connection that is lost later is taken up again by itself.
   *
   * Rejects with a `ConnectError` if no server can be reached (`lazy`: only if the servers are no addresses), and with
   * a `RangeError` for an option that is out of range.
   */
  static async connect(options: ConnectOptions = {}): Promise<Reranker> {
    const checked = settings(options);
    const servers = options.servers ?? "nats://127.0.0.1:4222";
    return new Reranker(
      checked,
      await Connection.open(servers, options.nats ?? {}, options.lazy ?? false, checked.log),
    );
  }

  /** Uses a connection that the program has already; closing the reranker leaves it open. */
  static over(client: NatsConnection, options: Options = {}): Reranker {
    const checked = settings(options);
    return new Reranker(checked, Connection.over(client, checked.log));
  }

  /**
   * The first `topK` of `documents` in the model's order, or as they came, with the reason; within the budget.
   *
   * `documents` are in ANN order. Does not reject, but for what iterating over `documents` throws.
   */
  rerank<T extends Text>(
    query: string,
    documents: Iterable<T>,
    topK?: number,
    options?: CallOptions<T>,
  ): Promise<Reranked<T>>;
  rerank<T>(
    query: string,
    documents: Iterable<T>,
    topK: number | undefined,
    options: CallOptions<T> & Required<Pick<CallOptions<T>, "text">>,
  ): Promise<Reranked<T>>;
  async rerank<T>(
    query: string,
    documents: Iterable<T>,
    topK?: number,
    options: CallOptions<T> = {},
  ): Promise<Reranked<T>> {
    const isTopK = topK === undefined || (Number.isInteger(topK) && topK >= 0);
    const call = new Call([...documents], isTopK ? topK : undefined);
    if (!isTopK) {
      return call.ann({ reason: "refused", kind: "invalid_request", detail: "`topK`: expected a whole number" });
    }
    try {
      const answer = this.#begin(call, query, options);
      if (answer !== undefined) {
        return answer;
      }
      await this.#exchange(call);
      return this.#finish(call);
    } catch (error) {
      const detail = error instanceof Error ? error.name : "unknown error";
      return call.ann({ reason: "refused", kind: "internal", detail });
    } finally {
      // Nothing is left to record, unless something was thrown or nothing was asked.
      this.#record(call, "mute");
    }
  }

  /** Ends the connection, unless it is the program's own. Calls from here on keep the ANN order. */
  async close(): Promise<void> {
    this.#switch.close();
    await this.#connection.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** What the call comes to without asking; undefined if it is worth asking for, its requests written. */
  #begin<T>(call: Call<T>, query: string, options: CallOptions<T>): Reranked<T> | undefined {
    if (options.minScore !== undefined && !Number.isFinite(options.minScore)) {
      return call.ann({ reason: "refused", kind: "invalid_request", detail: "`minScore`: expected a number" });
    }
    call.minScore = options.minScore;
    if (!this.#switch.enabled) {
      return call.ann({ reason: "switched_off" });
    }
    call.client = this.#connection.client;
    if (call.client === undefined) {
      return call.ann({ reason: "disconnected" });
    }
    const budgetMs = options.budgetMs ?? this.#settings.budgetMs;
    if (!(budgetMs > 0)) {
      return call.ann({ reason: "timed_out", detail: "there was no budget" });
    }
    call.deadline = call.began + Math.min(budgetMs, BUDGET_MS_MAX);
    if (call.items.length === 0 || call.topK === 0) {
      // Nothing to put in order is in order.
      return { items: [], order: "model", workers: [], belowMinScore: 0, elapsedMs: call.elapsedMs };
    }
    call.counts = budgetMs >= this.#settings.budgetMs / 2;
    const texts = textsOf(call.items, query, options);
    if ("reason" in texts) {
      return call.ann(texts);
    }
    const pairChars = texts.texts.reduce((sum, text) => sum + query.length + text.length, 0);
    call.breaker = this.#breakers[sizeClass(pairChars)];
    call.permit = call.breaker?.admit();
    if (call.permit === undefined) {
      const openedBy = call.breaker?.openedBy;
      const detail = openedBy === undefined ? undefined : `calls of this size have failed of late: ${openedBy}`;
      return call.ann({ reason: "circuit_open", detail });
    }
    const missing = this.#write(call, call.client, query, texts.texts, options);
    return missing === undefined ? undefined : call.ann(missing);
  }

  /** Writes the requests; or says why there are none. */
  #write<T>(
    call: Call<T>,
    client: NatsConnection,
    query: string,
    texts: readonly string[],
    options: CallOptions<T>,
  ): Missing | undefined {
    const fields: Fields = {};
    const model = options.model ?? this.#settings.model;
    call.rawScores = options.rawScores ?? this.#settings.rawScores;
    if (call.rawScores) {
      fields.raw_scores = true;
    }
    if (!(options.truncate ?? this.#settings.truncate)) {
      fields.truncate = false;
    }
    if (model !== undefined) {
      fields.model = model;
    }
    const bytesMax = client.info?.max_payload ?? 0;
    call.parts = split(query, texts, call.topK, fields, bytesMax, this.#settings.partsMax);
    const detail = `larger than a NATS message may be (${bytesMax} bytes)`;
    return call.parts.length > 0 ? undefined : { reason: "refused", kind: "too_large", detail, scope: "request" };
  }

  /** Asks for every part, side by side, until all is known, the connection is lost or the budget is spent. */
  async #exchange<T>(call: Call<T>): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    let onLost: () => void = () => {};
    await new Promise<void>((resolve, reject) => {
      timer = setTimeout(resolve, Math.max(0, call.leftMs));
      onLost = () => {
        call.outcomes = call.parts.map((_, number) => call.outcomes[number] ?? { reason: "disconnected" });
        resolve();
      };
      this.#waiting.add(onLost);
      Promise.all(call.parts.map((part, number) => this.#ask(call, part, number))).then(() => resolve(), reject);
    }).finally(() => {
      clearTimeout(timer);
      this.#waiting.delete(onLost);
    });
  }

  async #ask<T>(call: Call<T>, part: Part, number: number): Promise<void> {
    for (let retries = this.#settings.retriesMax; ; retries -= 1) {
      const outcome = await this.#request(call, part);
      const pauseMs = Math.random() * RETRY_PAUSE_MS_MAX;
      // What an idle worker would refuse as well is not asked again.
      const isFull =
        isMissing(outcome) &&
        outcome.scope !== "request" &&
        (outcome.kind === "overloaded" || outcome.kind === "unavailable");
      if (!isFull || retries === 0 || call.leftMs <= pauseMs) {
        call.outcomes[number] ??= outcome;
        return;
      }
      await delay(pauseMs);
    }
  }

  async #request<T>(call: Call<T>, part: Part): Promise<Outcome> {
    const { leftMs } = call;
    if (leftMs <= 0) {
      return { reason: "timed_out" };
    }
    // A request that waits for the reconnect would leave for an answer that nobody waits for.
    const { client } = this.#connection;
    if (client === undefined) {
      return { reason: "disconnected" };
    }
    const answered = this.#connection.reserve(client, part.body.length);
    if (answered === undefined) {
      return { reason: "disconnected", detail: "the NATS server does not take what is sent to it" };
    }
    const sent = headers();
    sent.set(CONTENT_TYPE, "application/json");
    sent.set(TIMEOUT_MS, timeoutMs(leftMs));
    try {
      const options = { timeout: Math.max(1, leftMs), headers: sent };
      const message = await client.request(this.#settings.subject, part.body, options);
      answered();
      return openReply(message.headers ?? [], message.data, part);
    } catch (error) {
      if (error instanceof errors.TimeoutError) {
        return { reason: "timed_out" };
      }
      if (error instanceof errors.RequestError && error.isNoResponders()) {
        answered();
        return { reason: "no_responders" };
      }
      return { reason: "disconnected", detail: error instanceof Error ? error.name : "unknown error" };
    }
  }

  /** The items in the order that came of it. */
  #finish<T>(call: Call<T>): Reranked<T> {
    const outcomes = call.parts.map((_, number): Outcome => call.outcomes[number] ?? { reason: "timed_out" });
    const missing = outcomes.find(isMissing);
    this.#record(call, verdict(call, outcomes), missing?.kind ?? missing?.reason);
    const first = outcomes[0];
    if (!outcomes.every(isMissing)) {
      return merge(call, outcomes);
    }
    return call.ann(first !== undefined && isMissing(first) ? first : { reason: "timed_out" });
  }

  #record<T>(call: Call<T>, said: Verdict, cause?: string): void {
    if (call.permit !== undefined) {
      call.breaker?.record(call.permit, said, call.elapsedMs, cause);
    }
  }
}

/** A string is its own text; of an object it is `text`. */
function ownText(item: unknown): unknown {
  return typeof item === "object" && item !== null && "text" in item ? item.text : item;
}

/** The texts of the documents; or why there are none. */
function textsOf<T>(
  items: readonly T[],
  query: unknown,
  options: CallOptions<T>,
): Missing | { readonly texts: readonly string[] } {
  const invalid = (detail: string): Missing => ({
    reason: "refused",
    kind: "invalid_request",
    detail,
    scope: "request",
  });
  if (typeof query !== "string" || query.trim() === "") {
    return invalid("`query`: expected a text");
  }
  let texts: unknown[];
  try {
    texts = items.map((item) => (options.text === undefined ? ownText(item) : options.text(item)));
  } catch (error) {
    return invalid(`the text of a document threw ${error instanceof Error ? error.name : "something"}`);
  }
  if (!texts.every((text) => typeof text === "string")) {
    return invalid("a document has no text: give `text`, a function of it");
  }
  return { texts };
}
