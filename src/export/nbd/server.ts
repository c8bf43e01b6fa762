/**
 * An NBD server: exports by name, listeners, connections with limits and time-outs.
 *
 * ```ts
 * const server = new NbdServer({ sockets, clock, maxConnections: 100 });
 * server.add(new NbdExport({ name: '', backend, writable: false, multiConn: true }));
 * await server.listen({ type: 'unix', path: '/run/disk.sock' });
 * await server.close();
 * ```
 */
import type { Clock } from '../../host/host.js';
import type {
  ByteStream,
  HostSockets,
  Listener,
  SocketAddress,
  TlsCredentials,
} from '../../host/socket.js';
import { StreamReader } from '../../host/stream-reader.js';
import { BlockError, messageOf } from '../../block/errors.js';
import type { NbdExport } from './export.js';
import type { Negotiated } from './handshake.js';
import { negotiate } from './handshake.js';
import { ReplyMemory } from './reply-memory.js';
import { NbdSession } from './session.js';

export interface NbdServerInit {
  readonly sockets: HostSockets;
  readonly clock: Clock;
  /** Connections at a time; 0: no limit. More wait in the listener's backlog. */
  readonly maxConnections?: number;
  /** A client must be done with the handshake within this time; 0: no limit. Default 10 s. */
  readonly handshakeMs?: number;
  readonly tls?: TlsCredentials;
  /** Refuse clients that do not start TLS (default when `tls` is given). */
  readonly tlsRequired?: boolean;
  /** Says whether a TLS identity may connect. */
  readonly authorize?: (identity: string | undefined) => boolean;
  /** Connections wait until {@link NbdServer.start}. */
  readonly held?: boolean;
  /** Makes memory for data that files are read into; default: any. */
  readonly allocate?: ((bytes: number) => Uint8Array) | undefined;
  /** One line for each connection that ended with an error. */
  readonly onError?: (message: string) => void;
  /** A client that had agreed on an export is gone; `clients` are still connected. */
  readonly onLeft?: (clients: number) => void;
}

/** Connections that wait for their turn; one more is closed at once. */
const MAX_WAITING = 1024;
/** What a client gets of replies when the server closes must have left by then. */
const CLOSE_MS = 5000;

interface Connection {
  /** Replaced when TLS begins. */
  stream: ByteStream;
  session: NbdSession | undefined;
  exportName: string | undefined;
  readonly done: Promise<void>;
}

type State = 'held' | 'open' | 'closing';

export class NbdServer {
  readonly #init: NbdServerInit;
  readonly #exports = new Map<string, NbdExport>();
  readonly #connections = new Set<Connection>();
  readonly #listeners: Listener[] = [];
  readonly #waiting: ByteStream[] = [];
  readonly #memory: ReplyMemory;
  #state: State;

  constructor(init: NbdServerInit) {
    this.#init = init;
    this.#state = init.held === true ? 'held' : 'open';
    this.#memory = new ReplyMemory(init.allocate ?? ((bytes) => new Uint8Array(bytes)));
  }

  get exports(): Iterable<NbdExport> {
    return this.#exports.values();
  }

  /** Clients connected now. */
  get clients(): number {
    return this.#connections.size;
  }

  /** Offers an export. Throws EINVAL when the name is taken or too long. */
  add(nbdExport: NbdExport): void {
    const { name } = nbdExport;
    if (new TextEncoder().encode(name).byteLength > 4096) {
      throw new BlockError('EINVAL', `export name '${name.slice(0, 64)}…' too long`);
    }
    if (this.#exports.has(name)) {
      throw new BlockError('EINVAL', `NBD server already has export named '${name}'`);
    }
    this.#exports.set(name, nbdExport);
  }

