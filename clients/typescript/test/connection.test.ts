/** What becomes of calls while NATS is away, hangs or comes back, and the live switch. */

import assert from "node:assert/strict";
import { type AddressInfo, createServer } from "node:net";
import { afterEach, beforeEach, test } from "node:test";

import { Kvm } from "@nats-io/kv";

import { ConnectError, type ConnectOptions, Reranker } from "../src/index.js";
import { BUDGET_MS, DOCUMENTS, NatsServer, options, Responder, until } from "./support.js";

let server: NatsServer;
let open: { close(): Promise<void> }[] = [];

beforeEach(async () => {
  server = await NatsServer.small();
});
afterEach(async () => {
  await Promise.all(open.map((each) => each.close()));
  open = [];
  await server[Symbol.asyncDispose]();
});

async function client(changes: ConnectOptions = {}): Promise<Reranker> {
  const reranker = await Reranker.connect(options(server.url, changes));
  open.push(reranker);
  return reranker;
}

async function responder(): Promise<Responder> {
  const started = await Responder.start(server.url);
  open.push(started.client);
  return started;
}

/** `model`, or why not; the documents come back in any case. */
async function reason(reranker: Reranker, budgetMs = BUDGET_MS): Promise<string> {
  const answer = await reranker.rerank("q", DOCUMENTS, undefined, { budgetMs });
  assert.equal(answer.items.length, DOCUMENTS.length);
  return answer.reason ?? answer.order;
}

const comesTo = (reranker: Reranker, expected: string) => until(async () => (await reason(reranker)) === expected);

test("no server is an error of connecting alone", async () => {
  await assert.rejects(
    Reranker.connect({ servers: "nats://someone:secret@127.0.0.1:1" }),
    (error: Error) => error instanceof ConnectError && !error.message.includes("secret"),
  );
  await assert.rejects(Reranker.connect({ servers: "http://127.0.0.1", lazy: true }), ConnectError);
  await assert.rejects(Reranker.connect({ servers: [] }), ConnectError);
});

test("lazy connects in the background", async () => {
  await server.stop();
  const reranker = await client({ lazy: true });
  assert.equal(await reason(reranker), "disconnected");
  await server.start();
  await responder();
  await comesTo(reranker, "model");
});

test("a lost connection is taken up again", async () => {
  const reranker = await client();
  assert.equal(await reason(reranker), "no_responders");
  await server.stop();
  await comesTo(reranker, "disconnected");
  await server.start();
  await responder();
  await comesTo(reranker, "model");
});

test("a server that hangs costs the budget, and then nothing", async () => {
  const breaker = { calls: 3, callsMin: 3, failurePercent: 100, pauseMsMin: 60_000 };
  const reranker = await client({ budgetMs: 50, breaker });
  assert.equal(await reason(reranker), "no_responders");
  await server.pause();
  try {
    for (let call = 0; call < 3; call += 1) {
      assert.equal(await reason(reranker, 50), "timed_out");
    }
    assert.equal(await reason(reranker, 50), "circuit_open");
  } finally {
    server.resume();
  }
});

test("what a hanging server does not take is bounded", async () => {
  const reranker = await client();
  await server.pause();
  try {
    const big = Array<string>(8).fill("x".repeat(60_000));
    await until(async () => {
      const calls = Array.from({ length: 8 }, () => reranker.rerank("q", big, undefined, { budgetMs: 200 }));
      return (await Promise.all(calls)).every((answer) => answer.reason === "disconnected");
    });
  } finally {
    server.resume();
  }
  await comesTo(reranker, "no_responders");
});

test("workers that are silent are no sign of a server that hangs", async () => {
  const silent = await responder();
  silent.answer = () => undefined;
  const own = silent.client;
  const reranker = Reranker.over(own, options(server.url));
  const big = Array<string>(8).fill("x".repeat(60_000));
  // 19 MB in all. The server has read each request before the next.
  for (let call = 0; call < 40; call += 1) {
    const answer = await reranker.rerank("q", big, undefined, { budgetMs: 20 });
    assert.equal(answer.reason, "timed_out");
    await own.flush();
  }
});

