/**
 * Filter `blkdebug`: errors on demand, breakpoints, and limits that the storage does not have.
 *
 * Formats and nodes announce named points of their work (`l2_load`, `write_aio`, …) to their
 * file; blkdebug's rules say what happens there: put an error in force, change the state in
 * which other rules apply, or hold the request until the user lets it go. rules.ts has the
 * semantics.
 *
 * Name: `blkdebug:CONFIG:IMAGE`, either of them possibly empty.
 */
import type { Child } from '../../block/child.js';
import type { Driver, DriverInstance, NodeOptions, OpenContext } from '../../block/driver.js';
import { defaultPerms } from '../../block/child.js';
import { BlockError, withErrno } from '../../block/errors.js';
import { exactFilename } from '../../block/filename.js';
import { passThrough, runBelow, unchangedReopen } from '../../block/pass-through.js';
import type { BlockLimits } from '../../block/types.js';
import { Role } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import type { IoType } from './events.js';
import { tryDebugEvent } from './events.js';
import type { BlkdebugOptions, Rule } from './options.js';
import {
  blkdebugBlockdev,
  blkdebugOptions,
  listOptionNames,
  permsOf,
  rulesOf,
  rulesOfConfig,
  scalarOptions,
} from './options.js';
import { RuleMachine } from './rules.js';

/** Longest configuration file that is read, in bytes. */
const MOST_CONFIG = 1024 * 1024;
const MOST_INT = 2 ** 31 - 1;

async function readConfig(context: OpenContext, path: string): Promise<Rule[]> {
  let text: string;
  try {
    const how = { writable: false, direct: false, engine: 'auto' } as const;
    const file = await context.graph.files.open(path, how);
    try {
      const bytes = new Uint8Array(Math.min(await file.size(), MOST_CONFIG));
      const got = await file.read(0, Iov.of(bytes));
      text = String.fromCharCode(...bytes.subarray(0, got));
    } finally {
      await file.close();
    }
  } catch (e) {
    throw withErrno('Could not read blkdebug config file', e);
  }
  return rulesOfConfig(text);
}

/** The limits that options ask for, checked as a whole. */
function limitsOf(o: BlkdebugOptions, below: BlockLimits): Partial<BlockLimits> {
  const check = (key: string, value: number, unit: number): number => {
    if (value >= MOST_INT || value % unit !== 0) {
      throw new BlockError('EINVAL', `Cannot meet constraints with ${key} ${value}`);
    }
    return value;
  };
  const align = check('align', o.align ?? 0, 1);
  if (align !== 0 && 2 ** Math.round(Math.log2(align)) !== align) {
    throw new BlockError('EINVAL', `Cannot meet constraints with align ${align}`);
  }
  const unit = Math.max(align, below.requestAlignment);
  const maxTransfer = check('max-transfer', o['max-transfer'] ?? 0, unit);
  const writeZeroesAlignment = check('opt-write-zero', o['opt-write-zero'] ?? 0, unit);
  const zeroUnit = Math.max(writeZeroesAlignment, unit);
  const maxWriteZeroes = check('max-write-zero', o['max-write-zero'] ?? 0, zeroUnit);
  const discardAlignment = check('opt-discard', o['opt-discard'] ?? 0, unit);
  const discardUnit = Math.max(discardAlignment, unit);
  const maxDiscard = check('max-discard', o['max-discard'] ?? 0, discardUnit);
  const asked: BlockLimits = {
    requestAlignment: align,
    maxTransfer,
    optTransfer: 0,
    writeZeroesAlignment,
    maxWriteZeroes,
    discardAlignment,
    maxDiscard,
  };
  return Object.fromEntries(Object.entries(asked).filter(([, value]) => value !== 0));
}

/** Requests of a kind go on only where no error is in force for them. */
function guard(rules: RuleMachine) {
  return async (offset: number, bytes: number, type: IoType): Promise<void> => {
    const injected = rules.check(offset, bytes, type);
    if (injected === undefined) return;
    if (!injected.immediately) await Promise.resolve();
    throw injected.error;
  };
}

