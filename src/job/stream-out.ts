/** Reading images from the first byte to the last, for a stream that cannot seek. */
import type { Backend } from '../block/backend.js';
import { BlockError, errorCode, errorText } from '../block/errors.js';
import { Iov } from '../lib/iov.js';
import type { ProgressMeter } from './operation.js';

/** Length of a piece, in bytes. */
const PIECE = 1024 * 1024;
/** Pieces that are read ahead of the one that is written. */
const AHEAD = 4;
const SECTOR = 512;

/** A part of an image. */
export interface StreamPart {
  readonly backend: Backend;
  /** Where the part begins, in bytes. */
  readonly from: number;
  readonly bytes: number;
}

/** An image as a whole; its length is rounded up to sectors with zeroes. */
export function wholeImage(backend: Backend): StreamPart {
  return { backend, from: 0, bytes: Math.ceil(backend.size / SECTOR) * SECTOR };
}

/**
 * Hands all bytes of the parts, one behind the other, to `write`, which is called again when its
 * promise has resolved; a piece is its own until then. Throws BlockError when a read fails, and
 * what `write` throws; nothing is in flight then.
 */
export async function streamOut(
  parts: readonly StreamPart[],
  write: (piece: Uint8Array) => Promise<void>,
  meter: ProgressMeter,
): Promise<void> {
  for (const { bytes } of parts) meter.total += bytes;
  const ahead: Promise<Uint8Array>[] = [];
  const free: Uint8Array[] = [];
  const writeFirst = async (): Promise<void> => {
    const piece = await ahead.shift();
    if (piece === undefined) return;
    await write(piece);
    meter.advance(piece.byteLength);
    if (piece.byteLength === PIECE) free.push(piece);
  };
  try {
    for (const { backend, from, bytes } of parts) {
      for (let at = 0; at < bytes; at += PIECE) {
        meter.check();
        const n = Math.min(PIECE, bytes - at);
        const buffer = n === PIECE ? free.pop() : undefined;
        const reading = readAt(backend, from + at, buffer ?? new Uint8Array(n));
        reading.catch(() => undefined);
        ahead.push(reading);
        if (ahead.length >= AHEAD) await writeFirst();
      }
    }
    while (ahead.length > 0) await writeFirst();
  } finally {
    await Promise.allSettled(ahead);
  }
}

async function readAt(backend: Backend, offset: number, into: Uint8Array): Promise<Uint8Array> {
  const inside = Math.max(0, Math.min(into.byteLength, backend.size - offset));
  into.fill(0, inside);
  if (inside === 0) return into;
  try {
    await backend.read(offset, Iov.of(into.subarray(0, inside)));
  } catch (e) {
    const text = `error while reading at byte ${String(offset)}: ${errorText(e)}`;
    throw new BlockError(errorCode(e), text, { op: 'read', cause: e });
  }
  return into;
}
