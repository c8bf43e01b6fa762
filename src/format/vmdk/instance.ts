/** The driver instance: requests go to the extents, the descriptor's CID changes with the first. */
import type { Child } from '../../block/child.js';
import type {
  CheckOptions,
  CheckResult,
  DriverInstance,
  ImageInfo,
  ReopenRequest,
  ReopenStep,
} from '../../block/driver.js';
import { BlockError, messageOf } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Req } from '../../block/types.js';
import type { FileRun } from '../../host/file.js';
import { Iov } from '../../lib/iov.js';
import { settleAll } from '../../lib/settle-all.js';
import type { Extent } from './extent.js';
import { setIdentity } from './parent.js';
import { SparseExtent } from './sparse.js';

/** What the descriptor says of the disk as a whole. */
export interface Identity {
  cid: number;
  readonly parentCid: number;
  readonly createType: string;
  /** Where the CID's digits stand in the file; absent: there is no descriptor. */
  readonly place?: { readonly offset: number; readonly digits: number };
}

type Part = (extent: Extent, inside: number, at: number, bytes: number) => Promise<void>;

export class VmdkInstance implements DriverInstance {
  readonly writeFlags = 0;
  readonly zeroFlags = Req.mayUnmap | Req.noFallback;
  readonly extents: readonly Extent[];
  readonly #node: BlockNode;
  readonly #file: Child;
  readonly #identity: Identity;
  readonly #length: number;
  /** The new CID is in the file, or on its way. */
  #newCid: Promise<void> | undefined;
  #isNew = false;

  constructor(node: BlockNode, file: Child, extents: readonly Extent[], identity: Identity) {
    this.#node = node;
    this.#file = file;
    this.extents = extents;
    this.#identity = identity;
    const last = extents[extents.length - 1];
    this.#length = last === undefined ? 0 : last.start + last.bytes;
    setIdentity(node, identity);
  }

  length(): number {
    return this.#length;
  }

  limits(): Partial<BlockLimits> {
    return { writeZeroesAlignment: this.#grainBytes() };
  }

  get #isStream(): boolean {
    const first = this.extents[0];
    return first instanceof SparseExtent && first.geometry.isCompressed;
  }

