/** A disk with a parent, to read: blocks and sectors that it does not hold are the parent's. */
import type { Child } from '../../block/child.js';
import type { DriverInstance, ImageInfo, ReopenStep } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import { begun, settleAll } from '../../lib/settle-all.js';
import { DynamicInstance } from './dynamic.js';
import { guidText } from './guid.js';
import { BlockState } from './layout.js';
import type { Metadata } from './metadata.js';
import type { Bat } from './table.js';

interface Init {
  readonly file: Child;
  readonly node: BlockNode;
  readonly bat: Bat;
  readonly metadata: Metadata;
  readonly dataWriteGuid: Uint8Array;
}

/** Longest piece of a bitmap that is read at once, in sectors of the disk. */
const MAX_SECTORS = 64 * 1024;

/** A range with one answer. */
interface Run {
  readonly bytes: number;
  readonly kind: 'here' | 'zero' | 'parent';
  /** Where it is in the file, when it is here. */
  readonly host: number;
}

export class DifferencingInstance implements DriverInstance {
  readonly dataWriteGuid: Uint8Array;
  readonly #file: Child;
  readonly #node: BlockNode;
  readonly #bat: Bat;
  readonly #sectorBytes: number;
  /** GUIDs that the parent may have, as texts. */
  readonly #links: readonly string[];

  constructor({ file, node, bat, metadata, dataWriteGuid }: Init) {
    this.#file = file;
    this.#node = node;
    this.#bat = bat;
    this.#sectorBytes = metadata.sectorBytes;
    this.dataWriteGuid = dataWriteGuid;
    this.#links = ['parent_linkage', 'parent_linkage2']
      .map((key) => (metadata.parent.get(key) ?? '').replaceAll(/[{}]/g, '').toUpperCase())
      .filter((link) => link !== '');
  }

  length(): number {
    return this.#bat.size;
  }

  limits(): Partial<BlockLimits> {
    return { requestAlignment: this.#sectorBytes };
  }

  async read(offset: number, iov: Iov): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let at = 0; at < iov.bytes;) {
      const run = await this.#run(offset + at, iov.bytes - at);
      const part = iov.slice(at, run.bytes);
      if (run.kind === 'zero') part.fill(0);
      else if (run.kind === 'here') parts.push(begun(this.#file.read(run.host, part)));
      else parts.push(begun(this.#readParent(offset + at, part)));
      at += run.bytes;
    }
    await settleAll(parts);
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    const { bytes: n, kind, host } = await this.#run(offset, bytes);
    if (kind === 'parent') return { bytes: n, data: false, zero: false, allocated: false };
    if (kind === 'zero') return { bytes: n, data: false, zero: true, allocated: true };
    const { node: file } = this.#file;
    return { bytes: n, data: true, zero: false, allocated: true, offset: host, file };
  }

  info(): ImageInfo {
    return { clusterSize: this.#bat.blockSize };
  }

  hasZeroInit(): boolean {
    return false;
  }

  async reopenPrepare({ flags }: { flags: { writable: boolean } }): Promise<ReopenStep> {
    if (flags.writable) {
      throw new BlockError('ENOTSUP', 'Differencing VHDX images can only be opened read-only');
    }
    return { commit: () => undefined, abort: () => undefined };
  }

  async close(): Promise<void> {
    // Nothing is held.
  }

  /** The range that begins at `offset` and has one answer. */
  async #run(offset: number, bytes: number): Promise<Run> {
    const bat = this.#bat;
    const block = bat.indexOf(offset);
    const state = bat.stateOf(block);
    const inside = offset % bat.blockSize;
    const host = bat.offsetOf(block) + inside;
    const left = Math.min(bytes, bat.blockSize - inside);
    if (state === BlockState.fullyPresent) return { bytes: left, kind: 'here', host };
    if (state === BlockState.partiallyPresent) return this.#partialRun(block, inside, left);
    const kind = state === BlockState.notPresent ? 'parent' : 'zero';
    return { bytes: bat.runOf(offset, bytes), kind, host };
  }

  /** By the sector bitmap, whose least significant bits come first. */
  async #partialRun(block: number, inside: number, left: number): Promise<Run> {
    const bat = this.#bat;
    const bitmap = bat.bitmapOf(block);
    if (bitmap === undefined) {
      throw new BlockError('EIO', `Block ${block} of the VHDX image needs a sector bitmap`);
    }
    const sector = this.#sectorBytes;
    const first = ((block % bat.chunk) * bat.blockSize + inside) / sector;
    const count = Math.min(Math.ceil(left / sector), MAX_SECTORS);
    const from = Math.floor(first / 8);
    const bits = new Uint8Array(Math.floor((first + count - 1) / 8) + 1 - from);
    await this.#file.read(bitmap + from, Iov.of(bits));
    const isHere = (s: number): boolean =>
      ((bits[Math.floor(s / 8) - from] ?? 0) & (1 << (s % 8))) !== 0;
    const here = isHere(first);
    let n = 1;
    while (n < count && isHere(first + n) === here) n++;
    const host = bat.offsetOf(block) + inside;
    return { bytes: Math.min(n * sector, left), kind: here ? 'here' : 'parent', host };
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

  /** A parent of this format has to be as it was when the child was made. */
  #parentFault(parent: BlockNode): BlockError | undefined {
    const { instance } = parent;
    const isOwn = instance instanceof DynamicInstance || instance instanceof DifferencingInstance;
    if (!isOwn) return undefined;
    const guid = guidText(instance.dataWriteGuid);
    if (this.#links.includes(guid)) return undefined;
    return new BlockError(
      'EIO',
      `Cannot read the parent '${parent.filename}': its data GUID is ${guid}, expected ` +
        this.#links.join(' or '),
    );
  }
}
