/**
 * Compression port. Where vdisk's addon is there and finds them: zlib and zstd on its
 * threads. Else zlib on the thread pool of Node, and zstd by a prebuilt addon on that
 * pool or, last, by WebAssembly on the event loop.
 */
import { availableParallelism } from 'node:os';
import type { Compression } from '../compression.js';
import { tryNativeZlib } from './native-codec.js';
import type { NativeZlib } from './native-codec.js';
import { nodeZlib } from './node-zlib.js';
import { decodeZstd, loadZstd } from './zstd.js';
import type { Zstd } from './zstd.js';

/** libuv's threads when UV_THREADPOOL_SIZE does not say otherwise. */
const DEFAULT_POOL = 4;

let zlibOnce: NativeZlib | undefined;
const zlib = (): NativeZlib => (zlibOnce ??= tryNativeZlib() ?? nodeZlib);

let zstdOnce: Promise<Zstd> | undefined;
const zstd = (): Promise<Zstd> => (zstdOnce ??= loadZstd());

async function inflate(input: Uint8Array, output: Uint8Array, bits: number): Promise<void> {
  if (output.byteLength > 0) await zlib().inflate(input, output, bits);
}

export const nodeCompression: Compression = {
  deflateRaw: (input, limit, options) => zlib().deflateRaw(input, limit, options),
  inflateRaw: (input, output, windowBits) => inflate(input, output, -windowBits),
  inflate: (input, output) => inflate(input, output, 15),
  zstdCompress: async (input, limit) => (await zstd()).compress(input, limit),
  zstdDecompress: async (input, output) => decodeZstd(await zstd(), input, output),
  unpack: async (packing, input, output) => {
    const { unpackInto } = await import('./decompress.js');
    await unpackInto(packing, input, output);
  },
  /** Keeps every CPU busy while results are handled. */
  parallelism: Math.max(
    Number(process.env['UV_THREADPOOL_SIZE']) || DEFAULT_POOL,
    2 * availableParallelism(),
  ),
};
