/** Serving: from the command line to an image behind a listening server, until its end. */
import { writeFileSync } from 'node:fs';
import type { Backend } from '../../block/backend.js';
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError, errorText, prepend } from '../../block/errors.js';
import type { BlockGraph } from '../../block/graph.js';
import type { BlockNode } from '../../block/node.js';
import { below } from '../../block/status.js';
import { NbdExport } from '../../export/nbd/export.js';
import { NbdServer } from '../../export/nbd/server.js';
import { toHostError } from '../../host/node/errors.js';
import { nodeHost } from '../../host/node/index.js';
import type { HostSockets, SocketAddress } from '../../host/socket.js';
import { imageSpec, toolGraph } from '../images.js';
import { watchInterrupts } from '../interrupt.js';
import type { ImageHow } from '../io/image.js';
import { openUnnamed } from '../io/image.js';
import { loadSnapshot, parseSnapshotName } from '../img/snapshot-name.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';
import type { NbdArguments } from './arguments.js';
import { defaultCache } from './arguments.js';

/** Objects of the command line, in order. */
export async function makeObjects(asked: NbdArguments): Promise<ToolObjects> {
  const objects = new ToolObjects({ iothreads: true });
  for (const text of asked.objects) await objects.add(text);
  return objects;
}

export async function loadSockets(): Promise<HostSockets> {
  const sockets = await nodeHost().loadSockets?.();
  if (sockets === undefined) throw new Failure('There are no sockets here');
  return sockets;
}

/** Where `-k`, `-b` and `-p` say. */
export function addressOf(asked: NbdArguments): SocketAddress {
  if (asked.socket !== undefined) return { type: 'unix', path: asked.socket };
  return { type: 'inet', host: asked.bind ?? '0.0.0.0', port: asked.port ?? '10809' };
}

/** What is told about a server that is ready. */
export type Ready = (address: SocketAddress) => Promise<void>;

/** Serves until a signal or until the last client has left; the exit status. */
export async function serve(
  program: Program,
  asked: NbdArguments,
  listenFds: readonly number[],
  ready: Ready,
): Promise<number> {
  const objects = await makeObjects(asked);
  const interrupts = watchInterrupts();
  const graph = toolGraph(program, objects);
  let ended: () => void = () => undefined;
  const end = new Promise<void>((resolve) => {
    ended = resolve;
    interrupts.signal.addEventListener('abort', () => {
      resolve();
    });
  });
  const server = await makeServer(program, asked, objects, ended);
  try {
    const addresses = await listen(server, asked, listenFds);
    const backend = await openExported(program, graph, asked);
    try {
      server.add(makeExport(asked, backend));
      server.start();
      if (asked.pidFile !== undefined) writePid(asked.pidFile);
      await ready(addresses[0] ?? addressOf(asked));
      await end;
      await server.close();
    } finally {
      await server.close();
      await backend.close();
    }
  } finally {
    await server.close();
    await graph.close();
    interrupts.dispose();
  }
  return 0;
}

async function makeServer(
  program: Program,
  asked: NbdArguments,
  objects: ToolObjects,
  ended: () => void,
): Promise<NbdServer> {
  const { tlsCreds, tlsAuthz } = asked;
  const tls = tlsCreds === undefined ? undefined : await credentials(objects, tlsCreds, 'server');
  return new NbdServer({
    sockets: await loadSockets(),
    clock: nodeHost().clock,
    maxConnections: asked.shared,
    handshakeMs: asked.handshakeLimit * 1000,
    held: true,
    ...(tls === undefined ? {} : { tls }),
    ...(tlsAuthz === undefined
      ? {}
      : {
          // An id that names no access list lets nobody in, as each connection then finds out.
          authorize: (identity) =>
            identity !== undefined && objects.tryAuthorization(tlsAuthz)?.(identity) === true,
        }),
    ...(asked.verbose
      ? {
          onError: (message) => {
            program.error(message);
          },
        }
      : {}),
    onLeft: (clients) => {
      if (clients === 0 && !asked.persistent) ended();
    },
  });
}

