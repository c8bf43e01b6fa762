/** VM state: stored like guest data, past the end of the disk. */
import { Iov } from '../../lib/iov.js';
import { BlockError } from '../../block/errors.js';
import { Kind } from './entry.js';
import type { Qcow2Image } from './image.js';
import { L1Table } from './l1.js';
import { Mapping } from './mapping.js';
import { readExtent, readGuest } from './read.js';
import { readSnapshotL1 } from './snapshot-l1.js';
import { findByIdAndName } from './snapshot-store.js';
import type { GuestOffset } from './units.js';
import { l1EntriesFor, roundDown, roundUp } from './units.js';

/** Reads VM state; what was never stored reads as zeroes. */
export async function readVmState(image: Qcow2Image, offset: number, iov: Iov): Promise<void> {
  const event = image.file.debugEvent('vmstate_load');
  if (event !== undefined) await event;
  const at = place(image.vmStateOffset, offset, iov.bytes);
  await inSectors(image, at, iov, (from, sectors) => readGuest(image, from, sectors));
}

/**
 * The VM state that a snapshot has, beside the active state, which stays: reads `iov` from an
 * offset. It is good for as long as the snapshot is there. Throws BlockError: ENOENT, and what a
 * damaged table is told with.
 */
export async function openSnapshotState(
  image: Qcow2Image,
  id: string | undefined,
  name: string | undefined,
): Promise<(offset: number, iov: Iov) => Promise<void>> {
  const snapshot = findByIdAndName(image.snapshots, id, name);
  if (snapshot === undefined) throw new BlockError('ENOENT', "Can't find snapshot");
  const bytes = await readSnapshotL1(image, snapshot);
  const mapping = new Mapping(image, new L1Table(snapshot.l1Offset, bytes));
  const start = l1EntriesFor(image.g, snapshot.diskSize) * image.g.l2Coverage;
  return (offset, iov) =>
    inSectors(image, place(start, offset, iov.bytes), iov, (from, sectors) =>
      readState(image, mapping, from, sectors),
    );
}

async function readState(
  image: Qcow2Image,
  mapping: Mapping,
  guest: GuestOffset,
  iov: Iov,
): Promise<void> {
  image.checkUsable();
  const leave = image.inFlight.enter();
  try {
    for (let done = 0; done < iov.bytes;) {
      const found = await mapping.lookup(guest + done, iov.bytes - done);
      const part = iov.slice(done, found.bytes);
      if (found.kind === Kind.unallocated) part.fill(0);
      else await readExtent(image, found, guest + done, part);
      done += found.bytes;
    }
  } finally {
    leave();
  }
}

/** Reads whole sectors where the image is encrypted. */
async function inSectors(
  image: Qcow2Image,
  at: GuestOffset,
  iov: Iov,
  read: (from: GuestOffset, iov: Iov) => Promise<void>,
): Promise<void> {
  const unit = image.crypto?.sectorBytes ?? 1;
  if (at % unit === 0 && iov.bytes % unit === 0) return read(at, iov);
  const from = roundDown(at, unit);
  const sectors = Iov.alloc(roundUp(at + iov.bytes, unit) - from);
  await read(from, sectors);
  iov.copyFrom(sectors.flatten().subarray(at - from, at - from + iov.bytes));
}

/** Stores VM state, growing the L1 table as needed. ENOTSUP with a data file. */
export async function writeVmState(image: Qcow2Image, offset: number, iov: Iov): Promise<void> {
  if (image.hasDataFile) throw new BlockError('ENOTSUP');
  const event = image.file.debugEvent('vmstate_save');
  if (event !== undefined) await event;
  const at = place(image.vmStateOffset, offset, iov.bytes);
  const unit = image.crypto?.sectorBytes ?? 1;
  if (at % unit === 0 && iov.bytes % unit === 0) return image.writes.write(at, iov);
  // Whole sectors are encrypted: their rest is read first. Nobody else writes VM state meanwhile.
  const from = roundDown(at, unit);
  const sectors = Iov.alloc(roundUp(at + iov.bytes, unit) - from);
  await readGuest(image, from, sectors);
  const bytes = sectors.flatten();
  iov.copyTo(bytes.subarray(at - from, at - from + iov.bytes));
  await image.writes.write(from, Iov.of(bytes));
}

function place(start: GuestOffset, offset: number, bytes: number): GuestOffset {
  const at = start + offset;
  if (at + bytes > Number.MAX_SAFE_INTEGER) throw new BlockError('EFBIG');
  return at;
}
