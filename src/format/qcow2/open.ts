/** Opening an image: header, tables, children, repairs that must come first. */
import type { OpenContext } from '../../block/driver.js';
import type { Child } from '../../block/child.js';
import { BlockError, prepend, withErrno } from '../../block/errors.js';
import { Role } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import { Allocator } from './allocate.js';
import { MetaCache } from './cache.js';
import { ClusterKeeper } from './compressed-read.js';
import { FileGrowth } from '../../block/file-growth.js';
import type { Qcow2Header } from './header.js';
import { headerGeometry, headerSpan, parseHeader } from './header.js';
import { Qcow2Image } from './image.js';
import { L1Table } from './l1.js';
import { Autoclear, Compat, HEADER_LENGTH, Incompat } from './layout.js';
import { Mapping } from './mapping.js';
import { parseSettings } from './options.js';
import { OverlapChecker } from './overlap.js';
import { readRefcountTable, Refcounts } from './refcount.js';
import { WriteEngine } from './write.js';
import { Writeback } from './writeback.js';

/** Opens the image that `context` describes. Throws BlockError or OptionError. */
export async function openImage(context: OpenContext): Promise<Qcow2Image> {
  const file = await context.openChild('file', { role: Role.image });
  const header = await readHeader(context, file);
  const image = await buildImage(context, file, header);
  if (header.backingFile !== '' || header.extensions.backingFormat !== undefined) {
    context.node.setBackingHint(header.backingFile, header.extensions.backingFormat ?? '');
  }
  await openDataFile(context, image);
  if (header.fields.crypt_method !== 0 || image.settings.encrypt !== undefined) {
    await (await import('./encryption.js')).openEncryption(context, image);
  }
  await readSnapshots(context, image);
  if (header.extensions.bitmapsInconsistent) warnOfStaleBitmaps(context);
  const writable = image.isWritable && !context.flags.noIo;
  if (writable) await prepareForWriting(context, image);
  if (header.extensions.bitmaps !== undefined && context.flags.keepsContent !== true) {
    // Of an inactive image they may change until it is activated.
    if (context.flags.inactive) return image;
    await (await import('./bitmaps.js')).loadBitmaps(image, writable);
  }
  return image;
}

function warnOfStaleBitmaps({ graph }: OpenContext): void {
  graph.warn(
    'a program lacking bitmap support modified this file, so all bitmaps are now considered ' +
      "inconsistent\nSome clusters may be leaked, run 'qemu-img check -r' on the image file " +
      'to fix.',
  );
}

async function readHeader(context: OpenContext, file: Child): Promise<Qcow2Header> {
  try {
    const fixed = new Uint8Array(HEADER_LENGTH);
    await file.read(0, Iov.of(fixed));
    const span = Math.min(headerSpan(fixed), Math.max(file.size, HEADER_LENGTH));
    const head = new Uint8Array(span);
    await file.read(0, Iov.of(head));
    const { check } = context.flags;
    return parseHeader(head, { writable: !context.node.readOnly, check });
  } catch (e) {
    if (e instanceof BlockError && e.op === undefined) throw e;
    throw withErrno('Could not read qcow2 header', e);
  }
}

async function buildImage(
  context: OpenContext,
  file: Child,
  header: Qcow2Header,
): Promise<Qcow2Image> {
  const { fields } = header;
  const g = headerGeometry(fields);
  const settings = parseSettings(context.options, g, {
    version: fields.version,
    size: fields.size,
    lazyRefcounts: (fields.compatible_features & Compat.lazyRefcounts) !== 0n,
    unmap: context.flags.unmap,
  });
  const { graph, host, node } = context;
  const image = new Qcow2Image({ graph, host, node, file, header, geometry: g, settings });
  await loadTables(image);
  const zeroInit = await growsZeroed(file);
  image.growth = new FileGrowth(file, zeroInit);
  if (file.node.instance.isCached === false) {
    const { files } = host;
    image.growth.fillAhead((n) => files?.alignedBuffer?.(n) ?? new Uint8Array(n));
  }
  image.dataGrowth = image.growth;
  image.alloc = new Allocator(image);
  image.overlap = new OverlapChecker(image);
  image.writeback = new Writeback(image);
  image.writes = new WriteEngine(image);
  image.keeper = new ClusterKeeper(g.clusterSize);
  return image;
}

