/** The live switch: the key `enabled` of a JetStream KV bucket turns calls off and on while the program runs. */

import { setTimeout as delay } from "node:timers/promises";

import { type KvEntry, Kvm } from "@nats-io/kv";
import type { NatsConnection } from "@nats-io/transport-node";

import type { Connection } from "./connection.js";

const KEY = "enabled";
const PAUSE_MS_MIN = 250;
const PAUSE_MS_MAX = 10_000;
/** A watch that has died without a word is noticed by looking at the key itself. */
const LOOK_EVERY_MS = 10_000;

/**
 * Whether calls ask: what was configured, until the bucket says otherwise, and again once the key is deleted.
 *
 * What the bucket said last holds while JetStream is away.
 */
export class Switch {
  #enabled: boolean;
  readonly #configured: boolean;
  readonly #log: (message: string) => void;
  readonly #closing = new AbortController();

  constructor(configured: boolean, log: (message: string) => void) {
    this.#enabled = configured;
    this.#configured = configured;
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
        this.#take(entry);
      }
    };
    let isOver = false;
    const follow = async () => {
      for await (const entry of watch) {
        changes += 1;
        this.#take(entry);
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

  #take(entry: KvEntry | null): void {
    if (entry === null || entry.operation !== "PUT") {
      this.#enabled = this.#configured;
      return;
    }
    const said = entry.string().trim();
    if (said === "true" || said === "false") {
      this.#enabled = said === "true";
    } else {
      this.#log("the live switch holds neither `true` nor `false`: ignored");
    }
  }

  #pause(ms: number): Promise<void> {
    return delay(ms, undefined, { signal: this.#closing.signal, ref: false });
  }
}
