/** Commands on media that can be taken out, on limits, and on what is counted. */
import type { AccountedKind } from '../../block/accounting.js';
import type { Backend } from '../../block/backend.js';
import type { BlockNode } from '../../block/node.js';
import { setLimits } from '../../block/backend-limits.js';
import { t } from '../../options/schema.js';
import { defineCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import type { DeviceName } from '../devices.js';
import { findDevice } from '../devices.js';
import { QmpError } from '../qmp-error.js';
import * as types from '../types/medium.js';

const shown = ({ device, id }: DeviceName): string => id ?? device ?? '';

/** Whether a device lets go of its medium; one that nobody uses does. */
function isRemovable({ user }: Backend): boolean {
  return user?.isRemovable ?? true;
}

/**
 * Opens the tray, or asks a guest that has locked it. False when there is no tray. Throws QmpError
 * when the device has no removable medium, or when it is locked and `force` is not given.
 */
function openTray({ graph }: MonitorContext, name: DeviceName, force: boolean): boolean {
  const backend = findDevice(graph, name);
  const { user } = backend;
  if (!isRemovable(backend)) throw new QmpError(`Device '${shown(name)}' is not removable`);
  if (user?.hasTray !== true) return false;
  if (user.isTrayOpen) return true;
  const locked = user.isLocked;
  if (locked) user.requestEject(force);
  if (!locked || force) user.moveTray(true);
  if (locked && !force) throw new LockedError(shown(name));
  return true;
}

class LockedError extends QmpError {
  constructor(device: string) {
    super(
      `Device '${device}' is locked and force was not specified, wait for tray to open and try ` +
        'again',
    );
  }
}

function closeTray({ graph }: MonitorContext, name: DeviceName): void {
  const backend = findDevice(graph, name);
  const { user } = backend;
  if (!isRemovable(backend)) throw new QmpError(`Device '${shown(name)}' is not removable`);
  if (user?.hasTray === true && user.isTrayOpen) user.moveTray(false);
}

async function removeMedium(context: MonitorContext, name: DeviceName): Promise<void> {
  const { graph, exports } = context;
  const backend = findDevice(graph, name);
  const { user } = backend;
  if (!isRemovable(backend)) throw new QmpError(`Device '${shown(name)}' is not removable`);
  if (user?.hasTray === true && !user.isTrayOpen) {
    throw new QmpError(`Tray of device '${shown(name)}' is not open`);
  }
  if (!backend.isInserted) return;
  rememberFlags(backend);
  await exports.ejected(backend);
  await backend.detach();
  if (user?.hasTray !== true) user?.mediumChanged(false);
}

/** The next medium is opened as this one was. */
function rememberFlags(backend: Backend): void {
  if (!backend.isInserted) return;
  const { cache, unmap } = backend.node.flags;
  backend.mediumFlags = { writable: !backend.node.staysReadOnly, cache, unmap };
}

async function insertMedium(backend: Backend, node: BlockNode): Promise<void> {
  const { user } = backend;
  if (!isRemovable(backend)) throw new QmpError('Device is not removable');
  if (user?.hasTray === true && !user.isTrayOpen)
    throw new QmpError('Tray of the device is not open');
  if (backend.isInserted) throw new QmpError('There already is a medium in the device');
  await backend.attach(node);
  if (user?.hasTray !== true) user?.mediumChanged(true);
}

const eject = defineCommand({
  name: 'eject',
  doc: 'Opens the tray of a device and takes the medium out.',
  args: t.struct('q_obj_eject-arg', {
    ...types.deviceName,
    force: t.optional(t.bool({ doc: 'even if the guest has locked it' })),
  }),
  since: '0.14',
  run: async (context, args) => {
    openTray(context, args, args.force ?? false);
    await removeMedium(context, args);
  },
});

const openTrayCommand = defineCommand({
  name: 'blockdev-open-tray',
  doc: 'Opens the tray of a device; a guest that has locked it is asked to open it.',
  args: t.struct('q_obj_blockdev-open-tray-arg', {
    ...types.deviceName,
    force: t.optional(t.bool({ doc: 'even if the guest has locked it' })),
  }),
  since: '2.5',
  run: (context, args) => {
    try {
      openTray(context, args, args.force ?? false);
    } catch (e) {
      // The guest was asked.
      if (!(e instanceof LockedError)) throw e;
    }
  },
});

const closeTrayCommand = defineCommand({
  name: 'blockdev-close-tray',
  doc: 'Closes the tray of a device.',
  args: t.struct('q_obj_blockdev-close-tray-arg', types.deviceName),
  since: '2.5',
  run: closeTray,
});

const removeMediumCommand = defineCommand({
  name: 'blockdev-remove-medium',
  doc: 'Takes the medium out of a device whose tray is open.',
  args: t.struct('q_obj_blockdev-remove-medium-arg', {
    id: t.str({ doc: 'id of the device' }),
  }),
  since: '2.12',
  run: removeMedium,
});

const insertMediumCommand = defineCommand({
  name: 'blockdev-insert-medium',
  doc: 'Puts a node as medium into a device whose tray is open.',
  args: t.struct('q_obj_blockdev-insert-medium-arg', {
    id: t.str({ doc: 'id of the device' }),
    'node-name': t.str({ doc: 'node that nobody uses' }),
  }),
  since: '2.12',
  run: async ({ graph }, args) => {
    const backend = findDevice(graph, { id: args.id });
    const name = args['node-name'];
    const node = graph.tryNode(name);
    if (node === undefined) throw new QmpError(`Node '${name}' not found`);
    if ([...node.parents].some((edge) => edge.parent.asNode === undefined)) {
      throw new QmpError(`Node '${name}' is already in use`);
    }
    await insertMedium(backend, node);
  },
});

const changeMedium = defineCommand({
  name: 'blockdev-change-medium',
  doc: 'Opens an image and puts it into a device in the place of what is there.',
  args: t.struct('q_obj_blockdev-change-medium-arg', {
    ...types.deviceName,
    filename: t.str({ doc: 'image' }),
    format: t.optional(t.str({ doc: 'its format; default: what it looks like' })),
    force: t.optional(t.bool({ doc: 'even if the guest has locked the tray' })),
    'read-only-mode': t.optional(types.readOnlyMode),
  }),
  since: '2.5',
  run: async (context, args) => {
    const { graph } = context;
    const backend = findDevice(graph, args);
    rememberFlags(backend);
    const mode = args['read-only-mode'] ?? 'retain';
    const writable = mode === 'retain' ? {} : { writable: mode === 'read-write' };
    const node = await graph.open({
      filename: args.filename,
      options: args.format === undefined ? {} : { driver: args.format },
      flags: { ...backend.mediumFlags, ...writable },
    });
    try {
      openTray(context, args, args.force ?? false);
      await removeMedium(context, args);
      await insertMedium(backend, node);
      closeTray(context, args);
    } finally {
      await graph.release(node);
    }
  },
});

/** Names of limits in BlockIOThrottle, and in ThrottleLimits. */
const limitNames = [
  ['bps', 'bps-total'],
  ['bps_rd', 'bps-read'],
  ['bps_wr', 'bps-write'],
  ['iops', 'iops-total'],
  ['iops_rd', 'iops-read'],
  ['iops_wr', 'iops-write'],
] as const;

const setThrottle = defineCommand({
  name: 'block_set_io_throttle',
  doc: 'Limits what a device may read and write in a second; 0 is no limit.',
  args: types.blockIoThrottle,
  since: '1.1',
  run: ({ graph }, args) => {
    const backend = findDevice(graph, args);
    if (!backend.isInserted) throw new QmpError('Device has no medium');
    const limits: Record<string, number> = {};
    const given: Readonly<Record<string, unknown>> = args;
    for (const [from, to] of limitNames) {
      for (const end of ['', '_max', '_max_length']) {
        const value = given[from + end];
        if (typeof value === 'number') limits[to + end.replaceAll('_', '-')] = value;
      }
    }
    if (args.iops_size !== undefined) limits['iops-size'] = args.iops_size;
    setLimits(backend, limits, args.group, shown(args));
  },
});

const histogramKinds: readonly (readonly [AccountedKind, string, string])[] = [
  ['read', 'boundaries-read', 'read'],
  ['write', 'boundaries-write', 'write'],
  ['zoneAppend', 'boundaries-zap', 'append write'],
  ['flush', 'boundaries-flush', 'flush'],
];

const setHistogram = defineCommand({
  name: 'block-latency-histogram-set',
  doc: 'Counts how long requests of a device take, by bounds; without bounds no more.',
  args: types.latencyHistogram,
  since: '4.0',
  run: ({ graph }, args) => {
    const { accounting } = findDevice(graph, { id: args.id });
    const given: Readonly<Record<string, unknown>> = args;
    const named = ['boundaries', 'boundaries-read', 'boundaries-write', 'boundaries-flush'];
    if (named.every((name) => given[name] === undefined)) {
      accounting.histograms.clear();
      return;
    }
    for (const [kind, name, word] of histogramKinds) {
      const bounds = (given[name] ?? args.boundaries) as readonly number[] | undefined;
      if (bounds === undefined || accounting.setHistogram(kind, bounds)) continue;
      throw new QmpError(`Device '${args.id}' set ${word} boundaries fail`);
    }
  },
});

export const mediumCommands = [
  setHistogram,
  setThrottle,
  changeMedium,
  insertMediumCommand,
  removeMediumCommand,
  closeTrayCommand,
  openTrayCommand,
  eject,
] as const;
