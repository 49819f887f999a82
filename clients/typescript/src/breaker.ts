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
  #openedBy: string | undefined;

  constructor(settings: BreakerSettings, now: () => number = () => performance.now()) {
    this.#settings = settings;
    this.#now = now;
    this.#pauseMs = settings.pauseMsMin;
  }

  /** Whether calls are being turned away, but for probes. */
  get isOpen(): boolean {
    return this.#openUntilMs !== undefined;
  }

  /** Why it opened, until it closes again. */
  get openedBy(): string | undefined {
    return this.#openedBy;
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

  /** What became of the call; `cause`: why it has failed. */
  record(permit: Permit, verdict: Verdict, elapsedMs: number, cause?: string): void {
    const { enabled, slowMs } = this.#settings;
    if (!enabled || permit.isRecorded || permit.generation !== this.#generation) {
      return;
    }
    permit.isRecorded = true;
    const isSlow = slowMs !== undefined && elapsedMs > slowMs;
    const failed = verdict === "bad" || (verdict === "good" && isSlow);
    const why = verdict === "bad" ? cause : "slow";
    if (permit.isProbe) {
      this.#probing = false;
      if (failed) {
        this.#open(why);
      } else if (verdict === "good") {
        this.#close();
      }
    } else if (verdict !== "mute") {
      this.#note(failed, why);
    }
  }

  #note(failed: boolean, why: string | undefined): void {
    const { calls, callsMin, failurePercent } = this.#settings;
    this.#failures = [...this.#failures, failed].slice(-calls);
    const known = this.#failures.length;
    const share = (100 * this.#failures.filter(Boolean).length) / known;
    if (failed && known >= callsMin && share >= failurePercent) {
      this.#open(why);
    }
  }

  #open(why: string | undefined): void {
    this.#generation += 1;
    // Probes that fail later change nothing about what it was.
    this.#openedBy ??= why;
    // Programs that were let down together must not come back together.
    this.#openUntilMs = this.#now() + this.#pauseMs * (0.8 + 0.2 * Math.random());
    this.#pauseMs = Math.min(this.#pauseMs * 2, this.#settings.pauseMsMax);
  }

  #close(): void {
    this.#generation += 1;
    this.#openUntilMs = undefined;
    this.#openedBy = undefined;
    this.#pauseMs = this.#settings.pauseMsMin;
    this.#failures = [];
  }
}

/**
 * Sizes of calls that have a circuit each: up to 4 KiB of text in their pairs, up to 16 KiB, and so on, times four. That a list of
 * a thousand candidates was not answered in time says nothing about lists of two dozen.
 */
export const SIZE_CLASSES = 8;

/** The class of a call whose pairs hold so many bytes of text (or characters: it need not be exact). */
export function sizeClass(pairBytes: number): number {
  const bits = Math.max(0, Math.ceil(Math.log2(Math.max(pairBytes, 1))) - 12);
  return Math.min(Math.ceil(bits / 2), SIZE_CLASSES - 1);
}
