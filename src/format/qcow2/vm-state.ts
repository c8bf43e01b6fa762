/** VM state: stored like guest data, past the end of the disk. */
import { Iov } from '../../lib/iov.js';
import { BlockError } from '../../block/errors.js';
import type { Qcow2Image } from './image.js';
import { readGuest } from './read.js';
import { roundDown, roundUp } from './units.js';

/** Reads VM state; what was never stored reads as zeroes. */
export async function readVmState(image: Qcow2Image, offset: number, iov: Iov): Promise<void> {
  const event = image.file.debugEvent('vmstate_load');
  if (event !== undefined) await event;
  const at = place(image, offset, iov.bytes);
  const unit = image.crypto?.sectorBytes ?? 1;
  if (at % unit === 0 && iov.bytes % unit === 0) return readGuest(image, at, iov);
  const from = roundDown(at, unit);
  const sectors = Iov.alloc(roundUp(at + iov.bytes, unit) - from);
  await readGuest(image, from, sectors);
  iov.copyFrom(sectors.flatten().subarray(at - from, at - from + iov.bytes));
}

/** Stores VM state, growing the L1 table as needed. ENOTSUP with a data file. */
export async function writeVmState(image: Qcow2Image, offset: number, iov: Iov): Promise<void> {
  if (image.hasDataFile) throw new BlockError('ENOTSUP');
  const event = image.file.debugEvent('vmstate_save');
  if (event !== undefined) await event;
  const at = place(image, offset, iov.bytes);
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

function place(image: Qcow2Image, offset: number, bytes: number): number {
  const at = image.vmStateOffset + offset;
  if (at + bytes > Number.MAX_SAFE_INTEGER) throw new BlockError('EFBIG');
  return at;
}
