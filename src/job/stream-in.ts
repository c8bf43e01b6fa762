/**
 * Writing a stream of unknown length into an image that grows with it: what convert does with
 * standard input and with compressed files.
 *
 * The stream is read in batches. While one batch is written the next one is read; the image gets
 * its new length between two batches, when no write is in flight.
 */
import { BlockError, errorCode, errorText } from '../block/errors.js';
import { settleAll } from '../lib/settle-all.js';
import type { ProgressMeter } from './operation.js';
import type { StoreOptions } from './store-runs.js';
import { mapFor, storeRuns } from './store-runs.js';
import type { ZeroMap } from './zero-runs.js';

/** Length of a piece, in bytes; pieces of a batch are written at once. */
const PIECE = 1024 * 1024;
const BATCH_PIECES = 8;
/** The length of an image is a multiple of it. */
const SECTOR = 512;

export interface StreamInOptions extends StoreOptions {
  readonly stream: AsyncIterable<Uint8Array>;
  /** The target has its length already and keeps it. */
  readonly fixed: boolean;
  readonly meter: ProgressMeter;
}

interface Batch {
  readonly buffer: Uint8Array;
  readonly maps: ZeroMap[];
}

/**
 * Copies all of the stream to the beginning of the target; the length in bytes, rounded up to
 * sectors. Throws BlockError; nothing is in flight then.
 */
export async function copyStream(options: StreamInOptions): Promise<number> {
  const unit = Math.max(options.compressCluster ?? 0, options.alignment);
  const piece = Math.max(unit, PIECE - (PIECE % unit));
  const [first, second] = [newBatch(options, piece), newBatch(options, piece)];
  const source = new Filler(options.stream);
  let writing: Promise<void> = Promise.resolve();
  let at = 0;
  try {
    for (let batch = first; ; batch = batch === first ? second : first) {
      options.meter.check();
      const bytes = await source.fill(batch.buffer);
      await writing;
      if (bytes === 0) break;
      const end = at + Math.ceil(bytes / SECTOR) * SECTOR;
      await makeRoom(options, end);
      writing = storeBatch(options, batch, piece, at, end - at);
      writing.catch(() => undefined);
      at = end;
      if (bytes < batch.buffer.byteLength) break;
    }
    await writing;
  } finally {
    await Promise.allSettled([writing]);
    await source.close();
  }
  return at;
}

function newBatch(options: StreamInOptions, piece: number): Batch {
  const bytes = piece * BATCH_PIECES;
  const block = options.compressCluster ?? options.alignment;
  return {
    buffer: options.host.files?.alignedBuffer?.(bytes) ?? new Uint8Array(bytes),
    maps: Array.from({ length: BATCH_PIECES }, () => mapFor(piece, block)),
  };
}

async function makeRoom({ target, fixed }: StreamInOptions, end: number): Promise<void> {
  if (end <= target.size) return;
  if (fixed) throw new BlockError('EINVAL', 'output file is smaller than input file');
  await target.truncate(end);
}

async function storeBatch(
  options: StreamInOptions,
  batch: Batch,
  piece: number,
  start: number,
  bytes: number,
): Promise<void> {
  const work: Promise<void>[] = [];
  for (let at = 0, i = 0; at < bytes; at += piece, i++) {
    const map = batch.maps[i];
    if (map === undefined) break;
    const part = batch.buffer.subarray(at, Math.min(at + piece, bytes));
    work.push(storePiece(options, start + at, part, map));
  }
  await settleAll(work);
}

async function storePiece(
  options: StreamInOptions,
  start: number,
  bytes: Uint8Array,
  map: ZeroMap,
): Promise<void> {
  const { target, meter } = options;
  try {
    await storeRuns(options, start, bytes, map);
  } catch (e) {
    const text = `error while writing at byte ${String(start)}: ${errorText(e)}`;
    throw new BlockError(errorCode(e), text, { cause: e });
  }
  meter.total = Math.max(meter.total, target.size);
  meter.advance(bytes.byteLength);
}

/** Fills buffers from a stream of pieces. */
class Filler {
  readonly #pieces: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(stream: AsyncIterable<Uint8Array>) {
    this.#pieces = stream[Symbol.asyncIterator]();
  }

  /** The bytes filled: less than the buffer has only at the end; zeroes behind them. */
  async fill(buffer: Uint8Array): Promise<number> {
    let filled = 0;
    while (filled < buffer.byteLength) {
      if (this.#rest.byteLength === 0) {
        const next = await this.#pieces.next();
        if (next.done === true) break;
        this.#rest = next.value;
        continue;
      }
      const part = this.#rest.subarray(0, buffer.byteLength - filled);
      buffer.set(part, filled);
      filled += part.byteLength;
      this.#rest = this.#rest.subarray(part.byteLength);
    }
    buffer.fill(0, filled, Math.ceil(filled / SECTOR) * SECTOR);
    return filled;
  }

  /** The rest of the stream is not wanted. */
  async close(): Promise<void> {
    await this.#pieces.return?.();
  }
}