/** Reads L1 and refcount table and makes empty caches, as the header and settings are now. */
export async function loadTables(image: Qcow2Image): Promise<void> {
  const { header, settings, g } = image;
  const { fields } = header;
  const l1 = new Uint8Array(fields.l1_size * 8);
  try {
    if (l1.byteLength > 0) await image.readMeta(fields.l1_table_offset, Iov.of(l1));
  } catch (e) {
    throw withErrno('Could not read L1 table', e);
  }
  image.l1 = new L1Table(fields.l1_table_offset, l1);
  const read = (offset: number, into: Iov): Promise<void> => image.readMeta(offset, into);
  image.l2 = new MetaCache(settings.l2SliceBytes, settings.l2Slices, read);
  const blocks = new MetaCache(g.clusterSize, settings.refcountBlocks, read);
  try {
    const offset = fields.refcount_table_offset;
    const table = await readRefcountTable(image, offset, fields.refcount_table_clusters);
    image.refcounts = new Refcounts(image, blocks, offset, table);
  } catch (e) {
    throw withErrno('Could not initialize refcount handling', e);
  }
  image.mapping = new Mapping(image);
}

async function growsZeroed(file: Child): Promise<boolean> {
  return (await file.node.instance.hasZeroInit?.()) ?? false;
}

async function openDataFile(context: OpenContext, image: Qcow2Image): Promise<void> {
  const { header } = image;
  const raw = (header.fields.autoclear_features & Autoclear.dataFileRaw) !== 0n;
  const external = image.has(Incompat.dataFile);
  if (raw && !external) throw new BlockError('EINVAL', 'data-file-raw requires a data file');
  if (context.flags.noIo && context.options['data-file'] === undefined) return;
  const name = header.extensions.dataFile;
  const child = await context.tryOpenChild('data-file', {
    role: Role.data,
    ...(external && name !== undefined ? { defaultFilename: name } : {}),
  });
  if (!external) {
    if (child === undefined) return;
    throw new BlockError(
      'EINVAL',
      "'data-file' can only be set for images with an external data file",
    );
  }
  if (child === undefined) throw new BlockError('EINVAL', "'data-file' is required for this image");
  image.dataFile = child;
  image.dataGrowth = new FileGrowth(child, await growsZeroed(child));
}

async function readSnapshots(context: OpenContext, image: Qcow2Image): Promise<void> {
  const { nb_snapshots: count, snapshots_offset: offset } = image.header.fields;
  if (count === 0 || context.flags.check) return;
  const { readSnapshotTable } = await import('./snapshot-table.js');
  const table = await readSnapshotTable(image.file, { offset, count, diskSize: image.size });
  image.snapshots = table.snapshots;
  image.overlap.snapshotTableBytes = table.bytes;
}

/** Clears what a writer must clear, and repairs an image that was not closed. */
async function prepareForWriting(context: OpenContext, image: Qcow2Image): Promise<void> {
  const { fields, extensions } = image.header;
  const unknown = fields.autoclear_features & ~Autoclear.known;
  if (unknown !== 0n || extensions.bitmapsInconsistent) {
    // Bitmaps that another program let grow stale are forgotten; their clusters leak.
    fields.autoclear_features &= Autoclear.known;
    extensions.bitmapsInconsistent = false;
    try {
      await image.writeHeader();
    } catch (e) {
      throw withErrno('Could not update qcow2 header', e);
    }
  }
  if (!context.flags.check && image.has(Incompat.dirty)) {
    const { repairDirty } = await import('./repair.js');
    try {
      await repairDirty(image);
    } catch (e) {
      throw prepend('Could not repair dirty image: ', e);
    }
  }
}
