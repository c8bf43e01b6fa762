/** Guest data to store: in memory, or standing in a file of the host. */
import type { FileRun } from '../host/file.js';
import { Iov } from '../lib/iov.js';
import type { Child } from './child.js';
import { BlockError } from './errors.js';

export type Data = Iov | FileRun;

/** The part [at, at + bytes). */
export function sliceRun({ file, offset }: FileRun, at: number, bytes: number): FileRun {
  return { file, offset: offset + at, bytes };
}

/**
 * Writes at `host` of a child's file. With a `zeroBlock` the range reads as zeroes there, and
 * blocks of so many bytes that hold nothing else may be left out. ENOTSUP when data that stands in
 * a file has to be read first after all.
 */
export function storeData(
  child: Child,
  host: number,
  data: Data,
  zeroBlock?: number,
): Promise<void> {
  if (data instanceof Iov) return child.write(host, data);
  const request = child.node.tryWriteFrom(host, data, zeroBlock);
  return request ?? Promise.reject(new BlockError('ENOTSUP'));
}
