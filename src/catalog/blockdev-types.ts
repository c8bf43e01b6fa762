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

/** The declarations behind `t.ref('BlockdevOptions')` and its kin, for these drivers. */
export function blockdevTypes(drivers: readonly Driver[]): ReadonlyMap<string, Decl> {
  const branches: Record<string, Decl> = {};
  for (const { name, blockdev } of drivers) if (blockdev !== undefined) branches[name] = blockdev;
  const names = Object.keys(branches).sort();
  const base: Fields = {
    ...commonFields(),
    driver: t.enumOf(...names, { name: 'BlockdevDriver' }),
  };
  const options: Decl = t.union('BlockdevOptions', 'driver', branches, { base });
  const ref = t.alternate({ object: options, str: t.str() }, { name: 'BlockdevRef' });
  const orNull = { object: options, str: t.str(), null: t.null() };
  return new Map<string, Decl>([
    ['BlockdevOptions', options],
    ['BlockdevRef', ref],
    ['BlockdevRefOrNull', t.alternate(orNull, { name: 'BlockdevRefOrNull' })],
  ]);
}

/** Options of every node as QMP has them: the old `cache.writeback` is none of it. */
function commonFields(): Fields {
  const { driver, cache, ...rest } = fieldsOf(genericOptions);
  const { writeback, ...switches } = cache === undefined ? {} : fieldsOf(cache);
  void [driver, writeback];
  return { ...rest, cache: t.optional(t.struct('BlockdevCacheOptions', switches)) };
}
