/** The live switch: the key `enabled` of a JetStream KV bucket turns calls off and on while the program runs. */

import { setTimeout as delay } from "node:timers/promises";

import { type KV, type KvEntry, Kvm } from "@nats-io/kv";
import type { NatsConnection } from "@nats-io/transport-node";

import type { Connection } from "./connection.js";

const KEY = "enabled";
const PAUSE_MS_MIN = 250;
const PAUSE_MS_MAX = 10_000;
/** A watch that has died without a word is noticed by looking at the key itself. */
const LOOK_EVERY_MS = 10_000;

/** The history of a key that does not come in this time is as good as none. */
const HISTORY_MS_MAX = 5_000;

/** What one revision of the key says: a value, nothing (deleted, or never set), or neither of these. */
type Said = boolean | "nothing" | "garbage";

function readEntry(entry: KvEntry | null): Said {
  if (entry === null || entry.operation !== "PUT") {
    return "nothing";
  }
  const text = entry.string().trim();
  return text === "true" || text === "false" ? text === "true" : "garbage";
}

/**
 * What a reader of the key knows. Garbage leaves in force the last good value since the key was last deleted; where none
 * is known, calls are off.
 */
class Reading {
  /** The revision of the garbage that was dealt with last. */
  garbage = 0;
  #good: boolean | undefined;
  readonly #configured: boolean;

  constructor(configured: boolean) {
    this.#configured = configured;
  }

  get knowsGood(): boolean {
    return this.#good !== undefined;
  }

  /** Takes note of what the key says now. Returns what is in force. */
  take(said: Said): boolean {
    this.remember([said]);
    return said === "nothing" ? this.#configured : (this.#good ?? false);
  }

  /** Takes note of what the bucket remembers, oldest first. */
  remember(before: readonly Said[]): void {
    for (const said of before) {
      if (said !== "garbage") {
        this.#good = said === "nothing" ? undefined : said;
      }
    }
  }
}

/**
 * Whether calls ask: what was configured, until the bucket says otherwise, and again once the key is deleted.
 *
 * What the bucket said last holds while JetStream is away. See `Reading` for a key that holds garbage.
 */
export class Switch {
  #enabled: boolean;
  #taken = 0;
  readonly #reading: Reading;
  readonly #log: (message: string) => void;
  readonly #closing = new AbortController();

  constructor(configured: boolean, log: (message: string) => void) {
    this.#enabled = configured;
    this.#reading = new Reading(configured);
    this.#log = log;
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Starts to follow the bucket's key, until `close`. */
  watch(connection: Connection, bucket: string): void {
    // It ends by being aborted, which is no news.
    this.#keep(connection, bucket).catch(() => {});
  }

  close(): void {
    this.#closing.abort();
  }

  async #keep(connection: Connection, bucket: string): Promise<void> {
    let pauseMs = PAUSE_MS_MIN;
    let complained = false;
    const onAlive = () => {
      if (complained) {
        this.#log(`the live switch in bucket ${bucket} is back`);
      }
      [pauseMs, complained] = [PAUSE_MS_MIN, false];
    };
    while (!this.#closing.signal.aborted) {
      const { client } = connection;
      if (client !== undefined) {
        try {
          await this.#follow(connection, client, bucket, onAlive);
        } catch (error) {
          // Once for each loss, not for each try.
          if (!complained && !this.#closing.signal.aborted) {
            const why = error instanceof Error ? error.message : "unknown error";
            this.#log(`the live switch in bucket ${bucket} is out of reach (${why}): what holds now holds on`);
          }
          complained = true;
        }
      }
      await this.#pause(pauseMs);
      pauseMs = client === undefined ? PAUSE_MS_MIN : Math.min(pauseMs * 2, PAUSE_MS_MAX);
    }
  }

  /** Follows the key until the connection was lost; throws when JetStream is away. */
  async #follow(connection: Connection, client: NatsConnection, bucket: string, onAlive: () => void): Promise<void> {
    const store = await new Kvm(client).open(bucket);
    const watch = await store.watch({ key: KEY });
    let changes = 0;
    const look = async () => {
      const seen = changes;
      const entry = await store.get(KEY);
      // The watch may have been faster.
      if (seen === changes) {
        await this.#take(entry, store);
      }
    };
    let isOver = false;
    const follow = async () => {
      for await (const entry of watch) {
        changes += 1;
        await this.#take(entry, store);
      }
    };
    const ended = follow().finally(() => {
      isOver = true;
    });
    ended.catch(() => {});
    try {
      await look();
      onAlive();
      let lookedMs = performance.now();
      while (!isOver && connection.client === client) {
        await this.#pause(250);
        if (performance.now() - lookedMs > LOOK_EVERY_MS) {
          await look();
          lookedMs = performance.now();
        }
      }
    } finally {
      watch.stop();
    }
  }

  async #take(entry: KvEntry | null, store: KV): Promise<void> {
    const said = readEntry(entry);
    this.#taken += 1;
    const taken = this.#taken;
    // At once, and before anything is looked up: what is not known to be good is off.
    this.#enabled = this.#reading.take(said);
    if (entry === null || said !== "garbage" || this.#reading.garbage === entry.revision) {
      return;
    }
    this.#reading.garbage = entry.revision;
    const before = await history(store, entry.revision);
    // Something newer may have come meanwhile.
    if (this.#taken !== taken) {
      return;
    }
    if (before !== undefined) {
      this.#reading.remember(before);
      this.#enabled = this.#reading.take(said);
    }
    const why = this.#reading.knowsGood ? "the last good value holds" : "no good value is known";
    this.#log(
      `the live switch holds neither \`true\` nor \`false\` (revision ${entry.revision}): ${why}, ` +
        `so enabled=${this.#enabled}`,
    );
  }

  #pause(ms: number): Promise<void> {
    return delay(ms, undefined, { signal: this.#closing.signal, ref: false });
  }
}

/** What the bucket remembers of the key before `revision`, oldest first; undefined: it did not answer. */
async function history(store: KV, revision: number): Promise<Said[] | undefined> {
  const before: Said[] = [];
  let entries: Awaited<ReturnType<KV["history"]>> | undefined;
  const read = (async () => {
    entries = await store.history({ key: KEY });
    for await (const entry of entries) {
      if (entry.revision >= revision) {
        break;
      }
      before.push(readEntry(entry));
    }
    return before;
  })();
  const late = new AbortController();
  try {
    return await Promise.race([read, delay(HISTORY_MS_MAX, undefined, { signal: late.signal, ref: false })]);
  } catch {
    return undefined;
  } finally {
    late.abort();
    entries?.stop();
  }
}
