/** `check`: what grain tables name must be data of the file. Nothing is repaired, as in QEMU. */
import type { CheckOptions, CheckResult } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { Extent } from './extent.js';
import { SECTOR } from './layout.js';
import { SparseExtent } from './sparse.js';
import { Grain } from './tables.js';

/** Looks at every grain of every sparse extent. */
export async function checkExtents(
  extents: readonly Extent[],
  options: CheckOptions,
): Promise<CheckResult> {
  if (options.fixErrors || options.fixLeaks) throw new BlockError('ENOTSUP');
  const result = {
    corruptions: 0,
    leaks: 0,
    checkErrors: 0,
    corruptionsFixed: 0,
    leaksFixed: 0,
  };
  for (const extent of extents) {
    if (extent instanceof SparseExtent) await checkSparse(extent, options, result);
  }
  return result;
}

async function checkSparse(
  extent: SparseExtent,
  options: CheckOptions,
  result: CheckResult,
): Promise<void> {
  const { geometry: g, tables, file, start } = extent;
  const report = (grain: number, what: string): void => {
    result.corruptions++;
    const sector = (start + grain * g.grainBytes) / SECTOR;
    options.report(`ERROR: ${what} for sector ${String(sector)}`);
  };
  for (let index = 0; index < tables.count; index++) {
    const offset = tables.offsetOf(index);
    if (offset === 0) continue;
    if (offset >= file.size) {
      report(index * g.tableEntries, 'grain table after end of file');
      continue;
    }
    const table = await tables.table(index);
    if (table === null) continue;
    for (let i = 0; i < g.tableEntries; i++) {
      const host = table.entries[i] ?? Grain.unallocated;
      if (host === Grain.unallocated || host === Grain.zero) continue;
      const grain = index * g.tableEntries + i;
      if (grain * g.grainBytes >= g.sectors * SECTOR) break;
      if (host === Grain.damaged) report(grain, 'bad grain table entry');
      else if (host >= file.size) report(grain, 'cluster offset after file size');
      else if (host < g.dataStart) report(grain, 'cluster offset in metadata');
    }
  }
}
