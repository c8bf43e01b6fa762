/** Options that each node has, whatever its driver, and how children inherit them. */
import type { Decl, Infer } from '../options/schema.js';
import { parseValue, t } from '../options/schema.js';
import type { NodeOptions, OpenFlags } from './driver.js';
import type { DetectZeroes } from './types.js';

/** Generic options of a node (QMP: BlockdevOptions without its branches). */
export const genericOptions = t.struct('BlockdevOptions', {
  driver: t.optional(t.str({ doc: 'driver of the node; a format is probed when absent' })),
  'node-name': t.optional(t.str({ doc: 'name of the node in the graph' })),
  discard: t.optional(
    t.enumOf('ignore', 'unmap', {
      doc: 'whether discards reach the storage',
      reopen: true,
      invalid: () => 'Invalid discard option',
    }),
  ),
  cache: t.optional(
    t.struct('BlockdevCacheOptions', {
      writeback: t.optional(t.bool({ doc: 'the write cache is on (old -drive syntax)' })),
      direct: t.optional(t.bool({ doc: 'bypass the host page cache (O_DIRECT)', reopen: true })),
      'no-flush': t.optional(t.bool({ doc: 'ignore flush requests', reopen: true })),
    }),
  ),
  active: t.optional(
    t.bool({ doc: 'off: leave the image to others until blockdev-set-active; default on' }),
  ),
  'read-only': t.optional(t.bool({ doc: 'open without writing', reopen: true })),
  'auto-read-only': t.optional(
    t.bool({ doc: 'fall back to read-only where writing is not possible', reopen: true }),
  ),
  'force-share': t.optional(t.bool({ doc: 'accept other writers; needs read-only=on' })),
  'detect-zeroes': t.optional(
    t.enumOf('off', 'on', 'unmap', { doc: 'turn writes of zeroes into zero writes' }),
  ),
});

export type GenericOptions = Infer<typeof genericOptions>;

const genericNames = new Set([
  'driver',
  'node-name',
  'discard',
  'cache',
  'read-only',
  'auto-read-only',
  'force-share',
  'detect-zeroes',
  'active',
]);

/** Names of a declaration's fields that may change while a node is open. */
export function reopenNames({ shape }: Decl): string[] {
  if (shape.kind !== 'struct') return [];
  const fields = Object.entries(shape.fields);
  return fields.filter(([, field]) => field.meta.reopen === true).map(([name]) => name);
}

/** Splits nested node options into the generic ones (checked) and the driver's own. */
export function splitGeneric(options: NodeOptions): { generic: GenericOptions; own: NodeOptions } {
  const mine: NodeOptions = Object.create(null) as NodeOptions;
  const own: NodeOptions = Object.create(null) as NodeOptions;
  for (const [key, value] of Object.entries(options)) {
    if (genericNames.has(key)) mine[key] = value;
    else own[key] = value;
  }
  return { generic: parseValue(genericOptions, mine, { from: 'opts' }), own };
}

/**
 * Turns dotted keys (`file.filename`) into nested objects; results have no prototype. Where `a` and
 * `a.b` are both given, what `a` says becomes the member '' of the object, which no option is
 * called: a driver that accepts both looks for it, others refuse it.
 */
export function nestOptions(options: NodeOptions): NodeOptions {
  const out: NodeOptions = Object.create(null) as NodeOptions;
  for (const [key, value] of Object.entries(options)) {
    const path = key.split('.');
    let at = out;
    for (const part of path.slice(0, -1)) {
      const next = at[part];
      if (isObject(next)) {
        at = next;
        continue;
      }
      at = at[part] = Object.create(null) as NodeOptions;
      if (next !== undefined) at[''] = next;
    }
    const leaf = path[path.length - 1] ?? key;
    const nested = isObject(value) ? nestOptions(value) : value;
    const there = at[leaf];
    if (!isObject(there)) at[leaf] = nested;
    else at[leaf] = mergeOptions(there, isObject(nested) ? nested : { '': nested });
  }
  return out;
}

/** `over` wins where both say something. */
export function mergeOptions(base: NodeOptions, over: NodeOptions): NodeOptions {
  const out: NodeOptions = Object.assign(Object.create(null) as NodeOptions, base);
  for (const [key, value] of Object.entries(over)) {
    const there = out[key];
    out[key] = isObject(there) && isObject(value) ? mergeOptions(there, value) : value;
  }
  return out;
}

export function isObject(value: unknown): value is NodeOptions {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Flags when nobody says anything: read-only, writeback, through the page cache. */
export const defaultFlags: OpenFlags = {
  writable: false,
  autoReadOnly: false,
  noBacking: false,
  noIo: false,
  check: false,
  cache: { writeback: true, direct: false, noFlush: false },
  unmap: false,
  forceShare: false,
  copyOnRead: false,
  inactive: false,
};

/** What the generic options change in the flags that were inherited or asked for. */
export function applyGeneric(flags: OpenFlags, generic: GenericOptions): OpenFlags {
  const cache = generic.cache;
  return {
    ...flags,
    writable: generic['read-only'] === undefined ? flags.writable : !generic['read-only'],
    autoReadOnly: generic['auto-read-only'] ?? flags.autoReadOnly,
    forceShare: generic['force-share'] ?? flags.forceShare,
    inactive: generic.active === undefined ? flags.inactive : !generic.active,
    unmap: generic.discard === undefined ? flags.unmap : generic.discard === 'unmap',
    cache: {
      writeback: cache?.writeback ?? flags.cache.writeback,
      direct: cache?.direct ?? flags.cache.direct,
      noFlush: cache?.['no-flush'] ?? flags.cache.noFlush,
    },
  };
}

/** Flags of a child that stores its parent's data or metadata (`file`, `data-file`). */
export function storageFlags(parent: OpenFlags, parentIsFormat: boolean): OpenFlags {
  return {
    ...parent,
    noBacking: false,
    check: false,
    copyOnRead: false,
    // A format decides itself what to discard, so its file obeys.
    unmap: parentIsFormat ? true : parent.unmap,
  };
}

/** Flags of a backing file: never written unless a job reopens it. */
export function backingFlags(parent: OpenFlags): OpenFlags {
  return { ...parent, writable: false, autoReadOnly: false, copyOnRead: false, check: false };
}

export function detectZeroesOf(generic: GenericOptions): DetectZeroes {
  return generic['detect-zeroes'] ?? 'off';
}
