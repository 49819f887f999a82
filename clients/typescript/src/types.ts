/** What a call brings back: the caller's items in their order, and how that order came about. */

/** Whose order the items are in: the model's, or that of the search before. */
export type Order = "model" | "ann";

/** Why there is no ranking. With `refused`, the kind says more. */
export type Reason =
  "timed_out" | "no_responders" | "refused" | "disconnected" | "bad_reply" | "circuit_open" | "switched_off";

/** Why a request was refused, by a worker or, before it was sent, by this client (`invalid_request`, `too_large`). */
export type RefusalKind =
  "invalid_request" | "unknown_model" | "too_large" | "overloaded" | "unavailable" | "deadline_exceeded" | "internal";

/** An item in its new place. */
export interface Ranked<T> {
  /** The caller's own item. */
  readonly item: T;
  /** Its place in the call's documents, from 0: its place in ANN order. */
  readonly index: number;
  /** How well it answers the query; finite. Undefined in ANN order, and for what was not scored (`partial`). */
  readonly score: number | undefined;
}

/** That some of the candidates have no score. */
export interface Partial {
  /** How many candidates of the call have none. With `topK`, `items` may hold fewer of them, or none. */
  readonly unscored: number;
  /** Why; of several reasons, that of the earliest candidates. */
  readonly reason: Reason;
  /** With the reason `refused`: what kind of refusal. */
  readonly kind?: RefusalKind | undefined;
}

/**
 * The caller's items after a call, whatever became of it.
 *
 * In the model's order: best first, then what has no score, in ANN order. In ANN order: the first `topK` of the items as
 * they came, without scores.
 */
export interface Reranked<T> {
  /** The items in their order, at most `topK`. */
  readonly items: readonly Ranked<T>[];
  /** Whose order it is. (A call with nothing to put in order is in the model's.) */
  readonly order: Order;
  /** In ANN order: why. */
  readonly reason?: Reason | undefined;
  /** With the reason `refused`: what kind of refusal. */
  readonly kind?: RefusalKind | undefined;
  /** Why there is no ranking, or not a whole one, in words for people and logs. Bounded; holds no request content. */
  readonly detail?: string | undefined;
  /** In the model's order: that some candidates have no score, and why. */
  readonly partial?: Partial | undefined;
  /** The model that gave the scores. */
  readonly model?: string | undefined;
  /** The ids of the workers that gave the scores, each once. */
  readonly workers: readonly string[];
  /** How many of the best `topK` are not among `items`, for a score below the call's `minScore`. */
  readonly belowMinScore: number;
  /** The time that the call took in all. */
  readonly elapsedMs: number;
}

/** Why a request brought no scores. */
export interface Missing {
  readonly reason: Reason;
  readonly kind?: RefusalKind;
  readonly detail?: string | undefined;
  /** Of a refusal: `request` where an idle worker would have refused it as well. */
  readonly scope?: "request" | "worker";
}

/** A reply that fits its request: places in the call's documents with their scores, best first. */
export interface Scores {
  readonly rankings: readonly (readonly [place: number, score: number])[];
  readonly model: string;
  readonly worker: string | undefined;
  /** What makes scores of the model's logits, if the worker named one that is known here. */
  readonly activation: Activation | undefined;
}

export type Activation = "identity" | "sigmoid" | "tanh";

export type Outcome = Scores | Missing;

export function isMissing(outcome: Outcome): outcome is Missing {
  return "reason" in outcome;
}
