/**
 * Port: byte streams between programs (TCP, Unix sockets, inherited descriptors),
 * plain or under TLS.
 */

import type { FileRun } from './file.js';

export type SocketAddress =
  | {
      readonly type: 'inet';
      readonly host: string;
      /** A number or a service name; '0' picks a free port when listening. */
      readonly port: string;
      /** When listening: the first free port from `port` to this one. */
      readonly to?: number;
      /** The host is an address; no name is looked up. */
      readonly numeric?: boolean;
      readonly ipv4?: boolean;
      readonly ipv6?: boolean;
      readonly keepAlive?: boolean;
    }
  | { readonly type: 'unix'; readonly path: string; readonly abstract?: boolean }
  | { readonly type: 'fd'; readonly fd: number };

/** TLS material as files or values; exactly one of `x509` and `psk`. */
export interface TlsCredentials {
  readonly endpoint: 'client' | 'server';
  readonly x509?: {
    readonly ca?: Uint8Array;
    readonly crl?: Uint8Array;
    readonly cert?: Uint8Array;
    readonly key?: Uint8Array;
    readonly passphrase?: string;
  };
  readonly psk?: {
    /** Key by user name (server), or the one entry that a client uses. */
    readonly keys: ReadonlyMap<string, Uint8Array>;
  };
  /** Demand and check the peer's certificate. */
  readonly verifyPeer: boolean;
  readonly priority?: string;
}

export interface TlsOptions {
  readonly credentials: TlsCredentials;
  /** Client: name that the server's certificate must carry. */
  readonly hostname?: string | undefined;
}

/**
 * One connection. Callbacks are set by the owner before the next event-loop turn.
 *
 * The peer may close its half and still read: then onClose comes with no error, and what is
 * written afterwards is sent nevertheless until `end` or `destroy`.
 */
export interface ByteStream {
  /** A piece arrived; it belongs to the receiver. */
  onData: (piece: Uint8Array) => void;
  /** No more data will come; `error` when the connection broke. Called once. */
  onClose: (error: Error | undefined) => void;
  /** The bytes that wait to be sent fell low after `write` returned false. */
  onDrain: () => void;
  /**
   * Sends the pieces in order; they must not change until `sent` is called, which happens
   * with true when the kernel has them all (which may be before this returns), and with false
   * when the connection breaks before.
   * False: too much is waiting, the owner should wait for onDrain.
   */
  write(pieces: readonly Uint8Array[], sent?: (taken: boolean) => void): boolean;
  /**
   * Sends at once as much of `head` and then, without copying, of a file's run as the kernel
   * takes; the count of bytes, 0 when that cannot be (others wait to be sent, the run is not in
   * the page cache). The peer may see what is written to the file until it has read them.
   * Absent: there is no such way.
   */
  trySendFile?(head: Uint8Array, run: FileRun): number;
  /** Stops and restarts onData; a piece that was on its way may still come. */
  pause(): void;
  resume(): void;
  /** Sends what is queued, then closes. Resolves when closed, however that came about. */
  end(): Promise<void>;
  /** Closes at once; onClose follows. */
  destroy(): void;
  /** Turns the connection into a TLS one; this object is of no more use but for `destroy`. */
  startTls(options: TlsOptions): Promise<ByteStream>;
  /** For messages and logs. */
  readonly peerName: string;
  /** Distinguished name of the peer's certificate or its PSK user name, under TLS. */
  readonly tlsIdentity: string | undefined;
}

export interface Listener {
  /** Where it listens; the real port. */
  readonly address: SocketAddress;
  /** Takes no new connections; those that exist go on. Removes a Unix socket's file. */
  close(): Promise<void>;
}

export interface HostSockets {
  /** The program's standard input and output as one stream; absent where there are none. */
  stdio?(this: void): ByteStream;
  /** A program's standard input and output: its path and arguments. Absent: none can be started. */
  exec?(this: void, argv: readonly string[]): ByteStream;
  /**
   * `plain`: startTls will not be called, which allows shorter ways.
   * Rejects with HostError; the message is complete ("Failed to connect to …").
   */
  connect(
    address: SocketAddress,
    signal?: AbortSignal,
    options?: { readonly plain?: boolean },
  ): Promise<ByteStream>;
  /**
   * `mode`: permission bits of a Unix socket's file, which takes the place of an older socket's.
   * Rejects with HostError; the message is complete ("Failed to bind socket to …").
   */
  listen(
    address: SocketAddress,
    onConnection: (stream: ByteStream) => void,
    options?: { readonly mode?: number; readonly backlog?: number; readonly plain?: boolean },
  ): Promise<Listener>;
}
