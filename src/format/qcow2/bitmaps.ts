/**
 * Persistent dirty bitmaps of an open image: loading, the in-use flag, storing, removing.
 * Sections "Bitmaps extension" and "Bitmap directory" of the specification.
 *
 * The bits live on the node (`dirtyBitmaps`) and are stored when the image is closed or becomes
 * read-only. A bitmap that may miss writes must never be taken for a valid one:
 *  BM1  Before the first write of a user, every bitmap on disk that was loaded has its in-use flag
 *       set, durably. (Each entry changes within one write of the directory in place; a torn write
 *       leaves some entries without the flag, but no guest write precedes the flush behind it.)
 *  BM2  Bits, tables and directory are always stored in newly allocated clusters, with their
 *       refcounts, durably, before the header names them.
 *  BM3  The extension changes while the autoclear bit is clear on disk (flush before and after),
 *       so that a header that is torn between two sectors names no bitmaps at all; the bit, which
 *       lies in one sector with nothing else that changes, makes them valid at once.
 *  BM4  What the header named before is released after BM3.
 * A crash before the bit is set again costs the bitmaps of which the writer was in possession:
 * those were in use on disk and lost with the writer anyway. Nothing else changes, clusters leak.
 *
 * A bitmap found in use was not stored by its last writer: it is inconsistent, its bits are not
 * read, and it stays so on disk until it is removed.
 */
import { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError, withErrno } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import type { DirectoryEntry } from './bitmap-directory.js';
import {
  bitmapBytes,
  bitmapCluster,
  BitmapFlag,
  BitmapLimit,
  bitmapTableSize,
  directoryEntryBytes,
  encodeDirectory,
  parseDirectory,
} from './bitmap-directory.js';
import { rewriteHeader, switchHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { Autoclear, Limit } from './layout.js';
import { writeNew } from './snapshot-store.js';
import { clustersFor } from './units.js';

/** Most bytes of bits that one image may ask for; tables may share clusters, so the file's length
 * does not bound it. QEMU's limit is one of 512 MiB for each of 65535 bitmaps. */
const MAX_LOADED_BYTES = 1024 * 1024 * 1024;

/** The directory as it is on disk. Throws EINVAL with QEMU's text when it is broken. */
export async function readDirectory(image: Qcow2Image): Promise<DirectoryEntry[]> {
  const ext = image.header.extensions.bitmaps;
  if (ext === undefined) return [];
  const { bitmap_directory_offset: offset, bitmap_directory_size: length } = ext;
  if (length === 0) throw new BlockError('EINVAL', 'Requested bitmap directory size is zero');
  if (length > Limit.maxBitmapDirectoryBytes) {
    throw new BlockError('EINVAL', 'Requested bitmap directory size is too big');
  }
  const bytes = new Uint8Array(length);
  try {
    await image.readMeta(offset, Iov.of(bytes));
  } catch (e) {
    throw withErrno('Failed to read bitmap directory', e);
  }
  return parseDirectory(bytes, ext, image.g);
}

/**
 * Loads all bitmaps into the node. With a writable image, they are marked in use afterwards (BM1).
 * Throws BlockError: an image whose bitmaps are damaged cannot be opened, as in QEMU.
 */
export async function loadBitmaps(image: Qcow2Image, writable: boolean): Promise<void> {
  const entries = await readDirectory(image);
  if (entries.length === 0) return;
  let total = 0;
  for (const entry of entries) {
    if ((entry.flags & BitmapFlag.inUse) === 0) total += entry.tableSize * image.g.clusterSize;
  }
  if (total > MAX_LOADED_BYTES) {
    const most = String(MAX_LOADED_BYTES);
    throw new BlockError(
      'EFBIG',
      `Cannot load bitmaps: they take ${String(total)} bytes, expected at most ${most}`,
    );
  }
  for (const entry of entries) {
    // It came with its machine and is newer than what the image holds.
    if (image.node.dirtyBitmaps.has(entry.name)) continue;
    image.node.dirtyBitmaps.set(entry.name, await loadBitmap(image, entry));
  }
  image.bitmapEntries = entries;
  if (writable) await markInUse(image);
}

async function loadBitmap(image: Qcow2Image, entry: DirectoryEntry): Promise<DirtyBitmap> {
  const { g } = image;
  const inconsistent = (entry.flags & BitmapFlag.inUse) !== 0;
  const bitmap = new DirtyBitmap({
    name: entry.name,
    granularity: 2 ** entry.granularityBits,
    // What is inconsistent is only there to be removed; it needs no bits.
    bytes: inconsistent ? 0 : image.size,
    enabled: (entry.flags & BitmapFlag.auto) !== 0 && !inconsistent,
    persistent: true,
  });
  bitmap.inconsistent = inconsistent;
  if (inconsistent) return bitmap;
  const table = await readTable(image, entry);
  const what = `Could not read bitmap '${entry.name}' from image`;
  if (bitmapTableSize(g, image.size, entry.granularityBits) !== entry.tableSize) {
    throw withErrno(what, new BlockError('EINVAL'));
  }
  const bits = new Uint8Array(bitmapBytes(image.size, entry.granularityBits));
  for (let i = 0; i < entry.tableSize; i++) {
    const from = i * g.clusterSize;
    const part = bits.subarray(from, Math.min(bits.length, from + g.clusterSize));
    const cluster = bitmapCluster(g, table, i);
    try {
      if (cluster.kind === 'ones') part.fill(0xff);
      else if (cluster.kind === 'stored') await image.readMeta(cluster.offset, Iov.of(part));
    } catch (e) {
      throw withErrno(what, e);
    }
  }
  bitmap.load(bits);
  return bitmap;
}

/** The table of a bitmap, its entries judged. */
async function readTable(image: Qcow2Image, entry: DirectoryEntry): Promise<DataView> {
  const bytes = new Uint8Array(entry.tableSize * 8);
  const table = new DataView(bytes.buffer);
  try {
    await image.readMeta(entry.tableOffset, Iov.of(bytes));
    for (let i = 0; i < entry.tableSize; i++) {
      if (bitmapCluster(image.g, table, i).kind === 'invalid') throw new BlockError('EINVAL');
    }
  } catch (e) {
    throw withErrno(`Could not read bitmap_table table from image for bitmap '${entry.name}'`, e);
  }
  return table;
}

/** BM1. Throws BlockError; the caller must not write then. */
export async function markInUse(image: Qcow2Image): Promise<void> {
  const { bitmapEntries: entries, header, file } = image;
  const ext = header.extensions.bitmaps;
  if (ext === undefined || entries.every((e) => (e.flags & BitmapFlag.inUse) !== 0)) return;
  const marked = entries.map((e) => ({ ...e, flags: e.flags | BitmapFlag.inUse }));
  try {
    await file.write(ext.bitmap_directory_offset, Iov.of(encodeDirectory(marked)));
    await file.flush();
  } catch (e) {
    throw withErrno("Can't update bitmap directory", e);
  }
  // Not before: who tries again after a failure has to write them again.
  for (const entry of entries) entry.flags |= BitmapFlag.inUse;
}

/**
 * Stores every persistent bitmap of the node that can be used; those that are inconsistent stay as
 * they are. Runs alone. Throws BlockError; the bitmaps on disk then count as in use or are gone.
 */
export async function storeBitmaps(image: Qcow2Image): Promise<void> {
  const all = [...image.node.dirtyBitmaps.values()].filter((b) => b.persistent);
  const wanted = all.filter((b) => !b.inconsistent);
  if (wanted.length === 0) return;
  await image.exclusive(async () => {
    const fresh: DirectoryEntry[] = [];
    const names = new Set(wanted.map((b) => b.name));
    const old = await placesOf(
      image,
      image.bitmapEntries.filter((e) => names.has(e.name)),
    );
    let entries: DirectoryEntry[];
    let host: number;
    try {
      for (const bitmap of wanted) fresh.push(await storeBits(image, bitmap));
      entries = merged(image.bitmapEntries, fresh);
      host = await writeDirectory(image, entries);
    } catch (e) {
      if (!image.unusable) for (const entry of fresh) await releaseEntry(image, entry);
      throw e;
    }
    await nameDirectory(image, entries, host);
    await release(image, old);
  });
}

/** Entries keep their places; new ones follow, the youngest bitmap first, as QEMU has it. */
function merged(
  old: readonly DirectoryEntry[],
  fresh: readonly DirectoryEntry[],
): DirectoryEntry[] {
  const byName = new Map(fresh.map((e) => [e.name, e]));
  const known = new Set(old.map((e) => e.name));
  const added = fresh.filter((e) => !known.has(e.name)).reverse();
  return [...old.map((e) => byName.get(e.name) ?? e), ...added];
}

/** Writes bits and table of one bitmap to new clusters (BM2). */
async function storeBits(image: Qcow2Image, bitmap: DirtyBitmap): Promise<DirectoryEntry> {
  const { g, alloc } = image;
  const granularityBits = Math.log2(bitmap.granularity);
  const nameBytes = new TextEncoder().encode(bitmap.name);
  checkLimits(image, nameBytes.length, bitmap.granularity);
  // Its table would have no entry, and no program opens an image with such a one.
  if (image.size === 0) {
    throw new BlockError('EINVAL', `Bitmap '${bitmap.name}' of an empty disk cannot be stored`);
  }
  const before = image.bitmapEntries.find((e) => e.name === bitmap.name);
  const extraData = before?.extraData ?? new Uint8Array(0);
  const bits = bitmap.raw();
  const tableSize = bitmapTableSize(g, image.size, granularityBits);
  const table = new DataView(new ArrayBuffer(tableSize * 8));
  const taken: [number, number][] = [];
  const store = async (bytes: Uint8Array): Promise<number> => {
    const clusters = clustersFor(g, bytes.length);
    const host = await alloc.allocate(clusters);
    taken.push([host, clusters * g.clusterSize]);
    await writeNew(image, host, bytes);
    return host;
  };
  try {
    for (let i = 0; i < tableSize; i++) {
      const part = bits.subarray(i * g.clusterSize, (i + 1) * g.clusterSize);
      if (Iov.of(part).isZero()) continue;
      const host = await store(padded(part, g.clusterSize));
      table.setUint32(i * 8, Math.floor(host / 2 ** 32));
      table.setUint32(i * 8 + 4, host % 2 ** 32);
    }
    const tableOffset = await store(new Uint8Array(table.buffer));
    const extra = extraData.length > 0 ? BitmapFlag.extraDataCompatible : 0;
    const flags = (bitmap.enabled ? BitmapFlag.auto : 0) | extra;
    const { name } = bitmap;
    return { tableOffset, tableSize, flags, granularityBits, name, nameBytes, extraData };
  } catch (e) {
    if (!image.unusable) for (const [host, n] of taken) await alloc.releaseNow(host, n);
    throw withErrno(`Failed to write bitmap '${bitmap.name}' to file`, e);
  }
}

function padded(bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.length === length) return bytes;
  const out = new Uint8Array(length);
  out.set(bytes);
  return out;
}