test("an inbox that the server refuses is made again by another connection", async () => {
  let connections = 0;
  // As nats-server answers past `max_subscriptions`: an error without a subject, and the connection stays.
  const limited = createServer((socket) => {
    connections += 1;
    const refuses = connections === 1;
    socket.on("error", () => {});
    socket.write('INFO {"server_id":"x","version":"2.9.10","proto":1,"headers":true,"max_payload":1048576}\r\n');
    socket.on("data", (data) => {
      const said = data.toString("latin1");
      if (said.includes("SUB ") && refuses) {
        socket.write("-ERR 'maximum subscriptions exceeded'\r\n");
      }
      for (const _ of said.matchAll(/^PING\r$/gmu)) {
        socket.write("PONG\r\n");
      }
      const asked = /^HPUB \S+ (\S+) /mu.exec(said);
      if (asked !== null && !refuses) {
        socket.write(`HMSG ${asked[1]} 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n`);
      }
    });
  });
  await new Promise<void>((resolve) => limited.listen(0, "127.0.0.1", resolve));
  try {
    const { port } = limited.address() as AddressInfo;
    const reranker = await client({ servers: `nats://127.0.0.1:${port}` });
    await until(async () => (await reason(reranker, 200)) === "no_responders");
    assert(connections >= 2);
    await reranker.close();
  } finally {
    limited.close();
  }
});

test("the live switch", async () => {
  const { client: own } = await responder();
  const bucket = await new Kvm(own).create("switch-1");
  await bucket.put("enabled", "false");
  const reranker = await client({ switchBucket: "switch-1" });
  await comesTo(reranker, "switched_off");
  await bucket.put("enabled", "true");
  await comesTo(reranker, "model");
  await bucket.put("enabled", "false");
  await comesTo(reranker, "switched_off");
  await bucket.put("enabled", "perhaps");
  await bucket.delete("enabled");
  await comesTo(reranker, "model");
  await bucket.put("enabled", "perhaps");
  await comesTo(reranker, "switched_off");
  await bucket.put("enabled", "true");
  await comesTo(reranker, "model");
  // A running reader goes by what it saw last, a new one by the history: of a bucket that keeps one revision, none.
  await bucket.put("enabled", "perhaps");
  await comesTo(await client({ switchBucket: "switch-1" }), "switched_off");
  assert.equal(await reason(reranker), "model");
});

test("a new reader of garbage goes by the history", async () => {
  const { client: own } = await responder();
  const bucket = await new Kvm(own).create("switch-3", { history: 5 });
  for (const [values, expected] of [
    [["true", "x", ""], "model"],
    [["false", "x", "1"], "switched_off"],
  ] as const) {
    for (const value of values) {
      await bucket.put("enabled", value);
    }
    // The opposite is configured, so that the bucket's word shows.
    await comesTo(await client({ switchBucket: "switch-3", enabled: expected !== "model" }), expected);
  }
});

test("switched off by configuration until the bucket speaks", async () => {
  const answering = await responder();
  const reranker = await client({ enabled: false, switchBucket: "switch-2" });
  assert.equal(await reason(reranker), "switched_off");
  const bucket = await new Kvm(answering.client).create("switch-2");
  await bucket.put("enabled", "true");
  await comesTo(reranker, "model");
  assert.equal(answering.requests.length, 1);

  // What the bucket said last holds while JetStream is away, and the switch works again behind a lost connection.
  await bucket.put("enabled", "false");
  await comesTo(reranker, "switched_off");
  await server.stop();
  await server.start();
  assert.equal(await reason(reranker), "switched_off");
  await until(async () => {
    try {
      await bucket.put("enabled", "true");
      return true;
    } catch {
      return false;
    }
  });
  await comesTo(reranker, "model");
});
