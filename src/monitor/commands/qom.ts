/** The tree of objects as `qom-list` and `qom-get` show it: devices, and what -object made. */
import { describeFields } from '../../options/help.js';
import { t } from '../../options/schema.js';
import { defineCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import type { DeviceFacts, MachineControl } from '../machine.js';
import { QmpError } from '../qmp-error.js';

/** The device with a path, which an id or the end of a path may stand for. */
export function tryQomDevice(
  machine: MachineControl | undefined,
  path: string,
): DeviceFacts | undefined {
  const isDevice = (each: DeviceFacts): boolean =>
    each.path === path || each.path === `/machine/peripheral/${path}`;
  return machine?.devices().find(isDevice);
}

interface Property {
  readonly name: string;
  readonly type: string;
  readonly value: unknown;
}

/** Properties that every device has, and its own. */
function properties(device: DeviceFacts): Property[] {
  const { type, bus, declared } = device;
  const { id: _id, ...given } = device.properties;
  const own = describeFields(declared).map(({ name, type: kind, meta }) => {
    const value = given[name] ?? meta.default ?? '';
    // On a command line everything is a text.
    const isNumber = typeof value === 'string' && typeof meta.default === 'number';
    return {
      name,
      type: kind === 'string' ? 'str' : kind,
      value: isNumber ? Number(value) : value === 'on' && kind === 'bool' ? true : value,
    };
  });
  return [
    { name: 'type', type: 'string', value: type },
    { name: 'parent_bus', type: 'link<bus>', value: bus ?? '' },
    { name: 'realized', type: 'bool', value: true },
    ...own,
  ];
}

/** A property of a device. Throws QmpError. */
export function deviceProperty(device: DeviceFacts, name: string): unknown {
  const found = properties(device).find((each) => each.name === name);
  if (found === undefined) throw new QmpError(`Property '${device.type}.${name}' not found`);
  return typeof found.value === 'bigint' ? Number(found.value) : found.value;
}

interface Entry {
  readonly name: string;
  readonly type: string;
}

/** What is in a folder of the tree, with what all have; undefined: there is no such folder. */
function tryFolder({ machine, objects }: MonitorContext, path: string): Entry[] | undefined {
  const type = { name: 'type', type: 'string' };
  const child = (name: string, of: string): Entry => ({ name, type: `child<${of}>` });
  const inside = (folder: string): Entry[] =>
    (machine?.devices() ?? [])
      .filter((each) => each.path.startsWith(`${folder}/`))
      .map((each) => child(each.path.slice(folder.length + 1), each.type));
  switch (path) {
    case '/':
      return [
        type,
        child('objects', 'container'),
        ...(machine === undefined ? [] : [child('machine', 'machine')]),
      ];
    case '/objects':
      return [type, ...objects.list().map(([id, kind]) => child(id, kind))];
    case '/machine':
      if (machine === undefined) return undefined;
      return [
        type,
        ...['peripheral', 'peripheral-anon', 'unattached'].map((each) => child(each, 'container')),
      ];
    case '/machine/peripheral':
    case '/machine/peripheral-anon':
    case '/machine/unattached':
      return machine === undefined ? undefined : [type, ...inside(path)];
    default:
      return undefined;
  }
}

export const propertyInfo = t.struct('ObjectPropertyInfo', {
  name: t.str(),
  type: t.str(),
  description: t.optional(t.str()),
  'default-value': t.optional(t.any()),
});

export const qomList = defineCommand({
  name: 'qom-list',
  doc: 'Tells what an object has: properties, and other objects below it.',
  args: t.struct('q_obj_qom-list-arg', {
    path: t.str({ doc: 'the object, as /machine/peripheral/ID or /objects' }),
  }),
  returns: t.arrayOf(propertyInfo),
  since: '1.2',
  run: (context, { path }) => {
    if (path === '') throw new QmpError("Path '' is ambiguous");
    const folder = tryFolder(context, path.length > 1 ? path.replace(/\/$/, '') : path);
    if (folder !== undefined) return folder;
    const device = tryQomDevice(context.machine, path);
    if (device === undefined) throw new QmpError(`Device '${path}' not found`, 'DeviceNotFound');
    return properties(device).map(({ name, type }) => ({ name, type }));
  },
});