/** Takes the clusters of an entry back that no directory on disk names. */
async function releaseEntry(image: Qcow2Image, entry: DirectoryEntry): Promise<void> {
  for (const [host, bytes] of await clustersOf(image, entry)) {
    await image.alloc.releaseNow(host, bytes);
  }
}

/** Table and clusters of bits, as offset and length. */
async function clustersOf(image: Qcow2Image, entry: DirectoryEntry): Promise<[number, number][]> {
  const { g } = image;
  const table = await readTable(image, entry);
  const tableBytes = clustersFor(g, entry.tableSize * 8) * g.clusterSize;
  const out: [number, number][] = [[entry.tableOffset, tableBytes]];
  for (let i = 0; i < entry.tableSize; i++) {
    const cluster = bitmapCluster(g, table, i);
    if (cluster.kind === 'stored') out.push([cluster.offset, g.clusterSize]);
  }
  return out;
}

/** Writes a directory to new clusters, durably with all that it names (BM2); 0: it is empty. */
async function writeDirectory(
  image: Qcow2Image,
  entries: readonly DirectoryEntry[],
): Promise<number> {
  const { g, alloc, file } = image;
  const bytes = encodeDirectory(entries);
  const clusters = clustersFor(g, bytes.length);
  const host = clusters === 0 ? 0 : await alloc.allocate(clusters);
  try {
    if (clusters > 0) await writeNew(image, host, bytes);
    await image.writeback.everything();
    await file.flush();
  } catch (e) {
    if (clusters > 0 && !image.unusable) await alloc.releaseNow(host, bytes.length);
    throw e;
  }
  return host;
}

/**
 * BM3: the header names the directory at `host`, which {@link writeDirectory} wrote. If it throws,
 * the image names the old directory, or is unusable (HW2), or its bitmaps do not count: nothing is
 * released then.
 */
async function nameDirectory(
  image: Qcow2Image,
  entries: DirectoryEntry[],
  host: number,
): Promise<void> {
  const { fields } = image.header;
  const setBit = async (on: boolean): Promise<void> => {
    const before = fields.autoclear_features;
    const after = on ? before | Autoclear.bitmaps : before & ~Autoclear.bitmaps;
    if (after !== before) await switchHeader(image, { autoclear_features: after });
  };
  const size = entries.reduce((sum, entry) => sum + directoryEntryBytes(entry), 0);
  const extension = {
    nb_bitmaps: entries.length,
    reserved: 0,
    bitmap_directory_size: size,
    bitmap_directory_offset: host,
  };
  try {
    await setBit(false);
    await rewriteHeader(image, ({ extensions }) => {
      extensions.bitmaps = entries.length === 0 ? undefined : extension;
      extensions.bitmapsInconsistent = false;
    });
    image.bitmapEntries = entries;
    if (entries.length > 0) await setBit(true);
  } catch (e) {
    throw withErrno('Failed to update bitmap extension', e);
  }
}

