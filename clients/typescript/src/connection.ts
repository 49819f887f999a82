/** A connection to NATS that is kept up: taken up again when it is lost, and made anew when the server ends it. */

import { connect, type NatsConnection, type NodeConnectionOptions } from "@nats-io/transport-node";

const CONNECT_TIMEOUT_MS = 2000;
const RECONNECT_WAIT_MS = 500;
/** A server that is gone without a word is noticed after about a minute; until then, calls time out. */
const PING_INTERVAL_MS = 20_000;
/** What may be on its way to the server. Past it the server does not read, and nothing more is put behind it. */
export const PENDING_BYTES_MAX = 16 * 1024 * 1024;
const CLOSE_MS_MAX = 2000;
/** From a refused subscription to a new connection; each one doubles it. */
const RENEWAL_MS_MIN = 500;
const RENEWAL_MS_MAX = 60_000;
/** What a server says that refuses a subscription for their number, and keeps the connection. */
const SUBSCRIPTION_LIMIT = /maximum subscriptions exceeded/iu;

/** There is no connection to NATS, or the client cannot be made with these servers. */
export class ConnectError extends Error {
  override readonly name = "ConnectError";
}

/** What is given to the NATS client besides what this client needs for itself. */
export type NatsOptions = Omit<
  NodeConnectionOptions,
  "servers" | "port" | "reconnect" | "maxReconnectAttempts" | "waitOnFirstConnect" | "ignoreAuthErrorAbort"
>;

/** At most one connection at a time. */
export class Connection {
  /** Called when the connection is lost: what was asked over it is not answered any more. */
  onLost: () => void = () => {};
  readonly #log: (message: string) => void;
  readonly #isOwn: boolean;
  #open: () => Promise<NatsConnection> = () => Promise.reject(new ConnectError("not of this client's making"));
  #client: NatsConnection | undefined;
  #isUp = false;
  #isClosing = false;
  #retry: NodeJS.Timeout | undefined;
  #complaint = "";
  #pending = new Pending();
  #renewal: NodeJS.Timeout | undefined;
  #renewalMs = RENEWAL_MS_MIN;

  private constructor(isOwn: boolean, log: (message: string) => void) {
    this.#isOwn = isOwn;
    this.#log = log;
  }

  /** Connects; unless `lazy`, waits until it has, or each server has failed once. */
  static async open(
    servers: string | readonly string[],
    natsOptions: NatsOptions,
    lazy: boolean,
    log: (message: string) => void,
  ): Promise<Connection> {
    const list = typeof servers === "string" ? [servers] : [...servers];
    if (list.length === 0 || !list.every(isServer)) {
      throw new ConnectError("a NATS server is named by `nats://host:port` (or `tls://`)");
    }
    const connection = new Connection(true, log);
    connection.#open = () =>
      connect({
        name: "nats-rerank-client",
        timeout: CONNECT_TIMEOUT_MS,
        reconnectTimeWait: RECONNECT_WAIT_MS,
        pingInterval: PING_INTERVAL_MS,
        noAsyncTraces: true,
        ...natsOptions,
        servers: list,
        reconnect: true,
        maxReconnectAttempts: -1,
        waitOnFirstConnect: false,
        ignoreAuthErrorAbort: true,
      });
    if (lazy) {
      void connection.#connect();
      return connection;
    }
    try {
      connection.#adopt(await connection.#open());
    } catch (error) {
      throw new ConnectError(`cannot connect to NATS at ${shown(list)}: ${text(error)}`, { cause: error });
    }
    return connection;
  }

  /** The caller's own connection, which is left to the caller to keep and to close. */
  static over(client: NatsConnection, log: (message: string) => void): Connection {
    const connection = new Connection(false, log);
    connection.#adopt(client);
    return connection;
  }

  /** The connection, if it is up now. */
  get client(): NatsConnection | undefined {
    const client = this.#client;
    return this.#isUp && client !== undefined && !client.isClosed() && !client.isDraining() ? client : undefined;
  }

  /**
   * Whether so many bytes may be sent; if so they count as pending until the server has shown that it has read so far.
   * Gives what to call when it answers.
   */
  reserve(client: NatsConnection, bytes: number): (() => void) | undefined {
    return this.#pending.reserve(bytes, () => client.flush());
  }

