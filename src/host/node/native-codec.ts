/** Codecs of the addon: zlib and zstd on its threads, straight into the caller's memory. */
import { constants } from 'node:os';
import { CompressionError } from '../compression.js';
import type { DeflateOptions } from '../compression.js';
import { tryNativeEngine } from './files.js';
import { Op } from './native-engine.js';
import type { NativeEngine, Target } from './native-engine.js';

/** CODEC_… of vdisk.h. */
const ZLIB = 1;
const ZSTD = 2;

const { EFBIG } = constants.errno;

/** Stands for the file that a request belongs to. */
const target: Target = {
  fd: -1,
  code: 0,
  cached: false,
  maxBatch: 0,
  queued: 0,
  batch: 0,
  inFlight: 0,
  idle() {
    // Nobody closes a codec.
  },
};

/** One request: `input` through `op` into `output`; the operation's result. */
function run(
  engine: NativeEngine,
  op: number,
  settings: number,
  input: Uint8Array,
  output: Uint8Array,
): Promise<number> {
  return new Promise((resolve) => {
    const bytes = input.byteLength;
    const at = engine.addressOf(output);
    // The engine holds the input, the closure the output.
    const settle = (result: number): void => {
      resolve(output.byteLength === 0 ? 0 : result);
    };
    engine.operate(target, op, settings, bytes, at, output.byteLength, input, settle);
  });
}

/** The engine if the addon is there and found the libraries in `which`. */
function tryCodec(which: number): NativeEngine | undefined {
  const engine = tryNativeEngine();
  return engine !== undefined && (engine.binding.codecs() & which) !== 0 ? engine : undefined;
}

async function compressed(
  engine: NativeEngine,
  op: number,
  settings: number,
  input: Uint8Array,
  limit: number,
): Promise<Uint8Array | undefined> {
  if (limit <= 1) return undefined;
  // One byte more than may be used: deflate says that it is done only with room left.
  const output = Buffer.allocUnsafeSlow(limit);
  const result = await run(engine, op, settings, input, output);
  if (result === -EFBIG || result >= limit) return undefined;
  if (result <= 0) throw new CompressionError(`cannot compress: errno ${-result}`);
  return output.subarray(0, result);
}

export interface NativeZlib {
  deflateRaw(
    input: Uint8Array,
    limit: number,
    options: DeflateOptions,
  ): Promise<Uint8Array | undefined>;
  /** `windowBits` is negative for a raw stream. */
  inflate(input: Uint8Array, output: Uint8Array, windowBits: number): Promise<void>;
}

/** zlib of the addon, undefined where there is none. */
export function tryNativeZlib(): NativeZlib | undefined {
  const engine = tryCodec(ZLIB);
  if (engine === undefined) return undefined;
  return {
    deflateRaw(input, limit, { level, memLevel, windowBits }) {
      const settings = ((level + 1) << 16) | (memLevel << 8) | windowBits;
      return compressed(engine, Op.deflate, settings, input, limit);
    },
    async inflate(input, output, windowBits) {
      const result = await run(engine, Op.inflate, windowBits, input, output);
      if (result < 0) throw new CompressionError('stream is damaged, too short or too long');
    },
  };
}

export interface NativeZstd {
  compress(input: Uint8Array, limit: number): Promise<Uint8Array | undefined>;
  /** Decodes one whole frame into at most `output`; bytes written. */
  decodeInto(frame: Uint8Array, output: Uint8Array): Promise<number>;
}

/** zstd of the addon, undefined where there is none. */
export function tryNativeZstd(): NativeZstd | undefined {
  const engine = tryCodec(ZSTD);
  if (engine === undefined) return undefined;
  return {
    compress: (input, limit) => compressed(engine, Op.zstdCompress, 0, input, limit),
    async decodeInto(frame, output) {
      const result = await run(engine, Op.zstdDecompress, 0, frame, output);
      if (result < 0) throw new CompressionError('zstd frame is damaged or too long');
      return result;
    },
  };
}