  /** Of the first extent; 0: it has no grains. */
  #grainBytes(): number {
    const first = this.extents[0];
    return first instanceof SparseExtent ? first.geometry.grainBytes : 0;
  }

  /** The extent that holds `offset`. */
  #find(offset: number): Extent {
    const { extents } = this;
    let low = 0;
    let high = extents.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (extents[middle]!.start <= offset) low = middle;
      else high = middle - 1;
    }
    const found = extents[low];
    if (found === undefined) throw new BlockError('EIO');
    return found;
  }

  /** Runs `part` for what each extent has of a range. */
  async #each(offset: number, bytes: number, part: Part): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let at = 0; at < bytes;) {
      const extent = this.#find(offset + at);
      const inside = offset + at - extent.start;
      const n = Math.min(bytes - at, extent.bytes - inside);
      parts.push(part(extent, inside, at, n));
      at += n;
    }
    await settleAll(parts);
  }

  // hot: bench/formats
  read(offset: number, iov: Iov): Promise<void> {
    const extent = this.#find(offset);
    const inside = offset - extent.start;
    if (inside + iov.bytes <= extent.bytes) return extent.read(inside, iov);
    return this.#each(offset, iov.bytes, (e, from, at, n) => e.read(from, iov.slice(at, n)));
  }

  /** Only of disks that nobody writes to. */
  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    if (!this.#node.readOnly) return undefined;
    const extent = this.#find(offset);
    const inside = offset - extent.start;
    if (inside + bytes > extent.bytes) return undefined;
    const place = extent.tryPlace(inside, bytes);
    return place?.file.node.tryFileRun(place.host, bytes);
  }

  // hot: bench/formats
  write(offset: number, iov: Iov): Promise<void> {
    if (!this.#isNew) return this.#renew().then(() => this.write(offset, iov));
    const extent = this.#find(offset);
    const inside = offset - extent.start;
    if (inside + iov.bytes <= extent.bytes) return extent.write(inside, iov);
    return this.#each(offset, iov.bytes, (e, from, at, n) => e.write(from, iov.slice(at, n)));
  }

  /** Streams are compressed whatever is asked for; everything else never is (as in QEMU). */
  async writeCompressed(offset: number, iov: Iov): Promise<void> {
    if (iov.bytes === 0) return;
    const [first] = this.extents;
    if (!this.#isStream || this.extents.length > 1 || first?.writePacked === undefined) {
      await this.write(offset, iov);
      return;
    }
    await this.#renew();
    await first.writePacked(offset, iov, true);
  }

  async writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    await this.#renew();
    await this.#each(offset, bytes, (e, from, _at, n) => e.writeZeroes(from, n, flags));
  }

  async discard(offset: number, bytes: number): Promise<void> {
    await this.#renew();
    await this.#each(offset, bytes, (e, from, _at, n) => e.discard(from, n));
  }

  /** Before the first write: the disk gets a new CID, which tells its children (M3). */
  #renew(): Promise<void> {
    this.#newCid ??= this.#writeCid().then(
      () => {
        this.#isNew = true;
      },
      (e: unknown) => {
        this.#newCid = undefined;
        throw e;
      },
    );
    return this.#newCid;
  }

  async #writeCid(): Promise<void> {
    const { place } = this.#identity;
    if (place === undefined) return;
    const random = new DataView(new ArrayBuffer(4));
    this.#node.graph.host.random.fill(new Uint8Array(random.buffer));
    // As many digits as there were, so that nothing moves; the first is not zero.
    const least = 16 ** (place.digits - 1);
    const range = 16 ** place.digits - least;
    let cid = least + (random.getUint32(0) % range);
    if (cid === 0xffff_ffff || cid === this.#identity.cid) cid = cid === least ? cid + 1 : least;
    const digits = cid.toString(16).padStart(place.digits, '0');
    await this.#file.write(place.offset, Iov.of(new TextEncoder().encode(digits)));
    this.#identity.cid = cid;
  }

  async flushToOs(): Promise<void> {
    for (const extent of this.extents) await extent.store();
  }

  blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    const extent = this.#find(offset);
    const inside = offset - extent.start;
    return extent.status(inside, Math.min(bytes, extent.bytes - inside));
  }

  hasZeroInit(): boolean {
    return this.#node.backing === undefined;
  }

  info(): ImageInfo {
    const { cid, parentCid, createType } = this.#identity;
    const clusterSize = this.#grainBytes();
    return {
      ...(clusterSize === 0 ? {} : { clusterSize }),
      isDirty: false,
      needsCompressedWrites: this.#isStream,
      formatSpecific: {
        type: 'vmdk',
        data: {
          'create-type': createType,
          cid,
          'parent-cid': parentCid,
          extents: this.extents.map(({ info }) => ({ ...info })),
        },
      },
    };
  }

  async check(options: CheckOptions): Promise<CheckResult> {
    const { checkExtents } = await import('./check.js');
    return checkExtents(this.extents, options);
  }

  async drainBegin(): Promise<void> {
    for (const extent of this.extents) await extent.settledGrowth();
  }

  debugEvent(event: string): Promise<void> | undefined {
    return this.#file.debugEvent(event);
  }

  /** There are no options; what is in memory is stored before writing ends. */
  async reopenPrepare({ flags }: ReopenRequest): Promise<ReopenStep> {
    const { readOnly } = this.#node;
    if (flags.writable) this.#checkWritable();
    else if (!readOnly) {
      await this.flushToOs();
      for (const child of this.#node.children.values()) {
        if (child.name !== 'backing') await child.flush();
      }
    }
    return {
      commit: () => {
        // Whoever writes next gets another CID.
        if (readOnly) {
          this.#isNew = false;
          this.#newCid = undefined;
        }
      },
      abort: () => undefined,
    };
  }

  #checkWritable(): void {
    for (const extent of this.extents) {
      if (!(extent instanceof SparseExtent)) continue;
      const { kind, version, isCompressed } = extent.geometry;
      if (kind === 'sesparse') {
        throw new BlockError('EACCES', 'seSparse extents can only be read');
      }
      if (version === 3 && !isCompressed) {
        throw new BlockError('EINVAL', 'VMDK version 3 must be read only');
      }
    }
  }

  async close(): Promise<void> {
    for (const extent of this.extents) {
      try {
        await extent.close();
      } catch (e) {
        this.#node.graph.warn(`Failed to store the grain tables: ${messageOf(e)}`);
      }
    }
  }
}
