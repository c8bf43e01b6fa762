/** Opening a folder as a disk, and reading from it. */
import type { DriverInstance, NodeOptions, OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import type { Iov } from '../../lib/iov.js';
import { parseValue } from '../../options/schema.js';
import { partitionTable, reservedArea } from './boot.js';
import { FileContents } from './contents.js';
import { FatTable, lastAtOrBelow } from './fat.js';
import { folderEntries } from './folders.js';
import type { DiskShape, Layout } from './layout.js';
import { planLayout, SECTOR } from './layout.js';
import type { VvfatOptions } from './options.js';
import { vvfatOptions } from './options.js';
import type { FatNode } from './tree.js';
import { readTree } from './tree.js';

const DEFAULT_LABEL = 'QEMU VVFAT';
const MOST_LABEL = 11;
/** Most that is computed of a FAT at once. */
const FAT_PIECE = 1024 * 1024;

/** A piece of the disk that holds something: bytes, a file's content, or a FAT. */
interface Piece {
  readonly start: number;
  readonly bytes: number;
  readonly source: Uint8Array | FatNode | FatTable;
}

/** Throws EACCES where writing is asked for, EINVAL for wrong options, as {@link readTree} else. */
export async function openVvfat(context: OpenContext): Promise<DriverInstance> {
  const { files } = context.host;
  if (files === undefined) throw new BlockError('ENOTSUP', 'This host has no files');
  if (context.options['dir'] === undefined) {
    throw new BlockError('EINVAL', "vvfat block driver requires a 'dir' option");
  }
  const options = parseValue(vvfatOptions, context.options, { from: 'opts' });
  const shape = shapeOf(options);
  const label = options.label ?? DEFAULT_LABEL;
  if (new TextEncoder().encode(label).byteLength > MOST_LABEL) {
    throw new BlockError('EINVAL', `vvfat label cannot be longer than ${MOST_LABEL} bytes`);
  }
  refuseWriting(context, options);
  const nodes = await readTree(files, options.dir);
  const layout = planFor(shape, nodes);
  const used = allocate(layout, nodes);
  const pieces = piecesOf(layout, nodes, label, used);
  return new VvfatInstance(layout, pieces, new FileContents(files), context.options);
}

function shapeOf(options: VvfatOptions): DiskShape {
  const isFloppy = options.floppy ?? false;
  const bits = options['fat-type'] ?? 0;
  if (bits === 0) return { bits: isFloppy ? 12 : 16, isFloppy, isDefault: true };
  if (bits === 32 && isFloppy) {
    // "FAT Type Determination": with fewer clusters than 65525 readers take it for another type.
    throw new BlockError('ENOTSUP', 'A floppy disk is too small for FAT32');
  }
  if (bits === 12 || bits === 16 || bits === 32) return { bits, isFloppy, isDefault: false };
  throw new BlockError('EINVAL', 'Valid FAT types are only 12, 16 and 32');
}

function refuseWriting({ node, flags }: OpenContext, options: VvfatOptions): void {
  if (options.rw === true) {
    if (!flags.writable) {
      throw new BlockError('EINVAL', "Unable to set VVFAT to 'rw' when drive is read-only");
    }
    throw new BlockError('ENOTSUP', "vvfat: 'rw' is not supported: the folder can only be read");
  }
  if (!flags.writable) return;
  if (!flags.autoReadOnly) throw new BlockError('EACCES', 'Image is read-only');
  node.readOnly = true;
}

function planFor(shape: DiskShape, nodes: readonly FatNode[]): Layout {
  const [root, ...others] = nodes;
  return planLayout(shape, {
    rootBytes: root?.size ?? 0,
    clusters: (clusterBytes) =>
      others.reduce((sum, { size }) => sum + Math.ceil(size / clusterBytes), 0),
  });
}

/** Gives each file and folder its run (F2); how many clusters that took. */
function allocate(layout: Layout, nodes: readonly FatNode[]): number {
  let next = 2;
  for (const node of nodes) {
    // The root of FAT12 and FAT16 lies before the clusters.
    if (node.parent === undefined && layout.bits !== 32) continue;
    node.clusters = Math.ceil(node.size / layout.clusterBytes);
    if (node.clusters === 0) continue;
    node.cluster = next;
    next += node.clusters;
  }
  return next - 2;
}

/** All that is not zeroes, in the order of the disk. */
function piecesOf(
  layout: Layout,
  nodes: readonly FatNode[],
  label: string,
  used: number,
): readonly Piece[] {
  const pieces: Piece[] = [];
  const put = (sector: number, source: Piece['source'], bytes: number): void => {
    pieces.push({ start: sector * SECTOR, bytes, source });
  };
  const stored = (sector: number, source: Uint8Array): void => {
    put(sector, source, source.byteLength);
  };
  if (!layout.isFloppy) stored(0, partitionTable(layout));
  stored(layout.volumeStart, reservedArea(layout, label, used));
  const fat = new FatTable(
    layout,
    nodes.filter((node) => node.clusters > 0),
  );
  const { fatSectors, fatStart } = layout;
  for (const start of [fatStart, fatStart + fatSectors]) put(start, fat, fatSectors * SECTOR);
  for (const node of nodes) {
    const isFolder = node.children !== undefined;
    if (node.parent === undefined && layout.bits !== 32) {
      stored(layout.rootStart, folderEntries(node, label));
    } else if (node.clusters > 0) {
      const sector = layout.dataStart + (node.cluster - 2) * layout.sectorsPerCluster;
      if (isFolder) stored(sector, folderEntries(node, label));
      else put(sector, node, node.size);
    }
  }
  return pieces;
}

class VvfatInstance implements DriverInstance {
  readonly #layout: Layout;
  readonly #pieces: readonly Piece[];
  readonly #contents: FileContents;
  readonly #given: NodeOptions;

  constructor(
    layout: Layout,
    pieces: readonly Piece[],
    contents: FileContents,
    given: NodeOptions,
  ) {
    this.#layout = layout;
    this.#pieces = pieces;
    this.#contents = contents;
    this.#given = given;
  }

  length(): number {
    return this.#layout.totalSectors * SECTOR;
  }

  limits(): Partial<BlockLimits> {
    return { requestAlignment: SECTOR };
  }

  async read(offset: number, iov: Iov): Promise<void> {
    for (let at = 0; at < iov.bytes;) {
      const run = this.#runAt(offset + at, iov.bytes - at);
      const part = iov.slice(at, run.bytes);
      if (run.piece === undefined) part.fill(0);
      else await this.#readPiece(run.piece, offset + at - run.piece.start, part);
      at += run.bytes;
    }
  }

  async #readPiece({ source }: Piece, inside: number, part: Iov): Promise<void> {
    if (source instanceof Uint8Array) {
      part.copyFrom(source.subarray(inside, inside + part.bytes));
    } else if (source instanceof FatTable) {
      for (let at = 0; at < part.bytes; at += FAT_PIECE) {
        part.copyFrom(source.bytes(inside + at, Math.min(FAT_PIECE, part.bytes - at)), at);
      }
    } else await this.#contents.read(source, inside, part);
  }

  /** What begins at `offset`, up to `most` bytes: of one piece, or zeroes. */
  #runAt(offset: number, most: number): { bytes: number; piece?: Piece } {
    const index = lastAtOrBelow(this.#pieces, offset, (each) => each.start);
    const piece = this.#pieces[index];
    if (piece !== undefined && offset < piece.start + piece.bytes) {
      return { bytes: Math.min(most, piece.start + piece.bytes - offset), piece };
    }
    const next = this.#pieces[index + 1]?.start ?? Infinity;
    return { bytes: Math.min(most, next - offset) };
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    // Up to the end of the last file all is data, as far as it pays to know: gaps are small.
    const last = this.#pieces.at(-1);
    const end = last === undefined ? 0 : Math.ceil((last.start + last.bytes) / SECTOR) * SECTOR;
    const data = offset < end;
    const length = data ? Math.min(bytes, end - offset) : bytes;
    return { bytes: length, data, zero: !data, allocated: true };
  }

  async allocatedBytes(): Promise<undefined> {
    return undefined;
  }

  strongOptions(): NodeOptions {
    return { ...this.#given };
  }

  close(): Promise<void> {
    return this.#contents.close();
  }
}
