/** Where the state of a machine goes or comes from: QMP's URIs and channels. */
import { toAddress } from '../../block/socket-address.js';
import type { BlockGraph } from '../../block/graph.js';
import { BlockError, prepend } from '../../block/errors.js';
import type { HostSockets, Listener, SocketAddress } from '../../host/socket.js';
import type { Infer } from '../../options/schema.js';
import { QmpError } from '../qmp-error.js';
import type { migrationAddress, migrationChannel } from '../types/migration.js';
import type { Channel } from './channel.js';
import { FileChannel, StreamChannel } from './channel.js';

type Address = Infer<typeof migrationAddress>;

/** A place in the form of QMP's `channels`, or a URI as text. Throws QmpError. */
export function readPlace(
  command: string,
  uri: string | undefined,
  channels: readonly Infer<typeof migrationChannel>[] | undefined,
): Address {
  if ((uri === undefined) === (channels === undefined)) {
    throw new QmpError(
      "need either 'uri' or 'channels' argument for " + `'${command}' qmp command, and not both`,
    );
  }
  if (uri !== undefined) return parseUri(uri);
  const [first, second] = channels ?? [];
  if (first === undefined || second !== undefined) {
    throw new QmpError("Channel list must have only one entry, for type 'main'");
  }
  return first.addr;
}

/** `tcp:HOST:PORT`, `unix:PATH`, `fd:N`, `exec:COMMAND`, `file:PATH[,offset=N]`. */
export function parseUri(uri: string): Address {
  const colon = uri.indexOf(':');
  const rest = uri.slice(colon + 1);
  switch (uri.slice(0, colon)) {
    case 'exec':
      return { transport: 'exec', args: ['/bin/sh', '-c', rest] };
    case 'unix':
      return { transport: 'socket', type: 'unix', path: rest };
    case 'fd':
      return { transport: 'socket', type: 'fd', str: rest };
    case 'tcp':
      return { transport: 'socket', ...parseTcp(rest) };
    case 'file':
      return parseFile(rest);
    default:
      throw new QmpError(`unknown migration protocol: ${uri}`);
  }
}

function parseTcp(text: string): { type: 'inet'; host: string; port: string } {
  const found = /^(?:\[([^\]]*)\]|([^:]*)):([^,]+)(,.*)?$/.exec(text);
  if (found === null) throw new QmpError(`error parsing address '${text}'`);
  if (found[4] !== undefined) throw new QmpError(`Options of '${text}' are not supported`);
  return { type: 'inet', host: found[1] ?? found[2] ?? '', port: found[3] ?? '' };
}

function parseFile(text: string): Address {
  const found = /^(.*),offset=([^,]*)$/s.exec(text);
  const offset = found === null ? 0 : Number(found[2]);
  if (!Number.isSafeInteger(offset) || offset < 0 || found?.[2] === '') {
    throw new QmpError(`file URI has bad offset ${found?.[2] ?? ''}`);
  }
  return { transport: 'file', filename: found?.[1] ?? text, offset };
}

function socketAddressOf(place: Extract<Address, { transport: 'socket' }>): SocketAddress {
  const { transport: _transport, ...address } = place;
  return toAddress(address);
}

async function socketsOf(graph: BlockGraph): Promise<HostSockets> {
  const sockets = await graph.host.loadSockets?.();
  if (sockets === undefined) throw new BlockError('ENOTSUP', 'There are no sockets here');
  return sockets;
}

function start({ exec }: HostSockets, args: readonly string[]): Channel {
  if (exec === undefined) throw new BlockError('ENOTSUP', 'There are no programs here');
  return new StreamChannel(exec(args), false);
}

async function openFile(
  graph: BlockGraph,
  { filename, offset }: { readonly filename: string; readonly offset: number },
  writable: boolean,
): Promise<Channel> {
  try {
    const file = await graph.files.open(filename, {
      writable,
      direct: false,
      engine: 'auto',
      mode: 0o600,
      ...(writable ? { create: offset === 0 ? 'truncate' : 'keep' } : {}),
    });
    return new FileChannel(file, offset);
  } catch (e) {
    throw prepend(`Failed to open '${filename}': `, e);
  }
}

/** Opens the way out. Throws HostError or BlockError. */
export async function openOutgoing(graph: BlockGraph, place: Address): Promise<Channel> {
  switch (place.transport) {
    case 'file':
      return openFile(graph, place, true);
    case 'exec':
      return start(await socketsOf(graph), place.args);
    case 'socket': {
      const address = socketAddressOf(place);
      const stream = await (await socketsOf(graph)).connect(address);
      return new StreamChannel(stream, address.type !== 'fd');
    }
  }
}

/** Waits for one machine to come: `arrive` is called once. Resolves to what ends the waiting. */
export async function openIncoming(
  graph: BlockGraph,
  place: Address,
  arrive: (channel: Channel) => void,
): Promise<() => Promise<void>> {
  const nothing = (): Promise<void> => Promise.resolve();
  if (place.transport === 'file') arrive(await openFile(graph, place, false));
  else if (place.transport === 'exec') arrive(start(await socketsOf(graph), place.args));
  else {
    const address = socketAddressOf(place);
    const sockets = await socketsOf(graph);
    if (address.type === 'fd') {
      arrive(new StreamChannel(await sockets.connect(address), false));
      return nothing;
    }
    let listener: Listener | undefined;
    listener = await sockets.listen(
      address,
      (stream) => {
        const first = listener;
        if (first === undefined) {
          stream.destroy();
          return;
        }
        listener = undefined;
        void first.close();
        arrive(new StreamChannel(stream, true));
      },
      { mode: 0o600 },
    );
    return async () => {
      const open = listener;
      listener = undefined;
      await open?.close();
    };
  }
  return nothing;
}
