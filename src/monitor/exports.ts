/**
 * Exports of the monitor: the one NBD server, and what is exported by whatever means.
 *
 * An export holds a backend on its node until it is deleted, and then tells so by
 * BLOCK_EXPORT_DELETED. Stopping the server deletes its exports.
 */
import { activateNode } from '../block/activity.js';
import { Backend } from '../block/backend.js';
import type { DirtyBitmap } from '../block/dirty-bitmap.js';
import { BlockError } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import type { BlockNode } from '../block/node.js';
import { toAddress } from '../block/socket-address.js';
import { below } from '../block/status.js';
import { Perm } from '../block/types.js';
import { NbdExport } from '../export/nbd/export.js';
import { NbdServer } from '../export/nbd/server.js';
import type { Infer } from '../options/schema.js';
import type { Objects } from './objects.js';
import { QmpError } from './qmp-error.js';
import type { blockExportOptions, nbdServerOptions } from './types/export.js';

export type NbdServerOptions = Infer<typeof nbdServerOptions>;
export type BlockExportOptions = Infer<typeof blockExportOptions>;

/** One export. */
export interface BlockExport {
  readonly id: string;
  readonly type: 'nbd';
  /** Name that NBD clients ask for. */
  readonly name: string;
  readonly backend: Backend;
  shuttingDown: boolean;
  /** The export goes when this device loses its medium. */
  readonly device: Backend | undefined;
}

/** What exports need of their surroundings. */
export interface ExportsInit {
  readonly graph: BlockGraph;
  readonly objects: Objects;
  readonly emit: (name: string, data: Readonly<Record<string, unknown>>) => void;
}

const longestName = 4096;

export class BlockExports {
  readonly #graph: BlockGraph;
  readonly #objects: Objects;
  readonly #emit: ExportsInit['emit'];
  readonly #exports = new Map<string, BlockExport>();
  #server: NbdServer | undefined;
  #maxConnections = 0;

  constructor(init: ExportsInit) {
    this.#graph = init.graph;
    this.#objects = init.objects;
    this.#emit = init.emit;
  }

