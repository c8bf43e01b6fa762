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
import { negotiate } from './handshake.js';
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
  /** One line for each connection that ended with an error. */
  readonly onError?: (message: string) => void;
  /** Called when the number of clients changed. */
  readonly onClients?: (count: number) => void;
}

interface Connection {
  readonly stream: ByteStream;
  session: NbdSession | undefined;
  exportName: string | undefined;
  readonly done: Promise<void>;
}

export class NbdServer {
  readonly #init: NbdServerInit;
  readonly #exports = new Map<string, NbdExport>();
  readonly #connections = new Set<Connection>();
  readonly #listeners: Listener[] = [];
  readonly #waiting: ByteStream[] = [];
  #closing = false;

  constructor(init: NbdServerInit) {
    this.#init = init;
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
    for (const user of users) user.session?.stop();
    await Promise.all(users.map((user) => user.done));
  }

  /** Listens; resolves to the address with its real port. */
  async listen(address: SocketAddress, mode?: number): Promise<SocketAddress> {
    const options = mode === undefined ? {} : { mode };
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

  /** Serves a connection that somebody else accepted. */
  accept(stream: ByteStream): void {
    const max = this.#init.maxConnections ?? 0;
    if (this.#closing) {
      stream.destroy();
    } else if (max > 0 && this.#connections.size >= max) {
      stream.pause();
      this.#waiting.push(stream);
    } else {
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
    this.#init.onClients?.(this.#connections.size);
    void this.#serve(connection)
      .catch((e: unknown) => {
        stream.destroy();
        this.#init.onError?.(`${stream.peerName}: ${messageOf(e)}`);
      })
      .finally(() => {
        this.#connections.delete(connection);
        finish();
        const next = this.#waiting.shift();
        if (next !== undefined) {
          next.resume();
          this.accept(next);
        }
        this.#init.onClients?.(this.#connections.size);
      });
  }

  async #serve(connection: Connection): Promise<void> {
    const { stream } = connection;
    const limit = this.#init.handshakeMs ?? 10_000;
    const cancel =
      limit > 0
        ? this.#init.clock.after(limit, () => {
            stream.destroy();
          })
        : (): void => undefined;
    try {
      const agreed = await negotiate(new StreamReader(stream), this.#handshakeServer());
      cancel();
      if (agreed === undefined) {
        await stream.end();
        return;
      }
      connection.exportName = agreed.export.name;
      connection.session = new NbdSession(agreed);
      if (this.#closing) connection.session.stop();
      await connection.session.run();
    } finally {
      cancel();
    }
  }

  #handshakeServer(): Parameters<typeof negotiate>[1] {
    const { tls, tlsRequired, authorize } = this.#init;
    return {
      tls: tls === undefined ? 'off' : (tlsRequired ?? true) ? 'required' : 'offered',
      find: (name) => this.#exports.get(name),
      list: () => this.#exports.values(),
      startTls: async (reader) => {
        if (tls === undefined) throw new BlockError('EINVAL', 'TLS is not configured');
        const secure = await reader.stream.startTls({ credentials: tls });
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

  /** Stops listening, lets requests in flight finish and be answered, closes connections. */
  async close(): Promise<void> {
    this.#closing = true;
    for (const listener of this.#listeners.splice(0)) await listener.close();
    for (const stream of this.#waiting.splice(0)) stream.destroy();
    const all = [...this.#connections];
    for (const c of all) {
      if (c.session === undefined) c.stream.destroy();
      else c.session.stop();
    }
    await Promise.all(all.map((c) => c.done));
  }
}
