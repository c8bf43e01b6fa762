/** zlib of Node on its thread pool, for where the addon is not there. */
import type * as zlibModule from 'node:zlib';
import { CompressionError } from '../compression.js';
import type { DeflateOptions } from '../compression.js';
import type { NativeZlib } from './native-codec.js';

type Zlib = typeof zlibModule;

let zlibOnce: Promise<Zlib> | undefined;
const loadZlib = (): Promise<Zlib> => (zlibOnce ??= import('node:zlib'));

function isTooLarge(error: Error): boolean {
  return 'code' in error && error.code === 'ERR_BUFFER_TOO_LARGE';
}

async function deflateRaw(
  input: Uint8Array,
  limit: number,
  options: DeflateOptions,
): Promise<Uint8Array | undefined> {
  if (limit <= 0) return undefined;
  const zlib = await loadZlib();
  return new Promise((resolve, reject) => {
    const chunkSize = Math.max(64, limit);
    zlib.deflateRaw(input, { ...options, chunkSize, maxOutputLength: limit }, (error, out) => {
      if (error === null) resolve(out.byteLength < limit ? out : undefined);
      else if (isTooLarge(error)) resolve(undefined);
      else reject(new CompressionError(error.message, { cause: error }));
    });
  });
}

/** The first bytes of a raw stream that yields more than wanted. */
async function inflatePrefix(
  input: Uint8Array,
  output: Uint8Array,
  options: zlibModule.ZlibOptions,
): Promise<void> {
  const zlib = await loadZlib();
  const stream = zlib.createInflateRaw(options);
  stream.end(input);
  let filled = 0;
  try {
    for await (const chunk of stream as AsyncIterable<Uint8Array>) {
      const part = chunk.subarray(0, output.byteLength - filled);
      output.set(part, filled);
      filled += part.byteLength;
      if (filled === output.byteLength) break;
    }
  } finally {
    stream.destroy();
  }
}

async function inflate(input: Uint8Array, output: Uint8Array, bits: number): Promise<void> {
  const want = output.byteLength;
  const make = bits < 0 ? 'inflateRaw' : 'inflate';
  const zlib = await loadZlib();
  // A raw stream may lack its end mark when it already filled the output.
  const finishFlush = bits < 0 ? zlib.constants.Z_SYNC_FLUSH : zlib.constants.Z_FINISH;
  const options = { windowBits: Math.abs(bits), finishFlush, chunkSize: Math.max(64, want) };
  await new Promise<void>((resolve, reject) => {
    zlib[make](input, { ...options, maxOutputLength: want }, (error, out) => {
      if (error === null && out.byteLength === want) {
        output.set(out);
        resolve();
      } else if (error === null) {
        reject(new CompressionError(`stream yields ${out.byteLength} bytes, expected ${want}`));
      } else if (isTooLarge(error) && bits < 0) {
        inflatePrefix(input, output, options).then(resolve, reject);
      } else {
        reject(new CompressionError(error.message, { cause: error }));
      }
    });
  });
}

export const nodeZlib: NativeZlib = { deflateRaw, inflate };
