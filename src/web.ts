/**
 * vdisk in web pages and workers: the same graph and formats, over blobs and memory.
 *
 * ```ts
 * import { createGraph, Iov } from 'vdisk/web';
 *
 * const graph = createGraph(new Map([['disk.qcow2', file]])); // a File from an <input>
 * const disk = await graph.openBackend({ filename: 'disk.qcow2' });
 * const sector = new Uint8Array(512);
 * await disk.read(0, Iov.of(sector));
 * ```
 *
 * Blobs are read-only; drivers that need files to write, sockets or ciphers say so by name.
 *
 * @packageDocumentation
 */
import type { GraphInit } from './block/graph.js';
import { BlockGraph } from './block/graph.js';
import { drivers } from './catalog/drivers.js';
import { webHost } from './host/web/index.js';

/** A block graph over `files`, named as images refer to them. */
export function createGraph(
  files: ReadonlyMap<string, Blob> = new Map(),
  options: Partial<GraphInit> = {},
): BlockGraph {
  return new BlockGraph({ host: webHost(files), drivers, ...options });
}

export { Backend } from './block/backend.js';
export { BlockError } from './block/errors.js';
export { BlockGraph } from './block/graph.js';
export type { GraphInit, OpenSpec } from './block/graph.js';
export { BlockNode } from './block/node.js';
export { chainStatus, nodeStatus } from './block/status.js';
export type { BlockStatus, ChainStatus } from './block/types.js';
export { drivers } from './catalog/drivers.js';
export { webHost } from './host/web/index.js';
export { Iov } from './lib/iov.js';
