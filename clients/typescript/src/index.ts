/** A client of the nats-rerank workers that fails open: items come back best first, or as they were, never late. */

export { ConnectError, type NatsOptions } from "./connection.js";
export type { BreakerOptions, Options } from "./options.js";
export { type CallOptions, type ConnectOptions, Reranker, type Text } from "./reranker.js";
export type { Order, Partial, Ranked, Reason, RefusalKind, Reranked } from "./types.js";
