/** Runtime options of a qcow2 node: declaration, defaults, and what follows from them. */
import type { NodeOptions } from '../../block/driver.js';
import { blockdevRef, blockdevRefOrNull, onFile } from '../../block/blockdev-types.js';
import { BlockError } from '../../block/errors.js';
import { isObject, mergeOptions } from '../../block/node-options.js';
import type { Infer } from '../../options/schema.js';
import { fieldsOf, parseValue, t } from '../../options/schema.js';
import type { Geometry } from './units.js';
import { roundUp } from './units.js';

const overlapFlag = (what: string) =>
  t.optional(t.bool({ doc: `check for unintended writes into ${what}`, reopen: true }));

const overlapFlags = t.struct('Qcow2OverlapCheckFlags', {
  template: t.optional(t.str({ doc: 'mode that the single flags start from', reopen: true })),
  'main-header': overlapFlag('the header'),
  'active-l1': overlapFlag('the active L1 table'),
  'active-l2': overlapFlag('an active L2 table'),
  'refcount-table': overlapFlag('the refcount table'),
  'refcount-block': overlapFlag('a refcount block'),
  'snapshot-table': overlapFlag('the snapshot table'),
  'inactive-l1': overlapFlag('an L1 table of a snapshot'),
  'inactive-l2': overlapFlag('an L2 table of a snapshot'),
  'bitmap-directory': overlapFlag('the bitmap directory'),
});

const overlapMode = t.enumOf('none', 'constant', 'cached', 'all', {
  name: 'Qcow2OverlapCheckMode',
});
const mode = t.optional(overlapMode);

const discardDoc = (what: string) => `pass discards to the file when ${what}`;

/** Options of a qcow2 node besides its children (QMP: BlockdevOptionsQcow2). */
export const qcow2Options = t.struct('BlockdevOptionsQcow2', {
  'lazy-refcounts': t.optional(
    t.bool({ doc: 'postpone refcount updates; default: as the image says', reopen: true }),
  ),
  'pass-discard-request': t.optional(
    t.bool({ doc: `${discardDoc('a guest asks for it')}; default: discard=unmap`, reopen: true }),
  ),
  'pass-discard-snapshot': t.optional(
    t.bool({ doc: `${discardDoc('a snapshot frees space')}; default on`, reopen: true }),
  ),
  'pass-discard-other': t.optional(
    t.bool({ doc: `${discardDoc('other clusters are freed')}; default off`, reopen: true }),
  ),
  'discard-no-unref': t.optional(
    t.bool({ doc: 'keep the clusters of discarded ranges allocated', reopen: true, since: '8.1' }),
  ),
  'overlap-check': t.optional(
    t.alternate(
      { str: t.str(), object: overlapFlags },
      { name: 'Qcow2OverlapChecks', doc: 'which metadata to guard', reopen: true },
    ),
  ),
  'cache-size': t.optional(
    t.size({ qapi: 'int', doc: 'most bytes of both caches together', reopen: true }),
  ),
  'l2-cache-size': t.optional(
    t.size({ qapi: 'int', doc: 'most bytes of the L2 cache', reopen: true }),
  ),
  'l2-cache-entry-size': t.optional(
    t.size({ qapi: 'int', doc: 'bytes of an L2 cache entry', reopen: true }),
  ),
  'refcount-cache-size': t.optional(
    t.size({ qapi: 'int', doc: 'most bytes of the refcount cache', reopen: true }),
  ),
  'cache-clean-interval': t.optional(
    t.int({}, { doc: 'seconds after which unused tables are dropped; 0: never', reopen: true }),
  ),
  encrypt: t.optional(t.any({ doc: 'format and key-secret of the encryption', secret: true })),
  'data-file': t.optional(t.any({ doc: 'node or options of the external data file' })),
});

const keySecret = t.optional(t.str({ doc: 'ID of the secret that unlocks the image' }));

/** What blockdev-add takes: the same, with QMP's types of the children and the encryption. */
export const qcow2Blockdev = t.struct('BlockdevOptionsQcow2', {
  ...onFile,
  backing: t.optional(blockdevRefOrNull),
  ...fieldsOf(qcow2Options),
  'overlap-check': t.optional(
    t.alternate(
      {
        object: t.struct('Qcow2OverlapCheckFlags', { ...fieldsOf(overlapFlags), template: mode }),
        str: overlapMode,
      },
      { name: 'Qcow2OverlapChecks' },
    ),
  ),
  encrypt: t.optional(
    t.union('BlockdevQcow2Encryption', 'format', {
      aes: t.struct('QCryptoBlockOptionsQCow', { 'key-secret': keySecret }),
      luks: t.struct('QCryptoBlockOptionsLUKS', { 'key-secret': keySecret }),
    }),
  ),
  'data-file': t.optional(blockdevRef),
});

export type Qcow2OptionValues = Infer<typeof qcow2Options>;

/** Names that `optionNames` of the driver lists. */
export const qcow2OptionNames: readonly string[] = [...Object.keys(fieldsOf(qcow2Options))];

