/** All references of an image to its clusters, to be counted or to be changed. */
import { Iov } from '../../lib/iov.js';
import { bitmapCluster, directoryEntryBytes, parseDirectory } from './bitmap-directory.js';
import { compressedEntry, compressedSpan, entryOffset } from './entry.js';
import { rewriteHeader, switchHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { decodeFields, Entry, SNAPSHOT_FIELDS, SNAPSHOT_FIXED_LENGTH } from './layout.js';
import { roundDown, roundUp } from './units.js';

/** What a place is used for; `fixed` places cannot move. */
export type Use = 'guest' | 'compressed' | 'table' | 'fixed';

/** Who walks along. */
export interface Walk {
  /** [host, host + bytes) is referred to, `times` times. */
  use(use: Use, host: number, bytes: number, times: number): void;
  /** Where what lay at `host` is now; references to it are changed when that differs. */
  place(host: number): number;
}

/** What a disk writes at once. */
const SECTOR = 512;
const TWO32 = 0x1_0000_0000;

/** A table in the file whose entries change one by one; `flush` writes the changed sectors. */
class EditedTable {
  readonly view: DataView;
  #from = Infinity;
  #to = 0;

  constructor(
    readonly image: Qcow2Image,
    readonly offset: number,
    readonly bytes: Uint8Array,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  static async read(image: Qcow2Image, offset: number, bytes: number): Promise<EditedTable> {
    const content = new Uint8Array(bytes);
    if (bytes > 0) await image.readMeta(offset, Iov.of(content));
    return new EditedTable(image, offset, content);
  }

  /** Eight bytes at `at` change; they never lie across sectors. */
  set(at: number, hi: number, lo: number): void {
    this.view.setUint32(at, hi);
    this.view.setUint32(at + 4, lo);
    this.#from = Math.min(this.#from, at);
    this.#to = Math.max(this.#to, at + 8);
  }

  /** As `set` for an offset whose other bits stay. */
  setOffset(at: number, offset: number): void {
    const hi = this.view.getUint32(at) & ~Entry.offsetHi;
    const lo = this.view.getUint32(at + 4) & ~Entry.offsetLo;
    this.set(at, (hi | Math.floor(offset / TWO32)) >>> 0, (lo | (offset % TWO32)) >>> 0);
  }

  async flush(): Promise<void> {
    if (this.#to === 0) return;
    const from = roundDown(this.#from, SECTOR);
    const to = Math.min(this.bytes.byteLength, roundUp(this.#to, SECTOR));
    await this.image.file.write(this.offset + from, Iov.of(this.bytes.subarray(from, to)));
    this.#from = Infinity;
    this.#to = 0;
  }
}

/** Walks over everything but refcount structures, and changes what moved (CM4). */
export async function walkReferences(image: Qcow2Image, walk: Walk): Promise<void> {
  const { g, header } = image;
  const { fields, extensions } = header;
  walk.use('fixed', 0, g.clusterSize, 1);
  const { crypto } = extensions;
  if (crypto !== undefined) walk.use('fixed', crypto.offset, crypto.length, 1);
  /** L2 tables, and how many L1 entries name each. */
  const tables = new Map<number, number>();
  await walkL1(image, walk, fields.l1_table_offset, fields.l1_size, tables);
  await walkSnapshots(image, walk, tables);
  for (const [offset, times] of tables) await walkL2(image, walk, offset, times);
  await walkBitmaps(image, walk);
  const l1 = walk.place(fields.l1_table_offset);
  const snapshots = fields.nb_snapshots === 0 ? 0 : walk.place(fields.snapshots_offset);
  const moves = l1 !== fields.l1_table_offset;
  if (moves || (fields.nb_snapshots > 0 && snapshots !== fields.snapshots_offset)) {
    await switchHeader(image, {
      l1_table_offset: l1,
      ...(fields.nb_snapshots === 0 ? {} : { snapshots_offset: snapshots }),
    });
  }
}

async function walkL1(
  image: Qcow2Image,
  walk: Walk,
  offset: number,
  entries: number,
  tables: Map<number, number>,
): Promise<void> {
  if (entries === 0) return;
  walk.use('table', offset, entries * 8, 1);
  const table = await EditedTable.read(image, walk.place(offset), entries * 8);
  for (let at = 0; at < entries * 8; at += 8) {
    const l2 = entryOffset(table.view.getUint32(at), table.view.getUint32(at + 4));
    if (l2 === 0) continue;
    tables.set(l2, (tables.get(l2) ?? 0) + 1);
    const now = walk.place(l2);
    if (now !== l2) table.setOffset(at, now);
  }
  await table.flush();
}

async function walkL2(image: Qcow2Image, walk: Walk, offset: number, times: number): Promise<void> {
  const { g } = image;
  walk.use('table', offset, g.clusterSize, times);
  const table = await EditedTable.read(image, walk.place(offset), g.clusterSize);
  for (let at = 0; at < g.clusterSize; at += g.l2EntrySize) {
    const hi = table.view.getUint32(at);
    const lo = table.view.getUint32(at + 4);
    if ((hi & Entry.compressedHi) !== 0) {
      const { host, bytes } = compressedSpan(g, hi, lo);
      walk.use('compressed', host, bytes, times);
      const now = walk.place(host);
      if (now === host) continue;
      const entry = compressedEntry(g, now, bytes);
      table.set(at, entry.hi, entry.lo);
      continue;
    }
    const host = entryOffset(hi, lo);
    // In a data file each guest cluster has its own place.
    if (host === 0 || image.hasDataFile) continue;
    walk.use('guest', host, g.clusterSize, times);
    const now = walk.place(host);
    if (now !== host) table.setOffset(at, now);
  }
  await table.flush();
}

/** The snapshot table and the L1 tables that it names. */
async function walkSnapshots(
  image: Qcow2Image,
  walk: Walk,
  tables: Map<number, number>,
): Promise<void> {
  const { fields } = image.header;
  const bytes = image.overlap.snapshotTableBytes;
  if (fields.nb_snapshots === 0 || bytes === 0) return;
  walk.use('table', fields.snapshots_offset, bytes, 1);
  const table = await EditedTable.read(image, walk.place(fields.snapshots_offset), bytes);
  let at = 0;
  for (let i = 0; i < fields.nb_snapshots; i++) {
    const entry = decodeFields(SNAPSHOT_FIELDS, table.bytes, at);
    const offset = entry.l1_table_offset;
    await walkL1(image, walk, offset, entry.l1_size, tables);
    const now = entry.l1_size === 0 ? offset : walk.place(offset);
    if (now !== offset) table.set(at, Math.floor(now / TWO32), now % TWO32);
    const { extra_data_size: extra, id_str_size: id, name_size: name } = entry;
    at = roundUp(at + SNAPSHOT_FIXED_LENGTH + extra + id + name, 8);
  }
  await table.flush();
}

/** The bitmap directory, the tables that it names, and their clusters. */
async function walkBitmaps(image: Qcow2Image, walk: Walk): Promise<void> {
  const { g, header } = image;
  const ext = header.extensions.bitmaps;
  if (ext === undefined) return;
  const { bitmap_directory_offset: offset, bitmap_directory_size: size } = ext;
  walk.use('table', offset, size, 1);
  const directory = await EditedTable.read(image, walk.place(offset), size);
  let at = 0;
  for (const entry of parseDirectory(directory.bytes, ext, g)) {
    const length = entry.tableSize * 8;
    walk.use('table', entry.tableOffset, length, 1);
    const table = await EditedTable.read(image, walk.place(entry.tableOffset), length);
    for (let i = 0; i < entry.tableSize; i++) {
      const cluster = bitmapCluster(g, table.view, i);
      if (cluster.kind !== 'stored') continue;
      walk.use('table', cluster.offset, g.clusterSize, 1);
      const now = walk.place(cluster.offset);
      if (now !== cluster.offset) table.setOffset(i * 8, now);
    }
    await table.flush();
    const now = walk.place(entry.tableOffset);
    if (now !== entry.tableOffset) directory.set(at, Math.floor(now / TWO32), now % TWO32);
    at += directoryEntryBytes(entry);
  }
  await directory.flush();
  const now = walk.place(offset);
  if (now === offset) return;
  await rewriteHeader(image, ({ extensions }) => {
    extensions.bitmaps = { ...ext, bitmap_directory_offset: now };
  });
}
