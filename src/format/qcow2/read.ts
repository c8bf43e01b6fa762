/** Reads that the fast path in instance.ts cannot serve: several runs, backing, compression. */
import type { Iov } from '../../lib/iov.js';
import { begun, settleAll } from '../../lib/settle-all.js';
import { readCompressed } from './compressed-read.js';
import { readData } from './data-io.js';
import { Kind } from './entry.js';
import type { Qcow2Image } from './image.js';
import type { Extent } from './mapping.js';
import type { Run } from './run.js';
import type { GuestOffset } from './units.js';
import { roundUp } from './units.js';

/** Reads what the guest sees at `guest`: runs first, then the mapping. */
export async function readGuest(image: Qcow2Image, guest: GuestOffset, iov: Iov): Promise<void> {
  image.checkUsable();
  // In flight from the first lookup on: what it finds must stay until it has been read.
  const leave = image.inFlight.enter();
  try {
    await readParts(image, guest, iov);
  } finally {
    leave();
  }
}

async function readParts(image: Qcow2Image, guest: GuestOffset, iov: Iov): Promise<void> {
  const { runs } = image.writes;
  const end = guest + iov.bytes;
  const parts: Promise<void>[] = [];
  let at = guest;
  while (at < end) {
    const run = runs.firstIn(at, end - at);
    const plainEnd = run === undefined ? end : Math.max(at, Math.min(end, run.guest));
    if (plainEnd > at) {
      parts.push(readMapped(image, at, iov.slice(at - guest, plainEnd - at)));
      at = plainEnd;
      continue;
    }
    if (run === undefined) break;
    const runEnd = Math.min(end, run.guestEnd);
    readFromRun(image, run, at, iov.slice(at - guest, runEnd - at), parts);
    at = runEnd;
  }
  await settleAll(parts);
}

/** What was written lies in the run's place; the rest is still where it was. */
function readFromRun(
  image: Qcow2Image,
  run: Run,
  guest: GuestOffset,
  iov: Iov,
  parts: Promise<void>[],
): void {
  run.covered.split(guest, guest + iov.bytes, (from, to, covered) => {
    const piece = iov.slice(from - guest, to - from);
    parts.push(
      covered ? readData(image, from, run.hostOf(from), piece) : readMapped(image, from, piece),
    );
  });
}

/** Reads by the L2 tables alone, whatever runs there are. */
export async function readMapped(image: Qcow2Image, guest: GuestOffset, iov: Iov): Promise<void> {
  const { mapping } = image;
  const end = guest + iov.bytes;
  const first = mapping.tryLookup(guest, iov.bytes) ?? (await mapping.lookup(guest, iov.bytes));
  if (first.bytes === iov.bytes) {
    await readExtent(image, first, guest, iov);
    return;
  }
  const parts = [begun(readExtent(image, first, guest, iov.slice(0, first.bytes)))];
  let at = guest + first.bytes;
  while (at < end) {
    const found = mapping.tryLookup(at, end - at) ?? (await lookupOrWait(image, at, end, parts));
    parts.push(begun(readExtent(image, found, at, iov.slice(at - guest, found.bytes))));
    at += found.bytes;
  }
  await settleAll(parts);
}

/** A lookup that fails only after the parts under way have ended: they fill the caller's memory. */
async function lookupOrWait(
  image: Qcow2Image,
  at: GuestOffset,
  end: GuestOffset,
  parts: readonly Promise<void>[],
): Promise<Extent> {
  try {
    return await image.mapping.lookup(at, end - at);
  } catch (e) {
    await Promise.allSettled(parts);
    throw e;
  }
}

/** Reads a run that a lookup has found. Requests of the image are told of it (inFlight). */
export function readExtent(
  image: Qcow2Image,
  extent: Extent,
  guest: GuestOffset,
  iov: Iov,
): Promise<void> {
  switch (extent.kind) {
    case Kind.data:
      return readData(image, guest, extent.host, iov);
    case Kind.zero:
      iov.fill(0);
      return Promise.resolve();
    case Kind.unallocated:
      return readBacking(image, guest, iov);
    case Kind.compressed:
      return readCompressed(image, extent, guest, iov);
    case Kind.invalid:
      return image.corrupt(true, extent.message).then((error) => {
        throw error;
      });
  }
}

/** From the backing file; zeroes where there is none, past its end, and past the disk's end. */
async function readBacking(image: Qcow2Image, guest: GuestOffset, iov: Iov): Promise<void> {
  const { backing } = image;
  const diskEnd = roundUp(image.size, 512);
  if (backing === undefined || guest >= diskEnd) {
    iov.fill(0);
    return;
  }
  let inside = iov;
  if (guest + iov.bytes > diskEnd) {
    iov.fill(0, diskEnd - guest);
    inside = iov.slice(0, diskEnd - guest);
  }
  const event = image.file.debugEvent('read_backing_aio');
  if (event !== undefined) await event;
  await backing.read(guest, inside);
}
