/**
 * zstd (RFC 8878) as a stream, by a decoder in JavaScript. The decoder does not look at the
 * content's checksum, so the frames are walked here and their checksums compared.
 */
import type { Decompress } from 'fzstd';
import type { XXHash } from 'xxhash-wasm';
import { CompressionError } from '../compression.js';
import type { ByteSource } from './decompress.js';

const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
/** Most that is handed to the decoder at once; the rest of a block follows. */
const STEP = 128 * 1024;

/** Counted bytes of a source. */
class Pieces {
  readonly #source: AsyncIterator<Uint8Array>;
  #piece = new Uint8Array(0);

  constructor(source: ByteSource) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** The next `bytes` bytes; undefined when the source ends before the first of them. */
  async tryTake(bytes: number): Promise<Uint8Array | undefined> {
    const taken = new Uint8Array(bytes);
    for (let filled = 0; filled < bytes;) {
      if (this.#piece.byteLength === 0) {
        const next = await this.#source.next();
        if (next.done === true) {
          if (filled === 0) return undefined;
          throw new CompressionError('The zstd data is cut short');
        }
        this.#piece = new Uint8Array(next.value);
        continue;
      }
      const part = this.#piece.subarray(0, bytes - filled);
      taken.set(part, filled);
      filled += part.byteLength;
      this.#piece = this.#piece.subarray(part.byteLength);
    }
    return taken;
  }

  async take(bytes: number): Promise<Uint8Array> {
    const taken = await this.tryTake(bytes);
    if (taken === undefined) throw new CompressionError('The zstd data is cut short');
    return taken;
  }
}

const word = (b: Uint8Array): number =>
  new DataView(b.buffer, b.byteOffset, b.byteLength).getUint32(0, true);

/** The content of all frames of a stream. */
export async function* zstdContent(source: ByteSource): ByteSource {
  const { Decompress: Decoder } = await import('fzstd');
  const hashes = await (await import('xxhash-wasm')).default();
  const pieces = new Pieces(source);
  for (;;) {
    const magic = await pieces.tryTake(4);
    if (magic === undefined) return;
    const value = word(magic);
    if (((value ^ SKIPPABLE_MAGIC) & ~15) === 0) {
      for (let left = word(await pieces.take(4)); left > 0;) {
        const bytes = Math.min(left, STEP);
        await pieces.take(bytes);
        left -= bytes;
      }
      continue;
    }
    if (value !== FRAME_MAGIC) throw new CompressionError('The zstd data is damaged');
    yield* frameContent(pieces, magic, new Decoder(), hashes.create64());
  }
}

/** The content of the frame of which `magic` has been read. */
async function* frameContent(
  pieces: Pieces,
  magic: Uint8Array,
  decoder: Decompress,
  hash: XXHash<bigint>,
): ByteSource {
  const out: Uint8Array[] = [];
  decoder.ondata = (piece): void => {
    if (piece.byteLength === 0) return;
    hash.update(piece);
    out.push(piece);
  };
  const { bytes: head, hasChecksum } = await frameHeader(pieces);
  decoder.push(magic);
  decoder.push(head);
  for (let last = false; !last;) {
    const header = await pieces.take(3);
    const value = (header[0] ?? 0) | ((header[1] ?? 0) << 8) | ((header[2] ?? 0) << 16);
    last = (value & 1) !== 0;
    const repeated = ((value >> 1) & 3) === 1;
    const body = await pieces.take(repeated ? 1 : value >> 3);
    decoder.push(header);
    decoder.push(body, last && !hasChecksum);
    yield* out.splice(0);
  }
  if (!hasChecksum) return;
  const checksum = await pieces.take(4);
  decoder.push(checksum, true);
  yield* out.splice(0);
  if (BigInt(word(checksum)) !== (hash.digest() & 0xffffffffn)) {
    throw new CompressionError('The checksum of the zstd data is wrong');
  }
}

/** Frame_Header, RFC 8878 section 3.1.1.1. */
async function frameHeader(
  pieces: Pieces,
): Promise<{ readonly bytes: Uint8Array; readonly hasChecksum: boolean }> {
  const descriptor = await pieces.take(1);
  const flags = descriptor[0] ?? 0;
  const singleSegment = (flags & 0x20) !== 0;
  const dictionary = [0, 1, 2, 4][flags & 3] ?? 0;
  const sizeBytes = [singleSegment ? 1 : 0, 2, 4, 8][flags >> 6] ?? 0;
  const rest = await pieces.take((singleSegment ? 0 : 1) + dictionary + sizeBytes);
  const bytes = new Uint8Array(1 + rest.byteLength);
  bytes.set(descriptor);
  bytes.set(rest, 1);
  return { bytes, hasChecksum: (flags & 0x04) !== 0 };
}
