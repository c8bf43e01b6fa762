/**
 * What declarations of drivers share when they say what `blockdev-add` takes: references to other
 * nodes. The catalogue supplies what the names stand for (catalog/blockdev-types.ts).
 */
import type { Decl, Fields } from '../options/schema.js';
import { t } from '../options/schema.js';
import type { NodeOptions } from './driver.js';

/** QMP's BlockdevRef: the name of a node, or the options of a new one. */
export const blockdevRef = t.ref<string | NodeOptions>('BlockdevRef', {
  doc: 'name of a node, or the options of a new one',
});

/** QMP's BlockdevRefOrNull: null says that there shall be none. */
export const blockdevRefOrNull = t.ref<string | NodeOptions | null>('BlockdevRefOrNull', {
  doc: 'name of a node, the options of a new one, or null for none',
});

/** Fields of a driver that stands on one `file` (QMP's BlockdevOptionsGenericFormat). */
export const onFile = { file: blockdevRef } satisfies Fields;

/** QMP's BlockdevOptionsGenericFormat: a driver with a `file` and no options of its own. */
export const genericFormat: Decl = t.struct('BlockdevOptionsGenericFormat', onFile);

/** QMP's BlockdevOptionsGenericCOWFormat: the same for images with a backing file. */
export const cowFormat: Decl = t.struct('BlockdevOptionsGenericCOWFormat', {
  ...onFile,
  backing: t.optional(blockdevRefOrNull),
});

/** QMP's BlockPermission. */
export const blockPermission = t.enumOf('consistent-read', 'write', 'write-unchanged', 'resize', {
  name: 'BlockPermission',
});