function makeInstance(
  context: OpenContext,
  file: Child,
  rules: RuleMachine,
  options: BlkdebugOptions,
): DriverInstance {
  const { node } = context;
  const limits = limitsOf(options, file.node.limits);
  const check = guard(rules);
  const take = permsOf(context.options['take-child-perms'], 'take-child-perms');
  const unshare = permsOf(context.options['unshare-child-perms'], 'unshare-child-perms');
  const pass = passThrough(file);
  const shorter = (bytes: number, preferred: number): void => {
    if (bytes < Math.max(node.limits.requestAlignment, preferred)) throw new BlockError('ENOTSUP');
  };
  return {
    ...pass,
    limits: () => limits,
    read: async (offset, iov, flags) => {
      await check(offset, iov.bytes, 'read');
      return file.read(offset, iov, flags);
    },
    write: async (offset, iov, flags) => {
      await check(offset, iov.bytes, 'write');
      return file.write(offset, iov, flags);
    },
    writeZeroes: async (offset, bytes, flags) => {
      // What is shorter than the alignment is left to plain writes, as real storage does it.
      shorter(bytes, node.limits.writeZeroesAlignment);
      await check(offset, bytes, 'write-zeroes');
      return file.writeZeroes(offset, bytes, flags);
    },
    discard: async (offset, bytes) => {
      shorter(bytes, 0);
      await check(offset, bytes, 'discard');
      return file.discard(offset, bytes);
    },
    flushToDisk: async () => {
      await check(0, 0, 'flush');
    },
    blockStatus: async (offset, bytes) => {
      await check(offset, bytes, 'block-status');
      return runBelow(file, offset, bytes);
    },
    allocatedBytes: async () => undefined,
    childPerm: (child, parents) => {
      const io = { writable: !node.readOnly, io: !node.flags.noIo };
      const { perm, shared } = defaultPerms(child.role, parents, io);
      return { perm: perm | take, shared: shared & ~unshare };
    },
    debugEvent: (name) => {
      const event = tryDebugEvent(name);
      return event === undefined ? undefined : rules.reached(event);
    },
    reopenPrepare: unchangedReopen,
    breakpoints: breakpointsOf(rules),
    strongOptions: () => strongOptions(context.options),
    exactFilename: () => nameOf(context, file),
  };
}

function breakpointsOf(rules: RuleMachine): NonNullable<DriverInstance['breakpoints']> {
  return {
    set(name, tag) {
      const event = tryDebugEvent(name);
      if (event === undefined) throw new BlockError('ENOENT');
      rules.add({ action: 'suspend', event, state: 0, tag });
    },
    remove: (tag) => {
      rules.remove(tag);
    },
    resume: (tag) => {
      rules.resume(tag);
    },
    isSuspended: (tag) => rules.isSuspended(tag),
  };
}

function strongOptions(options: NodeOptions): NodeOptions {
  const { image: _image, 'x-image': _name, ...own } = options;
  // Rules stand in lists; their options are told one by one.
  const flat: NodeOptions = {};
  const add = (name: string, value: unknown): void => {
    if (typeof value !== 'object' || value === null) flat[name] = value;
    else for (const [key, each] of Object.entries(value)) add(`${name}.${key}`, each);
  };
  for (const [name, value] of Object.entries(own)) add(name, value);
  return flat;
}

/** `blkdebug:CONFIG:IMAGE` where nothing else is set. */
function nameOf(context: OpenContext, file: Child): string | undefined {
  const { config, ...more } = strongOptions(context.options);
  const image = exactFilename(file.node);
  if (Object.keys(more).length > 0 || image === undefined) return undefined;
  return `blkdebug:${typeof config === 'string' ? config : ''}:${image}`;
}

function parseFilename(filename: string): NodeOptions {
  if (!filename.startsWith('blkdebug:')) return { 'x-image': filename };
  const rest = filename.slice('blkdebug:'.length);
  const colon = rest.indexOf(':');
  if (colon < 0)
    throw new BlockError('EINVAL', 'blkdebug requires both config file and image path');
  const config = rest.slice(0, colon);
  const image = { 'x-image': rest.slice(colon + 1) };
  return config === '' ? image : { config, ...image };
}

async function open(context: OpenContext): Promise<DriverInstance> {
  const options = scalarOptions(context.options);
  const fromFile = options.config === undefined ? [] : await readConfig(context, options.config);
  const rules = [...fromFile, ...rulesOf(context.options)];
  const name = options['x-image'];
  const role = Role.filtered | Role.primary;
  const file = await context.openChild('image', {
    role,
    ...(name === undefined ? {} : { filename: name }),
  });
  const machine = new RuleMachine(rules, (message) => {
    context.graph.notice(message);
  });
  return makeInstance(context, file, machine, options);
}

export const blkdebugDriver: Driver = {
  name: 'blkdebug',
  kind: 'filter',
  schemes: ['blkdebug'],
  needsFile: true,
  primaryChild: 'image',
  blockdev: blkdebugBlockdev,
  optionNames: [
    ...Object.keys(blkdebugOptions.shape.kind === 'struct' ? blkdebugOptions.shape.fields : {}),
    ...listOptionNames,
    'image',
  ],
  parseFilename,
  open,
};
