/** Calls over a real nats-server, answered by responders that say what the test wants. */

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";

import { connect } from "@nats-io/transport-node";

import { type ConnectOptions, Reranker } from "../src/index.js";
import {
  assertAnn,
  DOCUMENTS,
  NatsServer,
  options,
  ranked,
  refusal,
  type Request,
  Responder,
  scoreOf,
  silent,
  until,
} from "./support.js";

let server: NatsServer;
let responder: Responder;
let rerankers: Reranker[] = [];

before(async () => {
  server = await NatsServer.small();
});
after(() => server[Symbol.asyncDispose]());
beforeEach(async () => {
  responder = await Responder.start(server.url);
});
afterEach(async () => {
  await Promise.all(rerankers.map((reranker) => reranker.close()));
  rerankers = [];
  await responder[Symbol.asyncDispose]();
});

async function client(changes: ConnectOptions = {}): Promise<Reranker> {
  const reranker = await Reranker.connect(options(server.url, changes));
  rerankers.push(reranker);
  return reranker;
}

test("the caller's own items come back best first", async () => {
  const hits = DOCUMENTS.map((body) => ({ body }));
  const reranker = await client();
  const answer = await reranker.rerank("q", hits, 2, { text: (hit) => hit.body });
  assert.equal(answer.order, "model");
  assert.equal(answer.items[0]?.item, hits[2]);
  assert.deepEqual(answer.items, [
    { item: hits[2], index: 2, score: 3 },
    { item: hits[0], index: 0, score: 2 },
  ]);
  assert.deepEqual([answer.model, answer.workers, answer.partial], ["scripted", ["worker-1"], undefined]);
  const texts = DOCUMENTS.map((text) => ({ text }));
  assert.equal((await reranker.rerank("q", texts, 1)).items[0]?.item, texts[2]);
  const all = await reranker.rerank("q", new Set(DOCUMENTS), 9);
  assert.deepEqual(
    all.items.map(({ item }) => item),
    ["c 3", "b 2", "a 1"],
  );
  assert.equal((await reranker.rerank("q", [])).order, "model");
  assert.deepEqual((await reranker.rerank("q", DOCUMENTS, 0)).items, []);
  assert.equal(responder.requests.length, 3);
  assert.deepEqual(responder.requests[0], { query: "q", top_k: 2, documents: DOCUMENTS });
});

test("the least score leaves out what is below", async () => {
  const reranker = await client();
  const answer = await reranker.rerank("q", DOCUMENTS, 2, { minScore: 2.5 });
  assert.deepEqual(
    answer.items.map(({ index, score }) => [index, score]),
    [[2, 3]],
  );
  assert.deepEqual([answer.belowMinScore, answer.order], [1, "model"]);
  assert.equal((await reranker.rerank("q", DOCUMENTS, undefined, { minScore: 9 })).belowMinScore, 3);
  assert.equal((await reranker.rerank("q", DOCUMENTS, undefined, { minScore: NaN })).kind, "invalid_request");
});

test("the remaining budget and the options are sent", async () => {
  const reranker = await client({ rawScores: true, model: "m" });
  await reranker.rerank("q", DOCUMENTS, undefined, { budgetMs: 20_000 });
  await reranker.rerank("q", DOCUMENTS, undefined, { rawScores: false, truncate: false, model: "n" });
  const left = Number(responder.headers[0]?.get("Rerank-Timeout-Ms"));
  assert(left > 0 && left <= 20_000);
  assert.equal(responder.headers[0]?.get("Content-Type"), "application/json");
  assert.deepEqual(responder.requests[0], { query: "q", raw_scores: true, model: "m", documents: DOCUMENTS });
  assert.deepEqual(responder.requests[1], { query: "q", truncate: false, model: "n", documents: DOCUMENTS });
});

test("without workers and without answers", async () => {
  responder.answer = silent;
  const began = performance.now();
  const answer = await (await client()).rerank("q", DOCUMENTS, 2, { budgetMs: 80 });
  assertAnn(answer, DOCUMENTS.slice(0, 2), "timed_out");
  // Timers of Node count whole milliseconds.
  assert(performance.now() - began >= 78);
  const nobody = await client({ subject: "rerank.v1.nobody" });
  assertAnn(await nobody.rerank("q", DOCUMENTS), DOCUMENTS, "no_responders");
});

