/**
 * LZFSE streams, to read: blocks of Lempel-Ziv triplets (literals, match, distance) that are coded
 * by finite state entropy, as Apple's open reference implementation describes them; LZVN: lzvn.ts.
 *
 * The bits of a coded stream are those of one large little-endian number, and are taken from its
 * top: the encoder wrote them last to first.
 */
import { CompressionError } from '../../host/compression.js';
import { lzvnDecode } from './lzvn.js';

const Magic = {
  end: 0x2478_7662,
  plain: 0x2d78_7662,
  /** Frequencies as 16-bit numbers. */
  coded1: 0x3178_7662,
  /** Frequencies packed. */
  coded2: 0x3278_7662,
  lzvn: 0x6e78_7662,
} as const;

/** Symbols and states of each table; literals, then lengths of literals, of matches, distances. */
const Symbols = { l: 20, m: 20, d: 64, literal: 256 } as const;
const States = { l: 64, m: 64, d: 256, literal: 1024 } as const;
const ALL_SYMBOLS = Symbols.l + Symbols.m + Symbols.d + Symbols.literal;
/** Most that a block may have. */
const MAX_MATCHES = 10_000;
const MAX_LITERALS = 4 * MAX_MATCHES;

const small = Array.from({ length: 16 }, () => 0);
const lBits = [...small, 2, 3, 5, 8];
const mBits = [...small, 3, 5, 8, 11];
const dBits = Array.from({ length: Symbols.d }, (_, i) => i >> 2);

/** Each symbol stands for 2^bits values, which follow those of the symbol before. */
function basesOf(bits: readonly number[]): number[] {
  let next = 0;
  return bits.map((n) => {
    const base = next;
    next += 2 ** n;
    return base;
  });
}

const lBase = basesOf(lBits);
const mBase = basesOf(mBits);
const dBase = basesOf(dBits);

function damaged(): CompressionError {
  return new CompressionError('The LZFSE data is damaged');
}

/** Bits from the top of a little-endian number. */
class TopBits {
  readonly #bytes: Uint8Array;
  #left: number;

  /** `unused`: 0 to 7 bits at the top. */
  constructor(bytes: Uint8Array, unused: number) {
    this.#bytes = bytes;
    this.#left = bytes.length * 8 - unused;
  }