/** Structures that overlap checks guard, or-ed. */
export const Overlap = {
  mainHeader: 1,
  activeL1: 2,
  activeL2: 4,
  refcountTable: 8,
  refcountBlock: 16,
  snapshotTable: 32,
  inactiveL1: 64,
  inactiveL2: 128,
  bitmapDirectory: 256,
} as const;

const constantChecks =
  Overlap.mainHeader |
  Overlap.activeL1 |
  Overlap.refcountTable |
  Overlap.snapshotTable |
  Overlap.bitmapDirectory;
const cachedChecks = constantChecks | Overlap.activeL2 | Overlap.refcountBlock | Overlap.inactiveL1;

const templates: ReadonlyMap<string, number> = new Map([
  ['none', 0],
  ['constant', constantChecks],
  ['cached', cachedChecks],
  ['all', cachedChecks | Overlap.inactiveL2],
]);

const overlapBits = {
  'main-header': Overlap.mainHeader,
  'active-l1': Overlap.activeL1,
  'active-l2': Overlap.activeL2,
  'refcount-table': Overlap.refcountTable,
  'refcount-block': Overlap.refcountBlock,
  'snapshot-table': Overlap.snapshotTable,
  'inactive-l1': Overlap.inactiveL1,
  'inactive-l2': Overlap.inactiveL2,
  'bitmap-directory': Overlap.bitmapDirectory,
} as const;

/** Options as the driver uses them. */
export interface Qcow2Settings {
  readonly lazyRefcounts: boolean;
  readonly passDiscardRequest: boolean;
  readonly passDiscardSnapshot: boolean;
  readonly passDiscardOther: boolean;
  readonly discardNoUnref: boolean;
  /** Or-ed {@link Overlap}. */
  readonly overlapChecks: number;
  /** Bytes of an L2 slice and of all slices. */
  readonly l2SliceBytes: number;
  readonly l2Slices: number;
  readonly refcountBlocks: number;
  /** Seconds; 0: never. */
  readonly cleanInterval: number;
  readonly encrypt: unknown;
}

/** What the image says, as far as options depend on it. */
export interface OptionFacts {
  readonly version: number;
  readonly size: number;
  readonly lazyRefcounts: boolean;
  /** discard=unmap on the node. */
  readonly unmap: boolean;
}

/** Seconds after which unused tables are dropped, unless an option says otherwise. */
const DEFAULT_CLEAN_INTERVAL = 600;
const DEFAULT_MAX_L2_CACHE = 32 * 1024 * 1024;
const DEFAULT_SLICE_BYTES = 4096;
const MIN_L2_SLICES = 2;
const MIN_REFCOUNT_BLOCKS = 4;
const MAX_TABLES = 0x7fff_ffff;

/**
 * Options of a reopen over those of before: a new template of overlap checks drops all old ones, a
 * new total size of the caches the old parts, and two new parts, or one beside an old one, the
 * total.
 */
export function joinSettings(old: NodeOptions, given: NodeOptions): NodeOptions {
  const checks = given['overlap-check'];
  const newTemplate =
    typeof checks === 'string' || (isObject(checks) && ('template' in checks || '' in checks));
  const dropped = new Set<string>(newTemplate ? ['overlap-check'] : []);
  if ('cache-size' in given) dropped.add('l2-cache-size').add('refcount-cache-size');
  const kept = Object.entries(old).filter(([key]) => !dropped.has(key));
  const joined = mergeOptions(Object.fromEntries(kept), given);
  const isFull = ['cache-size', 'l2-cache-size', 'refcount-cache-size'].every((k) => k in joined);
  if (!isFull || 'cache-size' in given) return joined;
  return Object.fromEntries(Object.entries(joined).filter(([key]) => key !== 'cache-size'));
}

/** Checks options against the image. Throws OptionError or BlockError with QEMU's texts. */
export function parseSettings(
  options: NodeOptions,
  g: Geometry,
  facts: OptionFacts,
): Qcow2Settings {
  const o = parseValue(qcow2Options, withOneTemplate(options), { from: 'opts' });
  const caches = cacheSizes(o, g, facts.size);
  const cleanInterval = o['cache-clean-interval'] ?? DEFAULT_CLEAN_INTERVAL;
  if (cleanInterval < 0 || cleanInterval > 0xffff_ffff) {
    throw new BlockError('EINVAL', 'Cache clean interval too big');
  }
  const lazyRefcounts = o['lazy-refcounts'] ?? facts.lazyRefcounts;
  if (lazyRefcounts && facts.version < 3) {
    throw new BlockError(
      'EINVAL',
      'Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level',
    );
  }
  const discardNoUnref = o['discard-no-unref'] ?? false;
  if (discardNoUnref && facts.version < 3) {
    throw new BlockError('EINVAL', 'discard-no-unref is only supported since qcow2 version 3');
  }
  return {
    ...caches,
    lazyRefcounts,
    passDiscardRequest: o['pass-discard-request'] ?? facts.unmap,
    passDiscardSnapshot: o['pass-discard-snapshot'] ?? true,
    passDiscardOther: o['pass-discard-other'] ?? false,
    discardNoUnref,
    overlapChecks: overlapChecks(o['overlap-check']),
    cleanInterval,
    encrypt: o.encrypt,
  };
}

