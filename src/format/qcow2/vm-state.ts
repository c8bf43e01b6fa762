/** VM state: stored like guest data, past the end of the disk. */
import type { Iov } from '../../lib/iov.js';
import { BlockError } from '../../block/errors.js';
import type { Qcow2Image } from './image.js';
import { readGuest } from './read.js';

/** Reads VM state; what was never stored reads as zeroes. */
export async function readVmState(image: Qcow2Image, offset: number, iov: Iov): Promise<void> {
  const event = image.file.debugEvent('vmstate_load');
  if (event !== undefined) await event;
  await readGuest(image, place(image, offset, iov.bytes), iov);
}

/** Stores VM state, growing the L1 table as needed. ENOTSUP with a data file. */
export async function writeVmState(image: Qcow2Image, offset: number, iov: Iov): Promise<void> {
  if (image.hasDataFile) throw new BlockError('ENOTSUP');
  const event = image.file.debugEvent('vmstate_save');
  if (event !== undefined) await event;
  await image.writes.write(place(image, offset, iov.bytes), iov);
}

function place(image: Qcow2Image, offset: number, bytes: number): number {
  const at = image.vmStateOffset + offset;
  if (at + bytes > Number.MAX_SAFE_INTEGER) throw new BlockError('EFBIG');
  return at;
}
