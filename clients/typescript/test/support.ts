/** Real servers and workers for the tests, started on free ports, and responders that say what a test wants. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { accessSync, constants, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect as dial, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { connect, headers, type Msg, type NatsConnection } from "@nats-io/transport-node";

import type { ConnectOptions, Reason, Reranked } from "../src/index.js";

/** How long anything may take that a test waits for; a starved machine is slow. */
export const PATIENCE_MS = 120_000;
/** The largest budget that workers take. */
export const BUDGET_MS = 60_000;
export const DOCUMENTS = ["b 2", "a 1", "c 3"];

/** A budget that a starved machine keeps, and no breaker unless the test is about it. */
export function options(url: string, changes: ConnectOptions = {}): ConnectOptions {
  return { servers: url, budgetMs: BUDGET_MS, breaker: { enabled: false }, ...changes };
}

/** Waits for a condition. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!(await condition())) {
    assert(performance.now() < deadline, "waited in vain");
    await delay(20);
  }
}

/** The documents came back as they were, for this reason. */
export function assertAnn<T>(answer: Reranked<T>, documents: readonly T[], reason: Reason): void {
  assert.deepEqual([answer.order, answer.reason], ["ann", reason]);
  assert.deepEqual(
    answer.items,
    documents.map((item, index) => ({ item, index, score: undefined })),
  );
}

/** A program that the test run was told of. */
function program(variable: string): string {
  const path = process.env[variable];
  assert(path, `set ${variable} to the program (tools/test-clients does)`);
  accessSync(path, constants.X_OK);
  return path;
}

/** A process with its log; no test leaves one behind. */
class Process {
  readonly folder = mkdtempSync(join(tmpdir(), "nats-rerank-test-"));
  readonly #log = join(this.folder, "log");
  #child: ChildProcess | undefined;

  run(command: string, args: readonly string[]): void {
    const log = openSync(this.#log, "a");
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("RERANK_")));
    this.#child = spawn(command, args, { stdio: ["ignore", log, log], cwd: this.folder, env });
  }

  get log(): string {
    return readFileSync(this.#log, "utf8");
  }

  /** Whether it runs; fails with its log if it has ended. */
  isRunning(): boolean {
    assert(this.#child?.exitCode === null, this.log);
    return true;
  }

  /** Lets it hang, until `resume`. */
  async pause(): Promise<void> {
    const child = this.#child;
    assert(child !== undefined);
    child.kill("SIGSTOP");
    await until(() => /^State:\s+T/mu.test(readFileSync(`/proc/${child.pid}/status`, "utf8")));
  }

  resume(): void {
    this.#child?.kill("SIGCONT");
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    if (child && child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGCONT");
      child.kill(signal);
      const patience = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
      await ended;
      clearTimeout(patience);
    }
    this.#child = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A nats-server; it can be stopped and started again on its port. */
export class NatsServer {
  readonly #process = new Process();
  readonly url: string;

  private constructor(
    readonly port: number,
    settings: string,
  ) {
    this.url = `nats://127.0.0.1:${port}`;
    writeFileSync(join(this.#process.folder, "nats.conf"), `listen: 127.0.0.1:${port}\n${settings}\n`);
  }

  static async start(settings = ""): Promise<NatsServer> {
    const server = new NatsServer(await freePort(), settings);
    await server.start();
    return server;
  }

  /** With JetStream, and messages of 64 KiB at most. */
  static small(): Promise<NatsServer> {
    return NatsServer.start('jetstream { store_dir: "jetstream" }\nmax_payload: 65536');
  }

  async start(): Promise<void> {
    this.#process.run(program("NATS_SERVER"), ["-c", "nats.conf"]);
    await until(async () => this.#process.isRunning() && (await listens(this.port)));
  }

  pause(): Promise<void> {
    return this.#process.pause();
  }

  resume(): void {
    this.#process.resume();
  }

  stop(): Promise<void> {
    return this.#process.end("SIGKILL");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#process[Symbol.asyncDispose]();
  }
}

/** A worker process with the built-in model. */
export class Worker {
  readonly #process = new Process();

  static async start(url: string, ...settings: string[]): Promise<Worker> {
    const worker = new Worker();
    const all = ["health.listen=127.0.0.1:0", ...settings].flatMap((setting) => ["--set", setting]);
    worker.#process.run(program("NATS_RERANK_BIN"), ["worker", "--nats-url", url, ...all]);
    await until(() => worker.#process.isRunning() && worker.#process.log.includes("ready: joined the queue group"));
    return worker;
  }

  pause(): Promise<void> {
    return this.#process.pause();
  }

  resume(): void {
    this.#process.resume();
  }

  /** Stops it in the way that an operator does. */
  stop(): Promise<void> {
    return this.#process.end("SIGTERM");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#process[Symbol.asyncDispose]();
  }
}

export interface Request {
  readonly query: string;
  readonly documents: string[];
  readonly top_k?: number;
  readonly raw_scores?: boolean;
}

type Answer = (request: Request) => unknown;

/** Stands in for the workers: gives the answers that the test scripts, and remembers what it was asked. */
export class Responder {
  readonly requests: Request[] = [];
  readonly headers: ReadonlyMap<string, string>[] = [];
  answer: Answer = ranked;
  activation = "identity";

  private constructor(readonly client: NatsConnection) {}

  static async start(url: string): Promise<Responder> {
    const client = await connect({ servers: url });
    const responder = new Responder(client);
    client.subscribe("rerank.v1.score", {
      queue: "rerank",
      callback: (_, message) => {
        responder.#take(message);
      },
    });
    await client.flush();
    return responder;
  }

  #take(message: Msg): void {
    const request = message.json<Request>();
    this.requests.push(request);
    this.headers.push(new Map([...(message.headers ?? [])].map(([name, values]) => [name, values[0] ?? ""])));
    const answer = this.answer(request);
    const sent = headers();
    if (typeof answer === "object" && answer !== null && "error" in answer) {
      sent.set("nats-service-error-code", String((answer.error as { code: number }).code));
      sent.set("Nats-Service-Error", "told in the header");
    } else {
      sent.set("rerank-worker", "worker-1");
      sent.set("rerank-activation", this.activation);
    }
    if (answer !== undefined) {
      message.respond(typeof answer === "string" ? answer : JSON.stringify(answer), { headers: sent });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
  }
}

/** The number at the end of a document is its score. */
export function scoreOf(text: string): number {
  return Number(text.slice(text.lastIndexOf(" ")));
}

/** What a worker would answer. */
export function ranked({ documents, top_k }: Request): unknown {
  const rankings = documents.map((text, index) => ({ index, score: scoreOf(text) }));
  return { rankings: rankings.sort((a, b) => b.score - a.score).slice(0, top_k), model: "scripted" };
}

/** A refusal as workers word it. */
export function refusal(code: number, kind: string, scope?: string): Answer {
  return () => ({ error: { code, kind, message: "told\nin the body", retryable: false, scope } });
}

/** No answer. */
export function silent(): undefined {}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  assert(typeof address === "object" && address !== null);
  await new Promise((resolve) => server.close(resolve));
  return address.port;
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = dial(port, "127.0.0.1");
    const end = (result: boolean) => () => {
      socket.destroy();
      resolve(result);
    };
    socket.once("connect", end(true)).once("error", end(false));
  });
}
