/** An open QED image: its state. Write order and invariants: driver.ts. */
import type { Child } from '../../block/child.js';
import { ClusterDisk } from '../../block/cluster-disk.js';
import { Place } from '../../block/cluster-map.js';
import type { CheckOptions, CheckResult } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { FileGrowth } from '../../block/file-growth.js';
import type { BlockNode } from '../../block/node.js';
import type { TreeShape } from '../../block/table-tree.js';
import { readFirstTable, TableTree } from '../../block/table-tree.js';
import { readU64, writeU64 } from '../../lib/fields.js';
import { Iov } from '../../lib/iov.js';
import { encodeHeader, l1Entries, maxImageSize, tableEntries } from './header.js';
import type { QedHeaderFields } from './layout.js';
import { Entry, Feature, HEADER_BYTES, Limit, SECTOR } from './layout.js';

export class QedImage {
  readonly node: BlockNode;
  readonly file: Child;
  readonly fields: QedHeaderFields;
  readonly map: TableTree;
  readonly disk: ClusterDisk;
  readonly #growth: FileGrowth;
  /** The image has to be repaired before clusters are given out. */
  #needsRepair: boolean;
  /** Whoever changes the map first prepares it (Q3). */
  #preparing: Promise<void> | undefined;
  #isPrepared = false;

  constructor(
    node: BlockNode,
    file: Child,
    fields: QedHeaderFields,
    growth: FileGrowth,
    l1: Uint8Array,
  ) {
    this.node = node;
    this.file = file;
    this.fields = fields;
    this.#growth = growth;
    this.map = new TableTree(file, growth, shapeOf(fields, growth), l1);
    this.map.onPrepare = () => this.#prepare();
    const dataStart = fields.header_size * fields.cluster_size;
    this.disk = new ClusterDisk({ node, file, map: this.map, growth, dataStart, hasZero: true });
    this.#needsRepair = this.has(Feature.needCheck);
  }

  /** The flag was set by this writer and stands in the header. */
  get isPrepared(): boolean {
    return this.#isPrepared && this.has(Feature.needCheck);
  }

  has(feature: bigint): boolean {
    return (this.fields.features & feature) !== 0n;
  }

