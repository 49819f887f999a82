/** The rules that need no server: options, the breaker's states, how lists are split, how replies are read. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Breaker, SIZE_CLASSES, sizeClass, type Verdict } from "../src/breaker.js";
import { breakerSettings, settings } from "../src/options.js";
import type { Missing } from "../src/types.js";
import { activated, HEADERS_BYTES_MAX, openReply, type Part, split } from "../src/wire.js";

test("options out of range are named", () => {
  for (const wrong of [
    { subject: "rerank.*" },
    { subject: "rerank..score" },
    { subject: "re rank" },
    { budgetMs: 0 },
    { budgetMs: NaN },
    { retriesMax: 3 },
    { partsMax: 0 },
    { switchBucket: "a.b" },
    { breaker: { calls: 5, callsMin: 6 } },
    { breaker: { pauseMsMin: 100, pauseMsMax: 99 } },
  ]) {
    const name = Object.keys("breaker" in wrong ? (wrong.breaker as object) : wrong).at(-1) ?? "";
    assert.throws(
      () => settings(wrong),
      (error: Error) => error instanceof RangeError && error.message.includes(name),
    );
  }
});

test("the environment switches off", (context) => {
  const before = process.env["RERANK_ENABLED"];
  context.after(() => {
    if (before === undefined) {
      delete process.env["RERANK_ENABLED"];
    } else {
      process.env["RERANK_ENABLED"] = before;
    }
  });
  for (const [variable, enabled, expected] of [
    ["false", true, false],
    [" On ", false, true],
    ["", false, false],
  ] as const) {
    process.env["RERANK_ENABLED"] = variable;
    assert.equal(settings({ enabled }).enabled, expected);
  }
  process.env["RERANK_ENABLED"] = "perhaps";
  assert.equal(settings({ readEnvironment: false }).enabled, true);
  assert.throws(() => settings(), /RERANK_ENABLED/u);
});

/** One call; whether it was let through. */
function call(breaker: Breaker, verdict: Verdict, elapsedMs = 1): boolean {
  const permit = breaker.admit();
  if (permit !== undefined) {
    breaker.record(permit, verdict, elapsedMs);
  }
  return permit !== undefined;
}

test("the breaker opens, tries and closes", () => {
  let now = 0;
  const breaker = new Breaker(
    breakerSettings({ calls: 4, callsMin: 4, failurePercent: 50, pauseMsMin: 1000 }),
    () => now,
  );
  for (const verdict of ["bad", "good", "mute", "good"] as const) {
    assert(call(breaker, verdict));
  }
  assert(!breaker.isOpen, "three outcomes of four are known");
  assert(call(breaker, "bad"));
  assert(breaker.isOpen);
  assert(!call(breaker, "good"));

  now = 1001;
  const probe = breaker.admit();
  assert(probe);
  assert.equal(breaker.admit(), undefined, "one try at a time");
  breaker.record(probe, "bad", 1);
  now += 1001;
  assert(!call(breaker, "good"), "the pause has doubled");
  now += 1000;
  assert(call(breaker, "mute"), "a try that says nothing about the fleet");
  assert(breaker.isOpen);
  assert(call(breaker, "good"));
  assert(!breaker.isOpen);
  assert(call(breaker, "bad"));
  assert(!breaker.isOpen, "what was before is forgotten");
});

test("each size class is four times the one before", () => {
  assert.deepEqual([0, 1, 4096].map(sizeClass), [0, 0, 0]);
  for (let number = 1; number < SIZE_CLASSES - 1; number += 1) {
    const most = 4096 * 4 ** number;
    assert.deepEqual([sizeClass(most / 4 + 1), sizeClass(most)], [number, number]);
  }
  assert.equal(sizeClass(1e12), SIZE_CLASSES - 1);
});

test("slow answers open the breaker", () => {
  const breaker = new Breaker(breakerSettings({ calls: 2, failurePercent: 100, slowMs: 50 }), () => 0);
  assert(call(breaker, "good", 49));
  assert(call(breaker, "good", 51));
  assert(!breaker.isOpen);
  assert(call(breaker, "good", 51));
  assert(breaker.isOpen);
});

test("what was asked before the circuit opened does not count behind", () => {
  let now = 0;
  const breaker = new Breaker(breakerSettings({ calls: 1, pauseMsMin: 10 }), () => now);
  const early = breaker.admit();
  assert(early);
  assert(call(breaker, "bad"));
  breaker.record(early, "good", 1);
  assert(breaker.isOpen);
  now = 1000;
  assert(call(breaker, "good"));
  breaker.record(early, "bad", 1);
  assert(!breaker.isOpen);
});

function body(part: Part | undefined): { documents: string[] } {
  return JSON.parse(Buffer.from(part?.body ?? []).toString()) as { documents: string[] };
}