test("bad replies", async () => {
  const reranker = await client();
  for (const answer of [
    "hello",
    "",
    { rankings: [{ index: 0, score: 1 }], model: "m" },
    { rankings: [7, 7, 7].map((index) => ({ index, score: 1 })), model: "m" },
    { rankings: [0, 1, 2].map((index) => ({ index, score: null })), model: "m" },
  ]) {
    responder.answer = () => answer;
    assertAnn(await reranker.rerank("q", DOCUMENTS), DOCUMENTS, "bad_reply");
  }
});

test("refusals are told, and those of full workers retried", async () => {
  const reranker = await client();
  responder.answer = refusal(500, "internal");
  const answer = await reranker.rerank("q", DOCUMENTS);
  assertAnn(answer, DOCUMENTS, "refused");
  assert.deepEqual([answer.kind, answer.detail, responder.requests.length], ["internal", "told in the body", 1]);

  responder.answer = refusal(429, "overloaded");
  assert.equal((await reranker.rerank("q", DOCUMENTS)).kind, "overloaded");
  assert.equal(responder.requests.length, 4, "once, and twice more");
  const left = responder.headers.slice(1).map((headers) => Number(headers.get("Rerank-Timeout-Ms")));
  assert.deepEqual(
    left,
    left.toSorted((a, b) => b - a),
    "of one budget",
  );

  responder.answer = (request) => {
    responder.answer = ranked;
    return refusal(429, "unavailable")(request);
  };
  assert.equal((await reranker.rerank("q", DOCUMENTS)).order, "model");
});

test("calls that make no sense are not sent", async () => {
  const reranker = await client();
  const wrong = [
    await reranker.rerank(" ", DOCUMENTS),
    await reranker.rerank(undefined as unknown as string, DOCUMENTS),
    await reranker.rerank("q", DOCUMENTS, -1),
    await reranker.rerank("q", DOCUMENTS, undefined, {
      text: () => {
        throw new TypeError("secret");
      },
    }),
  ];
  for (const answer of wrong) {
    assertAnn(answer, DOCUMENTS, "refused");
    assert.equal(answer.kind, "invalid_request");
    assert(!answer.detail?.includes("secret"));
  }
  assertAnn(await reranker.rerank("q", [1, 2] as unknown as string[], 1), [1 as unknown as string], "refused");
  assertAnn(await reranker.rerank("q", DOCUMENTS, undefined, { budgetMs: 0 }), DOCUMENTS, "timed_out");
  assert.deepEqual(responder.requests, []);
});

test("a list larger than a message is split and merged", async () => {
  const documents = Array.from({ length: 200 }, (_, place) => `${"x".repeat(900)} ${(place * 7919) % 200}`);
  const score = (place: number) => scoreOf(documents[place] ?? "");
  const best = [...documents.keys()].sort((a, b) => score(b) - score(a));
  const reranker = await client();
  const places = (answer: { items: readonly { index: number }[] }) => answer.items.map(({ index }) => index);

  const whole = await reranker.rerank("q", documents);
  assert.deepEqual(places(whole), best);
  assert.deepEqual([whole.partial, whole.order], [undefined, "model"]);
  assert([3, 4].includes(responder.requests.length));
  assert.deepEqual(places(await reranker.rerank("q", documents, 5)), best.slice(0, 5));

  // Parts are asked for logits: scores that the activation has saturated are all alike.
  assert(responder.requests.every((request) => request.raw_scores === true));
  responder.activation = "sigmoid";
  const scores = await reranker.rerank("q", documents);
  assert.deepEqual(places(scores), best);
  assert.deepEqual([scores.items[0]?.score, scores.items.at(-1)?.score], [1, 0.5]);
  responder.activation = "from the future";
  assertAnn(await reranker.rerank("q", documents), documents, "bad_reply");
  const raw = await reranker.rerank("q", documents, 1, { rawScores: true });
  assert.equal(raw.items[0]?.score, 199);
  assert.equal((await reranker.rerank("q", DOCUMENTS)).order, "model", "what fits is not in need of it");
  responder.activation = "identity";

  // One part is refused: what it held keeps its order behind the rest.
  responder.answer = (request: Request) =>
    (request.documents.includes(documents[0] ?? "") ? refusal(500, "internal") : ranked)(request);
  const part = await reranker.rerank("q", documents);
  const unscored = part.partial?.unscored ?? 0;
  assert(unscored >= 50 && unscored <= 100);
  assert.deepEqual(part.partial, { unscored, reason: "refused", kind: "internal" });
  assert.deepEqual(places(part), [...best.filter((place) => place >= unscored), ...Array(unscored).keys()]);
  assert(part.items.every(({ index, score }) => (score === undefined) === index < unscored));

  // One document fits into no message.
  responder.answer = ranked;
  const large = await reranker.rerank("q", ["a 1", "x".repeat(70_000), "b 2"]);
  assert.deepEqual(places(large), [2, 0, 1]);
  assert.deepEqual(large.partial, { unscored: 1, reason: "refused", kind: "too_large" });
  const asked = responder.requests.length;
  const none = await reranker.rerank("q".repeat(70_000), DOCUMENTS);
  assertAnn(none, DOCUMENTS, "refused");
  assert.deepEqual([none.kind, responder.requests.length], ["too_large", asked]);
});

