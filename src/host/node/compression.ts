/**
 * Compression port: zlib on the thread pool of Node; zstd by a prebuilt addon on
 * that pool where it loads, else by WebAssembly on the event loop.
 */
import type * as zlibModule from 'node:zlib';
import { CompressionError } from '../compression.js';
import type { Compression, DeflateOptions } from '../compression.js';
import { parseZstdFrame } from '../zstd-frame.js';
import type { ZstdFrame } from '../zstd-frame.js';

type Zlib = typeof zlibModule;
type Inflater = 'inflate' | 'inflateRaw';

let zlibOnce: Promise<Zlib> | undefined;
const loadZlib = (): Promise<Zlib> => (zlibOnce ??= import('node:zlib'));

/** libuv's default when UV_THREADPOOL_SIZE does not say otherwise. */
const DEFAULT_POOL = 4;

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

/** The first bytes of a stream that yields more than wanted. */
async function inflatePrefix(
  make: Inflater,
  input: Uint8Array,
  output: Uint8Array,
  options: zlibModule.ZlibOptions,
): Promise<void> {
  const zlib = await loadZlib();
  const stream = make === 'inflate' ? zlib.createInflate(options) : zlib.createInflateRaw(options);
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

async function inflateInto(
  make: Inflater,
  input: Uint8Array,
  output: Uint8Array,
  windowBits: number,
): Promise<void> {
  const want = output.byteLength;
  if (want === 0) return;
  const zlib = await loadZlib();
  // A stream may lack its end mark when it already filled the output.
  const finishFlush = zlib.constants.Z_SYNC_FLUSH;
  const options = { windowBits, finishFlush, chunkSize: Math.max(64, want) };
  await new Promise<void>((resolve, reject) => {
    zlib[make](input, { ...options, maxOutputLength: want }, (error, out) => {
      if (error === null && out.byteLength === want) {
        output.set(out);
        resolve();
      } else if (error === null) {
        reject(new CompressionError(`stream yields ${out.byteLength} bytes, expected ${want}`));
      } else if (isTooLarge(error)) {
        inflatePrefix(make, input, output, options).then(resolve, reject);
      } else {
        reject(new CompressionError(error.message, { cause: error }));
      }
    });
  });
}

/** What the zstd libraries offer here. */
interface Zstd {
  compress(input: Uint8Array): Promise<Uint8Array>;
  /** Decodes one whole frame off the event loop; unbounded. */
  readonly decodeAsync: ((frame: Uint8Array) => Promise<Uint8Array>) | undefined;
  /** Decodes one whole frame into at most `limit` bytes. */
  decodeBounded(frame: Uint8Array, limit: number): Promise<Uint8Array>;
}

/** zstd's own default, and QEMU's. */
const ZSTD_LEVEL = 3;

const asBuffer = (b: Uint8Array): Buffer => Buffer.from(b.buffer, b.byteOffset, b.byteLength);

type Wasm = typeof import('@bokuweb/zstd-wasm');
let wasmOnce: Promise<Wasm> | undefined;
const loadWasm = (): Promise<Wasm> =>
  (wasmOnce ??= import('@bokuweb/zstd-wasm').then(async (wasm) => {
    await wasm.init();
    return wasm;
  }));

const decodeBounded = async (frame: Uint8Array, limit: number): Promise<Uint8Array> =>
  (await loadWasm()).decompress(asBuffer(frame), { defaultHeapSize: limit });

async function loadZstd(): Promise<Zstd> {
  try {
    const { Encoder, Decoder } = await import('@toondepauw/node-zstd');
    const encoder = new Encoder(ZSTD_LEVEL);
    const decoder = new Decoder();
    return {
      compress: (input) => encoder.encode(asBuffer(input)),
      decodeAsync: (frame) => decoder.decode(asBuffer(frame)),
      decodeBounded,
    };
  } catch {
    // No prebuilt addon for this machine.
    return {
      compress: async (input) => (await loadWasm()).compress(asBuffer(input), ZSTD_LEVEL),
      decodeAsync: undefined,
      decodeBounded,
    };
  }
}

let zstdOnce: Promise<Zstd> | undefined;

async function zstdCompress(input: Uint8Array, limit: number): Promise<Uint8Array | undefined> {
  const zstd = await (zstdOnce ??= loadZstd());
  const out = await zstd.compress(input);
  return out.byteLength < limit ? out : undefined;
}

/** The unbounded decoder may overshoot the output by this much before the frame is refused. */
const OVERSHOOT_LIMIT = 1024 * 1024;
/** RFC 8878, 3.1.1.1.2: every decoder should support windows up to here. */
const WINDOW_LIMIT = 8 * 1024 * 1024;

/** Decodes `frame` knowing that it may claim anything; at most `room` bytes come back. */
async function decodeFrame(
  zstd: Zstd,
  frame: ZstdFrame,
  bytes: Uint8Array,
  room: number,
): Promise<Uint8Array> {
  if (Math.max(frame.contentBytes ?? 0, frame.leastBytes) > room) {
    throw new CompressionError(`zstd frame yields more than ${room} bytes`);
  }
  const tame = frame.mostBytes <= room + OVERSHOOT_LIMIT && frame.windowBytes <= WINDOW_LIMIT;
  let out: Uint8Array;
  try {
    out = await (tame && zstd.decodeAsync !== undefined
      ? zstd.decodeAsync(bytes)
      : zstd.decodeBounded(bytes, room));
  } catch (error) {
    throw new CompressionError('zstd frame is damaged', { cause: error });
  }
  if (out.byteLength > room) {
    throw new CompressionError(`zstd frame yields more than ${room} bytes`);
  }
  return out;
}

async function zstdDecompress(input: Uint8Array, output: Uint8Array): Promise<void> {
  const zstd = await (zstdOnce ??= loadZstd());
  let at = 0;
  let filled = 0;
  while (filled < output.byteLength) {
    const rest = input.subarray(at);
    const frame = parseZstdFrame(rest);
    at += frame.bytes;
    if (frame.skippable) continue;
    const room = output.byteLength - filled;
    const part = await decodeFrame(zstd, frame, rest.subarray(0, frame.bytes), room);
    output.set(part, filled);
    filled += part.byteLength;
  }
}

export const nodeCompression: Compression = {
  deflateRaw,
  inflateRaw: (input, output, windowBits) => inflateInto('inflateRaw', input, output, windowBits),
  inflate: (input, output) => inflateInto('inflate', input, output, 15),
  zstdCompress,
  zstdDecompress,
  parallelism: Number(process.env['UV_THREADPOOL_SIZE']) || DEFAULT_POOL,
};
