/**
 * `check` and its repairs.
 *
 * Steps: snapshot table; references from header, L1 and L2 tables, snapshots, bitmaps and refcount
 * structures (check-mapping, check-tables); refcounts against references (check-compare), or new
 * refcount structures (check-rebuild); copied flags (check-copied). Findings and results are
 * those of QEMU 10, so that scripts read either.
 *
 * Order of repairs, each of which leaves an image that `check` can be run on again
 *  CR1  An unaligned preallocation of a zero cluster is dropped: the guest reads the same.
 *  CR2  A refcount moves to the number of references. Too high ones only leak; too low ones are
 *       raised before anything allocates.
 *  CR3  New refcount structures are durable before one sector of the header names them (RB1-RB4).
 *  CR4  Copied flags change after the refcounts that they follow.
 *  CR5  Everything is flushed before the caller clears the dirty and the corrupt bit.
 */
import type { CheckOptions, CheckResult } from '../../block/driver.js';
import { BlockError, messageOf } from '../../block/errors.js';
import type { Comparison } from './check-compare.js';
import { compareRefcounts, dropRefcountsPastEnd } from './check-compare.js';
import { checkCopied } from './check-copied.js';
import { MappingCheck } from './check-mapping.js';
import { rebuildRefcounts } from './check-rebuild.js';
import type { CheckTarget } from './check-run.js';
import { CheckRun } from './check-run.js';
import {
  countBitmaps,
  countFixedTables,
  countRefcountBlocks,
  countSnapshots,
  readReftable,
} from './check-tables.js';
import { Limit } from './layout.js';
import type { Qcow2Snapshot } from './snapshot-table.js';
import { readSnapshotTable } from './snapshot-table.js';
import { isOffset } from './units.js';

/** What a check leaves to its caller besides the result. */
export interface CheckOutcome {
  readonly result: CheckResult;
  /** The snapshots that stay, and the bytes of their table in the file. */
  readonly snapshots: readonly Qcow2Snapshot[];
  readonly snapshotTableBytes: number;
  /**
   * Faults of the table, which are no part of `result`: they are repaired when the caller has
   * written the table again (errors are repaired), else they are corruptions.
   */
  readonly snapshotFaults: number;
}

/** A check that cannot go on; what was found until then belongs to the report all the same. */
export class CheckError extends BlockError {
  readonly result: CheckResult;

  constructor(cause: unknown, result: CheckResult) {
    const code = cause instanceof BlockError ? cause.code : 'EIO';
    super(code, messageOf(cause), { cause });
    this.result = result;
  }
}

/**
 * Checks the image and repairs what `options` say. Throws {@link CheckError} when it cannot be
 * checked to the end: then nothing but single repairs has been written, and a new check may run.
 */
export async function checkImage(
  target: CheckTarget,
  options: CheckOptions,
): Promise<CheckOutcome> {
  const run = new CheckRun(target, options);
  const { result } = run;
  let snapshotFaults = 0;
  try {
    await checkSnapshotTable(run);
    // Whether refcounts and flags may be repaired does not depend on them.
    snapshotFaults = result.corruptions;
    result.corruptions = 0;
    await checkRefcounts(run);
    if (run.fixLeaks || run.fixErrors) await run.file.flush();
    const { snapshots, snapshotTableBytes } = run;
    return { result, snapshots, snapshotTableBytes, snapshotFaults };
  } catch (e) {
    result.corruptions += snapshotFaults;
    throw new CheckError(e, result);
  }
}

/** Reads the table into the run; faults count as corruptions. */
async function checkSnapshotTable(run: CheckRun): Promise<void> {
  const { fields } = run.target.header;
  const { fixErrors, result } = run;
  let discarded = 0;
  if (fields.nb_snapshots > Limit.maxSnapshots) {
    const more = fields.nb_snapshots - Limit.maxSnapshots;
    if (!fixErrors) {
      run.reportAsTool(
        'ERROR snapshot table too large\nYou can force-remove all ' +
          `${more} overhanging snapshots with qemu-img check -r all`,
      );
      result.checkErrors++;
      throw new BlockError('EFBIG');
    }
    run.report(`Discarding ${more} overhanging snapshots`);
    discarded += more;
  }
  const count = fields.nb_snapshots - discarded;
  const offset = fields.snapshots_offset;
  if (offset % run.g.clusterSize !== 0 || (count > 0 && !isOffset(offset))) {
    run.reportAsTool('ERROR snapshot table offset invalid');
    result.checkErrors++;
    throw new BlockError('EINVAL');
  }
  const place = { offset, count, diskSize: fields.size };
  const repair = fixErrors ? { report: (line: string) => run.report(line) } : undefined;
  try {
    const table = await readSnapshotTable(run.file, place, repair);
    run.snapshots = table.snapshots;
    run.snapshotTableBytes = table.bytes;
    discarded += table.discarded;
  } catch (e) {
    result.checkErrors++;
    const hint = e instanceof BlockError && e.hint !== undefined ? `\n${e.hint}` : '';
    run.reportAsTool(`ERROR failed to read the snapshot table: ${messageOf(e)}${hint}`);
    throw e;
  }
  result.corruptions += discarded;
  if (run.snapshots.length !== fields.nb_snapshots) await dropOverhanging(run);
  checkEntries(run);
}

