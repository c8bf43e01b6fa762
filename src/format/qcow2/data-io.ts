/** Guest data at a known host place: growth of the file, encryption, what is in flight. */
import { Iov } from '../../lib/iov.js';
import type { Qcow2Image } from './image.js';
import type { GuestOffset, HostOffset } from './units.js';

/** Reads plain data at `host`, which is `guest` of the disk. */
export function readData(
  image: Qcow2Image,
  guest: GuestOffset,
  host: HostOffset,
  iov: Iov,
): Promise<void> {
  if (image.crypto !== undefined) return readEncrypted(image, guest, host, iov);
  const event = image.file.debugEvent('read_aio');
  const request =
    event === undefined
      ? image.dataFile.read(host, iov)
      : event.then(() => image.dataFile.read(host, iov));
  return image.inFlight.track(request);
}

async function readEncrypted(
  image: Qcow2Image,
  guest: GuestOffset,
  host: HostOffset,
  iov: Iov,
): Promise<void> {
  const { crypto } = image;
  const bytes = iov.tryContiguous() ?? new Uint8Array(iov.bytes);
  await image.inFlight.track(image.dataFile.read(host, Iov.of(bytes)));
  await crypto?.decryptSectors(crypto.hostOffsets ? host : guest, bytes);
  if (iov.tryContiguous() === undefined) iov.copyFrom(bytes);
}

/** Writes plain data at `host`. The caller checked for overlaps with metadata. */
export function writeData(
  image: Qcow2Image,
  guest: GuestOffset,
  host: HostOffset,
  iov: Iov,
): Promise<void> {
  const growing = image.dataGrowth.before(host + iov.bytes, iov.bytes);
  const event = image.file.debugEvent('write_aio');
  if (growing === undefined && event === undefined && image.crypto === undefined) {
    return image.inFlight.track(image.dataFile.write(host, iov));
  }
  return image.inFlight.track(writeSlowly(image, guest, host, iov, [growing, event]));
}

async function writeSlowly(
  image: Qcow2Image,
  guest: GuestOffset,
  host: HostOffset,
  iov: Iov,
  before: readonly (Promise<void> | undefined)[],
): Promise<void> {
  for (const wait of before) if (wait !== undefined) await wait;
  const { crypto } = image;
  if (crypto === undefined) {
    await image.dataFile.write(host, iov);
    return;
  }
  // The guest's buffer stays as it is: its memory must not show the cipher text.
  const bytes = new Uint8Array(iov.bytes);
  iov.copyTo(bytes);
  await crypto.encryptSectors(crypto.hostOffsets ? host : guest, bytes);
  await image.dataFile.write(host, Iov.of(bytes));
}
