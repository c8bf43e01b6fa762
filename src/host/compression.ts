/**
 * Port: compression codecs. Requests are whole clusters, run off the event loop
 * where the host can (thread pool), so several may be in flight.
 */

/** Thrown when a compressed stream is cut, damaged or longer than it may be. */
export class CompressionError extends Error {
  override readonly name = 'CompressionError';
}

export interface DeflateOptions {
  /** Base-two logarithm of the window, 9 to 15. */
  readonly windowBits: number;
  /** 1 to 9; -1 for zlib's default. */
  readonly level: number;
  /** 1 to 9; memory for the match state (zlib's memLevel). */
  readonly memLevel: number;
}

export interface Compression {
  /**
   * Raw deflate (RFC 1951). Resolves to undefined when the result would not be
   * shorter than `limit` bytes.
   */
  deflateRaw(
    input: Uint8Array,
    limit: number,
    options: DeflateOptions,
  ): Promise<Uint8Array | undefined>;
  /**
   * Raw inflate into exactly `output`; bytes of `input` after the end of the
   * stream are ignored, and so is what the stream yields beyond `output`, which is
   * not even made. Rejects with CompressionError if the stream yields fewer bytes,
   * or is damaged.
   */
  inflateRaw(input: Uint8Array, output: Uint8Array, windowBits: number): Promise<void>;
  /**
   * As {@link inflateRaw} for a zlib stream (RFC 1950), which must end where `output`
   * does: what yields more is left as soon as it does, with CompressionError.
   */
  inflate(input: Uint8Array, output: Uint8Array): Promise<void>;
  /** One zstd frame (RFC 8878) with the codec's default level; undefined as in deflateRaw. */
  zstdCompress(input: Uint8Array, limit: number): Promise<Uint8Array | undefined>;
  /** Fills `output` from the zstd frame(s) at the start of `input`; trailing bytes are ignored. */
  zstdDecompress(input: Uint8Array, output: Uint8Array): Promise<void>;
  /**
   * Fills `output` from a bzip2 or xz stream, which yields no more than that. Absent where the host
   * has no such decoder.
   */
  unpack?(packing: 'bzip2' | 'xz', input: Uint8Array, output: Uint8Array): Promise<void>;
  /** How many requests are worth having in flight (threads of the pool). */
  readonly parallelism: number;
}