/** The header says how many snapshots are left; those behind them leak. */
async function dropOverhanging(run: CheckRun): Promise<void> {
  const { fields } = run.target.header;
  const before = fields.nb_snapshots;
  const dropped = before - run.snapshots.length;
  fields.nb_snapshots = run.snapshots.length;
  try {
    await run.target.writeFields();
  } catch (e) {
    fields.nb_snapshots = before;
    run.result.checkErrors++;
    run.report(`ERROR failed to update the snapshot count in the image header: ${messageOf(e)}`);
    throw e;
  }
  run.result.corruptions -= dropped;
  run.result.corruptionsFixed += dropped;
}

/** Version 3 wants 16 bytes of extra data in each entry. */
function checkEntries(run: CheckRun): void {
  if (run.target.header.fields.version < 3) return;
  run.snapshots.forEach(({ extraDataSize }, i) => {
    if (extraDataSize >= 16) return;
    run.corrupt(`${run.fixErrors ? 'Repairing' : 'ERROR'} snapshot table entry ${i} is incomplete`);
  });
}

async function checkRefcounts(run: CheckRun): Promise<void> {
  const { fixLeaks, fixErrors, result } = run;
  await readReftable(run);
  await countReferences(run);
  const before = { ...result };
  let compared = await compareRefcounts(run, { fixLeaks: false, fixErrors: false });
  if (run.needsRebuild && fixErrors) {
    compared = await rebuild(run);
  } else if (fixLeaks || fixErrors) {
    if (run.needsRebuild) {
      run.report('ERROR need to rebuild refcount structures');
      throw new BlockError('EIO');
    }
    if (result.leaks > 0 || result.corruptions > 0) {
      // The counts of the second look stand, in which single clusters are repaired.
      Object.assign(result, before);
      compared = await compareRefcounts(run, { fixLeaks, fixErrors });
    }
    if (fixLeaks) await dropRefcountsPastEnd(run, compared.end);
  }
  // Leaks alone: flags are set right only where the refcounts are known to be.
  const isSound = result.checkErrors === 0 && result.corruptions === 0 && result.leaks === 0;
  // Where all flags are set and each cluster is used once, they are right.
  if (run.hasUncopied || run.counts.hasShared || !isSound) {
    await checkCopied(run, compared, fixErrors || (fixLeaks && isSound));
  }
  result.imageEndOffset = (compared.highest + 1) * run.g.clusterSize;
}

/** One pass over everything that refers to clusters. */
async function countReferences(run: CheckRun): Promise<void> {
  const { fields } = run.target.header;
  run.beginPass();
  run.countStructure(0, run.g.clusterSize);
  const mapping = new MappingCheck(run);
  await mapping.l1Table(fields.l1_table_offset, fields.l1_size, true);
  await countSnapshots(run, mapping);
  countFixedTables(run);
  await countBitmaps(run);
  await countRefcountBlocks(run);
}

async function rebuild(run: CheckRun): Promise<Comparison> {
  const { result } = run;
  const found = { ...result };
  run.report('Rebuilding refcount structure');
  await rebuildRefcounts(run);
  // What was wrong with refcounts is repaired; what is left shows in a second pass.
  result.corruptions = 0;
  result.leaks = 0;
  Object.assign(run, { needsRebuild: false });
  await countReferences(run);
  const compared = await compareRefcounts(run, { fixLeaks: true, fixErrors: false });
  if (run.needsRebuild) {
    run.report('ERROR rebuilt refcount structure is still broken');
  }
  result.corruptionsFixed += found.corruptions - result.corruptions;
  result.leaksFixed = found.leaksFixed + found.leaks - result.leaks;
  return compared;
}
