/**
 * Writing compressed clusters: compressed beside each other, packed one behind the other in the
 * file. A cluster that does not become shorter is written plainly.
 */
import { Iov } from '../../lib/iov.js';
import { BlockError } from '../../block/errors.js';
import { compressedEntry, readEntry, writeEntry } from './entry.js';
import { releaseEntry } from './fill.js';
import type { Qcow2Image } from './image.js';
import { Run, Source } from './run.js';
import { ensureTable } from './tables.js';
import type { GuestOffset } from './units.js';

/** As QEMU: zlib's default level, its largest match memory, a window of 4 KiB. */
const DEFLATE = { windowBits: 12, level: -1, memLevel: 9 } as const;

/**
 * Stores whole clusters compressed; the last may be short at the end of the disk. No bytes: the
 * stream has ended, nothing to do. ENOTSUP with a data file, EINVAL off a cluster boundary.
 * What is stored there already is replaced (QEMU fails with EIO).
 */
export async function writeCompressed(
  image: Qcow2Image,
  guest: GuestOffset,
  iov: Iov,
): Promise<void> {
  image.checkUsable();
  const { g } = image;
  if (image.hasDataFile) throw new BlockError('ENOTSUP');
  if (iov.bytes === 0) return;
  const end = guest + iov.bytes;
  if (guest % g.clusterSize !== 0) throw new BlockError('EINVAL');
  // Padding a part in the middle would wipe what is behind it.
  if (end % g.clusterSize !== 0 && end < image.size) throw new BlockError('EINVAL');
  const clusters = Math.ceil(iov.bytes / g.clusterSize);
  // As many clusters are compressed ahead as the host has hands for it.
  const window = Math.max(2, image.host.compression.parallelism + 1);
  const ahead: Promise<Uint8Array | undefined>[] = [];
  const part = (i: number): Iov => {
    const from = i * g.clusterSize;
    return iov.slice(from, Math.min(g.clusterSize, iov.bytes - from));
  };
  try {
    for (let i = 0; i < clusters; i++) {
      for (let k = i + ahead.length; k < clusters && ahead.length < window; k++) {
        const packed = compress(image, part(k));
        packed.catch(() => undefined);
        ahead.push(packed);
      }
      const packed = await ahead.shift();
      const at = guest + i * g.clusterSize;
      if (packed === undefined) await image.writes.write(at, padded(image, at, part(i)));
      else await storeCluster(image, at, packed);
    }
  } finally {
    await Promise.allSettled(ahead);
  }
}

/** One cluster compressed; undefined when that does not make it shorter. */
function compress(image: Qcow2Image, iov: Iov): Promise<Uint8Array | undefined> {
  const { compression } = image.host;
  const { clusterSize } = image.g;
  let input = iov.flatten();
  if (input.byteLength < clusterSize) {
    const whole = new Uint8Array(clusterSize);
    whole.set(input);
    input = whole;
  }
  if (image.header.fields.compression_type === 1) {
    return compression.zstdCompress(input, clusterSize);
  }
  return compression.deflateRaw(input, clusterSize, DEFLATE);
}

/** A short cluster at the end of the disk is stored as it is. */
function padded(image: Qcow2Image, guest: GuestOffset, iov: Iov): Iov {
  const room = Math.min(image.g.clusterSize, image.size - guest);
  return iov.slice(0, Math.min(iov.bytes, room));
}

async function storeCluster(
  image: Qcow2Image,
  guest: GuestOffset,
  data: Uint8Array,
): Promise<void> {
  const { lock, file, writes, mapping, l2, alloc, g } = image;
  let host = 0;
  // Stands for the cluster until it is mapped: other writers wait, readers see the old content.
  const hold = new Run({
    first: guest / g.clusterSize,
    count: 1,
    host: 0,
    clusterSize: g.clusterSize,
    isNew: false,
    source: Source.copy,
    unit: g.subclusterSize,
    must: [],
    present: [],
  });
  hold.state = 'closed';
  await lock.run(async () => {
    image.checkUsable();
    await alloc.reclaim(data.byteLength);
    if (l2.isPressed) await image.writeback.run();
    await writes.settle(guest, g.clusterSize);
    await ensureTable(image, guest);
    host = await alloc.allocateBytes(data.byteLength);
    await image.overlap.check(0, host, data.byteLength);
    image.growth.take(host, data.byteLength);
    writes.runs.add(hold);
  });
  try {
    const growing = image.growth.before(host + data.byteLength);
    if (growing !== undefined) await growing;
    const event = file.debugEvent('write_compressed');
    if (event !== undefined) await event;
    await image.inFlight.track(file.write(host, Iov.of(data)));
    const place = mapping.place(guest);
    if (place === undefined) throw new BlockError('EIO');
    await mapping.useSlice(place.offset, (table) => {
      const old = readEntry(g, table.view, place.index);
      const from = place.index * g.l2EntrySize;
      const live = l2.touch(table, from, from + g.l2EntrySize);
      writeEntry(g, live.view, place.index, compressedEntry(g, host, data.byteLength));
      image.writeback.noteAllocation(false);
      releaseEntry(image, old, 'never');
    });
  } catch (e) {
    alloc.unlinkedDurably([{ host, bytes: data.byteLength, reason: 'never' }]);
    throw e;
  } finally {
    writes.runs.delete(hold);
    hold.end();
  }
}
