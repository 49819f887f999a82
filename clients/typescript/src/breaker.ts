/** The circuit breaker: after persistent failures, calls cost microseconds until the fleet answers again. */

import type { BreakerSettings } from "./options.js";

/** That a call may ask. It has to be given back by `Breaker.record`; only the first time counts. */
export interface Permit {
  readonly generation: number;
  readonly isProbe: boolean;
  isRecorded: boolean;
}

/** What a call says about the fleet. */
export type Verdict = "good" | "bad" | "mute";

/** Closed: every call asks. Open: none. Half-open: one at a time tries whether asking is of use again. */
export class Breaker {
  readonly #settings: BreakerSettings;
  readonly #now: () => number;
  /** The last calls, the latest at the end; true: failed. */
  #failures: boolean[] = [];
  /** Each change of state starts a generation; what was asked in an earlier one says nothing about the present. */
  #generation = 0;
  #openUntilMs: number | undefined;
  #pauseMs: number;
  #probing = false;

  constructor(settings: BreakerSettings, now: () => number = () => performance.now()) {
    this.#settings = settings;
    this.#now = now;
    this.#pauseMs = settings.pauseMsMin;
  }

  /** Whether calls are being turned away, but for probes. */
  get isOpen(): boolean {
    return this.#openUntilMs !== undefined;
  }

  /** A permit to ask, or undefined while the circuit is open. */
  admit(): Permit | undefined {
    const isProbe = this.#openUntilMs !== undefined;
    if (this.#openUntilMs !== undefined) {
      if (this.#probing || this.#now() < this.#openUntilMs) {
        return undefined;
      }
      this.#probing = true;
    }
    return { generation: this.#generation, isProbe, isRecorded: false };
  }

  /** What became of the call. */
  record(permit: Permit, verdict: Verdict, elapsedMs: number): void {
    const { enabled, slowMs } = this.#settings;
    if (!enabled || permit.isRecorded || permit.generation !== this.#generation) {
      return;
    }
    permit.isRecorded = true;
    const isSlow = slowMs !== undefined && elapsedMs > slowMs;
    const failed = verdict === "bad" || (verdict === "good" && isSlow);
    if (permit.isProbe) {
      this.#probing = false;
      if (failed) {
        this.#open();
      } else if (verdict === "good") {
        this.#close();
      }
    } else if (verdict !== "mute") {
      this.#note(failed);
    }
  }

  #note(failed: boolean): void {
    const { calls, callsMin, failurePercent } = this.#settings;
    this.#failures = [...this.#failures, failed].slice(-calls);
    const known = this.#failures.length;
    const share = (100 * this.#failures.filter(Boolean).length) / known;
    if (failed && known >= callsMin && share >= failurePercent) {
      this.#open();
    }
  }

  #open(): void {
    this.#generation += 1;
    // Programs that were let down together must not come back together.
    this.#openUntilMs = this.#now() + this.#pauseMs * (0.8 + 0.2 * Math.random());
    this.#pauseMs = Math.min(this.#pauseMs * 2, this.#settings.pauseMsMax);
  }

  #close(): void {
    this.#generation += 1;
    this.#openUntilMs = undefined;
    this.#pauseMs = this.#settings.pauseMsMin;
    this.#failures = [];
  }
}
