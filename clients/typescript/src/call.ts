/** What is known of a call, and how the answers to it are put together. */

import type { NatsConnection } from "@nats-io/transport-node";

import type { Breaker, Permit, Verdict } from "./breaker.js";
import {
  type Activation,
  isMissing,
  type Missing,
  type Outcome,
  type Ranked,
  type Reranked,
  type Scores,
} from "./types.js";
import { activated, type Part } from "./wire.js";

/** What is known of a call so far. */
export class Call<T> {
  readonly began = performance.now();
  deadline = this.began;
  client: NatsConnection | undefined;
  /** The circuit for calls of this size. */
  breaker: Breaker | undefined;
  permit: Permit | undefined;
  /** Whether a failure is held against the fleet. */
  counts = true;
  rawScores = false;
  minScore: number | undefined;
  parts: Part[] = [];
  outcomes: (Outcome | undefined)[] = [];

  constructor(
    readonly items: readonly T[],
    readonly topK: number | undefined,
  ) {}

  get elapsedMs(): number {
    return performance.now() - this.began;
  }

  /** What is left of the budget; below zero once it is spent. */
  get leftMs(): number {
    return this.deadline - performance.now();
  }

  /** The first `topK` items as they came. */
  ann({ reason, kind, detail }: Missing): Reranked<T> {
    const items = this.items.slice(0, this.topK).map((item, index) => ({ item, index, score: undefined }));
    return { items, order: "ann", reason, kind, detail, workers: [], belowMinScore: 0, elapsedMs: this.elapsedMs };
  }
}

/** A refusal that took no longer, nor a tenth of the budget, cost nothing that a circuit could save. */
const QUICK_MS_MAX = 100;

/** Whether the fleet let the call down, for at least half of its candidates; mute where that is not known. */
export function verdict<T>(call: Call<T>, outcomes: readonly Outcome[]): Verdict {
  let [asked, letDown, mine] = [0, 0, 0];
  const isQuick = call.elapsedMs <= Math.min((call.deadline - call.began) / 10, QUICK_MS_MAX);
  for (const [number, outcome] of outcomes.entries()) {
    const count = call.parts[number]?.count ?? 0;
    asked += count;
    if (isMissing(outcome)) {
      const { reason, scope } = outcome;
      // An idle worker would have refused it as well; or it cost no time, which is all that a circuit can save.
      const isOwnDoing = scope === "request" || reason === "disconnected";
      if (isOwnDoing || (isQuick && (reason === "refused" || reason === "no_responders"))) {
        mine += count;
      } else {
        letDown += count;
      }
    }
  }
  if (2 * letDown >= asked) {
    return call.counts ? "bad" : "mute";
  }
  return 2 * (letDown + mine) >= asked ? "mute" : "good";
}

/** What the parts of a call have to have in common: the model, and what makes scores of its logits. */
interface Family {
  readonly model: string;
  readonly activation: Activation;
}

/** Parts in ANN order, so that equal scores of different parts keep it; those of one part come as it ranked them. */
export function merge<T>(call: Call<T>, outcomes: readonly Outcome[]): Reranked<T> {
  const isSplit = call.parts[0]?.count !== call.items.length;
  const familyOf = ({ model, activation }: Scores): string | undefined => {
    const applied = isSplit && !call.rawScores ? activation : "identity";
    return applied && JSON.stringify({ model, activation: applied } satisfies Family);
  };
  // Of several families that which has scored most counts; what others have scored has no score.
  const scored = new Map<string, number>();
  for (const [number, { count }] of call.parts.entries()) {
    const outcome = outcomes[number];
    const family = outcome === undefined || isMissing(outcome) ? undefined : familyOf(outcome);
    if (family !== undefined) {
      scored.set(family, (scored.get(family) ?? 0) + count);
    }
  }
  const [chosen] = [...scored].reduce((most, next) => (next[1] > most[1] ? next : most), ["", 0]);

  const ranked: (readonly [number, number])[] = [];
  const workers = new Set<string>();
  const missing: (Missing | undefined)[] = call.items.map(() => ({
    reason: "refused",
    kind: "too_large",
    detail: "larger than NATS messages may be",
  }));
  for (const [number, { first, count }] of call.parts.entries()) {
    let outcome = outcomes[number] ?? { reason: "timed_out" };
    if (!isMissing(outcome) && familyOf(outcome) !== chosen) {
      const detail = "it is another model's, or does not name the model's activation";
      outcome = { reason: "bad_reply", detail };
    }
    missing.fill(isMissing(outcome) ? outcome : undefined, first, first + count);
    if (!isMissing(outcome)) {
      for (const ranking of outcome.rankings) {
        ranked.push(ranking);
      }
      if (outcome.worker !== undefined) {
        workers.add(outcome.worker);
      }
    }
  }
  const unscored = [...missing.keys()].filter((place) => missing[place] !== undefined);
  const first = missing.find((why) => why !== undefined);
  if (chosen === "") {
    return call.ann(first ?? { reason: "bad_reply" });
  }
  if (call.parts.length > 1) {
    ranked.sort(([, a], [, b]) => b - a);
  }
  const { model, activation } = JSON.parse(chosen) as Family;
  const best = ranked.slice(0, call.topK).map(([place, logit]) => [place, activated(activation, logit)] as const);
  // Worked out here, so that workers of before `min_score` do.
  const kept = best.filter(([, score]) => call.minScore === undefined || score >= call.minScore);
  const belowMinScore = best.length - kept.length;
  const places: (readonly [number, number | undefined])[] = [
    ...kept,
    ...unscored.map((place) => [place, undefined] as const),
  ];
  const items = places
    .slice(0, call.topK === undefined ? undefined : call.topK - belowMinScore)
    .map(([index, score]): Ranked<T> => ({ item: call.items[index] as T, index, score }));
  return {
    items,
    order: "model",
    detail: first?.detail,
    partial: first && { unscored: unscored.length, reason: first.reason, kind: first.kind },
    model,
    workers: [...workers],
    belowMinScore,
    elapsedMs: call.elapsedMs,
  };
}