/** `overlap-check` given both as a text and in parts: they must agree on the template. */
function withOneTemplate(options: NodeOptions): NodeOptions {
  const given = options['overlap-check'];
  if (!isObject(given) || !('' in given)) return options;
  const { '': whole, template = whole, ...flags } = given;
  if (template !== whole) {
    throw new BlockError(
      'EINVAL',
      `Conflicting values for qcow2 options 'overlap-check' ('${String(whole)}') and ` +
        `'overlap-check.template' ('${String(template)}')`,
    );
  }
  return { ...options, 'overlap-check': { ...flags, template } };
}

type CacheSettings = Pick<Qcow2Settings, 'l2SliceBytes' | 'l2Slices' | 'refcountBlocks'>;

function cacheSizes(o: Qcow2OptionValues, g: Geometry, size: number): CacheSettings {
  const { combined, l2, refcount } = askedSizes(o);
  // Enough for all L2 tables that the disk can have.
  const maxL2 = roundUp(Math.ceil(size / g.clusterSize) * g.l2EntrySize, g.clusterSize);
  const minRefcount = MIN_REFCOUNT_BLOCKS * g.clusterSize;
  let l2Bytes = l2 ?? Math.min(DEFAULT_MAX_L2_CACHE, maxL2);
  let refcountBytes = refcount ?? minRefcount;
  if (combined !== undefined) {
    if (l2 !== undefined) refcountBytes = combined - l2;
    else if (refcount !== undefined) l2Bytes = combined - refcount;
    else if (combined >= maxL2 + minRefcount) {
      l2Bytes = maxL2;
      refcountBytes = combined - maxL2;
    } else {
      refcountBytes = Math.min(combined, minRefcount);
      l2Bytes = combined - refcountBytes;
    }
  }
  const l2SliceBytes = sliceBytes(o, g, l2 === undefined && l2Bytes >= maxL2);
  const l2Slices = Math.max(MIN_L2_SLICES, Math.floor(l2Bytes / l2SliceBytes));
  const refcountBlocks = Math.max(MIN_REFCOUNT_BLOCKS, Math.floor(refcountBytes / g.clusterSize));
  if (l2Slices > MAX_TABLES) throw new BlockError('EINVAL', 'L2 cache size too big');
  if (refcountBlocks > MAX_TABLES) throw new BlockError('EINVAL', 'Refcount cache size too big');
  return { l2SliceBytes, l2Slices, refcountBlocks };
}

interface AskedSizes {
  readonly combined: number | undefined;
  readonly l2: number | undefined;
  readonly refcount: number | undefined;
}

function askedSizes(o: Qcow2OptionValues): AskedSizes {
  const combined = o['cache-size'];
  const l2 = o['l2-cache-size'];
  const refcount = o['refcount-cache-size'];
  if (combined !== undefined) {
    if (l2 !== undefined && refcount !== undefined) {
      throw new BlockError(
        'EINVAL',
        'cache-size, l2-cache-size and refcount-cache-size may not be set at the same time',
      );
    }
    if (l2 !== undefined && l2 > combined) {
      throw new BlockError('EINVAL', 'l2-cache-size may not exceed cache-size');
    }
    if (refcount !== undefined && refcount > combined) {
      throw new BlockError('EINVAL', 'refcount-cache-size may not exceed cache-size');
    }
  }
  return { combined, l2, refcount };
}

/** Whole tables when the cache holds all of them, else slices of 4 KiB. */
function sliceBytes(o: Qcow2OptionValues, g: Geometry, coversAll: boolean): number {
  const asked = o['l2-cache-entry-size'];
  if (asked === undefined) {
    return coversAll ? g.clusterSize : Math.min(DEFAULT_SLICE_BYTES, g.clusterSize);
  }
  if (asked < 512 || asked > g.clusterSize || !Number.isInteger(Math.log2(asked))) {
    throw new BlockError(
      'EINVAL',
      'L2 cache entry size must be a power of two between 512 and the cluster size ' +
        `(${g.clusterSize})`,
    );
  }
  return asked;
}

function overlapChecks(option: Qcow2OptionValues['overlap-check']): number {
  const flags = typeof option === 'object' ? option : {};
  const mode = typeof option === 'string' ? option : (flags.template ?? 'cached');
  const template = templates.get(mode);
  if (template === undefined) {
    throw new BlockError(
      'EINVAL',
      `Unsupported value '${mode}' for qcow2 option 'overlap-check'. Allowed are any of the ` +
        'following: none, constant, cached, all',
    );
  }
  let checks = template;
  for (const key of Object.keys(overlapBits) as (keyof typeof overlapBits)[]) {
    const wanted = flags[key];
    if (wanted === true) checks |= overlapBits[key];
    else if (wanted === false) checks &= ~overlapBits[key];
  }
  return checks;
}
