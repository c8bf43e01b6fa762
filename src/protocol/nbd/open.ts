/** Connecting to the server when a node is opened. */
import type { DriverInstance, OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { HostSockets, SocketAddress, TlsCredentials } from '../../host/socket.js';
import { StreamReader } from '../../host/stream-reader.js';
import { parseValue } from '../../options/schema.js';
import { NbdConnection } from './connection.js';
import type { HandshakeRequest } from './handshake.js';
import { clientHandshake } from './handshake.js';
import { NbdInstance } from './instance.js';
import type { NbdOptions } from './options.js';
import { toAddress } from '../../block/socket-address.js';
import { foldLegacyAddress, nbdFilename, nbdOptions } from './options.js';

/** Pause between tries while `open-timeout` runs, in milliseconds. */
const OPEN_RETRY_MS = 250;

export async function openNbd(context: OpenContext): Promise<DriverInstance> {
  const options = parseValue(nbdOptions, foldLegacyAddress(context.options), { from: 'keyval' });
  const { loadSockets, clock } = context.host;
  if (loadSockets === undefined) throw new BlockError('ENOTSUP', 'There are no sockets here');
  const sockets = await loadSockets();
  const credentials = await credentialsOf(context, options);
  const address = toAddress(options.server);
  const connect = (signal?: AbortSignal): Promise<NbdConnection> =>
    connectOnce(sockets, address, options, credentials, signal);
  const first = await connectFirst(connect, options, clock);
  const instance = new NbdInstance({
    first,
    connect,
    clock,
    reconnectDelayMs: options['reconnect-delay'] * 1000,
    // Depths of two and more look alike in the two bits that a status has.
    maxFlags: options['x-dirty-bitmap'] === 'qemu:allocation-depth' ? 2 : 0xffff_ffff,
    filename: nbdFilename(options),
    strong: strongOptions(options),
  });
  if (instance.isReadOnly && context.flags.writable) {
    if (!context.flags.autoReadOnly) {
      await instance.close();
      throw new BlockError('EACCES', 'request on write denied without write permission');
    }
    context.node.readOnly = true;
  }
  return instance;
}

async function credentialsOf(
  context: OpenContext,
  options: NbdOptions,
): Promise<TlsCredentials | undefined> {
  const id = options['tls-creds'];
  if (id === undefined) return undefined;
  const found = await context.graph.tlsCredentials(id);
  if (found.endpoint !== 'client') {
    throw new BlockError('EINVAL', `Expecting TLS credentials with a client endpoint`);
  }
  return found;
}

async function connectFirst(
  connect: () => Promise<NbdConnection>,
  options: NbdOptions,
  clock: { now(): number; after(ms: number, fn: () => void): () => void },
): Promise<NbdConnection> {
  const deadline = clock.now() + options['open-timeout'] * 1000;
  for (;;) {
    try {
      return await connect();
    } catch (e) {
      if (clock.now() >= deadline) throw e;
      await new Promise<void>((resolve) => {
        clock.after(OPEN_RETRY_MS, resolve);
      });
    }
  }
}

async function connectOnce(
  sockets: HostSockets,
  address: SocketAddress,
  options: NbdOptions,
  credentials: TlsCredentials | undefined,
  signal?: AbortSignal,
): Promise<NbdConnection> {
  const plain = credentials === undefined;
  let stream = await sockets.connect(address, signal, { plain });
  const abort = (): void => {
    stream.destroy();
  };
  signal?.addEventListener('abort', abort);
  const hostname = options['tls-hostname'] ?? (address.type === 'inet' ? address.host : undefined);
  const want: HandshakeRequest = {
    exportName: options.export,
    context: options['x-dirty-bitmap'] ?? 'base:allocation',
    startTls:
      credentials === undefined
        ? undefined
        : async (reader) => {
            stream = await reader.stream.startTls({ credentials, hostname });
            return new StreamReader(stream);
          },
  };
  try {
    return new NbdConnection(await clientHandshake(new StreamReader(stream), want));
  } catch (e) {
    stream.destroy();
    throw e;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

function strongOptions(options: NbdOptions): Record<string, unknown> {
  const out: Record<string, unknown> = { server: options.server };
  if (options.export !== '') out['export'] = options.export;
  for (const key of ['tls-creds', 'tls-hostname'] as const) {
    if (options[key] !== undefined) out[key] = options[key];
  }
  return out;
}
