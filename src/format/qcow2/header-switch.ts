/**
 * Changes of the header: of fields, which lie in one sector, and of the whole first cluster.
 *
 *  HW1  Fields change by one write of one sector: a crash shows the old ones or the new ones.
 *  HW2  When that fails, the old fields are written back. When that fails too, nobody knows which
 *       ones are on disk, and the image refuses everything from then on: so whoever gets an error
 *       from here and finds the image usable may take for granted that the old fields are there.
 *  HW3  What the first sector will point to is durable before it, and what it pointed to is
 *       overwritten after it, as far as both find room in the first cluster.
 */
import { Iov } from '../../lib/iov.js';
import type { Qcow2Header } from './header.js';
import { encodeHeader } from './header.js';
import type { Qcow2Image } from './image.js';
import type { HeaderRecord } from './layout.js';
import { decodeFields, EXT_HEAD_LENGTH, HEADER_FIELDS, HEADER_V2_LENGTH } from './layout.js';
import { roundUp } from './units.js';

/** What a disk writes at once. */
const SECTOR = 512;

/** Changes fields of the header, durably. If it throws, the old ones are in force (HW2). */
export async function switchHeader(
  image: Qcow2Image,
  change: Partial<HeaderRecord>,
): Promise<void> {
  const { fields } = image.header;
  const before = { ...fields };
  Object.assign(fields, change);
  try {
    await image.writeFields();
    await image.file.flush();
  } catch (e) {
    Object.assign(fields, before);
    await writeBack(image, () => image.writeFields());
    throw e;
  }
}

async function writeBack(image: Qcow2Image, write: () => Promise<void>): Promise<void> {
  try {
    await write();
    await image.file.flush();
  } catch {
    image.unusable = true;
    image.headerLost = true;
  }
}

/**
 * Runs `change` on the header in memory and writes the first cluster, durably. If it throws, the
 * header in memory is as before, and so is that on disk (HW2). ENOSPC when it does not fit.
 */
export async function rewriteHeader(
  image: Qcow2Image,
  change: (header: Qcow2Header) => void,
): Promise<void> {
  const { header } = image;
  const old = { fields: { ...header.fields }, ext: { ...header.extensions } };
  const oldName = header.backingFile;
  change(header);
  try {
    await image.writeHeader();
    await image.file.flush();
  } catch (e) {
    Object.assign(header.fields, old.fields);
    Object.assign(header.extensions, old.ext);
    header.backingFile = oldName;
    await writeBack(image, () => image.writeHeader());
    throw e;
  }
}

/** The file that the header lies in. */
interface HeaderFile {
  read(offset: number, iov: Iov): Promise<void>;
  write(offset: number, iov: Iov): Promise<void>;
  flush(): Promise<void>;
}

/** Writes the first cluster in the order of HW3. ENOSPC when it does not fit. */
export async function storeHeader(file: HeaderFile, header: Qcow2Header): Promise<void> {
  const clusterSize = 2 ** header.fields.cluster_bits;
  const old = new Uint8Array(clusterSize);
  await file.read(0, Iov.of(old));
  let next = encodeHeader(header);
  const oldEnd = usedEnd(old);
  if (meets(old, next, oldEnd) && usedEnd(next) > SECTOR) {
    // The backing file's name may lie anywhere behind the extensions.
    try {
      const moved = encodeHeader(header, roundUp(oldEnd, 8));
      if (meets(old, moved, oldEnd)) next = encodeHeader(header);
      else next = moved;
    } catch {
      next = encodeHeader(header);
    }
  }
  const tail = firstDifference(old, next);
  if (tail === undefined) {
    await file.write(0, Iov.of(next.subarray(0, SECTOR)));
    return;
  }
  if (!meets(old, next, oldEnd)) {
    await file.write(SECTOR, Iov.of(next.subarray(SECTOR)));
    await file.flush();
    await file.write(0, Iov.of(next.subarray(0, SECTOR)));
    return;
  }
  if (usedEnd(next) <= SECTOR) {
    await file.write(0, Iov.of(next.subarray(0, SECTOR)));
    await file.flush();
    await file.write(SECTOR, Iov.of(next.subarray(SECTOR)));
    return;
  }
  await file.write(0, Iov.of(next));
}

/** Whether `next` changes something behind the first sector that `old` uses up to `oldEnd`. */
function meets(old: Uint8Array, next: Uint8Array, oldEnd: number): boolean {
  for (let i = SECTOR; i < oldEnd; i++) if (old[i] !== next[i]) return true;
  return false;
}

/** Index of the first byte behind the first sector that differs. */
function firstDifference(old: Uint8Array, next: Uint8Array): number | undefined {
  for (let i = SECTOR; i < next.length; i++) if (old[i] !== next[i]) return i;
  return undefined;
}

/** End of extensions and backing name in a first cluster; its length where it makes no sense. */
function usedEnd(head: Uint8Array): number {
  const fields = decodeFields(HEADER_FIELDS, head);
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  let at = fields.version === 2 ? HEADER_V2_LENGTH : fields.header_length;
  for (;;) {
    if (at + EXT_HEAD_LENGTH > head.length) return head.length;
    const type = view.getUint32(at);
    at += EXT_HEAD_LENGTH;
    if (type === 0) break;
    at += roundUp(view.getUint32(at - 4), 8);
  }
  const nameEnd = fields.backing_file_offset + fields.backing_file_size;
  return Math.min(head.length, Math.max(at, nameEnd));
}
