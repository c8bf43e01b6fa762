/** Committing: what an image holds above one of its backing files is written into that file. */
import { Backend } from '../block/backend.js';
import { BlockError, errorCode, errorText, prepend } from '../block/errors.js';
import { chainDown } from '../block/chain.js';
import type { BlockNode } from '../block/node.js';
import { insertFilter, removeFilter } from '../block/insert-filter.js';
import { reopenNode } from '../block/reopen.js';
import { commitTopDriver } from '../filter/job-filters.js';
import { skipFilters } from '../block/status.js';
import { Perm } from '../block/types.js';
import { Copy } from './copy.js';
import { OptionError } from '../options/option-error.js';
import type { OperationOptions } from './operation.js';
import { ProgressMeter } from './operation.js';

export interface CommitOptions extends OperationOptions {
  /** Image of the chain that takes the data; default: the one right below. */
  readonly base?: BlockNode | undefined;
  /** Bytes per second; 0 or absent: no limit. */
  readonly rate?: number;
  /** Keep the top image's data; else it is emptied, for it shows through from the base now. */
  readonly keep?: boolean;
  /** A guest uses the disk and relies on the base staying as it is, which it does to the eye. */
  readonly inUse?: boolean;
}

const hider = { driver: commitTopDriver, flags: { writable: false } };

/** Pieces in flight. */
const PARALLEL = 8;

/**
 * Writes into the base all that the images above it hold, then empties the top image (unless
 * `keep`). A base that is smaller than the top grows. Throws BlockError; the chain's content,
 * seen from the top, is unchanged then.
 */
export async function commit(top: Backend, options: CommitOptions = {}): Promise<void> {
  const { graph } = top;
  const image = skipFilters(top.node);
  const base = options.base ?? chainDown(image)[0];
  if (base === undefined) throw new BlockError('ENOTSUP', 'Image does not have a backing file');
  const meter = new ProgressMeter(graph.host.clock, options);
  const { readOnly } = base;
  if (readOnly) await reopenNode(base, { options: { 'read-only': false } });
  const hides = options.inUse === true;
  const filter = hides ? await insertFilter(base, hider) : undefined;
  const target = new Backend({
    graph,
    name: '',
    perm: Perm.consistentRead | Perm.write | Perm.resize,
    shared: Perm.all,
  });
  try {
    await target.attach(base);
    target.writeCache = base.flags.cache.writeback;
    if (target.size < top.size) await target.truncate(top.size);
    const copy = new Copy({
      host: graph.host,
      sources: [top],
      target,
      targetHasBacking: true,
      base: filter ?? base,
      targetIsZero: false,
      minSparse: 0,
      keepsHoles: true,
      alignment: 1,
      parallel: PARALLEL,
      outOfOrder: false,
      offload: false,
      rate: options.rate ?? 0,
      meter,
    });
    await run(copy);
    await target.flush();
    if (options.keep !== true) await empty(image);
  } finally {
    await target.close();
    if (filter !== undefined) await removeFilter(filter);
    if (readOnly) await makeReadOnly(base);
  }
  meter.finish();
}

/**
 * The base as it was. Where that fails it stays writable: the data is safe, and whoever closes it
 * tries again to store what could not be stored, and tells.
 */
async function makeReadOnly(base: BlockNode): Promise<void> {
  try {
    await reopenNode(base, { options: { 'read-only': true } });
  } catch (e) {
    if (e instanceof OptionError || e instanceof BlockError) return;
    throw e;
  }
}

/** Runs the copy; an error of the machine is told as the job's. */
async function run(copy: Copy): Promise<void> {
  try {
    await copy.run();
  } catch (e) {
    const code = errorCode(e);
    if (code === 'ECANCELED') throw e;
    throw new BlockError(code, `Block job failed: ${errorText(e)}`, { cause: e });
  }
}

/** Formats that cannot be emptied keep what was committed, as QEMU has it. */
async function empty(image: BlockNode): Promise<void> {
  if (image.instance.makeEmpty === undefined) return;
  try {
    await image.instance.makeEmpty();
    await image.flush();
  } catch (e) {
    throw prepend(`Failed to empty ${image.filename}: `, e);
  }
}
