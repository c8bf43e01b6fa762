/** A differencing disk: sectors whose bit is set in the bitmap of their block, else the parent. */
import type { Child } from '../../block/child.js';
import type { DriverInstance, ImageInfo, NodeOptions, ReopenStep } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import { begun, settleAll } from '../../lib/settle-all.js';
import { DynamicInstance } from './dynamic.js';
import { FixedInstance } from './fixed.js';
import type { Footer } from './layout.js';
import { SECTOR } from './layout.js';
import { strongOptions } from './strong-options.js';
import type { BlockTable } from './table.js';

interface Init {
  readonly file: Child;
  readonly node: BlockNode;
  readonly blocks: BlockTable;
  readonly footer: Footer;
  /** Unique id of the disk that this one was made over. */
  readonly parentId: Uint8Array;
}

/** Longest piece of a bitmap that is read at once, in sectors of the disk. */
const MAX_SECTORS = 64 * 1024;

export class DifferencingInstance implements DriverInstance {
  readonly #file: Child;
  readonly #node: BlockNode;
  readonly #blocks: BlockTable;
  readonly #parentId: Uint8Array;
  readonly #options: NodeOptions;
  readonly uniqueId: Uint8Array;

  constructor({ file, node, blocks, footer, parentId }: Init, options: NodeOptions) {
    this.#file = file;
    this.#node = node;
    this.#blocks = blocks;
    this.#parentId = parentId;
    this.#options = options;
    this.uniqueId = footer.unique_id;
  }

  length(): number {
    return this.#blocks.shape.size;
  }

  limits(): Partial<BlockLimits> {
    return { requestAlignment: SECTOR };
  }

  async read(offset: number, iov: Iov): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let at = 0; at < iov.bytes;) {
      const run = await this.#run(offset + at, iov.bytes - at);
      const part = iov.slice(at, run.bytes);
      if (run.host === undefined) parts.push(begun(this.#readParent(offset + at, part)));
      else parts.push(begun(this.#file.read(run.host, part)));
      at += run.bytes;
    }
    await settleAll(parts);
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    const run = await this.#run(offset, bytes);
    if (run.host === undefined) {
      return { bytes: run.bytes, data: false, zero: false, allocated: false };
    }
    const { node: file } = this.#file;
    return { bytes: run.bytes, data: true, zero: false, allocated: true, offset: run.host, file };
  }

  info(): ImageInfo {
    return { clusterSize: this.#blocks.shape.blockSize };
  }

  hasZeroInit(): boolean {
    return false;
  }

  async reopenPrepare({ flags }: { flags: { writable: boolean } }): Promise<ReopenStep> {
    if (flags.writable) {
      throw new BlockError('ENOTSUP', 'Differencing VHD images can only be opened read-only');
    }
    return { commit: () => undefined, abort: () => undefined };
  }

  strongOptions(): NodeOptions {
    return strongOptions(this.#options);
  }

  async close(): Promise<void> {
    // Nothing is held.
  }

  /** Bytes from `offset` on with one answer: where in the file, or (undefined) in the parent. */
  async #run(offset: number, bytes: number): Promise<{ bytes: number; host?: number }> {
    const blocks = this.#blocks;
    const { blockSize } = blocks.shape;
    const index = blocks.indexOf(offset);
    if (!blocks.isStored(index)) return { bytes: blocks.unstoredRun(offset, bytes) };
    const inside = offset % blockSize;
    const first = inside / SECTOR;
    const count = Math.min(Math.ceil(Math.min(bytes, blockSize - inside) / SECTOR), MAX_SECTORS);
    const from = first >> 3;
    const bits = new Uint8Array(((first + count - 1) >> 3) + 1 - from);
    const data = blocks.dataOffset(index);
    await this.#file.read(data - blocks.bitmapBytes + from, Iov.of(bits));
    // The most significant bit comes first.
    const isHere = (s: number): boolean => ((bits[(s >> 3) - from] ?? 0) & (0x80 >> (s & 7))) !== 0;
    const here = isHere(first);
    let n = 1;
    while (n < count && isHere(first + n) === here) n++;
    const length = Math.min(n * SECTOR, bytes);
    return here ? { bytes: length, host: data + inside } : { bytes: length };
  }

  #readParent(offset: number, iov: Iov): Promise<void> {
    const { backing } = this.#node;
    if (backing === undefined) {
      iov.fill(0);
      return Promise.resolve();
    }
    const wrong = this.#parentFault(backing.node);
    return wrong === undefined ? backing.read(offset, iov) : Promise.reject(wrong);
  }

  /** A parent of this format has to be the disk that the child was made over. */
  #parentFault(parent: BlockNode): BlockError | undefined {
    const { instance } = parent;
    const isOwn =
      instance instanceof DynamicInstance ||
      instance instanceof FixedInstance ||
      instance instanceof DifferencingInstance;
    if (!isOwn || same(instance.uniqueId, this.#parentId)) return undefined;
    return new BlockError(
      'EIO',
      `Cannot read the parent '${parent.filename}': its unique ID is ${hex(instance.uniqueId)}, ` +
        `expected ${hex(this.#parentId)}`,
    );
  }
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
