/**
 * bzip2 streams, to read, as the format of bzip2 1.0 is: blocks of up to 900 kB of text whose runs
 * are shortened, sorted (Burrows-Wheeler), moved to front and coded by up to six Huffman codes.
 *
 * Memory: four bytes for each of a block's text, one block of input, one piece of output. Not
 * supported: blocks that are "randomised", which nobody has written since 1997.
 */

/** What comes out at once. */
const PIECE_BYTES = 256 * 1024;
/** No block is longer: 18002 selectors of 50 symbols of 20 bits, the tables before them. */
const MOST_BLOCK_BYTES = 2_500_000;
const MAX_SELECTORS = 18_002;
const GROUP_SYMBOLS = 50;
const MAX_BITS = 20;
/** A run is no longer than two of the largest blocks. */
const MAX_RUN_BIT = 2 ** 21;

function damaged(what: string): Error {
  return new Error(`The bzip2 data is damaged: ${what}`);
}

/** Bits from the top of each byte; behind the last one come zeroes that nobody may take. */
class Bits {
  bytes: Uint8Array = new Uint8Array(0);
  #at = 0;
  #word = 0;
  #count = 0;

  /** Bytes that nothing was taken of. */
  get left(): number {
    return this.bytes.length - this.#at + (this.#count >> 3);
  }

