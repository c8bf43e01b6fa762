/**
 * Frame and block headers of zstd (RFC 8878, sections 3.1.1 and 3.1.2), without
 * decompressing: where a frame ends and how much it can yield.
 *
 * Compressed clusters are followed by bytes that do not belong to them, and an
 * image may lie about its sizes, so both are found before a decoder runs.
 */
import { CompressionError } from './compression.js';

const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
/** RFC 8878, 3.1.1.2.4: no block yields more. */
const BLOCK_LIMIT = 128 * 1024;

export interface ZstdFrame {
  /** Length of the frame itself, checksum included. */
  readonly bytes: number;
  /** Frame_Content_Size where the header has one. */
  readonly contentBytes: number | undefined;
  /** No conforming decoder yields less (sum of raw and RLE blocks). */
  readonly leastBytes: number;
  /** No conforming decoder yields more (compressed blocks taken at their limit). */
  readonly mostBytes: number;
  /** Window_Size: what a streaming decoder may allocate. */
  readonly windowBytes: number;
  /** A skippable frame: no content. */
  readonly skippable: boolean;
}

class Cursor {
  at = 0;
  constructor(readonly input: Uint8Array) {}
  /** Little-endian integer of `width` bytes. */
  take(width: number): number {
    const { input, at } = this;
    if (at + width > input.byteLength) throw new CompressionError('zstd frame is cut short');
    let value = 0;
    for (let i = width - 1; i >= 0; i--) value = value * 256 + (input[at + i] ?? 0);
    this.at = at + width;
    return value;
  }
  skip(bytes: number): void {
    if (this.at + bytes > this.input.byteLength) {
      throw new CompressionError('zstd frame is cut short');
    }
    this.at += bytes;
  }
}

interface Header {
  readonly contentBytes: number | undefined;
  readonly windowBytes: number;
  readonly checksum: boolean;
}

/** Frame_Header, RFC 8878 section 3.1.1.1. */
function takeHeader(c: Cursor): Header {
  const descriptor = c.take(1);
  const sizeFlag = descriptor >> 6;
  const singleSegment = (descriptor & 0x20) !== 0;
  if ((descriptor & 0x08) !== 0) throw new CompressionError('zstd frame: reserved bit is set');
  let windowBytes = 0;
  if (!singleSegment) {
    const w = c.take(1);
    const base = 2 ** (10 + (w >> 3));
    windowBytes = base + (base / 8) * (w & 7);
  }
  const dictionary = c.take([0, 1, 2, 4][descriptor & 3] ?? 0);
  if (dictionary !== 0) throw new CompressionError('zstd frame: needs a dictionary');
  let contentBytes: number | undefined;
  if (sizeFlag !== 0 || singleSegment) {
    contentBytes = c.take(2 ** sizeFlag) + (sizeFlag === 1 ? 256 : 0);
  }
  if (singleSegment) windowBytes = contentBytes ?? 0;
  return { contentBytes, windowBytes, checksum: (descriptor & 0x04) !== 0 };
}

/**
 * Parses the frame at the start of `input`; bytes after it are ignored. Throws
 * {@link CompressionError} when there is none, it is cut, or breaks a rule that
 * the headers show.
 */
export function parseZstdFrame(input: Uint8Array): ZstdFrame {
  const c = new Cursor(input);
  const magic = c.take(4);
  if (((magic ^ SKIPPABLE_MAGIC) & ~15) === 0) {
    c.skip(c.take(4));
    const none = { contentBytes: 0, leastBytes: 0, mostBytes: 0, windowBytes: 0 };
    return { bytes: c.at, ...none, skippable: true };
  }
  if (magic !== FRAME_MAGIC) throw new CompressionError('not a zstd frame');
  const header = takeHeader(c);
  const blockLimit = Math.min(header.windowBytes, BLOCK_LIMIT);
  let leastBytes = 0;
  let mostBytes = 0;
  for (let last = false; !last;) {
    const block = c.take(3);
    last = (block & 1) !== 0;
    const size = block >> 3;
    if (size > blockLimit) throw new CompressionError('zstd frame: block is too large');
    switch ((block >> 1) & 3) {
      case 0: // raw
        c.skip(size);
        leastBytes += size;
        mostBytes += size;
        break;
      case 1: // one byte, repeated
        c.skip(1);
        leastBytes += size;
        mostBytes += size;
        break;
      case 2:
        c.skip(size);
        mostBytes += blockLimit;
        break;
      default:
        throw new CompressionError('zstd frame: reserved block type');
    }
  }
  if (header.checksum) c.skip(4);
  const { contentBytes, windowBytes } = header;
  return { bytes: c.at, contentBytes, leastBytes, mostBytes, windowBytes, skippable: false };
}
