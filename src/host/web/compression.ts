/** Compression port of a web page: its own DecompressionStream, and zstd in WebAssembly. */
import type { Compression } from '../compression.js';
import { CompressionError } from '../compression.js';
import { HostError } from '../file.js';
import { parseZstdFrame } from '../zstd-frame.js';

/**
 * Reads until `output` is full; what follows the stream in `input` is of no interest. A raw stream
 * may yield more, a zlib stream must end there.
 */
async function inflateInto(
  format: 'deflate' | 'deflate-raw',
  input: Uint8Array,
  output: Uint8Array,
): Promise<void> {
  const stream = new DecompressionStream(format);
  const writer = stream.writable.getWriter();
  const reader = stream.readable.getReader();
  // Bytes behind the stream make the writer fail once all data is out: that is expected.
  const written = writer.write(Uint8Array.from(input)).then(() => writer.close());
  written.catch(() => undefined);
  let at = 0;
  try {
    while (at < output.byteLength) {
      const { value, done } = await reader.read();
      if (done) break;
      if (format === 'deflate' && at + value.byteLength > output.byteLength) throw tooLong();
      const piece = value.subarray(0, output.byteLength - at);
      output.set(piece, at);
      at += piece.byteLength;
    }
    if (format === 'deflate' && at === output.byteLength) {
      if (!(await reader.read()).done) throw tooLong();
    }
  } catch (cause) {
    if (cause instanceof CompressionError) throw cause;
    if (at < output.byteLength) throw new CompressionError('Damaged deflate stream', { cause });
  } finally {
    reader.cancel().catch(() => undefined);
  }
  if (at < output.byteLength) throw new CompressionError('The deflate stream is too short');
}

function tooLong(): CompressionError {
  return new CompressionError('The deflate stream is too long');
}

type Wasm = typeof import('@bokuweb/zstd-wasm');
let wasmOnce: Promise<Wasm> | undefined;

function loadWasm(): Promise<Wasm> {
  wasmOnce ??= import('@bokuweb/zstd-wasm').then(async (wasm) => {
    await wasm.init();
    return wasm;
  });
  return wasmOnce;
}

async function zstdDecompress(input: Uint8Array, output: Uint8Array): Promise<void> {
  const wasm = await loadWasm();
  let from = 0;
  let at = 0;
  while (at < output.byteLength) {
    const frame = parseZstdFrame(input.subarray(from));
    const bytes = input.subarray(from, from + frame.bytes);
    from += frame.bytes;
    if (frame.skippable) continue;
    const room = output.byteLength - at;
    if (frame.leastBytes > room) throw new CompressionError('zstd frame yields too much');
    const data = wasm.decompress(Uint8Array.from(bytes), {
      defaultHeapSize: room,
    });
    if (data.byteLength > room) throw new CompressionError('zstd frame yields too much');
    output.set(data, at);
    at += data.byteLength;
  }
}

export const webCompression: Compression = {
  deflateRaw: () =>
    Promise.reject(
      new HostError(
        'ENOTSUP',
        'Web pages cannot deflate with the window that qcow2 needs; use zstd',
      ),
    ),
  inflateRaw: (input, output) => inflateInto('deflate-raw', input, output),
  inflate: (input, output) => inflateInto('deflate', input, output),
  zstdCompress: async (input, limit) => {
    const wasm = await loadWasm();
    const data = Uint8Array.from(input) as Parameters<Wasm['compress']>[0];
    const out = wasm.compress(data, 3);
    return out.byteLength < limit ? out : undefined;
  },
  zstdDecompress,
  parallelism: 1,
};
