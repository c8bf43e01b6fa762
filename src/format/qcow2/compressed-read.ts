/**
 * Reading compressed clusters. A few decompressed ones are kept, because small sequential reads
 * would otherwise decompress each cluster many times.
 */
import { Iov } from '../../lib/iov.js';
import { BlockError } from '../../block/errors.js';
import { CompressionError } from '../../host/compression.js';
import type { Kind } from './entry.js';
import type { Qcow2Image } from './image.js';
import type { Extent } from './mapping.js';
import type { GuestOffset } from './units.js';
import { roundUp } from './units.js';

type Compressed = Extract<Extent, { kind: typeof Kind.compressed }>;

/** Decompressed clusters that are kept: at most this many bytes, and at least one cluster. */
const KEPT_BYTES = 1024 * 1024;
/** zlib's window for deflated clusters: 4 KiB, as the format demands. */
const WINDOW_BITS = 12;
/** Buffers for compressed bytes that are kept between reads. */
const MOST_INPUTS = 32;

interface Kept {
  readonly host: number;
  readonly span: number;
  readonly data: Promise<Uint8Array>;
}

/** Decompressed clusters by their place in the file; least recently used goes first. */
export class ClusterKeeper {
  readonly #kept = new Map<number, Kept>();
  readonly #capacity: number;

  constructor(clusterSize: number) {
    this.#capacity = Math.max(1, Math.floor(KEPT_BYTES / clusterSize));
  }

  find(host: number, span: number): Promise<Uint8Array> | undefined {
    const kept = this.#kept.get(host);
    if (kept === undefined || kept.span !== span) return undefined;
    this.#kept.delete(host);
    this.#kept.set(host, kept);
    return kept.data;
  }

  keep(host: number, span: number, data: Promise<Uint8Array>): void {
    this.#kept.delete(host);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size < this.#capacity) break;
      this.#kept.delete(oldest);
    }
    this.#kept.set(host, { host, span, data });
    data.catch(() => {
      if (this.#kept.get(host)?.data === data) this.#kept.delete(host);
    });
  }

  /** Compressed data was written to [host, host + bytes), or clusters were freed. */
  forget(): void {
    this.#kept.clear();
  }
}

/** Memory for compressed bytes, kept for the next cluster: one buffer for each read in flight. */
class InputPool {
  readonly #free: Uint8Array[] = [];
  #most = 0;

  take(bytes: number): Uint8Array {
    if (bytes > this.#most) {
      this.#free.length = 0;
      this.#most = roundUp(bytes, 4096);
    }
    const buffer = this.#free.pop() ?? new Uint8Array(this.#most);
    return buffer.subarray(0, bytes);
  }

  give(taken: Uint8Array): void {
    if (taken.buffer.byteLength === this.#most && this.#free.length < MOST_INPUTS) {
      this.#free.push(new Uint8Array(taken.buffer));
    }
  }
}

const pools = new WeakMap<Qcow2Image, InputPool>();

function poolOf(image: Qcow2Image): InputPool {
  let pool = pools.get(image);
  if (pool === undefined) {
    pool = new InputPool();
    pools.set(image, pool);
  }
  return pool;
}

/** Reads the part that begins at `guest` out of its compressed cluster. */
export async function readCompressed(
  image: Qcow2Image,
  extent: Compressed,
  guest: GuestOffset,
  iov: Iov,
): Promise<void> {
  const { host, span } = extent;
  const size = image.g.clusterSize;
  let data = image.keeper.find(host, span);
  // A whole cluster goes straight to where it is wanted.
  const whole = iov.bytes === size ? iov.tryContiguous() : undefined;
  if (data === undefined && whole !== undefined) {
    await decompress(image, host, span, whole);
    return;
  }
  if (data === undefined) {
    data = decompress(image, host, span, new Uint8Array(size));
    image.keeper.keep(host, span, data);
  }
  const cluster = await data;
  const from = guest % size;
  iov.copyFrom(cluster.subarray(from, from + iov.bytes));
}

async function decompress(
  image: Qcow2Image,
  host: number,
  span: number,
  output: Uint8Array,
): Promise<Uint8Array> {
  const { compression } = image.host;
  if (host + span > Number.MAX_SAFE_INTEGER) throw new BlockError('EIO');
  const event = image.file.debugEvent('read_compressed');
  if (event !== undefined) await event;
  const pool = poolOf(image);
  const input = pool.take(span);
  try {
    await image.inFlight.track(image.file.read(host, Iov.of(input)));
    if (image.header.fields.compression_type === 1) {
      await compression.zstdDecompress(input, output);
    } else {
      await compression.inflateRaw(input, output, WINDOW_BITS);
    }
  } catch (e) {
    if (!(e instanceof CompressionError)) throw e;
    throw new BlockError('EIO', undefined, { op: 'read', node: image.node.name, cause: e });
  } finally {
    pool.give(input);
  }
  return output;
}
