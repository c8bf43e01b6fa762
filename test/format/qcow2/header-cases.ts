// Damaged headers: what is poked where, for comparison with QEMU's words and for bounded refusal.

/** Bytes to put at an offset of a fresh image. */
export interface Poke {
  readonly at: number;
  readonly bytes: readonly number[];
}

export interface HeaderCase {
  readonly name: string;
  /** Creation options of the image. */
  readonly create?: string;
  readonly pokes: readonly Poke[];
}

/** `value` as `width` big-endian bytes. */
export function be(value: number | bigint, width: number): number[] {
  const out: number[] = [];
  let rest = BigInt(value);
  for (let i = 0; i < width; i++) {
    out.unshift(Number(rest & 0xffn));
    rest >>= 8n;
  }
  return out;
}

const u32 = (at: number, value: number): Poke => ({ at, bytes: be(value, 4) });
const u64 = (at: number, value: bigint): Poke => ({ at, bytes: be(value, 8) });
const ext = (type: number, length: number): Poke => ({
  at: 112,
  bytes: [...be(type, 4), ...be(length, 4)],
});
const text = (at: number, value: string): Poke => ({
  at,
  bytes: [...new TextEncoder().encode(value)],
});

/** A feature-name table with one entry, in place of the extensions. */
function featureTable(type: number, bit: number, name: string): Poke[] {
  return [ext(0x6803f857, 48), { at: 120, bytes: [type, bit] }, text(122, name), u64(168, 0n)];
}

const huge = [0xffff_ffff, 0x7fff_ffff, 0x8000_0000] as const;