  /** Ends the connection, unless it is the caller's own. Bounded in time. */
  async close(): Promise<void> {
    this.#isClosing = true;
    clearTimeout(this.#retry);
    clearTimeout(this.#renewal);
    const client = this.#client;
    this.#isUp = false;
    if (!this.#isOwn || client === undefined) {
      return;
    }
    let timer: NodeJS.Timeout | undefined;
    const bound = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, CLOSE_MS_MAX);
    });
    await Promise.race([client.close().catch(() => {}), bound]);
    clearTimeout(timer);
  }

  async #connect(): Promise<void> {
    try {
      this.#adopt(await this.#open());
    } catch (error) {
      // Once for each reason, not for each try.
      if (this.#complaint !== text(error)) {
        this.#complaint = text(error);
        this.#log(`cannot connect to NATS: ${this.#complaint}`);
      }
      if (!this.#isClosing) {
        this.#retry = setTimeout(() => void this.#connect(), RECONNECT_WAIT_MS);
      }
    }
  }

  #adopt(client: NatsConnection): void {
    if (this.#isClosing) {
      void client.close().catch(() => {});
      return;
    }
    this.#client = client;
    this.#up();
    void this.#follow(client);
    void client.closed().then(() => {
      this.#lost();
      if (this.#isOwn && !this.#isClosing) {
        this.#log("the NATS server ended the connection; connecting anew");
        this.#retry = setTimeout(() => void this.#connect(), RECONNECT_WAIT_MS);
      }
    });
  }

  async #follow(client: NatsConnection): Promise<void> {
    for await (const status of client.status()) {
      if (status.type === "disconnect") {
        this.#lost();
      } else if (status.type === "reconnect") {
        this.#up();
      } else if (status.type === "error" && this.#isOwn && SUBSCRIPTION_LIMIT.test(status.error.message)) {
        this.#renew(client);
      }
    }
  }

  /**
   * The server has refused a subscription, and the client goes on as if it stood. If it is the inbox, no answer ever
   * comes: only another connection makes it again. With pauses that grow, since it may be another one.
   */
  #renew(client: NatsConnection): void {
    if (this.#renewal !== undefined || this.#isClosing) {
      return;
    }
    this.#log("the NATS server refuses subscriptions of this connection (max_subscriptions); connecting anew");
    this.#renewal = setTimeout(() => {
      this.#renewal = undefined;
      void client.close().catch(() => {});
    }, this.#renewalMs);
    this.#renewal.unref();
    this.#renewalMs = Math.min(this.#renewalMs * 2, RENEWAL_MS_MAX);
  }

  #up(): void {
    this.#isUp = true;
    this.#complaint = "";
    this.#pending = new Pending();
  }

  #lost(): void {
    this.#isUp = false;
    this.onLost();
  }
}

/** How much was sent and not yet read by the server, as far as its answers tell. */
class Pending {
  #sent = 0;
  #read = 0;
  #isAsking = false;

  reserve(bytes: number, ask: () => Promise<void>): (() => void) | undefined {
    // Silent workers are no sign of a server that does not read: it is asked itself, in good time.
    if (this.#sent - this.#read + bytes > PENDING_BYTES_MAX / 2 && !this.#isAsking) {
      this.#isAsking = true;
      const upTo = this.#sent;
      const done = (answered: boolean) => {
        this.#isAsking = false;
        this.#read = answered ? Math.max(this.#read, upTo) : this.#read;
      };
      ask().then(
        () => done(true),
        () => done(false),
      );
    }
    if (this.#sent - this.#read + bytes > PENDING_BYTES_MAX) {
      return undefined;
    }
    this.#sent += bytes;
    const upTo = this.#sent;
    return () => {
      this.#read = Math.max(this.#read, upTo);
    };
  }
}

function isServer(server: string): boolean {
  try {
    const { protocol, hostname } = new URL(server.includes("://") ? server : `nats://${server}`);
    return ["nats:", "tls:"].includes(protocol) && hostname !== "";
  } catch {
    return false;
  }
}

/** The servers without user names, passwords and tokens. */
function shown(servers: readonly string[]): string {
  return servers.map((server) => server.replace(/^.*@/u, "").replace(/^.*:\/\//u, "")).join(", ");
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : "unknown error";
}