test("a list that fits is one request", () => {
  const parts = split("käse", ['a "b"', "\ud800"], 1, { raw_scores: true }, 1 << 20, 8);
  assert.equal(parts.length, 1);
  assert.deepEqual(body(parts[0]), { query: "käse", raw_scores: true, top_k: 1, documents: ['a "b"', "\ufffd"] });
  assert.deepEqual([parts[0]?.first, parts[0]?.count, parts[0]?.rankings], [0, 2, 1]);
});

test("a larger list is split into parts of like size", () => {
  const texts = Array.from({ length: 200 }, (_, place) => `${place} ${"é".repeat(50 + ((37 * place) % 90))}`);
  const parts = split("q", texts, undefined, {}, 4096, 64);
  assert.deepEqual(
    parts.flatMap((part) => body(part).documents),
    texts,
  );
  let first = 0;
  for (const part of parts) {
    assert.equal(part.first, first);
    first += part.count;
    const size = part.body.length + HEADERS_BYTES_MAX;
    assert(size <= 4096 && size > 2048, `${size}`);
  }
});

test("what does not fit is left out", () => {
  const big = "x".repeat(5000);
  const parts = split("q", [big, "a", big, "b", big], undefined, {}, 4096, 8);
  assert.deepEqual(
    parts.map((part) => [part.first, body(part).documents]),
    [
      [1, ["a"]],
      [3, ["b"]],
    ],
  );
  assert.deepEqual(split("q".repeat(5000), ["a"], undefined, {}, 4096, 8), []);
  const many = split("q", Array<string>(9).fill("x".repeat(3000)), undefined, {}, 4096, 4);
  assert.deepEqual(
    many.map((part) => part.first),
    [0, 1, 2, 3],
  );
});

const PART: Part = { first: 10, count: 2, rankings: 2, body: new Uint8Array() };
const GOOD = [
  { index: 1, score: 2 },
  { index: 0, score: -1.5 },
] as const;

function open(text: string): unknown {
  const headers: [string, string[]][] = [
    ["RERANK-WORKER", ["w"]],
    ["Rerank-Activation", ["tanh"]],
  ];
  return openReply(headers, Buffer.from(text, "latin1"), PART);
}

test("a good reply", () => {
  const rankings = [
    [11, 2],
    [10, -1.5],
  ];
  const reply = open(JSON.stringify({ rankings: GOOD, model: "m\n", later: [{}] }));
  assert.deepEqual(reply, { rankings, model: "m ", worker: "w", activation: "tanh" });
});

test("activations", () => {
  assert.deepEqual(
    [0, 1000, -1000].map((logit) => activated("sigmoid", logit)),
    [0.5, 1, 0],
  );
  assert.equal(activated("sigmoid", -2).toFixed(8), "0.11920292");
  assert.equal(activated("tanh", 0.5).toFixed(8), "0.46211716");
  assert.equal(activated("identity", -7.5), -7.5);
});

test("replies that do not fit", () => {
  const rankings: unknown[] = [
    null,
    {},
    [GOOD[0]],
    [...GOOD, GOOD[0]],
    [GOOD[0], GOOD[0]],
    [GOOD[0], 7],
    [GOOD[0], { index: 2, score: 1 }],
    [GOOD[0], { index: -1, score: 1 }],
    [GOOD[0], { index: false, score: 1 }],
    [GOOD[0], { index: 0.5, score: 1 }],
    [GOOD[0], { index: 0 }],
    [GOOD[0], { index: 0, score: "1" }],
    [GOOD[0], { index: 0, score: null }],
    [GOOD[1], GOOD[0]],
  ];
  const texts = rankings.map((wrong) => JSON.stringify({ rankings: wrong, model: "m" }));
  texts.push(`{"model": "m", "rankings": [{"index": 0, "score": 1e999}, {"index": 1, "score": 1}]}`);
  texts.push("", "\xff", "[]", "null", "[".repeat(100_000), JSON.stringify({ rankings: GOOD }));
  for (const text of texts) {
    assert.equal((open(text) as Missing).reason, "bad_reply", text.slice(0, 100));
  }
});

test("refusals", () => {
  for (const [code, said, kind] of [
    ["429", { error: { code: 429, kind: "unavailable" } }, "unavailable"],
    ["413", { error: { code: 413, kind: "from the future" } }, "too_large"],
    ["418", { error: { code: 418, kind: "from the future" } }, "internal"],
    ["504", "not an object", "deadline_exceeded"],
    ["400", { error: "text" }, "invalid_request"],
    ["?", [], "internal"],
  ] as const) {
    const reply = openReply([["nats-service-error-code", [code]]], Buffer.from(JSON.stringify(said)), PART) as Missing;
    assert.deepEqual([reply.reason, reply.kind], ["refused", kind]);
  }
});

test("a stream that captures the subject is named", () => {
  const reply = openReply([], Buffer.from('{"stream":"EVERYTHING","seq":7}'), PART) as Missing;
  assert.equal(reply.reason, "bad_reply");
  assert.match(reply.detail ?? "", /`EVERYTHING` captures the subject/);
});
