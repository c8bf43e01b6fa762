/** An open qcow image: its map, compressed clusters. Write order and invariants: driver.ts. */
import type { Child } from '../../block/child.js';
import { ClusterDisk } from '../../block/cluster-disk.js';
import { packedPlace, Place } from '../../block/cluster-map.js';
import type { SectorCipher } from '../../block/crypto/sector-cipher.js';
import { BlockError } from '../../block/errors.js';
import type { FileGrowth } from '../../block/file-growth.js';
import type { BlockNode } from '../../block/node.js';
import type { TreeShape } from '../../block/table-tree.js';
import { TableTree } from '../../block/table-tree.js';
import { CompressionError } from '../../host/compression.js';
import { readU64, writeU64 } from '../../lib/fields.js';
import { Iov } from '../../lib/iov.js';
import { begun } from '../../lib/settle-all.js';
import { l1Entries, virtualSize } from './header.js';
import type { QcowHeaderFields } from './layout.js';
import { DEFLATE, ENTRY_BYTES, SECTOR } from './layout.js';

/** Upper half of an entry: the cluster is compressed. */
const COMPRESSED = 0x8000_0000;

export interface QcowImageInit {
  readonly node: BlockNode;
  readonly file: Child;
  readonly fields: QcowHeaderFields;
  readonly growth: FileGrowth;
  readonly l1: Uint8Array;
  readonly cipher: SectorCipher | undefined;
}

export class QcowImage {
  readonly node: BlockNode;
  readonly file: Child;
  readonly fields: QcowHeaderFields;
  readonly map: TableTree;
  readonly disk: ClusterDisk;
  readonly size: number;
  readonly clusterBytes: number;
  readonly isEncrypted: boolean;
  readonly #growth: FileGrowth;
  /** Bytes of compressed clusters whose entries are being made, by their place. */
  readonly #spans = new Map<number, number>();
  /** The cluster that was unpacked last, for small reads in order. */
  #kept: { readonly host: number; readonly data: Promise<Uint8Array> } | undefined;
  /** Compressed clusters are appended in the order in which they were asked for. */
  #appending: Promise<void> = Promise.resolve();

  constructor({ node, file, fields, growth, l1, cipher }: QcowImageInit) {
    this.node = node;
    this.file = file;
    this.fields = fields;
    this.size = virtualSize(fields);
    this.clusterBytes = 2 ** fields.cluster_bits;
    this.isEncrypted = fields.crypt_method !== 0;
    this.#growth = growth;
    this.map = new TableTree(file, growth, this.#shape(), l1);
    this.disk = new ClusterDisk({
      node,
      file,
      map: this.map,
      growth,
      dataStart: fields.l1_table_offset + l1.length,
      codec: {
        unpack: (host, offset, iov) => this.#unpack(host, offset, iov),
        ...(cipher === undefined
          ? {}
          : {
              encrypt: async (data, offset) => cipher.encrypt(data, offset / SECTOR),
              decrypt: async (data, offset) => cipher.decrypt(data, offset / SECTOR),
            }),
      },
    });
  }

  #shape(): TreeShape {
    const { cluster_bits: bits, l2_bits } = this.fields;
    const size = this.clusterBytes;
    const isPlace = (offset: number): boolean =>
      offset % size === 0 && offset < this.#growth.usedEnd;
    return {
      clusterBytes: size,
      tableEntries: 2 ** l2_bits,
      l1Offset: this.fields.l1_table_offset,
      l1Entries: l1Entries(this.fields),
      // Compressed entries keep their length above the offset.
      maxOffset: Math.min(Number.MAX_SAFE_INTEGER, 2 ** (63 - bits)),
      tableAt: (view, at) => {
        const offset = readU64(view, at);
        return offset === 0 || isPlace(offset) ? offset : undefined;
      },
      setTable: (view, at, offset) => {
        writeU64(view, at, offset);
      },
      placeAt: (view, at) => {
        const high = view.getUint32(at);
        if (high >= COMPRESSED) {
          const { host, span } = packedEntry(view, at, bits);
          const fits = span > 0 && host + span <= this.#growth.usedEnd;
          return fits ? packedPlace(host) : Place.damaged;
        }
        const offset = readU64(view, at);
        if (offset === 0) return Place.unallocated;
        return isPlace(offset) ? offset : Place.damaged;
      },
      setPlace: (view, at, place) => {
        if (place > Place.packed) writeU64(view, at, Math.max(place, 0));
        else {
          const host = Place.packed - place;
          const span = BigInt(this.#spans.get(host) ?? 0);
          const flag = 1n << 63n;
          view.setBigUint64(at, flag | (span << BigInt(63 - bits)) | BigInt(host));
        }
      },
    };
  }

  /** Fills `iov` from the compressed cluster that holds `offset`. */
  async #unpack(host: number, offset: number, iov: Iov): Promise<void> {
    const size = this.clusterBytes;
    let data = this.#kept?.host === host ? this.#kept.data : undefined;
    if (data === undefined) {
      data = this.#inflate(host, await this.#spanAt(offset));
      this.#kept = { host, data: begun(data) };
    }
    const from = offset % size;
    iov.copyFrom((await data).subarray(from, from + iov.bytes));
  }