export const headerCases: readonly HeaderCase[] = [
  { name: 'magic', pokes: [u32(0, 0x514649fa)] },
  { name: 'version 0', pokes: [u32(4, 0)] },
  { name: 'version 1', pokes: [u32(4, 1)] },
  { name: 'version 4', pokes: [u32(4, 4)] },
  { name: 'version 2^32 - 1', pokes: [u32(4, 0xffff_ffff)] },
  ...[0, 8, 22, 31, 32, 63, 0xffff_ffff].map((bits) => ({
    name: `cluster_bits ${bits}`,
    pokes: [u32(20, bits)],
  })),
  ...[0, 72, 103, 105, 65536, 65537, 0x7fff_ffff, 0xffff_ffff].map((length) => ({
    name: `header_length ${length}`,
    pokes: [u32(100, length)],
  })),
  { name: 'backing_file_offset past the cluster', pokes: [u64(8, 65537n), u32(16, 10)] },
  { name: 'backing_file_offset huge', pokes: [u64(8, 0xffff_ffff_ffff_ffffn), u32(16, 10)] },
  { name: 'backing_file_size 1024', pokes: [u64(8, 4096n), u32(16, 1024)] },
  { name: 'backing_file_size past the cluster', pokes: [u64(8, 65530n), u32(16, 10)] },
  ...huge.map((n) => ({ name: `backing_file_size ${n}`, pokes: [u64(8, 4096n), u32(16, n)] })),
  { name: 'unknown extension too long', pokes: [ext(0x12345678, 0x7fff_ffff)] },
  { name: 'unknown extension of 2^32 - 1', pokes: [ext(0x12345678, 0xffff_ffff)] },
  { name: 'extension over the end', pokes: [ext(0x12345678, 65536 - 120 + 1)] },
  { name: 'extension up to the end', pokes: [ext(0x12345678, 65536 - 120)] },
  { name: 'backing format too long', pokes: [ext(0xe2792aca, 16)] },
  { name: 'crypto extension without encryption', pokes: [ext(0x0537be77, 16)] },
  { name: 'crypto extension of wrong length', pokes: [u32(32, 2), ext(0x0537be77, 15)] },
  { name: 'crypto header off a cluster', pokes: [u32(32, 2), ext(0x0537be77, 16), u64(120, 5n)] },
  { name: 'LUKS without its header', pokes: [u32(32, 2)] },
  { name: 'crypt_method 3', pokes: [u32(32, 3)] },
  { name: 'bitmaps of wrong length', pokes: [u64(88, 1n), ext(0x23852875, 23)] },
  {
    name: 'bitmaps: reserved field',
    pokes: [u64(88, 1n), ext(0x23852875, 24), u32(120, 1), u32(124, 1)],
  },
  { name: 'no bitmaps in the extension', pokes: [u64(88, 1n), ext(0x23852875, 24), u64(120, 0n)] },
  {
    name: 'too many bitmaps',
    pokes: [u64(88, 1n), ext(0x23852875, 24), u32(120, 65536), u32(124, 0)],
  },
  {
    name: 'bitmap directory off a cluster',
    pokes: [
      u64(88, 1n),
      ext(0x23852875, 24),
      u32(120, 1),
      u32(124, 0),
      u64(128, 24n),
      u64(136, 7n),
    ],
  },
  {
    name: 'bitmap directory too long',
    pokes: [
      u64(88, 1n),
      ext(0x23852875, 24),
      u32(120, 1),
      u32(124, 0),
      u64(128, 1n << 40n),
      u64(136, 65536n),
    ],
  },
  { name: 'incompatible bit 63', pokes: [u64(72, 1n << 63n)] },
  { name: 'incompatible bits 5 and 6', pokes: [u64(72, 0x60n)] },
  {
    name: 'incompatible bit 63 with a name',
    pokes: [u64(72, 1n << 63n), ...featureTable(0, 63, 'test feature')],
  },
  {
    name: 'named and unnamed incompatible bits',
    pokes: [u64(72, (1n << 63n) | (1n << 40n)), ...featureTable(0, 63, 'test feature')],
  },
  {
    name: 'a name for a bit of another field',
    pokes: [u64(72, 1n << 40n), ...featureTable(1, 40, 'test feature')],
  },
  { name: 'corrupt bit', pokes: [u64(72, 2n)] },
  { name: 'compression bit without type', pokes: [u64(72, 8n)] },
  { name: 'compression type without bit', pokes: [{ at: 104, bytes: [1] }] },
  { name: 'compression type 2', pokes: [u64(72, 8n), { at: 104, bytes: [2] }] },
  {
    name: 'compression type past a short header',
    pokes: [u64(72, 8n), { at: 104, bytes: [1] }, u32(100, 104)],
  },
  { name: 'extended L2 with small clusters', create: 'cluster_size=8k', pokes: [u64(72, 16n)] },
  ...[7, 31, 32, 0xffff_ffff].map((order) => ({
    name: `refcount_order ${order}`,
    pokes: [u32(96, order)],
  })),
  { name: 'refcount_table_clusters 0', pokes: [u32(56, 0)] },
  { name: 'refcount_table_clusters 2^32 - 1', pokes: [u32(56, 0xffff_ffff)] },
  { name: 'refcount_table_clusters 0x20001', pokes: [u32(56, 0x20001)] },
  { name: 'refcount_table_clusters 129', pokes: [u32(56, 129)] },
  { name: 'refcount table off a cluster', pokes: [u64(48, 0x1234567890abcdefn)] },
  { name: 'refcount table out of reach', pokes: [u64(48, 0xffff_ffff_ffff_0000n), u32(56, 0x7f)] },
  { name: 'nb_snapshots 2^32 - 1', pokes: [u32(60, 0xffff_ffff)] },
  { name: 'nb_snapshots 65537', pokes: [u32(60, 65537)] },
  { name: 'snapshots out of reach', pokes: [u64(64, 0xffff_ffff_ffff_0000n), u32(60, 0xffff)] },
  { name: 'snapshots off a cluster', pokes: [u64(64, 0x1234567890abcdefn), u32(60, 0)] },
  { name: 'l1_size 2^32 - 1', pokes: [u32(36, 0xffff_ffff)] },
  { name: 'l1_size 4 Mi + 1', pokes: [u32(36, 4 * 1024 * 1024 + 1)] },
  { name: 'l1_size 0', pokes: [u32(36, 0)] },
  { name: 'L1 out of reach', pokes: [u64(40, 0x7fff_ffff_ffff_0000n), u32(36, 0xffff)] },
  { name: 'L1 off a cluster', pokes: [u64(40, 0x1234567890abcdefn), u32(36, 1)] },
  { name: 'size 2^63', pokes: [u64(24, 1n << 63n)] },
  { name: 'size 2^62 of clusters', pokes: [u64(24, 1n << 62n)] },
  { name: 'size that needs a longer L1', pokes: [u64(24, 1n << 40n)] },
  {
    name: 'two faults: L1 and refcount table',
    pokes: [u32(36, 0xffff_ffff), u32(56, 0xffff_ffff)],
  },
  { name: 'two faults: snapshots and L1', pokes: [u32(36, 0xffff_ffff), u32(60, 0xffff_ffff)] },
  {
    name: 'two faults: extension and L1',
    pokes: [ext(0x12345678, 0x7fff_ffff), u32(36, 0xffff_ffff)],
  },
  { name: 'two faults: feature and refcount order', pokes: [u64(72, 1n << 40n), u32(96, 9)] },
  { name: 'two faults: corrupt and refcount order', pokes: [u64(72, 2n), u32(96, 9)] },
  {
    name: 'two faults: compression and feature',
    pokes: [u64(72, 1n << 40n), { at: 104, bytes: [1] }],
  },
  { name: 'two faults: encryption and refcount order', pokes: [u32(32, 3), u32(96, 9)] },
  { name: 'data file missing its name', pokes: [u64(72, 4n)] },
  { name: 'raw data file without data file', pokes: [u64(88, 2n)] },
  { name: 'data-file bit in version 2', create: 'compat=0.10', pokes: [u64(72, 4n)] },
];
