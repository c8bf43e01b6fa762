/** The last part of compacting: files give back what no entry says is stored (CM7, CM8). */
import type { Child } from '../../block/child.js';
import type { CompactContext } from '../../block/driver.js';
import { Req } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import { entryOffset, hasHostCluster, isCompressed, isCopied, readEntry } from './entry.js';
import type { L2Entry } from './entry.js';
import type { Qcow2Image } from './image.js';
import { Entry } from './layout.js';
import { roundDown, roundUp } from './units.js';

/** Holes are made in units of it: the block size of most file systems. */
const HOLE_UNIT = 4096;
/** Bytes of a data file that are looked at together. */
const PIECE = 1024 * 1024;

/** [from, to) of the file that holds data. */
interface Range {
  readonly from: number;
  to: number;
}

/**
 * Makes holes of what is not stored: of a data file all that no entry names, else the subclusters
 * of clusters that are stored in part. What is behind the end of the disk is cut off a data file.
 * Everything that says so is durable. Runs inside `image.exclusive`.
 */
export async function releaseUnstored(image: Qcow2Image, context: CompactContext): Promise<void> {
  const { g, size, hasDataFile, dataFile } = image;
  if (!hasDataFile && !g.extendedL2) return;
  const end = roundUp(size, g.clusterSize);
  for (let at = 0; at < end;) {
    context.check();
    const { found, next } = await unstoredFrom(image, at, end);
    for (const range of found) await punch(dataFile, range);
    at = next;
  }
  if (!hasDataFile || dataFile.size <= end) return;
  try {
    await dataFile.truncate(end, { exact: false });
  } catch {
    // A device keeps its length.
  }
}

/** What is not stored in the part of an L2 table that `at` lies in. */
async function unstoredFrom(
  image: Qcow2Image,
  at: number,
  end: number,
): Promise<{ found: readonly Range[]; next: number }> {
  const { g, l1, mapping, hasDataFile } = image;
  const index = Math.floor(at / g.l2Coverage);
  const place = mapping.place(at);
  if (place === undefined || !l1.isCopied(index)) {
    const next = Math.min(end, (index + 1) * g.l2Coverage);
    return { found: hasDataFile && place === undefined ? [{ from: at, to: next }] : [], next };
  }
  const found: Range[] = [];
  const count = Math.min((end - at) / g.clusterSize, mapping.sliceEntries - place.index);
  await mapping.useSlice(place.offset, ({ view }) => {
    for (let i = 0; i < count; i++) {
      const entry = readEntry(g, view, place.index + i);
      const host = placeOf(image, entry, at + i * g.clusterSize);
      if (host !== undefined) addUnstored(found, image, entry, host);
    }
  });
  return { found, next: at + count * g.clusterSize };
}

/** Where the content of a guest cluster is or would be, if nobody else uses that place. */
function placeOf(image: Qcow2Image, entry: L2Entry, guest: number): number | undefined {
  if (isCompressed(entry)) return undefined;
  const host = entryOffset(entry.hi, entry.lo);
  if (!image.hasDataFile) {
    return hasHostCluster(entry, false) && isCopied(entry) ? host : undefined;
  }
  // In a data file each cluster has its own place.
  return !hasHostCluster(entry, true) || host === guest ? guest : undefined;
}

function addUnstored(found: Range[], image: Qcow2Image, entry: L2Entry, host: number): void {
  const { g, hasDataFile } = image;
  const isStored = hasHostCluster(entry, hasDataFile) && (entry.lo & Entry.zeroLo) === 0;
  const stored = g.extendedL2 ? entry.allocated : isStored ? 0xffff_ffff : 0;
  if (stored === 0xffff_ffff) return;
  const step = g.clusterSize / 32;
  for (let i = 0; i < 32; i++) {
    if ((stored & (1 << i)) !== 0) continue;
    const from = host + i * step;
    const last = found[found.length - 1];
    if (last?.to === from) last.to = from + step;
    else found.push({ from, to: from + step });
  }
}

/** Gives back what the file stores there; what is a hole already is left alone. */
async function punch(file: Child, range: Range): Promise<void> {
  const from = roundUp(range.from, HOLE_UNIT);
  const to = Math.min(range.to < file.size ? roundDown(range.to, HOLE_UNIT) : file.size, file.size);
  for (let at = from; at < to;) {
    const { data, zero, bytes } = await file.blockStatus(at, to - at);
    if (bytes === 0) return;
    try {
      if (data && !zero) await file.discard(at, bytes);
    } catch {
      // Best effort: nothing refers to it, whatever the file keeps.
      return;
    }
    at += bytes;
  }
}

/**
 * For a data file that is to be read as a raw image (data_file_raw): its zeroes become holes, and
 * the entries stay, for somebody may write to that file without them. Resolves to the bytes.
 */
export async function punchRawData(image: Qcow2Image, context: CompactContext): Promise<number> {
  const { dataFile, host } = image;
  const buffer = new Uint8Array(PIECE);
  let punched = 0;
  const { size } = dataFile;
  for (let at = 0; at < size;) {
    context.check();
    const { data, zero, bytes } = await dataFile.blockStatus(at, size - at);
    if (!data || zero) {
      at += bytes === 0 ? size - at : bytes;
      continue;
    }
    const piece = buffer.subarray(0, Math.min(bytes, PIECE - (at % PIECE)));
    await dataFile.read(at, Iov.of(piece));
    for (const { from, to } of zeroBlocks(at, piece, (of) => host.hot.isZero(of))) {
      await dataFile.writeZeroes(from, to - from, Req.mayUnmap | Req.noFallback);
      punched += to - from;
    }
    at += piece.length;
  }
  return punched;
}

/** Whole blocks of zeroes in `bytes`, which stand at `start` of a file. */
function zeroBlocks(
  start: number,
  bytes: Uint8Array,
  isZero: (bytes: Uint8Array) => boolean,
): Range[] {
  const found: Range[] = [];
  const end = start + bytes.length;
  for (let at = start; at < end;) {
    const next = Math.min(end, roundDown(at, HOLE_UNIT) + HOLE_UNIT);
    if (isZero(bytes.subarray(at - start, next - start))) {
      const last = found[found.length - 1];
      if (last?.to === at) last.to = next;
      else found.push({ from: at, to: next });
    }
    at = next;
  }
  return found;
}
