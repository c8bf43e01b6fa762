/**
 * Refcount blocks as bytes: entries of 1 to 64 bits, and the search for free ones. Pure.
 *
 * Widths below a byte count bits from the least significant one ("Refcount block entry").
 * 64-bit counts decode to `number`, rounded above 2^53, which no honest image reaches.
 */

const TWO32 = 0x1_0000_0000;

/** Access to the entries of a block of one width. */
export interface RefcountCodec {
  get(block: DataView, index: number): number;
  set(block: DataView, index: number, value: number): void;
}

function subByte(order: 0 | 1 | 2): RefcountCodec {
  const bits = 1 << order;
  const perByteBits = 3 - order;
  const inByte = (1 << perByteBits) - 1;
  const mask = (1 << bits) - 1;
  return {
    get(block, index) {
      return (block.getUint8(index >>> perByteBits) >>> ((index & inByte) * bits)) & mask;
    },
    set(block, index, value) {
      const at = index >>> perByteBits;
      const shift = (index & inByte) * bits;
      block.setUint8(at, (block.getUint8(at) & ~(mask << shift)) | (value << shift));
    },
  };
}

const codecs: readonly RefcountCodec[] = [
  subByte(0),
  subByte(1),
  subByte(2),
  {
    get: (block, index) => block.getUint8(index),
    set: (block, index, value) => block.setUint8(index, value),
  },
  {
    get: (block, index) => block.getUint16(index * 2),
    set: (block, index, value) => block.setUint16(index * 2, value),
  },
  {
    get: (block, index) => block.getUint32(index * 4),
    set: (block, index, value) => block.setUint32(index * 4, value),
  },
  {
    get: (block, index) => block.getUint32(index * 8) * TWO32 + block.getUint32(index * 8 + 4),
    set: (block, index, value) => {
      block.setUint32(index * 8, Math.floor(value / TWO32));
      block.setUint32(index * 8 + 4, value % TWO32);
    },
  },
];

/** The codec for entries of `1 << order` bits, order 0 to 6. */
export function refcountCodec(order: number): RefcountCodec {
  const codec = codecs[order];
  if (codec === undefined) throw new RangeError(`refcount order ${order}`);
  return codec;
}

/** Index of the first entry in [from, to) that is 0; `to` when there is none. */
export function findFree(codec: RefcountCodec, block: DataView, from: number, to: number): number {
  let at = from;
  while (at < to && codec.get(block, at) !== 0) at++;
  return at;
}

/** How many entries from `from` on, at most up to `to`, are 0. */
export function countFree(codec: RefcountCodec, block: DataView, from: number, to: number): number {
  let at = from;
  while (at < to && codec.get(block, at) === 0) at++;
  return at - from;
}
