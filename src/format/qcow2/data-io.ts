/** Guest data at a known host place: growth of the file, encryption, what is in flight. */
import type { Data } from '../../block/data.js';
import { storeData } from '../../block/data.js';
import { BlockError } from '../../block/errors.js';
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

/** Whether data can be written that stands in a file of the host. */
export function takesFileRuns(image: Qcow2Image): boolean {
  return image.crypto === undefined && image.dataFile.node.takesFileRuns;
}

/** Writes plain data at `host`. The caller checked for overlaps with metadata. */
export function writeData(
  image: Qcow2Image,
  guest: GuestOffset,
  host: HostOffset,
  data: Data,
): Promise<void> {
  const growing = image.dataGrowth.before(host + data.bytes, data.bytes);
  const event = image.file.debugEvent('write_aio');
  if (growing === undefined && event === undefined && image.crypto === undefined) {
    return image.inFlight.track(storeData(image.dataFile, host, data));
  }
  return image.inFlight.track(writeSlowly(image, guest, host, data, [growing, event]));
}

async function writeSlowly(
  image: Qcow2Image,
  guest: GuestOffset,
  host: HostOffset,
  iov: Data,
  before: readonly (Promise<void> | undefined)[],
): Promise<void> {
  for (const wait of before) if (wait !== undefined) await wait;
  const { crypto } = image;
  if (crypto === undefined) {
    await storeData(image.dataFile, host, iov);
    return;
  }
  if (!(iov instanceof Iov)) throw new BlockError('ENOTSUP');
  // The guest's buffer stays as it is: its memory must not show the cipher text.
  const bytes = new Uint8Array(iov.bytes);
  iov.copyTo(bytes);
  await crypto.encryptSectors(crypto.hostOffsets ? host : guest, bytes);
  await image.dataFile.write(host, Iov.of(bytes));
}