  /** Whether clients have agreed on an export. */
  isUsed(name: string): boolean {
    return [...this.#connections].some((c) => c.exportName === name);
  }

  /**
   * Takes an export away. Clients that use it: `hard` breaks them off after their
   * requests in flight; otherwise EBUSY while there are any.
   */
  async remove(name: string, hard: boolean): Promise<void> {
    const users = [...this.#connections].filter((c) => c.exportName === name);
    if (users.length > 0 && !hard) {
      throw new BlockError('EBUSY', `export '${name}' still in use`);
    }
    this.#exports.delete(name);
    await Promise.all(
      users.map((user) => {
        user.session?.stop();
        return this.#endSoon(user, user.done);
      }),
    );
  }

  /** Listens; resolves to the address with its real port. */
  async listen(address: SocketAddress, mode?: number): Promise<SocketAddress> {
    const plain = this.#init.tls === undefined;
    const options = mode === undefined ? { plain } : { mode, plain };
    const listener = await this.#init.sockets.listen(
      address,
      (stream) => {
        this.accept(stream);
      },
      options,
    );
    this.#listeners.push(listener);
    return listener.address;
  }

  /** Begins to serve the connections of a server that was made `held`. */
  start(): void {
    if (this.#state !== 'held') return;
    this.#state = 'open';
    this.#next();
  }

  /** Serves a connection that somebody else accepted. */
  accept(stream: ByteStream): void {
    if (this.#state === 'closing') {
      stream.destroy();
    } else if (this.#state === 'open' && this.#hasRoom && this.#waiting.length === 0) {
      this.#begin(stream);
    } else if (this.#waiting.length < MAX_WAITING) {
      stream.pause();
      this.#waiting.push(stream);
      stream.onClose = (): void => {
        const at = this.#waiting.indexOf(stream);
        if (at >= 0) this.#waiting.splice(at, 1);
      };
    } else {
      stream.destroy();
    }
  }

  get #hasRoom(): boolean {
    const max = this.#init.maxConnections ?? 0;
    return max === 0 || this.#connections.size < max;
  }

  /** Lets connections in that wait. */
  #next(): void {
    while (this.#state === 'open' && this.#hasRoom) {
      const stream = this.#waiting.shift();
      if (stream === undefined) return;
      stream.resume();
      this.#begin(stream);
    }
  }

  #begin(stream: ByteStream): void {
    let finish: () => void = () => undefined;
    const done = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const connection: Connection = { stream, session: undefined, exportName: undefined, done };
    this.#connections.add(connection);
    void this.#serve(connection)
      .catch((e: unknown) => {
        connection.stream.destroy();
        this.#init.onError?.(`${stream.peerName}: ${messageOf(e)}`);
      })
      .finally(() => {
        this.#connections.delete(connection);
        finish();
        if (connection.session !== undefined) this.#init.onLeft?.(this.#connections.size);
        this.#next();
      });
  }

  async #serve(connection: Connection): Promise<void> {
    const limit = this.#init.handshakeMs ?? 10_000;
    let late = false as boolean;
    const cancel =
      limit > 0
        ? this.#init.clock.after(limit, () => {
            late = true;
            connection.stream.destroy();
          })
        : (): void => undefined;
    let agreed: Negotiated | undefined;
    try {
      const reader = new StreamReader(connection.stream);
      agreed = await negotiate(reader, this.#handshakeServer(connection));
    } catch (e) {
      throw late ? new BlockError('ETIMEDOUT', 'The client took too long to agree') : e;
    } finally {
      cancel();
    }
    if (agreed === undefined) {
      await this.#endSoon(connection, connection.stream.end());
      return;
    }
    connection.exportName = agreed.export.name;
    connection.session = new NbdSession(agreed, this.#memory);
    const run = connection.session.run();
    if (this.#state === 'closing') connection.session.stop();
    await run;
  }

  /** Waits for a connection that is to end; one that does not in time is broken off. */
  async #endSoon(connection: Connection, end: Promise<void>): Promise<void> {
    const cancel = this.#init.clock.after(CLOSE_MS, () => {
      connection.stream.destroy();
    });
    await end.finally(cancel);
  }

  #handshakeServer(connection: Connection): Parameters<typeof negotiate>[1] {
    const { tls, tlsRequired, authorize } = this.#init;
    return {
      tls: tls === undefined ? 'off' : (tlsRequired ?? true) ? 'required' : 'offered',
      find: (name) => this.#exports.get(name),
      list: () => this.#exports.values(),
      startTls: async (reader) => {
        if (tls === undefined) throw new BlockError('EINVAL', 'TLS is not configured');
        const secure = await reader.stream.startTls({ credentials: tls });
        connection.stream = secure;
        if (authorize?.(secure.tlsIdentity) === false) {
          secure.destroy();
          throw new BlockError(
            'EACCES',
            `TLS x509 authz check for ${secure.tlsIdentity} is denied`,
          );
        }
        return new StreamReader(secure);
      },
    };
  }

  /**
   * Stops listening, lets requests in flight finish and be answered, closes connections. A
   * client that does not take its answers for some seconds is broken off.
   */
  async close(): Promise<void> {
    this.#state = 'closing';
    for (const listener of this.#listeners.splice(0)) await listener.close();
    for (const stream of this.#waiting.splice(0)) stream.destroy();
    await Promise.all(
      [...this.#connections].map((c) => {
        if (c.session === undefined) c.stream.destroy();
        else c.session.stop();
        return this.#endSoon(c, c.done);
      }),
    );
  }
}