/** Where the directory on disk and the clusters of some of its entries lie. */
async function placesOf(
  image: Qcow2Image,
  entries: readonly DirectoryEntry[],
): Promise<[number, number][]> {
  const { g, header } = image;
  const out: [number, number][] = [];
  for (const entry of entries) out.push(...(await clustersOf(image, entry)));
  const old = header.extensions.bitmaps;
  if (old !== undefined) {
    const clusters = clustersFor(g, old.bitmap_directory_size);
    out.push([old.bitmap_directory_offset, clusters * g.clusterSize]);
  }
  return out;
}

/** BM4. */
async function release(
  image: Qcow2Image,
  places: readonly (readonly [number, number])[],
): Promise<void> {
  for (const [at, length] of places) image.alloc.free(at, length, 'other');
  await image.writeback.everything();
}

/** What is asked of a single bitmap. Throws EINVAL. */
function checkLimits(image: Qcow2Image, nameBytes: number, granularity: number): void {
  const bits = Math.log2(granularity);
  const fail = (message: string): never => {
    throw new BlockError('EINVAL', message);
  };
  if (image.version < 3) fail('Cannot store dirty bitmaps in qcow2 v2 files');
  if (nameBytes === 0) fail('Bitmap name cannot be empty');
  if (bits < BitmapLimit.minGranularityBits) {
    fail(`Granularity is under minimum (${String(2 ** BitmapLimit.minGranularityBits)} bytes)`);
  }
  if (bits > BitmapLimit.maxGranularityBits) {
    fail(`Granularity exceeds maximum (${String(2 ** BitmapLimit.maxGranularityBits)} bytes)`);
  }
  if (nameBytes > BitmapLimit.maxNameBytes) {
    fail(`Name length exceeds maximum (${String(BitmapLimit.maxNameBytes)} characters)`);
  }
  const bytes = bitmapBytes(image.size, bits);
  const clusters = clustersFor(image.g, bytes);
  if (bytes > BitmapLimit.maxBytes || clusters > BitmapLimit.maxTableEntries) {
    fail('Too much space will be occupied by the bitmap. Use larger granularity');
  }
}

/** Whether one more bitmap could be stored. Throws BlockError with QEMU's texts if not. */
export function checkStorable(image: Qcow2Image, name: string, granularity: number): void {
  const nameBytes = new TextEncoder().encode(name);
  checkLimits(image, nameBytes.length, granularity);
  const persistent = [...image.node.dirtyBitmaps.values()].filter((b) => b.persistent);
  if (persistent.length >= Limit.maxBitmaps) {
    const text = 'Maximum number of persistent bitmaps is already reached';
    throw new BlockError('EOVERFLOW', text);
  }
  const none = new Uint8Array(0);
  const base = { tableOffset: 0, tableSize: 0, flags: 0, granularityBits: 0, name: '' };
  const size = (n: Uint8Array): number =>
    directoryEntryBytes({ ...base, nameBytes: n, extraData: none });
  const encoder = new TextEncoder();
  const sum = persistent.reduce((all, b) => all + size(encoder.encode(b.name)), size(nameBytes));
  if (sum > Limit.maxBitmapDirectoryBytes) {
    throw new BlockError('EINVAL', 'Not enough space in the bitmap directory');
  }
}

/** Takes a bitmap out of the directory, if it is there. Throws BlockError. */
export async function removeBitmap(image: Qcow2Image, name: string): Promise<void> {
  const dropped = image.bitmapEntries.filter((e) => e.name === name);
  if (dropped.length === 0) return;
  await image.exclusive(async () => {
    const old = await placesOf(image, dropped);
    const entries = image.bitmapEntries.filter((e) => e.name !== name);
    const host = await writeDirectory(image, entries);
    await nameDirectory(image, entries, host);
    await release(image, old);
  });
}

/** What `info` says of them: QMP's Qcow2BitmapInfo. */
export async function bitmapInfo(image: Qcow2Image): Promise<Record<string, unknown>[]> {
  // Whoever has an inactive image may have moved the directory.
  const { bitmapEntries: known, node } = image;
  const entries = node.isActive || known.length === 0 ? await readDirectory(image) : known;
  return entries.map(({ flags, name, granularityBits }) => ({
    flags: [
      ...((flags & BitmapFlag.inUse) !== 0 ? ['in-use'] : []),
      ...((flags & BitmapFlag.auto) !== 0 ? ['auto'] : []),
    ],
    name,
    granularity: 2 ** granularityBits,
  }));
}
