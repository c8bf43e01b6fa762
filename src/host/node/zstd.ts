/** The zstd libraries that a machine may have, behind one interface, and bounded decoding. */
import { CompressionError } from '../compression.js';
import { parseZstdFrame } from '../zstd-frame.js';
import type { ZstdFrame } from '../zstd-frame.js';
import { tryNativeZstd } from './native-codec.js';

/** A zstd library. */
export interface Zstd {
  /** Undefined when the result would not be shorter than `limit`. */
  compress(input: Uint8Array, limit: number): Promise<Uint8Array | undefined>;
  /** Decodes one whole frame into at most `output`; bytes written. */
  decodeInto(frame: ZstdFrame, bytes: Uint8Array, output: Uint8Array): Promise<number>;
}

/** zstd's own default, and QEMU's. */
const ZSTD_LEVEL = 3;
/** A decoder without a bound may overshoot the output by this much. */
const OVERSHOOT_LIMIT = 1024 * 1024;
/** RFC 8878, 3.1.1.1.2: every decoder should support windows up to here. */
const WINDOW_LIMIT = 8 * 1024 * 1024;

const asBuffer = (b: Uint8Array): Buffer => Buffer.from(b.buffer, b.byteOffset, b.byteLength);

const shorter = (out: Uint8Array, limit: number): Uint8Array | undefined =>
  out.byteLength < limit ? out : undefined;

/** Puts a decoder's result where it belongs; bytes written. */
function place(out: Uint8Array, output: Uint8Array): number {
  if (out.byteLength > output.byteLength) {
    throw new CompressionError(`zstd frame yields more than ${output.byteLength} bytes`);
  }
  output.set(out);
  return out.byteLength;
}

type Wasm = typeof import('@bokuweb/zstd-wasm');
let wasmOnce: Promise<Wasm> | undefined;
const loadWasm = (): Promise<Wasm> =>
  (wasmOnce ??= import('@bokuweb/zstd-wasm').then(async (wasm) => {
    await wasm.init();
    return wasm;
  }));

/** WebAssembly, on the event loop; what comes out is bounded. */
const wasmZstd: Zstd = {
  async compress(input, limit) {
    return shorter((await loadWasm()).compress(asBuffer(input), ZSTD_LEVEL), limit);
  },
  async decodeInto(_frame, bytes, output) {
    const options = { defaultHeapSize: output.byteLength };
    return place((await loadWasm()).decompress(asBuffer(bytes), options), output);
  },
};

/** The prebuilt addon @toondepauw/node-zstd; it decodes without a bound. */
async function loadPrebuilt(): Promise<Zstd> {
  const { Encoder, Decoder } = await import('@toondepauw/node-zstd');
  const encoder = new Encoder(ZSTD_LEVEL);
  const decoder = new Decoder();
  return {
    compress: async (input, limit) => shorter(await encoder.encode(asBuffer(input)), limit),
    async decodeInto(frame, bytes, output) {
      const most = output.byteLength + OVERSHOOT_LIMIT;
      if (frame.mostBytes > most || frame.windowBytes > WINDOW_LIMIT) {
        return wasmZstd.decodeInto(frame, bytes, output);
      }
      return place(await decoder.decode(asBuffer(bytes)), output);
    },
  };
}

/** The libraries by name, best first; each resolves to undefined where it is not there. */
export const zstdLibraries = {
  async addon(): Promise<Zstd | undefined> {
    const native = tryNativeZstd();
    if (native === undefined) return undefined;
    return {
      compress: (input, limit) => native.compress(input, limit),
      decodeInto: (_frame, bytes, output) => native.decodeInto(bytes, output),
    };
  },
  async prebuilt(): Promise<Zstd | undefined> {
    // The optional dependency has no binary for this machine, or was not installed.
    return loadPrebuilt().catch(() => undefined);
  },
  async wasm(): Promise<Zstd | undefined> {
    return wasmZstd;
  },
};

/** The best that is there. */
export async function loadZstd(): Promise<Zstd> {
  return (await zstdLibraries.addon()) ?? (await zstdLibraries.prebuilt()) ?? wasmZstd;
}

/** Fills `output` from the frames at the start of `input`, by the library `zstd`. */
export async function decodeZstd(zstd: Zstd, input: Uint8Array, output: Uint8Array): Promise<void> {
  let at = 0;
  let filled = 0;
  while (filled < output.byteLength) {
    const rest = input.subarray(at);
    const frame = parseZstdFrame(rest);
    at += frame.bytes;
    if (frame.skippable) continue;
    const room = output.subarray(filled);
    if (Math.max(frame.contentBytes ?? 0, frame.leastBytes) > room.byteLength) {
      throw new CompressionError(`zstd frame yields more than ${room.byteLength} bytes`);
    }
    try {
      filled += await zstd.decodeInto(frame, rest.subarray(0, frame.bytes), room);
    } catch (error) {
      if (error instanceof CompressionError) throw error;
      throw new CompressionError('zstd frame is damaged', { cause: error });
    }
  }
}
