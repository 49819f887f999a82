/** How calls are made. Everything is checked here, before anything is connected. */

/** The longest budget that workers tell apart. */
export const BUDGET_MS_MAX = 24 * 60 * 60 * 1000;
/** The variable of the environment, the worker's too. */
const ENABLED = "RERANK_ENABLED";

/**
 * When calls stop asking for a while, because asking has been of no use.
 *
 * A call has failed if the fleet let it down: no scores for at least half of its candidates, for want of an answer, a
 * worker, room or time, or by a bad reply; or, with `slowMs`, an answer that took longer. Not held against the fleet: a
 * refusal that is the caller's own doing (`invalid_request`, `unknown_model`, `too_large`), a call that had less than
 * half of `Options.budgetMs`, and a lost connection, which costs no time.
 */
export interface BreakerOptions {
  /** False: every call asks. Unless set: true. */
  readonly enabled?: boolean;
  /** How many of the last calls are looked at. Unless set: 20. */
  readonly calls?: number;
  /** Fewer calls than this open nothing. Unless set: 5. */
  readonly callsMin?: number;
  /** The share of failures, in per cent, from which the circuit opens. Unless set: 50. */
  readonly failurePercent?: number;
  /** An answer that took longer counts as a failure. Unless set: none does. */
  readonly slowMs?: number;
  /** How long the circuit stays open before one call is let through as a probe. One that succeeds closes it. Unless set: 500. */
  readonly pauseMsMin?: number;
  /** Each probe that fails doubles the pause, up to this. Unless set: 5000. */
  readonly pauseMsMax?: number;
}

/** How calls are made. What is out of range is a `RangeError` that names it. */
export interface Options {
  /** The subject that the workers listen on: one for each model. Unless set: `rerank.v1.score`. */
  readonly subject?: string;
  /** The time that a call may take in all. What is left of it when a request leaves is told to the worker. Unless set: 250. */
  readonly budgetMs?: number;
  /** True: scores are the model's logits; false, as unless set: the logits after the model's own activation. */
  readonly rawScores?: boolean;
  /** False: a pair that is longer than the model's limit has the call refused. True, as unless set: it is cut. */
  readonly truncate?: boolean;
  /** The model that has to answer, by its id or alias; workers of another refuse (`unknown_model`). */
  readonly model?: string;
  /**
   * How often a request that a full or stopping worker refused (`overloaded`, `unavailable`) is sent once more, within
   * the same budget. Unless set: 2.
   */
  readonly retriesMax?: number;
  /** Into how many requests a list that is larger than one NATS message may be split. Unless set: 8. */
  readonly partsMax?: number;
  /**
   * False: nothing is asked (`switched_off`). Unless set: true. `RERANK_ENABLED` in the environment wins over this, so
   * that whoever runs a program can switch it off; and the live switch wins over both.
   */
  readonly enabled?: boolean;
  /** False: `RERANK_ENABLED` is not looked at. Unless set: true. */
  readonly readEnvironment?: boolean;
  /** A JetStream KV bucket whose key `enabled` (`true`, `false`) switches calls on and off while the program runs. */
  readonly switchBucket?: string;
  /** When calls stop asking for a while. */
  readonly breaker?: BreakerOptions;
  /** Told, now and then, of what a person may want to know: a lost connection, a switch out of reach. No request content. */
  readonly log?: (message: string) => void;
}

export interface BreakerSettings {
  readonly enabled: boolean;
  readonly calls: number;
  readonly callsMin: number;
  readonly failurePercent: number;
  readonly slowMs: number | undefined;
  readonly pauseMsMin: number;
  readonly pauseMsMax: number;
}

/** Options with everything in its place. */
export interface Settings {
  readonly subject: string;
  readonly budgetMs: number;
  readonly rawScores: boolean;
  readonly truncate: boolean;
  readonly model: string | undefined;
  readonly retriesMax: number;
  readonly partsMax: number;
  readonly enabled: boolean;
  readonly switchBucket: string | undefined;
  readonly breaker: BreakerSettings;
  readonly log: (message: string) => void;
}

/** Checks options and fills in what is not set. Throws a `RangeError`. */
export function settings(options: Options = {}): Settings {
  const subject = options.subject ?? "rerank.v1.score";
  if (/[\s*>]/u.test(subject) || subject.split(".").includes("")) {
    throw new RangeError(`subject: ${JSON.stringify(subject)} is not a subject that can be published to`);
  }
  const { switchBucket } = options;
  if (switchBucket !== undefined && !/^[A-Za-z0-9_-]+$/u.test(switchBucket)) {
    throw new RangeError("switchBucket: expected letters, digits, `-` and `_`");
  }
  return {
    subject,
    budgetMs: checked("budgetMs", options.budgetMs ?? 250, 0.001, BUDGET_MS_MAX),
    rawScores: options.rawScores ?? false,
    truncate: options.truncate ?? true,
    model: options.model,
    retriesMax: whole("retriesMax", options.retriesMax ?? 2, 0, 2),
    partsMax: whole("partsMax", options.partsMax ?? 8, 1, 64),
    enabled: isEnabled(options.enabled ?? true, options.readEnvironment ?? true),
    switchBucket,
    breaker: breakerSettings(options.breaker),
    log: options.log ?? (() => {}),
  };
}

export function breakerSettings(options: BreakerOptions = {}): BreakerSettings {
  const calls = whole("breaker.calls", options.calls ?? 20, 1, 10_000);
  const pauseMsMin = checked("breaker.pauseMsMin", options.pauseMsMin ?? 500, 1, BUDGET_MS_MAX);
  const { slowMs } = options;
  return {
    enabled: options.enabled ?? true,
    calls,
    callsMin: whole("breaker.callsMin", options.callsMin ?? Math.min(5, calls), 1, calls),
    failurePercent: checked("breaker.failurePercent", options.failurePercent ?? 50, 1, 100),
    slowMs: slowMs === undefined ? undefined : checked("breaker.slowMs", slowMs, 0.001, BUDGET_MS_MAX),
    pauseMsMin,
    pauseMsMax: checked(
      "breaker.pauseMsMax",
      options.pauseMsMax ?? Math.max(5000, pauseMsMin),
      pauseMsMin,
      BUDGET_MS_MAX,
    ),
  };
}

function isEnabled(byProgram: boolean, readEnvironment: boolean): boolean {
  const written = readEnvironment ? process.env[ENABLED] : undefined;
  if (written === undefined || written === "") {
    return byProgram;
  }
  const word = written.trim().toLowerCase();
  if (!["true", "1", "yes", "on", "false", "0", "no", "off"].includes(word)) {
    throw new RangeError(`${ENABLED}: expected true or false (or 1, yes, on, 0, no, off)`);
  }
  return ["true", "1", "yes", "on"].includes(word);
}

function checked(name: string, value: number, lowest: number, highest: number): number {
  if (typeof value !== "number" || !(value >= lowest && value <= highest)) {
    throw new RangeError(`${name}: expected a number from ${lowest} to ${highest}`);
  }
  return value;
}

function whole(name: string, value: number, lowest: number, highest: number): number {
  if (!Number.isInteger(value)) {
    throw new RangeError(`${name}: expected a whole number from ${lowest} to ${highest}`);
  }
  return checked(name, value, lowest, highest);
}
