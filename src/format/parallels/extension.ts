/**
 * The Format Extension ("Format Extension", "Dirty bitmaps feature"): dirty bitmaps are read into
 * the node. Only images that are not written to are asked for theirs, as in QEMU.
 */
import type { Child } from '../../block/child.js';
import { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError, withErrno } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import type { HostCrypto } from '../../host/crypto.js';
import { decodeFields, readU64 } from '../../lib/fields.js';
import { Iov } from '../../lib/iov.js';
import type { ParallelsHeader } from './header.js';
import {
  BITMAP_FIELDS,
  BITMAP_HEADER,
  EXTENSION_FIELDS,
  EXTENSION_HEADER,
  EXTENSION_MAGIC,
  Feature,
  FEATURE_FIELDS,
  FEATURE_HEADER,
  FeatureFlag,
  Limit,
  SECTOR,
} from './layout.js';

function bad(text: string): BlockError {
  return new BlockError('EINVAL', text);
}

const hex = (value: bigint): string => `0x${value.toString(16)}`;

/** Loads what the extension holds. Throws EINVAL where it is damaged or cannot be left out. */
export async function readExtension(
  node: BlockNode,
  file: Child,
  header: ParallelsHeader,
  crypto: HostCrypto,
): Promise<void> {
  const at = header.fields.ext_off * SECTOR;
  if (at + header.clusterBytes > file.size) {
    throw bad('The Format Extension lies outside the image');
  }
  const cluster = new Uint8Array(header.clusterBytes);
  try {
    await file.read(at, Iov.of(cluster));
  } catch (e) {
    throw withErrno('Failed to read Format Extension cluster', e);
  }
  const { magic, m_CheckSum: sum } = decodeFields(EXTENSION_FIELDS, cluster, 0, 'little');
  if (magic !== EXTENSION_MAGIC) {
    const expected = hex(EXTENSION_MAGIC);
    throw bad(`Wrong parallels Format Extension magic: ${hex(magic)}, expected: ${expected}`);
  }
  const found = crypto.hash('md5', [cluster.subarray(EXTENSION_HEADER)]);
  if (found.some((byte, i) => byte !== sum[i])) {
    throw bad('Wrong checksum in Format Extension header. Format extension is corrupted.');
  }
  await new Features(node, file, header, cluster).load();
}

class Features {
  readonly #node: BlockNode;
  readonly #file: Child;
  readonly #header: ParallelsHeader;
  readonly #cluster: Uint8Array;
  #loaded = 0;

  constructor(node: BlockNode, file: Child, header: ParallelsHeader, cluster: Uint8Array) {
    this.#node = node;
    this.#file = file;
    this.#header = header;
    this.#cluster = cluster;
  }

  async load(): Promise<void> {
    let at = EXTENSION_HEADER;
    for (;;) {
      if (at + FEATURE_HEADER > this.#cluster.length) {
        throw bad('Can not read feature header, as remaining bytes are not enough');
      }
      const feature = decodeFields(FEATURE_FIELDS, this.#cluster, at, 'little');
      at += FEATURE_HEADER;
      if (feature.magic === Feature.end) return;
      const end = at + feature.data_size;
      if (end > this.#cluster.length) {
        throw bad('Feature data_size exceedes remaining cluster size');
      }
      if (feature.magic === Feature.dirtyBitmap) {
        await this.#bitmap(this.#cluster.subarray(at, end));
      } else if ((feature.flags & FeatureFlag.necessary) !== 0n) {
        throw bad(`Unknown feature: ${hex(feature.magic)}`);
      }
      at = Math.ceil(end / 8) * 8;
    }
  }

  async #bitmap(data: Uint8Array): Promise<void> {
    const { size, clusterBytes } = this.#header;
    if (data.length < BITMAP_HEADER) {
      throw bad(
        `Too small Bitmap Feature area in Parallels Format Extension: ${String(data.length)} ` +
          `bytes, expected at least ${String(BITMAP_HEADER)} bytes`,
      );
    }
    const fields = decodeFields(BITMAP_FIELDS, data, 0, 'little');
    if (fields.size * SECTOR !== size) {
      throw bad(
        `Bitmap size (in sectors) ${String(BigInt(fields.size))} differs from disk size in ` +
          `sectors ${String(size / SECTOR)}`,
      );
    }
    const { granularity: sectors, l1_size: entries } = fields;
    if (BITMAP_HEADER + entries * 8 > data.length) {
      throw bad('Bitmaps feature corrupted: l1 table exceeds extension data_size');
    }
    if (sectors === 0 || (sectors & (sectors - 1)) !== 0) {
      throw bad(`Bitmap granularity is ${String(sectors)} sectors, expected a power of two`);
    }
    const granularity = sectors * SECTOR;
    const bits = Math.ceil(Math.ceil(size / granularity) / 8);
    this.#loaded += bits;
    if (this.#loaded > Limit.maxBitmapBytes) {
      throw new BlockError('EFBIG', `Cannot load bitmaps: they take ${String(bits)} bytes`);
    }
    const expected = Math.ceil(bits / clusterBytes);
    if (entries !== expected) {
      throw bad(
        `Bitmap table size ${String(entries)} does not correspond to bitmap size and cluster ` +
          `size. Expected ${String(expected)}`,
      );
    }
    const name = uuidText(fields.id);
    const bitmap = new DirtyBitmap({
      name,
      granularity,
      bytes: size,
      // Nobody writes to the image.
      enabled: false,
      persistent: false,
    });
    bitmap.load(await this.#bits(data.subarray(BITMAP_HEADER), bits));
    this.#node.dirtyBitmaps.set(name, bitmap);
  }

  /** The bits that an L1 table names. */
  async #bits(table: Uint8Array, bytes: number): Promise<Uint8Array> {
    const { clusterBytes } = this.#header;
    const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
    const out = new Uint8Array(bytes);
    for (let at = 0; at < bytes; at += clusterBytes) {
      const entry = readU64(view, (at / clusterBytes) * 8, true);
      const part = out.subarray(at, at + clusterBytes);
      if (entry === 0) continue;
      if (entry === 1) part.fill(0xff);
      else if (entry * SECTOR + part.length > this.#file.size) {
        throw bad('Failed to read bitmap data cluster: it lies outside the image');
      } else {
        await this.#file.read(entry * SECTOR, Iov.of(part));
      }
    }
    return out;
  }
}

/** A UUID as it is stored, in its usual form. */
function uuidText(id: Uint8Array): string {
  const digits = [...id].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const parts = [
    digits.slice(0, 8),
    digits.slice(8, 12),
    digits.slice(12, 16),
    digits.slice(16, 20),
    digits.slice(20),
  ];
  return parts.join('-');
}
