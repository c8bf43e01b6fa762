/** Options of blkdebug and its rules, from options and from a configuration file. */
import { blockdevRef, blockPermission } from '../../block/blockdev-types.js';
import type { NodeOptions } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { isObject } from '../../block/node-options.js';
import { Perm } from '../../block/types.js';
import { formatJson } from '../../lib/json-text.js';
import { parseInteger } from '../../lib/sizes.js';
import type { Infer } from '../../options/schema.js';
import { fieldsOf, parseValue, t } from '../../options/schema.js';
import type { DebugEvent, IoType } from './events.js';
import { debugEvents, ioTypes, tryDebugEvent } from './events.js';

/** BlockdevOptionsBlkdebug without the child and the rules, which have forms of their own. */
export const blkdebugOptions = t.struct('BlockdevOptionsBlkdebug', {
  config: t.optional(t.str({ doc: 'configuration file with more rules' })),
  'x-image': t.optional(t.str({ doc: 'file name of the image, as in blkdebug:CONFIG:IMAGE' })),
  align: t.optional(
    t.size({ qapi: 'int', doc: 'alignment that requests must have; 0: the default' }),
  ),
  'max-transfer': t.optional(t.size({ doc: 'longest read or write; 0: the default' })),
  'opt-write-zero': t.optional(t.size({ doc: 'preferred alignment of zero writes' })),
  'max-write-zero': t.optional(t.size({ doc: 'longest zero write' })),
  'opt-discard': t.optional(t.size({ doc: 'preferred alignment of discards' })),
  'max-discard': t.optional(t.size({ doc: 'longest discard' })),
});

const event = t.enumOf(...debugEvents, { name: 'BlkdebugEvent', doc: 'when the rule acts' });
const state = t.optional(t.int({}, { doc: 'state in which it acts; absent: in any' }));
const part = t.optional(t.int({ bits: 32 }));
const { 'x-image': _, ...named } = fieldsOf(blkdebugOptions);

/** What blockdev-add takes. */
export const blkdebugBlockdev = t.struct('BlockdevOptionsBlkdebug', {
  image: blockdevRef,
  ...named,
  'max-transfer': part,
  'opt-write-zero': part,
  'max-write-zero': part,
  'opt-discard': part,
  'max-discard': part,
  'inject-error': t.optional(
    t.arrayOf(
      t.struct('BlkdebugInjectErrorOptions', {
        event,
        state,
        iotype: t.optional(t.enumOf(...ioTypes, { name: 'BlkdebugIOType' })),
        errno: t.optional(t.int({}, { doc: 'number of the error; default EIO' })),
        sector: t.optional(t.int({}, { doc: 'sector that a request must touch' })),
        once: t.optional(t.bool({ doc: 'act once only' })),
        immediately: t.optional(t.bool({ doc: 'fail before the request is handed on' })),
      }),
    ),
  ),
  'set-state': t.optional(
    t.arrayOf(t.struct('BlkdebugSetStateOptions', { event, state, new_state: t.int() })),
  ),
  'take-child-perms': t.optional(t.arrayOf(blockPermission)),
  'unshare-child-perms': t.optional(t.arrayOf(blockPermission)),
});

export type BlkdebugOptions = Infer<typeof blkdebugOptions>;

/** Keys that hold rules or lists of permissions. */
export const listOptionNames = [
  'inject-error',
  'set-state',
  'take-child-perms',
  'unshare-child-perms',
] as const;

/** One thing that happens at an event. `state` 0: in any state. */
export type Rule = { readonly event: DebugEvent; readonly state: number } & (
  | {
      readonly action: 'inject-error';
      readonly errno: number;
      readonly iotype: IoType | undefined;
      /** Offset in bytes that a request must touch; undefined: any. */
      readonly offset: number | undefined;
      readonly once: boolean;
      readonly immediately: boolean;
    }
  | { readonly action: 'set-state'; readonly newState: number }
  | { readonly action: 'suspend'; readonly tag: string }
);

type Group = 'inject-error' | 'set-state';

const keysOf: Readonly<Record<Group, readonly string[]>> = {
  'inject-error': ['event', 'state', 'iotype', 'errno', 'sector', 'once', 'immediately'],
  'set-state': ['event', 'state', 'new_state'],
};

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}

function shown(value: unknown): string {
  return typeof value === 'string' ? value : formatJson(value);
}

/** A list given as array, as numbered keys (`inject-error.0.event`), or as one object. */
function listOf(value: unknown): unknown[] {
  if (value === undefined) return [];
  if (Array.isArray(value)) return value as unknown[];
  if (!isObject(value)) return [value];
  const keys = Object.keys(value);
  if (keys.length > 0 && keys.every((k) => /^\d+$/.test(k))) {
    return keys
      .map(Number)
      .sort((a, b) => a - b)
      .map((k) => value[String(k)]);
  }
  return [value];
}

