/**
 * Writing new images.
 *
 * Everything is laid out beforehand (create-layout.ts) and then written once: tables first, the
 * header last, so that a half-written file is no qcow2 image. Clusters that stay zero are not
 * written where the new file reads as zeroes anyway, but merely allocated: an empty image of 1 TiB
 * costs three small writes.
 */
import type { Backend } from '../../block/backend.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError, errorText, prepend } from '../../block/errors.js';
import { MadeFiles } from '../../block/made-files.js';
import type { Preallocation } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import type { CreateParameters } from './create-options.js';
import { checkCreateOptions } from './create-options.js';
import type { NewLayout } from './create-layout.js';
import { newLayout } from './create-layout.js';
import type { Qcow2Header } from './header.js';
import { emptyHeader, encodeHeader } from './header.js';
import { Autoclear, Compat, Entry, Incompat, Limit } from './layout.js';
import { refcountCodec } from './refcount-codec.js';
import { roundUp } from './units.js';

const TWO32 = 0x1_0000_0000;
/** L2 tables and refcount blocks are written in pieces of this many bytes. */
const PIECE = 2 * 1024 * 1024;

/** Creates an image. Throws BlockError or OptionError; files that were made are removed then. */
export async function createQcow2(context: CreateContext): Promise<void> {
  const p = await checkCreateOptions(context.graph, context.values);
  const password = await passwordOf(context, p);
  const cryptoBytes = await cryptoHeaderBytes(p);
  const layout = newLayout(p.g, {
    size: p.size,
    preallocate: p.preallocation !== 'off',
    dataFile: p.dataFile !== undefined,
    cryptoBytes,
  });
  const header = newHeader(p, layout, cryptoBytes);
  const firstCluster = encodeFirst(p, header);
  const made = new MadeFiles(context);
  try {
    const file = await made.create();
    if (p.dataFile !== undefined) await makeDataFile(p, await made.create(p.dataFile));
    await new ImageWriter(file, p, layout).writeTables();
    if (p.encryption?.format === 'luks' && password !== undefined) {
      const { writeLuksHeader } = await import('./create-luks.js');
      await writeLuksHeader(context.graph, file, layout, password, p.encryption.luks);
    }
    await file.write(0, Iov.of(trimmed(firstCluster)));
    await made.flush();
    await made.close();
  } catch (e) {
    await made.remove();
    throw e;
  }
}

async function passwordOf(
  context: CreateContext,
  p: CreateParameters,
): Promise<Uint8Array | undefined> {
  return p.encryption === undefined ? undefined : context.graph.secret(p.encryption.secret);
}

/** Bytes of the LUKS header and its key slots; 0: none. */
export async function cryptoHeaderBytes(p: Pick<CreateParameters, 'encryption'>): Promise<number> {
  if (p.encryption?.format !== 'luks') return 0;
  const { luksPayloadOffset } = await import('../../block/crypto/luks.js');
  return luksPayloadOffset(p.encryption.luks);
}

/** The header of a new image. */
function newHeader(p: CreateParameters, layout: NewLayout, cryptoBytes: number): Qcow2Header {
  const header = emptyHeader(p.version, p.g.clusterBits);
  const { fields, extensions } = header;
  fields.size = p.size;
  fields.l1_size = layout.l1Entries;
  fields.l1_table_offset = layout.l1Entries === 0 ? 0 : layout.l1Offset;
  fields.refcount_table_offset = layout.reftableOffset;
  fields.refcount_table_clusters = layout.reftableClusters;
  fields.refcount_order = p.g.refcountOrder;
  if (p.lazyRefcounts) fields.compatible_features |= Compat.lazyRefcounts;
  if (p.g.extendedL2) fields.incompatible_features |= Incompat.extendedL2;
  if (p.dataFile !== undefined) fields.incompatible_features |= Incompat.dataFile;
  if (p.dataFileRaw) fields.autoclear_features |= Autoclear.dataFileRaw;
  if (p.compressionType === 'zstd') {
    fields.incompatible_features |= Incompat.compression;
    fields.compression_type = 1;
  }
  extensions.backingFormat = p.backingFormat;
  extensions.dataFile = p.dataFile;
  if (p.encryption !== undefined) fields.crypt_method = p.encryption.format === 'luks' ? 2 : 1;
  if (cryptoBytes > 0) extensions.crypto = { offset: layout.cryptoOffset, length: cryptoBytes };
  header.backingFile = p.backingFile ?? '';
  return header;
}

/** The first cluster; a backing name that does not fit is told as QEMU does. */
function encodeFirst(p: CreateParameters, header: Qcow2Header): Uint8Array {
  const { backingFile, backingFormat } = p;
  const isTooLong =
    backingFile !== undefined &&
    new TextEncoder().encode(backingFile).length > Limit.maxBackingName;
  try {
    if (isTooLong) throw new BlockError('EINVAL');
    return encodeHeader(header);
  } catch (e) {
    if (backingFile === undefined || !(e instanceof BlockError)) throw e;
    throw new BlockError(
      e.code,
      `Could not assign backing file '${backingFile}' with format '${backingFormat ?? ''}': ` +
        errorText(e),
    );
  }
}

/** Without the zeroes at its end, in whole sectors: new files read as zeroes. */
function trimmed(bytes: Uint8Array): Uint8Array {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end--;
  return bytes.subarray(0, Math.min(bytes.length, Math.ceil(end / 512) * 512));
}

/** The data file has at least the size of the disk, allocated as asked. */
async function makeDataFile(p: CreateParameters, file: Backend): Promise<void> {
  const isBacked = p.preallocation === 'falloc' || p.preallocation === 'full';
  const bytes = p.preallocation === 'off' ? p.size : roundUp(p.size, p.g.clusterSize);
  // One that was there before may be longer.
  if (bytes <= file.size && !isBacked) return;
  const prealloc = isBacked ? p.preallocation : 'off';
  await file.truncate(Math.max(bytes, file.size), { exact: false, prealloc });
}

