/**
 * Compressed files as streams: gzip, xz, zstd and bzip2, found by their first bytes. Nothing is
 * kept but what the decoders need, so the content may be longer than memory.
 *
 * What is damaged or cut ends the stream with CompressionError. Checksums of the formats are
 * verified (of xz: CRC32 and CRC64; SHA-256 is refused).
 */
import type { ReadableStream } from 'node:stream/web';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { bunzip2 } from '../../lib/bzip2.js';
import { CompressionError } from '../compression.js';
import { zstdContent } from './zstd-stream.js';

/** Pieces of a file, in order. A piece belongs to the reader once it has it. */
export type ByteSource = AsyncIterable<Uint8Array>;

/** How many bytes of a file {@link packingOf} looks at. */
export const PACKING_HEAD = 6;

/** A way of compression, by the name of its tool. */
export type Packing = 'gzip' | 'xz' | 'zstd' | 'bzip2';

const magics: readonly (readonly [Packing, readonly number[]])[] = [
  // RFC 1952: identification, then the only method there is.
  ['gzip', [0x1f, 0x8b, 8]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]],
  // RFC 8878, section 3.1.1
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['bzip2', [0x42, 0x5a, 0x68]],
];

/** How a file that begins with `head` is compressed; undefined: not by one of these. */
export function packingOf(head: Uint8Array): Packing | undefined {
  return magics.find(([, magic]) => magic.every((byte, i) => head[i] === byte))?.[0];
}

/** The content of a compressed stream. */
export async function* decompressed(packing: Packing, source: ByteSource): ByteSource {
  try {
    yield* decoders[packing](source);
  } catch (e) {
    if (e instanceof CompressionError || isSourceError(e)) throw e;
    throw new CompressionError(`The ${packing} data is damaged or cut short`, { cause: e });
  }
}

/** All of a stream into exactly `output`; what yields more is left as soon as it does. */
export async function unpackInto(
  packing: Packing,
  input: Uint8Array,
  output: Uint8Array,
): Promise<void> {
  async function* source(): ByteSource {
    yield input;
  }
  let at = 0;
  for await (const piece of decompressed(packing, source())) {
    if (at + piece.byteLength > output.byteLength) {
      throw new CompressionError(`The ${packing} data yields too much`);
    }
    output.set(piece, at);
    at += piece.byteLength;
  }
  if (at < output.byteLength) throw new CompressionError(`The ${packing} data yields too little`);
}

const decoders: Readonly<Record<Packing, (source: ByteSource) => ByteSource>> = {
  gzip: (source) => through(createGunzip({ chunkSize: 256 * 1024 }), source),
  xz: xzContent,
  zstd: zstdContent,
  bzip2: bunzip2,
};

/** An error of the system, such as EIO from the compressed file: not the decoder's. */
function isSourceError(e: unknown): boolean {
  return e instanceof Error && 'syscall' in e;
}

/** What comes out of a transforming stream of Node. */
async function* through(
  transform: NodeJS.ReadWriteStream & AsyncIterable<unknown>,
  source: ByteSource,
): ByteSource {
  const input = Readable.from(source, { objectMode: false, highWaterMark: 1024 * 1024 });
  const failure = new Promise<never>((_, reject) => {
    input.once('error', reject);
  });
  failure.catch(() => undefined);
  input.pipe(transform);
  const pieces = transform[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await Promise.race([pieces.next(), failure]);
      if (next.done === true) return;
      yield next.value as Uint8Array;
    }
  } finally {
    input.destroy();
  }
}

async function* xzContent(source: ByteSource): ByteSource {
  const { XzReadableStream } = await import('xz-decompress');
  const input = Readable.toWeb(Readable.from(source)) as ConstructorParameters<
    typeof XzReadableStream
  >[0];
  const output: unknown = new XzReadableStream(input);
  yield* output as ReadableStream<Uint8Array>;
}