  /** The next `count` bits, at most 24. */
  take(count: number): number {
    if (count === 0) return 0;
    this.#left -= count;
    if (this.#left < 0) throw damaged();
    const at = this.#left >> 3;
    const bytes = this.#bytes;
    const word =
      (bytes[at] ?? 0) |
      ((bytes[at + 1] ?? 0) << 8) |
      ((bytes[at + 2] ?? 0) << 16) |
      ((bytes[at + 3] ?? 0) << 24);
    return (word >>> (this.#left & 7)) & ((1 << count) - 1);
  }
}

/** What a state decodes to: a symbol's value, and where to go on. */
class StateTable {
  readonly #bits: Uint8Array;
  readonly #delta: Int16Array;
  readonly #base: Int32Array;
  readonly #extra: Uint8Array;

  /** `freq` sums up to `states` at most. Symbol i stands for base[i] and extra[i] bits more. */
  constructor(
    states: number,
    freq: Uint16Array,
    base?: readonly number[],
    extra?: readonly number[],
  ) {
    this.#bits = new Uint8Array(states);
    this.#delta = new Int16Array(states);
    this.#base = new Int32Array(states);
    this.#extra = new Uint8Array(states);
    const sum = freq.reduce((n, f) => n + f, 0);
    if (sum > states) throw damaged();
    let state = 0;
    freq.forEach((f, symbol) => {
      if (f === 0) return;
      const k = Math.clz32(f) - Math.clz32(states);
      const wide = ((2 * states) >> k) - f;
      for (let j = 0; j < f; j++, state++) {
        this.#bits[state] = j < wide ? k : k - 1;
        this.#delta[state] = j < wide ? ((f + j) << k) - states : (j - wide) << (k - 1);
        this.#base[state] = base?.[symbol] ?? symbol;
        this.#extra[state] = extra?.[symbol] ?? 0;
      }
    });
  }

  /** Takes the bits of `state`: its value, and in `next` the state after it. */
  decode(state: number, bits: TopBits, next: { state: number }): number {
    const move = bits.take(this.#bits[state]!);
    const value = this.#base[state]! + bits.take(this.#extra[state]!);
    next.state = this.#delta[state]! + move;
    if (next.state < 0 || next.state >= this.#delta.length) throw damaged();
    return value;
  }
}

/** The packed frequencies: numbers of 2 to 14 bits, shorter ones for smaller values. */
function unpackFrequencies(bytes: Uint8Array): Uint16Array {
  const out = new Uint16Array(ALL_SYMBOLS);
  if (bytes.length === 0) return out;
  let bit = 0;
  const peek = (): number => {
    const at = bit >> 3;
    const word = (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16);
    return word >> (bit & 7);
  };
  for (let i = 0; i < ALL_SYMBOLS; i++) {
    const bits = peek();
    const [value, width] = frequency(bits);
    out[i] = value;
    bit += width;
  }
  if (Math.ceil(bit / 8) !== bytes.length) throw damaged();
  return out;
}

function frequency(bits: number): [value: number, width: number] {
  // 00: 0, 10: 1, 001: 2, 101: 3, and three bits with 011 for 4 to 7, from the lowest bit on.
  if ((bits & 1) === 0) return [(bits >> 1) & 1, 2];
  if ((bits & 2) === 0) return [2 + ((bits >> 2) & 1), 3];
  if ((bits & 4) === 0) return [4 + ((bits >> 3) & 3), 5];
  if ((bits & 8) === 0) return [8 + ((bits >> 4) & 15), 8];
  return [24 + ((bits >> 4) & 0x3ff), 14];
}

interface Block {
  readonly headerBytes: number;
  readonly rawBytes: number;
  readonly literals: number;
  readonly literalBytes: number;
  readonly matches: number;
  readonly lmdBytes: number;
  readonly literalUnused: number;
  readonly lmdUnused: number;
  readonly literalStates: readonly number[];
  readonly lmdStates: readonly [number, number, number];
  readonly frequencies: Uint16Array;
}

const FIXED1 = 50;
const FIXED2 = 32;

function parse1(input: Uint8Array, at: number): Block {
  const headerBytes = FIXED1 + 2 * ALL_SYMBOLS;
  // The structure of the reference is padded to whole words.
  const padded = Math.ceil(headerBytes / 4) * 4;
  if (at + padded > input.length) throw damaged();
  const view = new DataView(input.buffer, input.byteOffset + at, padded);
  const word = (n: number): number => view.getUint32(n, true);
  const half = (n: number): number => view.getUint16(n, true);
  const frequencies = new Uint16Array(ALL_SYMBOLS);
  for (let i = 0; i < ALL_SYMBOLS; i++) frequencies[i] = half(FIXED1 + 2 * i);
  return {
    headerBytes: padded,
    rawBytes: word(4),
    literals: word(12),
    matches: word(16),
    literalBytes: word(20),
    lmdBytes: word(24),
    literalUnused: -view.getInt32(28, true),
    literalStates: [half(32), half(34), half(36), half(38)],
    lmdUnused: -view.getInt32(40, true),
    lmdStates: [half(44), half(46), half(48)],
    frequencies,
  };
}

function parse2(input: Uint8Array, at: number): Block {
  if (at + FIXED2 > input.length) throw damaged();
  const view = new DataView(input.buffer, input.byteOffset + at, FIXED2);
  const packed = [8, 16, 24].map((n) => view.getBigUint64(n, true));
  const field = (which: number, bit: number, bits: number): number =>
    Number(BigInt.asUintN(bits, packed[which]! >> BigInt(bit)));
  const headerBytes = field(2, 0, 32);
  if (headerBytes < FIXED2 || at + headerBytes > input.length) throw damaged();
  return {
    headerBytes,
    rawBytes: view.getUint32(4, true),
    literals: field(0, 0, 20),
    literalBytes: field(0, 20, 20),
    matches: field(0, 40, 20),
    literalUnused: 7 - field(0, 60, 3),
    literalStates: [0, 10, 20, 30].map((bit) => field(1, bit, 10)),
    lmdBytes: field(1, 40, 20),
    lmdUnused: 7 - field(1, 60, 3),
    lmdStates: [field(2, 32, 10), field(2, 42, 10), field(2, 52, 10)],
    frequencies: unpackFrequencies(input.subarray(at + FIXED2, at + headerBytes)),
  };
}

function checkBlock(block: Block): void {
  const { literals, matches, literalUnused, lmdUnused, literalStates, lmdStates } = block;
  const unused = (n: number): boolean => n >= 0 && n <= 7;
  const isSound =
    literals <= MAX_LITERALS &&
    literals % 4 === 0 &&
    matches <= MAX_MATCHES &&
    unused(literalUnused) &&
    unused(lmdUnused) &&
    literalStates.every((state) => state < States.literal) &&
    lmdStates[0] < States.l &&
    lmdStates[1] < States.m &&
    lmdStates[2] < States.d;
  if (!isSound) throw damaged();
}

function decodeLiterals(block: Block, bytes: Uint8Array, freq: Uint16Array): Uint8Array {
  const table = new StateTable(States.literal, freq);
  const bits = new TopBits(bytes, block.literalUnused);
  const out = new Uint8Array(block.literals);
  const lanes = block.literalStates.map((state) => ({ state }));
  for (let i = 0; i < out.length; i++) {
    const lane = lanes[i & 3]!;
    out[i] = table.decode(lane.state, bits, lane);
  }
  return out;
}

/** Decodes a coded block at `at` to `to`; where the next one begins in both. */
function decodeCoded(
  input: Uint8Array,
  at: number,
  output: Uint8Array,
  to: number,
  block: Block,
): { at: number; to: number } {
  checkBlock(block);
  const literalsAt = at + block.headerBytes;
  const lmdAt = literalsAt + block.literalBytes;
  const end = lmdAt + block.lmdBytes;
  if (end > input.length) throw damaged();
  const { frequencies } = block;
  const mAt = Symbols.l;
  const dAt = mAt + Symbols.m;
  const literalAt = dAt + Symbols.d;
  const literals = decodeLiterals(
    block,
    input.subarray(literalsAt, lmdAt),
    frequencies.subarray(literalAt),
  );
  const l = new StateTable(States.l, frequencies.subarray(0, mAt), lBase, lBits);
  const m = new StateTable(States.m, frequencies.subarray(mAt, dAt), mBase, mBits);
  const d = new StateTable(States.d, frequencies.subarray(dAt, literalAt), dBase, dBits);
  const bits = new TopBits(input.subarray(lmdAt, end), block.lmdUnused);
  const [ls, ms, ds] = block.lmdStates.map((state) => ({ state })) as [Lane, Lane, Lane];
  let used = 0;
  let distance = 0;
  for (let i = 0; i < block.matches; i++) {
    const length = l.decode(ls.state, bits, ls);
    const match = m.decode(ms.state, bits, ms);
    distance = d.decode(ds.state, bits, ds) || distance;
    if (used + length > literals.length || to + length + match > output.length) throw damaged();
    output.set(literals.subarray(used, used + length), to);
    used += length;
    to += length;
    if (match > 0 && (distance === 0 || distance > to)) throw damaged();
    for (let j = 0; j < match; j++, to++) output[to] = output[to - distance]!;
  }
  return { at: end, to };
}

interface Lane {
  state: number;
}

/** Fills `output`; throws CompressionError where the data is damaged, too short or too long. */
export function lzfseDecode(input: Uint8Array, output: Uint8Array): void {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  const word = (at: number): number => {
    if (at + 4 > input.length) throw damaged();
    return view.getUint32(at, true);
  };
  for (let at = 0, to = 0; ;) {
    const magic = word(at);
    if (magic === Magic.end) {
      if (to < output.length) throw damaged();
      return;
    }
    if (magic === Magic.coded1 || magic === Magic.coded2) {
      const block = magic === Magic.coded1 ? parse1(input, at) : parse2(input, at);
      const next = decodeCoded(input, at, output, to, block);
      if (next.to !== to + block.rawBytes) throw damaged();
      ({ at, to } = next);
      continue;
    }
    const bytes = word(at + 4);
    if (to + bytes > output.length) throw damaged();
    if (magic === Magic.plain) {
      if (at + 8 + bytes > input.length) throw damaged();
      output.set(input.subarray(at + 8, at + 8 + bytes), to);
      at += 8 + bytes;
    } else if (magic === Magic.lzvn) {
      const end = at + 12 + word(at + 8);
      if (end > input.length) throw damaged();
      const block = input.subarray(at + 12, end);
      if (!lzvnDecode(block, output.subarray(0, to + bytes), to)) throw damaged();
      at = end;
    } else {
      throw damaged();
    }
    to += bytes;
  }
}