/** Writes the tables of a new image. */
class ImageWriter {
  readonly #file: Backend;
  readonly #p: CreateParameters;
  readonly #layout: NewLayout;

  constructor(file: Backend, p: CreateParameters, layout: NewLayout) {
    this.#file = file;
    this.#p = p;
    this.#layout = layout;
  }

  async writeTables(): Promise<void> {
    await this.#makeRoom();
    await this.#writeReftable();
    await this.#writeRefblocks();
    if (this.#layout.l2Tables > 0) await this.#writeMapping();
  }

  /**
   * The file gets its length and reads as zeroes all over. Where it holds tables alone they are
   * stored in full, if the file system can: QEMU takes an image whose file has far fewer blocks
   * than clusters for one with preallocated metadata, and reports holes of the data as zeroes.
   */
  async #makeRoom(): Promise<void> {
    const { preallocation, dataFile } = this.#p;
    const bytes = Math.max(this.#layout.fileBytes, 0);
    const old = this.#file.size;
    const hasDataClusters = dataFile === undefined && preallocation !== 'off';
    const resize = (prealloc: Preallocation): Promise<void> =>
      this.#file.truncate(bytes, { exact: false, prealloc });
    try {
      if (hasDataClusters) await resize(preallocation === 'metadata' ? 'off' : preallocation);
      else await resize('falloc').catch(() => resize('off'));
    } catch (e) {
      throw prepend('Could not resize image: ', e);
    }
    // A device keeps its length and what was on it.
    const stale = Math.min(old, bytes);
    if (stale > 0) await this.#file.writeZeroes(0, stale);
  }

  async #writeReftable(): Promise<void> {
    const { reftableOffset, refblockOffset, refblocks } = this.#layout;
    const view = new DataView(new ArrayBuffer(refblocks * 8));
    for (let i = 0; i < refblocks; i++) {
      setOffset(view, i * 8, refblockOffset + i * this.#p.g.clusterSize, 0);
    }
    await this.#file.write(reftableOffset, Iov.of(new Uint8Array(view.buffer)));
  }

  /** Every cluster from 0 to the last is used once. */
  async #writeRefblocks(): Promise<void> {
    const { refblockOffset, refblocks, clusters } = this.#layout;
    const { g } = this.#p;
    const fullBlocks = Math.floor(clusters / g.refcountBlockEntries);
    if (fullBlocks > 0) {
      const full = onesBlock(g.clusterSize, g.refcountOrder, g.refcountBlockEntries);
      await this.#repeat(refblockOffset, full, fullBlocks);
    }
    if (fullBlocks === refblocks) return;
    const rest = clusters - fullBlocks * g.refcountBlockEntries;
    const bytes = Math.ceil((rest * g.refcountBits) / 8);
    const last = onesBlock(bytes, g.refcountOrder, rest);
    await this.#file.write(refblockOffset + fullBlocks * g.clusterSize, Iov.of(last));
  }

  /** Writes the same bytes `times` times in a row. */
  async #repeat(offset: number, bytes: Uint8Array, times: number): Promise<void> {
    const perPiece = Math.max(1, Math.floor(PIECE / bytes.length));
    for (let i = 0; i < times; i += perPiece) {
      const n = Math.min(perPiece, times - i);
      const iov = Iov.from(Array.from({ length: n }, () => bytes));
      await this.#file.write(offset + i * bytes.length, iov);
    }
  }

  /** L1 and L2 tables of a preallocated image. */
  async #writeMapping(): Promise<void> {
    const { l1Offset, l2Tables, l2Offset, l2Stride } = this.#layout;
    const l1 = new DataView(new ArrayBuffer(l2Tables * 8));
    for (let i = 0; i < l2Tables; i++) {
      setOffset(l1, i * 8, l2Offset + i * l2Stride, Entry.copiedHi);
    }
    for (let i = 0; i < l2Tables; i++) {
      await this.#file.write(l2Offset + i * l2Stride, Iov.of(this.#l2Table(i)));
    }
    await this.#file.write(l1Offset, Iov.of(new Uint8Array(l1.buffer)));
  }

  /** Subclusters of extended entries stay unallocated, so that a backing file shows through. */
  #l2Table(index: number): Uint8Array {
    const { l2Offset, l2Stride, dataClusters } = this.#layout;
    const { g, dataFile } = this.#p;
    const first = index * g.l2Entries;
    const count = Math.min(g.l2Entries, dataClusters - first);
    const view = new DataView(new ArrayBuffer(count * g.l2EntrySize));
    const start =
      dataFile === undefined ? l2Offset + index * l2Stride + g.clusterSize : first * g.clusterSize;
    for (let i = 0; i < count; i++) {
      setOffset(view, i * g.l2EntrySize, start + i * g.clusterSize, Entry.copiedHi);
    }
    return new Uint8Array(view.buffer);
  }
}

function setOffset(view: DataView, at: number, offset: number, flagsHi: number): void {
  view.setUint32(at, (Math.floor(offset / TWO32) | flagsHi) >>> 0);
  view.setUint32(at + 4, offset % TWO32);
}

/** Refcounts of `entries` clusters, one each, in a block of `bytes` bytes. */
function onesBlock(bytes: number, order: number, entries: number): Uint8Array {
  const block = new DataView(new ArrayBuffer(bytes));
  const codec = refcountCodec(order);
  for (let i = 0; i < entries; i++) codec.set(block, i, 1);
  return new Uint8Array(block.buffer);
}