/** TLS credentials of an `--object`, with the tool's words before an error. */
export async function credentials(
  objects: ToolObjects,
  id: string,
  endpoint: 'client' | 'server',
): ReturnType<ToolObjects['tlsCredentials']> {
  try {
    return await objects.tlsCredentials(id, endpoint);
  } catch (e) {
    throw prepend('Failed to get TLS creds: ', e);
  }
}

async function listen(
  server: NbdServer,
  asked: NbdArguments,
  fds: readonly number[],
): Promise<SocketAddress[]> {
  if (fds.length === 0) return [await server.listen(addressOf(asked))];
  const out: SocketAddress[] = [];
  for (const fd of fds) out.push(await server.listen({ type: 'fd', fd }));
  return out;
}

function makeExport(asked: NbdArguments, backend: Backend): NbdExport {
  const writable = !isReadOnly(asked);
  return new NbdExport({
    name: asked.exportName ?? '',
    description: asked.description,
    backend,
    writable,
    multiConn: asked.shared !== 1,
    allocationDepth: asked.allocationDepth,
    bitmaps: [...new Set(asked.bitmaps)].map((name) => findBitmap(backend.node, name)),
  });
}

/** A bitmap of the image or of one below it. */
function findBitmap(top: BlockNode, name: string): DirtyBitmap {
  for (let node: BlockNode | undefined = top; node !== undefined; node = below(node)) {
    const found = node.dirtyBitmaps.get(name);
    if (found === undefined) continue;
    if (found.inconsistent) {
      throw new BlockError('EINVAL', `Bitmap '${name}' is inconsistent and cannot be used`);
    }
    return found;
  }
  throw new BlockError('ENOENT', `Bitmap '${name}' is not found`);
}

function isReadOnly(asked: NbdArguments): boolean {
  return asked.readOnly || asked.loadSnapshot !== undefined;
}

/** The image with what the options put on top of it: overlay, snapshot, offset. */
async function openExported(
  program: Program,
  graph: BlockGraph,
  asked: NbdArguments,
): Promise<Backend> {
  const image = await openImage(program, graph, asked);
  try {
    if (asked.loadSnapshot !== undefined) {
      await loadSnapshot(image, parseSnapshotName(program, asked.loadSnapshot));
    }
    return asked.offset === 0 ? image : await openWindow(graph, asked, image);
  } catch (e) {
    await image.close();
    throw e;
  }
}

/** The image from an offset on, in place of `image`. */
async function openWindow(
  graph: BlockGraph,
  asked: NbdArguments,
  image: Backend,
): Promise<Backend> {
  // Held by name while it has no backend: two of them would ask for the same permissions.
  const node = await graph.open({ reference: image.node.name });
  try {
    const { writeCache } = image;
    await image.close();
    const window = await graph.openBackend({
      options: { driver: 'raw', offset: asked.offset, file: node.name },
      flags: { ...node.flags, writable: !isReadOnly(asked) },
    });
    window.writeCache = writeCache;
    return window;
  } finally {
    await graph.release(node);
  }
}

async function openImage(
  program: Program,
  graph: BlockGraph,
  asked: NbdArguments,
): Promise<Backend> {
  const image = { name: asked.file, imageOpts: asked.imageOpts, format: asked.format };
  const { filename, options } = imageSpec(program, image, false);
  const zeroes = asked.detectZeroes;
  const how: ImageHow = {
    filename,
    options: { ...options, ...(zeroes === undefined ? {} : { 'detect-zeroes': zeroes }) },
    readOnly: isReadOnly(asked),
    snapshot: asked.snapshot,
    copyOnRead: false,
    forceShare: false,
    unmap: asked.unmap ?? false,
    cache: asked.cache ?? defaultCache,
    aio: asked.aio,
  };
  try {
    return await openUnnamed(graph, how);
  } catch (e) {
    throw prepend(`Failed to blk_new_open '${asked.file}': `, e);
  }
}

/** The file names the process that serves; it stays when that ends, as QEMU's does. */
function writePid(path: string): void {
  try {
    writeFileSync(path, `${String(process.pid)}\n`);
  } catch (e) {
    const cause = toHostError(e);
    throw new Failure(`Could not create '${path}': ${errorText(cause)}`);
  }
}