  /** The newest first, as QEMU lists them. */
  list(): BlockExport[] {
    return [...this.#exports.values()].reverse();
  }

  /** Whether an NBD server listens. */
  get hasServer(): boolean {
    return this.#server !== undefined;
  }

  /** Starts the NBD server. Throws QmpError, BlockError or HostError; then there is none. */
  async startServer(options: NbdServerOptions): Promise<void> {
    if (this.#server !== undefined) throw new QmpError('NBD server already running');
    const credentials = options['tls-creds'];
    const authz = options['tls-authz'];
    const tls =
      credentials === undefined
        ? undefined
        : await this.#objects.tlsCredentials(credentials, 'server');
    const sockets = await this.#graph.host.loadSockets?.();
    if (sockets === undefined) throw new BlockError('ENOTSUP', 'There are no sockets here');
    const server = new NbdServer({
      sockets,
      clock: this.#graph.host.clock,
      maxConnections: options['max-connections'],
      handshakeMs: options['handshake-max-seconds'] * 1000,
      ...(tls === undefined ? {} : { tls }),
      ...(authz === undefined
        ? {}
        : {
            authorize: (identity): boolean =>
              identity !== undefined && this.#objects.tryAuthorization(authz)?.(identity) === true,
          }),
    });
    await server.listen(toAddress(options.addr));
    this.#server = server;
    this.#maxConnections = options['max-connections'];
  }

  /** Stops the NBD server; its clients are cut off and its exports deleted. */
  async stopServer(): Promise<void> {
    const server = this.#theServer();
    this.#server = undefined;
    await server.close();
    for (const each of this.list()) await this.#forget(each);
  }

  /**
   * Exports a node, until `device` loses its medium, if one is given. Throws QmpError or
   * BlockError; then nothing is exported.
   */
  async add(options: BlockExportOptions, device?: Backend): Promise<void> {
    if (!/^[A-Za-z][A-Za-z0-9\-._]*$/.test(options.id)) {
      throw new QmpError('Invalid block export id');
    }
    if (this.#exports.has(options.id)) {
      throw new QmpError(`Block export id '${options.id}' is already in use`);
    }
    const node = this.#graph.tryNode(options['node-name']);
    if (node === undefined) {
      throw new QmpError(`Cannot find device='' nor node-name='${options['node-name']}'`);
    }
    const writable = options.writable ?? false;
    if (writable && node.staysReadOnly)
      throw new QmpError('Cannot export read-only node as writable');
    this.#checkThread(options.iothread);
    const backend = new Backend({
      graph: this.#graph,
      name: '',
      perm: Perm.consistentRead | (writable ? Perm.write : 0),
      // Clients are told the size once.
      shared: Perm.all & ~Perm.resize,
    });
    backend.allowsInactive = options['allow-inactive'] ?? false;
    // Disks are brought to a machine that is yet to come through exports.
    const giveUp = backend.allowsInactive ? undefined : await activateNode(node);
    try {
      await backend.attach(node);
      backend.writeCache = options.writethrough !== true;
      const server = this.#theServer();
      const name = options.name ?? options['node-name'];
      server.add(this.#nbdExport(options, name, node, backend, writable));
      const made: BlockExport = {
        id: options.id,
        type: 'nbd',
        name,
        backend,
        shuttingDown: false,
        device,
      };
      this.#exports.set(options.id, made);
    } catch (e) {
      await backend.close();
      await giveUp?.();
      throw e;
    }
  }

  /** Deletes an export; `hard` cuts its clients off, else there may be none. */
  async remove(id: string, hard: boolean): Promise<void> {
    const found = this.#exports.get(id);
    if (found === undefined) throw new QmpError(`Export '${id}' is not found`);
    if (found.shuttingDown) throw new QmpError(`Export '${id}' is already shutting down`);
    const server = this.#theServer();
    if (!hard && server.isUsed(found.name)) throw new QmpError(`export '${id}' still in use`);
    found.shuttingDown = true;
    await server.remove(found.name, true);
    await this.#forget(found);
  }

  /** A device is about to lose its medium: what was exported as its own goes. */
  async ejected(device: Backend): Promise<void> {
    for (const each of this.list()) {
      if (each.device === device) await this.remove(each.id, true);
    }
  }

  /** Ends everything, for the end of the program. */
  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    await server?.close();
    for (const each of this.list()) await this.#forget(each);
  }

  #theServer(): NbdServer {
    if (this.#server === undefined) throw new QmpError('NBD server not running');
    return this.#server;
  }

  async #forget(each: BlockExport): Promise<void> {
    if (!this.#exports.delete(each.id)) return;
    await each.backend.close();
    this.#emit('BLOCK_EXPORT_DELETED', { id: each.id });
  }

  /** Loop threads mean nothing here, but one that is named must be there. */
  #checkThread(id: string | undefined): void {
    if (id === undefined) return;
    const isThere = this.#objects.list().some(([name, kind]) => {
      return name === id && kind === 'iothread';
    });
    if (!isThere) throw new QmpError(`iothread "${id}" not found`);
  }

  #nbdExport(
    options: BlockExportOptions,
    name: string,
    node: BlockNode,
    backend: Backend,
    writable: boolean,
  ): NbdExport {
    const { description } = options;
    if (tooLong(name)) throw new QmpError(`export name '${name}' too long`);
    if (description !== undefined && tooLong(description)) {
      throw new QmpError(`description '${description}' too long`);
    }
    return new NbdExport({
      name,
      description,
      backend,
      writable,
      multiConn: !writable || this.#maxConnections !== 1,
      allocationDepth: options['allocation-depth'],
      bitmaps: (options.bitmaps ?? []).map((each) => {
        if (typeof each === 'string') return findBitmap(node, each, writable);
        const other = this.#graph.tryNode(each.node);
        if (other === undefined) {
          throw new QmpError(`Node '${each.node}' not found`);
        }
        const bitmap = other.dirtyBitmaps.get(each.name);
        if (bitmap === undefined) throw new QmpError(`Dirty bitmap '${each.name}' not found`);
        return usable(bitmap);
      }),
    });
  }
}

function tooLong(text: string): boolean {
  return new TextEncoder().encode(text).byteLength > longestName;
}

/** A bitmap of the node or of one below it. Throws QmpError. */
function findBitmap(top: BlockNode, name: string, writable: boolean): DirtyBitmap {
  for (let node: BlockNode | undefined = top; node !== undefined; node = below(node)) {
    const found = node.dirtyBitmaps.get(name);
    if (found === undefined) continue;
    const bitmap = usable(found);
    if (!writable && !node.readOnly && bitmap.enabled) {
      throw new QmpError(`Enabled bitmap '${name}' incompatible with readonly export`);
    }
    return bitmap;
  }
  throw new QmpError(`Bitmap '${name}' is not found`);
}

function usable(bitmap: DirtyBitmap): DirtyBitmap {
  const { name } = bitmap;
  if (bitmap.busy) {
    const what = 'is currently in use by another operation and cannot be used';
    throw new QmpError(`Bitmap '${name}' ${what}`);
  }
  if (bitmap.inconsistent) {
    throw new QmpError(`Bitmap '${name}' is inconsistent and cannot be used`);
  }
  return bitmap;
}
