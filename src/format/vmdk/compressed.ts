/**
 * Compressed grains of streamOptimized extents: a marker (the grain's first sector on the disk, 8
 * bytes; the length of what follows, 4 bytes), then a zlib stream, up to the end of a sector.
 */
import type { Child } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';
import type { Compression } from '../../host/compression.js';
import { Iov } from '../../lib/iov.js';
import { GRAIN_MARKER_BYTES, SECTOR } from './layout.js';

/** zlib's header for a window of 32 KiB and the default level, and its trailer's length. */
const ZLIB_HEADER = [0x78, 0x9c] as const;
const ZLIB_EXTRA = 6;

/** One compressed grain with its marker, padded to whole sectors. */
export async function packGrain(
  compression: Compression,
  sector: number,
  grain: Uint8Array,
): Promise<Uint8Array> {
  const options = { windowBits: 15, level: 6, memLevel: 8 };
  // What does not shrink is stored, which takes a little more.
  const limit = grain.length * 2;
  const packed = await compression.deflateRaw(grain, limit, options);
  if (packed === undefined) throw new BlockError('EIO', 'Could not compress a grain');
  const length = packed.length + ZLIB_EXTRA;
  const bytes = Math.ceil((GRAIN_MARKER_BYTES + length) / SECTOR) * SECTOR;
  const out = new Uint8Array(bytes);
  const view = new DataView(out.buffer);
  view.setUint32(0, sector % 0x1_0000_0000, true);
  view.setUint32(4, Math.floor(sector / 0x1_0000_0000), true);
  view.setUint32(8, length, true);
  out.set(ZLIB_HEADER, GRAIN_MARKER_BYTES);
  out.set(packed, GRAIN_MARKER_BYTES + 2);
  view.setUint32(GRAIN_MARKER_BYTES + 2 + packed.length, adler32(grain));
  return out;
}

/** Adler-32 (RFC 1950, section 8.2). */
function adler32(data: Uint8Array): number {
  let a = 1;
  let b = 0;
  // So many bytes at once keep both sums below 2^32.
  for (let at = 0; at < data.length; at += 5552) {
    const end = Math.min(at + 5552, data.length);
    for (let i = at; i < end; i++) {
      a += data[i]!;
      b += a;
    }
    a %= 65521;
    b %= 65521;
  }
  return b * 65536 + a;
}

export interface PackedPlace {
  readonly file: Child;
  readonly host: number;
  readonly hasMarkers: boolean;
  readonly grainBytes: number;
  /** Bytes of it that are inside the extent: others pack no more of the last grain. */
  readonly used: number;
}

/** Reads and unpacks the grain at `host`. Throws EINVAL for what cannot be one. */
export async function unpackGrain(
  compression: Compression,
  { file, host, hasMarkers, grainBytes, used }: PackedPlace,
  output: Uint8Array,
): Promise<void> {
  // Incompressible grains are a little longer than a grain.
  const most = grainBytes * 2;
  const first = new Uint8Array(Math.min(most, Math.max(SECTOR, file.size - host)));
  const head = hasMarkers ? GRAIN_MARKER_BYTES : 0;
  let length = first.length;
  if (hasMarkers) {
    const guess = first.subarray(
      0,
      Math.min(first.length, Math.ceil(grainBytes / SECTOR) * SECTOR),
    );
    await file.read(host, Iov.of(guess));
    const view = new DataView(guess.buffer);
    length = view.getUint32(8, true);
    if (length === 0 || length > most) throw damaged(host, 'length');
    if (head + length > guess.length) {
      const rest = first.subarray(guess.length, Math.min(first.length, head + length));
      if (rest.length > 0) await file.read(host + guess.length, Iov.of(rest));
    }
  } else await file.read(host, Iov.of(first));
  const packed = first.subarray(head, Math.min(first.length, head + length));
  try {
    await compression.inflate(packed, output);
  } catch {
    const short = output.subarray(0, used);
    output.fill(0);
    const works = used < grainBytes && (await compression.inflate(packed, short).then(yes, no));
    if (!works) throw damaged(host, 'data');
  }
}

const yes = (): boolean => true;
const no = (): boolean => false;

function damaged(host: number, what: string): BlockError {
  return new BlockError('EINVAL', `Bad ${what} of the compressed grain at byte ${String(host)}`);
}