test("after failures nothing is asked until a try succeeds", async () => {
  const breaker = { calls: 4, callsMin: 4, failurePercent: 100 };
  responder.answer = silent;
  // The pause outlasts any stall of a busy machine.
  const reranker = await client({
    budgetMs: 50,
    breaker: { ...breaker, pauseMsMin: 3_600_000, pauseMsMax: 3_600_000 },
  });
  for (let call = 0; call < 4; call += 1) {
    assert.equal((await reranker.rerank("q", DOCUMENTS)).reason, "timed_out");
  }
  const asked = responder.requests.length;
  const answer = await reranker.rerank("q", DOCUMENTS, 1);
  assertAnn(answer, DOCUMENTS.slice(0, 1), "circuit_open");
  assert.match(answer.detail ?? "", /timed_out/, "what opened it");
  assert.equal(responder.requests.length, asked);
  // Lists of another size are asked about all the same.
  assert.equal((await reranker.rerank("q", ["x".repeat(5_000), ...DOCUMENTS])).reason, "timed_out");

  // The same with a short pause: a try finds the workers again.
  const hasty = await client({ budgetMs: 500, breaker: { ...breaker, pauseMsMin: 50 } });
  for (let call = 0; call < 4; call += 1) {
    assert.equal((await hasty.rerank("q", DOCUMENTS)).reason, "timed_out");
  }
  responder.answer = ranked;
  await until(async () => (await hasty.rerank("q", DOCUMENTS)).order === "model");
  await until(async () => (await hasty.rerank("q", DOCUMENTS)).order === "model");
});

test("what costs no time, or is the call's own doing, opens nothing", async () => {
  const breaker = { calls: 4, callsMin: 4, failurePercent: 100, pauseMsMin: 3_600_000, pauseMsMax: 3_600_000 };
  const reranker = await client({ breaker, retriesMax: 2 });
  for (const [answer, kind, asked] of [
    [refusal(400, "invalid_request"), "invalid_request", 1],
    [refusal(500, "internal"), "internal", 1],
    [refusal(429, "overloaded"), "overloaded", 3],
    [refusal(429, "overloaded", "worker"), "overloaded", 3],
    // What an idle worker would refuse as well is not asked again.
    [refusal(429, "overloaded", "request"), "overloaded", 1],
    [refusal(504, "deadline_exceeded", "request"), "deadline_exceeded", 1],
  ] as const) {
    responder.answer = answer;
    for (let call = 0; call < 8; call += 1) {
      const before = responder.requests.length;
      assert.equal((await reranker.rerank("q", DOCUMENTS)).kind, kind);
      assert.equal(responder.requests.length - before, asked);
    }
  }
  responder.answer = silent;
  for (let call = 0; call < 8; call += 1) {
    assert.equal((await reranker.rerank("q", DOCUMENTS, undefined, { budgetMs: 5 })).reason, "timed_out");
  }
  responder.answer = ranked;
  assert.equal((await reranker.rerank("q", DOCUMENTS)).order, "model");
});

test("calls side by side", async () => {
  const reranker = await client();
  const answers = await Promise.all(
    Array.from({ length: 100 }, (_, n) => reranker.rerank("q", [`a ${n}`, `b ${n + 1}`])),
  );
  assert.deepEqual(
    answers.map((answer) => answer.items[0]?.score),
    Array.from({ length: 100 }, (_, n) => n + 1),
  );
});

test("over a connection of the program", async () => {
  const own = await connect({ servers: server.url });
  const reranker = Reranker.over(own, options(server.url));
  assert.equal((await reranker.rerank("q", DOCUMENTS)).order, "model");
  await reranker.close();
  assertAnn(await reranker.rerank("q", DOCUMENTS), DOCUMENTS, "disconnected");
  assert(!own.isClosed());
  await own.close();
});