  #prepare(): Promise<void> | undefined {
    if (this.#isPrepared) return undefined;
    this.#preparing ??= (async () => {
      if (this.#needsRepair) await this.repair();
      // Over a backing file no cluster is named before it is durable, with QEMU as well.
      if (!this.has(Feature.backingFile)) {
        this.fields.features |= Feature.needCheck;
        await this.writeHeader();
      }
      this.#isPrepared = true;
    })().finally(() => {
      this.#preparing = undefined;
    });
    return this.#preparing;
  }

  writeHeader(): Promise<void> {
    return this.file.write(0, Iov.of(encodeHeader(this.fields)));
  }

  /** Checks the image, mends what can be mended, and takes the flag away where that was all. */
  async check(options: Pick<CheckOptions, 'fixErrors' | 'fixLeaks'>): Promise<CheckResult> {
    const { checkImage } = await import('./check.js');
    await this.store();
    const fixes = options.fixErrors || options.fixLeaks;
    const result = await checkImage(this.file, this.fields, options);
    if (!fixes) return result;
    const { l1_table_offset: l1 } = this.fields;
    this.map.forget(await readFirstTable(this.file, l1, l1Entries(this.fields)));
    if (result.corruptions === 0 && result.checkErrors === 0) {
      this.#needsRepair = false;
      await this.#clean();
    }
    return result;
  }

  /** Throws EIO where damage stays. */
  async repair(): Promise<void> {
    const { corruptions, checkErrors } = await this.check({ fixErrors: true, fixLeaks: true });
    if (corruptions === 0 && checkErrors === 0) return;
    throw new BlockError('EIO', 'The image was not closed and cannot be repaired; run check');
  }

  /** What the header promises holds: all is stored, and nothing is under way. */
  async #clean(): Promise<void> {
    if (!this.has(Feature.needCheck)) return;
    await this.file.flush();
    // Whatever becomes of this write, the next cluster is not given a place without the flag.
    this.#isPrepared = false;
    this.fields.features &= ~Feature.needCheck;
    try {
      await this.writeHeader();
    } catch (e) {
      this.fields.features |= Feature.needCheck;
      throw e;
    }
  }

  store(): Promise<void> {
    return this.map.store();
  }

  /** Grows the disk. Throws ENOTSUP and EINVAL with QEMU's texts. */
  async truncate(bytes: number): Promise<void> {
    const { cluster_size, table_size, image_size } = this.fields;
    if (bytes % SECTOR !== 0 || bytes > maxImageSize(cluster_size, table_size)) {
      throw new BlockError('EINVAL', 'Invalid image size specified');
    }
    if (bytes < image_size) {
      throw new BlockError('ENOTSUP', 'Shrinking images is currently not supported');
    }
    this.fields.image_size = bytes;
    try {
      await this.writeHeader();
    } catch (e) {
      this.fields.image_size = image_size;
      throw e;
    }
  }

  /** Names another backing file, or none. Throws ENOTSUP, ENOSPC, EINVAL. */
  async changeBackingFile(name: string | null, format: string | null): Promise<void> {
    const { fields } = this;
    // What an unknown feature keeps behind the header is not known.
    if (fields.compat_features !== 0n) throw new BlockError('ENOTSUP');
    const bytes = new TextEncoder().encode(name ?? '');
    if (bytes.length > Limit.maxBackingName) throw new BlockError('EINVAL');
    if (HEADER_BYTES + bytes.length > fields.header_size * fields.cluster_size) {
      throw new BlockError('ENOSPC');
    }
    fields.features &= ~(Feature.backingFile | Feature.backingFormatNoProbe);
    if (name !== null) fields.features |= Feature.backingFile;
    if (name !== null && format === 'raw') fields.features |= Feature.backingFormatNoProbe;
    fields.backing_filename_offset = name === null ? 0 : HEADER_BYTES;
    fields.backing_filename_size = bytes.length;
    await this.store();
    await this.file.flush();
    await this.file.write(0, Iov.from([encodeHeader(fields), bytes]));
    this.node.setBackingHint(name ?? '', format === 'raw' ? 'raw' : '');
  }

  settledGrowth(): Promise<void> {
    return this.#growth.settled();
  }

  /** Stores everything and takes the flag away, unless the image waits for a repair. */
  async finish(): Promise<void> {
    await this.store();
    if (this.#isPrepared) await this.#clean();
  }

  /** The same while nobody writes, and writing may go on: no leaks are left to be found either. */
  async rest(): Promise<void> {
    await this.store();
    await this.#growth.trim();
    await this.finish();
  }

  async close(): Promise<void> {
    await this.finish();
    await this.#growth.trim();
  }
}

function shapeOf(fields: QedHeaderFields, growth: FileGrowth): TreeShape {
  const { cluster_size: size, table_size, header_size } = fields;
  const start = header_size * size;
  const tableBytes = table_size * size;
  const isPlace = (offset: number, bytes: number): boolean =>
    offset % size === 0 && offset >= start && offset + bytes <= growth.usedEnd;
  return {
    clusterBytes: size,
    tableEntries: tableEntries(size, table_size),
    l1Offset: fields.l1_table_offset,
    l1Entries: l1Entries(fields),
    maxOffset: Number.MAX_SAFE_INTEGER,
    tableAt: (view, at) => {
      const offset = readU64(view, at, true);
      return offset === 0 || isPlace(offset, tableBytes) ? offset : undefined;
    },
    setTable: (view, at, offset) => {
      writeU64(view, at, offset, true);
    },
    placeAt: (view, at) => {
      const offset = readU64(view, at, true);
      if (offset === Entry.unallocated) return Place.unallocated;
      if (offset === Entry.zero) return Place.zero;
      return isPlace(offset, size) ? offset : Place.damaged;
    },
    setPlace: (view, at, place) => {
      writeU64(view, at, place === Place.zero ? Entry.zero : place, true);
    },
  };
}
