/** References besides those of guest clusters: snapshots, bitmaps, refcount structures. */
import { BlockError, errorText } from '../../block/errors.js';
import { bitmapCluster, parseDirectory } from './bitmap-directory.js';
import { MAX_CHECK_CLUSTERS } from './check-counts.js';
import type { MappingCheck } from './check-mapping.js';
import type { CheckRun } from './check-run.js';
import { Limit } from './layout.js';

/** The refcount table in the file. Throws what the read throws. */
export async function readReftable(run: CheckRun): Promise<void> {
  const { refcount_table_offset, refcount_table_clusters } = run.target.header.fields;
  const bytes = await run.read(refcount_table_offset, refcount_table_clusters * run.g.clusterSize);
  run.reftable = new DataView(bytes.buffer);
}

/** L1 tables of all snapshots and what they refer to. */
export async function countSnapshots(run: CheckRun, mapping: MappingCheck): Promise<void> {
  const { snapshots, hasDataFile, g } = run;
  if (hasDataFile && snapshots.length > 0) {
    run.corrupt(`ERROR ${snapshots.length} snapshots in image with data file`);
  }
  for (const { id, name, l1Offset, l1OffsetRead, l1Size } of snapshots) {
    if (l1OffsetRead % BigInt(g.clusterSize) !== 0n) {
      run.corrupt(
        `ERROR snapshot ${id} (${name}) l1_offset=${hashHex(l1OffsetRead)}: L1 table is not ` +
          'cluster ' +
          'aligned; snapshot table entry corrupted',
      );
      continue;
    }
    if (l1Size > Limit.maxL1Bytes / 8) {
      run.corrupt(
        `ERROR snapshot ${id} (${name}) l1_size=${hashHex(l1Size)}: L1 table is too large; ` +
          'snapshot table entry corrupted',
      );
      continue;
    }
    await mapping.l1Table(l1Offset, l1Size, false);
  }
  await mapping.finish();
  run.countStructure(run.target.header.fields.snapshots_offset, run.snapshotTableBytes);
}

/** As C's `%#x`: no prefix for zero. */
function hashHex(value: number | bigint): string {
  return Number(value) === 0 ? '0' : `0x${value.toString(16)}`;
}

/** Longest encryption header that is believed; a LUKS header has some 2 MiB. */
const MAX_CRYPTO_BYTES = 64 * 1024 * 1024;

/** The refcount table itself and the encryption header. */
export function countFixedTables(run: CheckRun): void {
  const { header } = run.target;
  const { refcount_table_offset, refcount_table_clusters } = header.fields;
  run.countStructure(refcount_table_offset, refcount_table_clusters * run.g.clusterSize);
  const { crypto } = header.extensions;
  if (crypto === undefined) return;
  if (crypto.length > MAX_CRYPTO_BYTES) {
    run.corrupt(`ERROR encryption header of ${crypto.length} bytes is too large`);
    return;
  }
  run.countStructure(crypto.offset, crypto.length);
}

/**
 * The bitmap directory, bitmap tables and their clusters. Throws BlockError EINVAL when the
 * directory is broken, which counts as a corruption.
 */
export async function countBitmaps(run: CheckRun): Promise<void> {
  const { extensions } = run.target.header;
  const ext = extensions.bitmaps;
  if (ext === undefined) return;
  run.countStructure(ext.bitmap_directory_offset, ext.bitmap_directory_size);
  try {
    const bytes = await run.read(ext.bitmap_directory_offset, ext.bitmap_directory_size);
    for (const entry of parseDirectory(bytes, ext, run.g)) {
      run.countStructure(entry.tableOffset, entry.tableSize * 8);
      const table = new DataView((await run.read(entry.tableOffset, entry.tableSize * 8)).buffer);
      for (let i = 0; i < entry.tableSize; i++) {
        const cluster = bitmapCluster(run.g, table, i);
        if (cluster.kind === 'stored') run.countRange(cluster.offset, run.g.clusterSize);
        else if (cluster.kind === 'invalid') throw new BlockError('EINVAL');
      }
    }
  } catch (e) {
    run.result.corruptions++;
    throw e;
  }
}

/**
 * Refcount blocks. One outside of the file is repaired by making the file longer, when errors are
 * repaired; one that is shared or not on a cluster boundary needs new structures.
 */
export async function countRefcountBlocks(run: CheckRun): Promise<void> {
  const { clusterSize } = run.g;
  const { reftable } = run;
  const entries = reftable.byteLength / 8;
  for (let i = 0; i < entries; i++) {
    const hi = reftable.getUint32(i * 8);
    const lo = reftable.getUint32(i * 8 + 4);
    if ((hi | lo) === 0) continue;
    if ((lo & 0x1ff) !== 0) {
      run.corrupt(`ERROR refcount table entry ${i} has reserved bits set`);
      run.needsRebuild = true;
      continue;
    }
    const offset = hi * 0x1_0000_0000 + lo;
    if (lo % clusterSize !== 0) {
      run.corrupt(
        `ERROR refcount block ${i} is not cluster aligned; refcount table entry corrupted`,
      );
      run.needsRebuild = true;
      continue;
    }
    if (offset / clusterSize >= run.fileClusters) {
      if (!(await blockOutside(run, i, offset))) continue;
    }
    run.countStructure(offset, clusterSize);
    const references = run.counts.get(offset / clusterSize);
    if (references !== 1) {
      run.corrupt(`ERROR refcount block ${i} refcount=${references}`);
      run.needsRebuild = true;
    }
  }
}

/** A refcount block past the end; whether the file now reaches it. */
async function blockOutside(run: CheckRun, index: number, offset: number): Promise<boolean> {
  const what = run.fixErrors ? 'Repairing' : 'ERROR';
  run.corrupt(`${what} refcount block ${index} is outside image`);
  if (!run.fixErrors) return false;
  try {
    if (offset >= 2 ** 63) throw new BlockError('EINVAL');
    if (offset / run.g.clusterSize >= MAX_CHECK_CLUSTERS) throw new BlockError('EFBIG');
    await run.file.truncate(offset + run.g.clusterSize, { exact: false });
  } catch (e) {
    run.needsRebuild = true;
    run.report(`ERROR could not resize image: ${errorText(e)}`);
    return false;
  }
  run.result.corruptions--;
  run.result.corruptionsFixed++;
  run.measureFile();
  return true;
}