  /** The next bits, at most 24, which stay. */
  peek(count: number): number {
    while (this.#count < count) {
      this.#word = (this.#word << 8) | (this.bytes[this.#at++] ?? 0);
      this.#count += 8;
    }
    return (this.#word >>> (this.#count - count)) & ((1 << count) - 1);
  }

  drop(count: number): void {
    this.#count -= count;
    if (this.#at * 8 - this.#count > this.bytes.length * 8) throw damaged('it is cut short');
  }

  /** Takes at most 24 bits. */
  take(count: number): number {
    const value = this.peek(count);
    this.drop(count);
    return value;
  }

  /** Goes on at the next whole byte. */
  align(): void {
    this.#count -= this.#count & 7;
  }

  /** Lets go of what was taken, and has `more` behind the rest. */
  append(more: Uint8Array): void {
    const at = this.#at - (this.#count >> 3);
    const rest = this.bytes.subarray(Math.min(at, this.bytes.length));
    // Bits of a byte that was begun stay in the word, without the bytes after it.
    this.#word >>>= this.#count & ~7;
    this.#count &= 7;
    this.#at = 0;
    if (rest.length === 0) {
      this.bytes = more;
      return;
    }
    const bytes = new Uint8Array(rest.length + more.length);
    bytes.set(rest);
    bytes.set(more, rest.length);
    this.bytes = bytes;
  }
}

/** A Huffman code: of each length the last code, and what to take off it to have the symbol. */
interface Code {
  readonly least: number;
  readonly most: number;
  readonly last: Int32Array;
  readonly base: Int32Array;
  readonly symbols: Uint16Array;
}

function codeOf(lengths: Uint8Array): Code {
  const counts = new Int32Array(MAX_BITS + 1);
  for (const length of lengths) counts[length]!++;
  const last = new Int32Array(MAX_BITS + 1).fill(-1);
  const base = new Int32Array(MAX_BITS + 1);
  const symbols = new Uint16Array(lengths.length);
  let next = 0;
  let code = 0;
  for (let length = 1; length <= MAX_BITS; length++) {
    base[length] = code - next;
    lengths.forEach((of, symbol) => {
      if (of === length) symbols[next++] = symbol;
    });
    code += counts[length]!;
    last[length] = code - 1;
    code <<= 1;
  }
  return { least: Math.min(...lengths), most: Math.max(...lengths), last, base, symbols };
}

function symbolOf(bits: Bits, code: Code): number {
  const window = bits.peek(MAX_BITS);
  for (let length = code.least; length <= code.most; length++) {
    const value = window >>> (MAX_BITS - length);
    if (value > code.last[length]!) continue;
    bits.drop(length);
    const symbol = code.symbols[value - code.base[length]!];
    if (symbol === undefined) break;
    return symbol;
  }
  throw damaged('a code that is none');
}

/** Moves the entry at `index` to the front; its value. */
function toFront(list: Uint8Array, index: number): number {
  const value = list[index]!;
  list.copyWithin(1, 0, index);
  list[0] = value;
  return value;
}

function readUsed(bits: Bits): Uint8Array {
  const ranges = bits.take(16);
  const used: number[] = [];
  for (let range = 0; range < 16; range++) {
    if ((ranges & (0x8000 >> range)) === 0) continue;
    const inside = bits.take(16);
    for (let i = 0; i < 16; i++) if ((inside & (0x8000 >> i)) !== 0) used.push(16 * range + i);
  }
  if (used.length === 0) throw damaged('a block that uses no byte');
  return Uint8Array.from(used);
}

function readSelectors(bits: Bits, groups: number): Uint8Array {
  const count = bits.take(15);
  if (count === 0) throw damaged('no selectors');
  const out = new Uint8Array(Math.min(count, MAX_SELECTORS));
  const order = Uint8Array.from({ length: groups }, (_, i) => i);
  for (let i = 0; i < count; i++) {
    let index = 0;
    while (bits.take(1) === 1) if (++index >= groups) throw damaged('a selector');
    const group = toFront(order, index);
    // Some encoders write a few too many, which nobody uses.
    if (i < out.length) out[i] = group;
  }
  return out;
}

function readCode(bits: Bits, symbols: number): Code {
  const lengths = new Uint8Array(symbols);
  let length = bits.take(5);
  for (let i = 0; i < symbols; i++) {
    for (;;) {
      if (length < 1 || length > MAX_BITS) throw damaged('the length of a code');
      if (bits.take(1) === 0) break;
      length += bits.take(1) === 0 ? 1 : -1;
    }
    lengths[i] = length;
  }
  return codeOf(lengths);
}

interface Block {
  readonly count: number;
  readonly first: number;
  readonly crc: number;
}

/** Decodes a block behind its magic into `text`: bytes, and above them where the next one is. */
function readBlock(bits: Bits, text: Uint32Array): Block {
  const crc = bits.take(16) * 65536 + bits.take(16);
  if (bits.take(1) === 1) throw damaged('it is randomised, which is not supported');
  const first = bits.take(24);
  const front = readUsed(bits);
  const end = front.length + 1;
  const groups = bits.take(3);
  if (groups < 2 || groups > 6) throw damaged('the number of codes');
  const selectors = readSelectors(bits, groups);
  const codes = Array.from({ length: groups }, () => readCode(bits, end + 1));
  const count = readText(bits, text, { front, selectors, codes, end });
  if (first >= count) throw damaged('where its text begins');
  link(text, count);
  return { count, first, crc };
}

interface TextCodes {
  readonly front: Uint8Array;
  readonly selectors: Uint8Array;
  readonly codes: readonly Code[];
  /** The symbol that ends a block. */
  readonly end: number;
}

function readText(bits: Bits, text: Uint32Array, codes: TextCodes): number {
  const { front, selectors, end } = codes;
  let count = 0;
  let run = 0;
  let runBit = 1;
  for (let n = 0; ; n++) {
    const selector = selectors[Math.floor(n / GROUP_SYMBOLS)];
    if (selector === undefined) throw damaged('too few selectors');
    const symbol = symbolOf(bits, codes.codes[selector]!);
    if (symbol <= 1) {
      if (runBit >= MAX_RUN_BIT) throw damaged('a run that is too long');
      run += runBit << symbol;
      runBit *= 2;
      continue;
    }
    if (run > 0) {
      if (count + run > text.length) throw damaged('a block that is too long');
      text.fill(front[0]!, count, count + run);
      count += run;
      run = 0;
      runBit = 1;
    }
    if (symbol === end) return count;
    if (count >= text.length) throw damaged('a block that is too long');
    text[count++] = toFront(front, symbol - 1);
  }
}

/** Undoes the sorting: each entry gets the place of the one that follows it in the text. */
function link(text: Uint32Array, count: number): void {
  const places = new Uint32Array(257);
  for (let i = 0; i < count; i++) places[text[i]! + 1]!++;
  for (let i = 1; i <= 256; i++) places[i]! += places[i - 1]!;
  for (let i = 0; i < count; i++) {
    const at = places[text[i]! & 0xff]!++;
    text[at] = text[at]! | (i << 8);
  }
}

const crcTable = Uint32Array.from({ length: 256 }, (_, i) => {
  let value = i << 24;
  for (let bit = 0; bit < 8; bit++) value = (value << 1) ^ (value < 0 ? 0x04c1_1db7 : 0);
  return value;
});

/** The text of a block: four equal bytes are followed by how often they go on. */
function* content(text: Uint32Array, { count, first, crc }: Block): Generator<Uint8Array> {
  let piece = new Uint8Array(PIECE_BYTES);
  let filled = 0;
  let sum = -1;
  let place = text[first]! >>> 8;
  let before = -1;
  let equal = 0;
  for (let left = count; left > 0; left--) {
    const entry = text[place]!;
    place = entry >>> 8;
    const value = entry & 0xff;
    let times = 1;
    if (equal === 4) {
      times = value;
      equal = 0;
    } else {
      equal = value === before ? equal + 1 : 1;
      before = value;
    }
    for (; times > 0; times--) {
      sum = (sum << 8) ^ crcTable[(sum >>> 24) ^ before]!;
      piece[filled++] = before;
      if (filled < PIECE_BYTES) continue;
      yield piece;
      piece = new Uint8Array(PIECE_BYTES);
      filled = 0;
    }
    // What was repeated does not count for the next run.
    if (equal === 0) before = -1;
  }
  if (~sum >>> 0 !== crc) throw damaged('the checksum of a block');
  if (filled > 0) yield piece.subarray(0, filled);
}

/** The content of bzip2 streams that follow each other, with zeroes behind them at most. */
export async function* bunzip2(source: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  const pieces = source[Symbol.asyncIterator]();
  const bits = new Bits();
  const fill = async (): Promise<void> => {
    while (bits.left < MOST_BLOCK_BYTES) {
      const next = await pieces.next();
      if (next.done === true) return;
      bits.append(next.value);
    }
  };
  try {
    await fill();
    do {
      yield* stream(bits, fill);
      await fill();
    } while (bits.left > 0 && bits.peek(8) !== 0);
    for (; bits.left > 0; await fill()) {
      if (bits.take(8) !== 0) throw damaged('there is something else behind it');
    }
  } finally {
    await pieces.return?.();
  }
}

async function* stream(bits: Bits, fill: () => Promise<void>): AsyncIterable<Uint8Array> {
  const level = bits.take(24) === 0x42_5a68 ? bits.take(8) - 0x30 : 0;
  if (level < 1 || level > 9) throw damaged('its header');
  const text = new Uint32Array(level * 100_000);
  let sum = 0;
  for (;;) {
    await fill();
    const magic = bits.take(24) * 2 ** 24 + bits.take(24);
    if (magic === 0x1772_4538_5090) break;
    if (magic !== 0x3141_5926_5359) throw damaged('the head of a block');
    const block = readBlock(bits, text);
    yield* content(text, block);
    sum = ((sum << 1) | (sum >>> 31)) ^ block.crc;
  }
  if (sum >>> 0 !== bits.take(16) * 65536 + bits.take(16)) throw damaged('its checksum');
  bits.align();
}
