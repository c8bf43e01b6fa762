/**
 * QMP's types of nodes, put together from the drivers of the catalogue: `BlockdevOptions` (what
 * `blockdev-add` and `--blockdev` take), `BlockdevRef` and `BlockdevRefOrNull`.
 */
import { genericOptions } from '../block/node-options.js';
import type { Driver, NodeOptions } from '../block/driver.js';
import type { Decl, Fields } from '../options/schema.js';
import { fieldsOf, t } from '../options/schema.js';

/** What the declarations of commands refer to; the catalogue's {@link blockdevTypes} fill it in. */
export const blockdevOptions = t.ref<NodeOptions>('BlockdevOptions');

/** QMP's BlockdevCreateOptions: what `blockdev-create` takes. */
export const blockdevCreateOptions = t.ref<NodeOptions>('BlockdevCreateOptions');

/** QMP's BlockdevAmendOptions: what `x-blockdev-amend` takes. */
export const blockdevAmendOptions = t.ref<NodeOptions>('BlockdevAmendOptions');

/** The declarations behind `t.ref('BlockdevOptions')` and its kin, for these drivers. */
export function blockdevTypes(drivers: readonly Driver[]): ReadonlyMap<string, Decl> {
  const branches: Record<string, Decl> = {};
  for (const { name, blockdev } of drivers) if (blockdev !== undefined) branches[name] = blockdev;
  const names = Object.keys(branches).sort();
  const driver = t.enumOf(...names, { name: 'BlockdevDriver' });
  const base: Fields = { driver, ...commonFields() };
  const creates: Record<string, Decl> = {};
  for (const name of names) {
    const found = drivers.find((each) => each.name === name)?.blockdevCreate?.decl;
    creates[name] = found ?? nothing;
  }
  const amends: Record<string, Decl> = {};
  for (const { name, blockdevAmend } of drivers) {
    if (blockdevAmend !== undefined) amends[name] = blockdevAmend.decl;
  }
  const options: Decl = t.union('BlockdevOptions', 'driver', branches, { base });
  const ref = t.alternate({ object: options, str: t.str() }, { name: 'BlockdevRef' });
  const orNull = { object: options, str: t.str(), null: t.null() };
  return new Map<string, Decl>([
    ['BlockdevOptions', options],
    ['BlockdevDriver', driver],
    [
      'BlockdevCreateOptions',
      t.union('BlockdevCreateOptions', 'driver', creates, { base: { driver } }),
    ],
    [
      'BlockdevAmendOptions',
      t.union('BlockdevAmendOptions', 'driver', amends, { base: { driver } }),
    ],
    ['BlockdevRef', ref],
    ['BlockdevRefOrNull', t.alternate(orNull, { name: 'BlockdevRefOrNull' })],
  ]);
}

const nothing = t.struct('q_empty', {});

/** Options of every node as QMP has them, in its order: the old `cache.writeback` is none of it. */
function commonFields(): Fields {
  const { driver, 'node-name': name, discard, cache, ...rest } = fieldsOf(genericOptions);
  const { 'detect-zeroes': detectZeroes, ...modes } = rest;
  const { writeback, ...switches } = cache === undefined ? {} : fieldsOf(cache);
  void [driver, writeback];
  const given: Record<string, Decl | undefined> = {
    'node-name': name,
    discard,
    cache: t.optional(t.struct('BlockdevCacheOptions', switches)),
    ...modes,
    'detect-zeroes': detectZeroes,
  };
  const out: Record<string, Decl> = {};
  for (const [key, decl] of Object.entries(given)) if (decl !== undefined) out[key] = decl;
  return out;
}
