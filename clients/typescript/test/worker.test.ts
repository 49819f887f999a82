/** Calls to a real worker process with the built-in model. */

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { Reranker } from "../src/index.js";
import { NatsServer, options, until, Worker } from "./support.js";

const QUERY = "machine learning algorithms";
const DOCUMENTS = ["Pizza recipes for beginners", "ML algorithms and optimization", "The history of the bicycle"];

test("a worker from its start to its end", async () => {
  const server = await NatsServer.start();
  after(() => server[Symbol.asyncDispose]());
  const reranker = await Reranker.connect(options(server.url));
  after(() => reranker.close());
  assert.equal((await reranker.rerank(QUERY, DOCUMENTS)).reason, "no_responders");

  const worker = await Worker.start(server.url, "limits.documents_max=50", "model.max_length=64");
  after(() => worker[Symbol.asyncDispose]());
  const answer = await reranker.rerank(QUERY, DOCUMENTS);
  assert.equal(answer.items[0]?.item, DOCUMENTS[1]);
  assert.deepEqual(answer.items.map(({ index }) => index).sort(), [0, 1, 2]);
  assert(answer.items.every(({ score }) => score !== undefined && score > 0 && score < 1));
  assert.deepEqual([answer.model, answer.workers.length], ["builtin", 1]);

  const raw = await reranker.rerank(QUERY, DOCUMENTS, 2, { rawScores: true });
  assert.deepEqual(
    raw.items.map(({ item }) => item),
    answer.items.slice(0, 2).map(({ item }) => item),
  );
  assert.notEqual(raw.items[0]?.score, answer.items[0]?.score);

  const many = Array.from({ length: 20 }, () => DOCUMENTS).flat();
  assert.equal((await reranker.rerank(QUERY, many)).kind, "too_large");
  assert.equal((await reranker.rerank(QUERY, DOCUMENTS, 3, { model: "another" })).kind, "unknown_model");
  const long = await reranker.rerank(QUERY, ["word ".repeat(200)], 1, { truncate: false });
  assert.equal(long.kind, "invalid_request");

  await worker.pause();
  assert.equal((await reranker.rerank(QUERY, DOCUMENTS, 3, { budgetMs: 100 })).reason, "timed_out");
  worker.resume();
  await until(async () => (await reranker.rerank(QUERY, DOCUMENTS)).order === "model");

  await worker.stop();
  const kept = await reranker.rerank(QUERY, DOCUMENTS, 2);
  assert.equal(kept.reason, "no_responders");
  assert.deepEqual(
    kept.items.map(({ item }) => item),
    DOCUMENTS.slice(0, 2),
  );
});

test("parts of a large list come together in one order", async () => {
  const words = ["machine", "learning", "pizza", "bicycle", "history", "optimization", "algorithms", "garden"];
  const documents = Array.from({ length: 160 }, (_, place) =>
    Array.from({ length: 89 }, (_, step) => words[(place * (step + 1)) % 8]).join(" "),
  );
  const server = await NatsServer.small();
  after(() => server[Symbol.asyncDispose]());
  const worker = await Worker.start(server.url, "model.precision=fp32");
  after(() => worker[Symbol.asyncDispose]());
  const reranker = await Reranker.connect(options(server.url, { rawScores: true }));
  after(() => reranker.close());
  const answer = await reranker.rerank(QUERY, documents);
  assert.deepEqual([answer.order, answer.partial, answer.items.length], ["model", undefined, documents.length]);
  const scores = answer.items.map(({ score }) => score ?? NaN);
  assert.deepEqual(
    scores,
    scores.toSorted((a, b) => b - a),
  );
  const [best, worst] = [answer.items[0], answer.items.at(-1)];
  const alone = await reranker.rerank(QUERY, [worst?.item ?? "", best?.item ?? ""]);
  assert(Math.abs((alone.items[0]?.score ?? NaN) - (best?.score ?? NaN)) < 1e-3);
  assert(Math.abs((alone.items[1]?.score ?? NaN) - (worst?.score ?? NaN)) < 1e-3);
});