  /** Bytes of the compressed cluster at `offset`, as its entry says. */
  async #spanAt(offset: number): Promise<number> {
    const cluster = Math.floor(offset / this.clusterBytes);
    const index = Math.floor(cluster / this.map.perTable);
    let entry = this.map.entryView(index, cluster % this.map.perTable);
    while (entry === undefined) {
      await this.map.table(index);
      entry = this.map.entryView(index, cluster % this.map.perTable);
    }
    return packedEntry(entry.view, entry.at, this.fields.cluster_bits).span;
  }

  async #inflate(host: number, span: number): Promise<Uint8Array> {
    const input = new Uint8Array(span);
    const output = new Uint8Array(this.clusterBytes);
    await this.file.read(host, Iov.of(input));
    try {
      await this.node.graph.host.compression.inflateRaw(input, output, DEFLATE.windowBits);
    } catch (e) {
      if (!(e instanceof CompressionError)) throw e;
      throw new BlockError('EIO', undefined, { op: 'read', node: this.node.name, cause: e });
    }
    return output;
  }

  /**
   * Stores whole clusters compressed, one behind the other; the last may be short at the end of the
   * disk. What does not become shorter, and what has a place already, is written plainly.
   */
  async writeCompressed(offset: number, iov: Iov): Promise<void> {
    const size = this.clusterBytes;
    const isWhole = iov.bytes % size === 0 || offset + iov.bytes === this.size;
    if (offset % size !== 0 || !isWhole) throw new BlockError('EINVAL');
    const { compression } = this.node.graph.host;
    const packing: Promise<Uint8Array | undefined>[] = [];
    for (let at = 0; at < iov.bytes; at += size) {
      const cluster = new Uint8Array(size);
      iov.slice(at, Math.min(size, iov.bytes - at)).copyTo(cluster);
      packing.push(compression.deflateRaw(cluster, size, DEFLATE));
    }
    const packed = begun(Promise.all(packing));
    const before = this.#appending;
    const done = (async () => {
      await before;
      for (const [i, bytes] of (await packed).entries()) {
        const at = i * size;
        const plain = iov.slice(at, Math.min(size, iov.bytes - at));
        await this.#store(offset + at, bytes, plain);
      }
    })();
    this.#appending = done.catch(() => undefined);
    await done;
  }

  async #store(offset: number, packed: Uint8Array | undefined, plain: Iov): Promise<void> {
    const { place } = await this.disk.runAt(offset, 1);
    if (packed === undefined || place !== Place.unallocated) {
      await this.disk.write(offset, plain);
      return;
    }
    const { host } = this.map.takeBytes(packed.length, 1);
    await this.#growth.before(host + packed.length, packed.length);
    await this.file.write(host, Iov.of(packed));
    const cluster = offset / this.clusterBytes;
    const index = Math.floor(cluster / this.map.perTable);
    while (this.map.tryTable(index) === undefined) await this.map.table(index);
    this.#spans.set(host, packed.length);
    this.map.set(index, cluster % this.map.perTable, packedPlace(host), 1);
    this.#spans.delete(host);
    if (this.map.isFull) await this.map.store();
  }

  /** Forgets all data (`commit` empties the overlay): an empty L1 table, and nothing behind it. */
  async makeEmpty(): Promise<void> {
    await this.map.store();
    const { l1_table_offset: start } = this.fields;
    const bytes = this.map.l1Entries * ENTRY_BYTES;
    await this.file.writeZeroes(start, bytes);
    await this.file.flush();
    this.map.forget(new Uint8Array(bytes));
    this.#kept = undefined;
    await this.#growth.settled();
    await this.file.truncate(start + bytes, { exact: false });
    this.#growth.shrunk(start + bytes);
  }

  settledGrowth(): Promise<void> {
    return this.#growth.settled();
  }

  async close(): Promise<void> {
    await this.map.store();
    await this.#growth.trim();
  }
}

/** A compressed entry: the length stands in `bits` bits below the flag, the offset below that. */
function packedEntry(view: DataView, at: number, bits: number): { host: number; span: number } {
  const high = view.getUint32(at) & 0x7fff_ffff;
  const low = view.getUint32(at + ENTRY_BYTES / 2);
  const shift = 31 - bits;
  const span = high >>> shift;
  return { span, host: (high & (2 ** shift - 1)) * 2 ** 32 + low };
}