function numberOf(values: NodeOptions, key: string, fallback: number): number {
  const value = values[key];
  if (value === undefined) return fallback;
  if (typeof value === 'number') return value;
  const exact = typeof value === 'string' ? parseInteger(value) : undefined;
  if (exact === undefined) throw invalid(`Parameter '${key}' expects a number`);
  return Number(exact);
}

function flagOf(values: NodeOptions, key: string): boolean {
  const value = values[key];
  if (value === undefined || value === false || value === 'off') return false;
  if (value === true || value === 'on') return true;
  throw invalid(`Parameter '${key}' expects 'on' or 'off'`);
}

/** One rule of a group. Throws with QEMU's texts. */
export function ruleOf(group: Group, value: unknown): Rule {
  if (!isObject(value)) throw invalid(`Invalid parameter type for '${group}', expected: object`);
  for (const key of Object.keys(value)) {
    if (!keysOf[group].includes(key)) throw invalid(`Unknown option '${key}' for [${group}]`);
  }
  const name = value['event'];
  if (name === undefined) throw invalid('Missing event name for rule');
  const event = typeof name === 'string' ? tryDebugEvent(name) : undefined;
  if (event === undefined) throw invalid(`invalid parameter value: ${shown(name)}`);
  const state = numberOf(value, 'state', 0);
  if (group === 'set-state') {
    return { action: group, event, state, newState: numberOf(value, 'new_state', 0) };
  }
  const sector = numberOf(value, 'sector', -1);
  const asked = value['iotype'];
  const iotype = ioTypes.find((type) => type === asked);
  if (asked !== undefined && iotype === undefined) {
    throw invalid(`invalid parameter value: ${shown(asked)}`);
  }
  return {
    action: group,
    event,
    state,
    errno: numberOf(value, 'errno', 5),
    iotype,
    offset: sector < 0 ? undefined : sector * 512,
    once: flagOf(value, 'once'),
    immediately: flagOf(value, 'immediately'),
  };
}

/** The rules in options. */
export function rulesOf(options: NodeOptions): Rule[] {
  const rules: Rule[] = [];
  for (const group of ['inject-error', 'set-state'] as const) {
    for (const value of listOf(options[group])) rules.push(ruleOf(group, value));
  }
  return rules;
}

/**
 * The rules in a configuration file: sections `[inject-error]` and `[set-state]` of lines
 * `key = "value"`; `#` begins a comment line.
 */
export function rulesOfConfig(text: string): Rule[] {
  const sections: { group: Group; values: NodeOptions }[] = [];
  for (const line of text.split('\n')) {
    if (/^\s*(#|$)/.test(line)) continue;
    const head = /^\[([^\]"\s]+)(?:\s+"[^"]*")?\]/.exec(line);
    if (head !== null) {
      const name = head[1] ?? '';
      if (name !== 'inject-error' && name !== 'set-state') {
        throw invalid(`There is no option group '${name}'`);
      }
      sections.push({ group: name, values: Object.create(null) as NodeOptions });
      continue;
    }
    const entry = /^\s*(\S{1,63})(?:\s*=\s*"([^"]*)")?/.exec(line);
    if (entry === null) throw invalid('parse error');
    const section = sections.at(-1);
    if (section === undefined) throw invalid('no group defined');
    const key = entry[1] ?? '';
    if (!keysOf[section.group].includes(key)) throw invalid(`Invalid parameter '${key}'`);
    section.values[key] = entry[2] ?? '';
  }
  return sections.map(({ group, values }) => ruleOf(group, values));
}

const permBits: Readonly<Record<string, number>> = {
  'consistent-read': Perm.consistentRead,
  write: Perm.write,
  'write-unchanged': Perm.writeUnchanged,
  resize: Perm.resize,
};

/** Or-ed permissions of a list option. */
export function permsOf(value: unknown, key: string): number {
  if (value !== undefined && !Array.isArray(value) && !isObject(value)) {
    throw invalid(`Block protocol 'blkdebug' doesn't support the option '${key}'`);
  }
  let perms = 0;
  for (const name of listOf(value)) {
    const bit = typeof name === 'string' ? permBits[name] : undefined;
    if (bit === undefined) {
      throw invalid(`Parameter 'null' does not accept value '${shown(name)}'`);
    }
    perms |= bit;
  }
  return perms;
}

/** The driver's scalar options, checked. */
export function scalarOptions(options: NodeOptions): BlkdebugOptions {
  const own: NodeOptions = { ...options };
  for (const key of listOptionNames) Reflect.deleteProperty(own, key);
  Reflect.deleteProperty(own, 'image');
  return parseValue(blkdebugOptions, own, { from: 'opts' });
}
