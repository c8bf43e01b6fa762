/** The tree of objects as `qom-list` and `qom-get` show it: devices, and what -object made. */
import { describeFields } from '../../options/help.js';
import { t } from '../../options/schema.js';
import { defineCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import type { DeviceFacts } from '../machine.js';
import type { ObjectProperty } from '../objects.js';
import { QmpError } from '../qmp-error.js';

/** An object of the tree, with those below it. */
interface QomNode {
  readonly type: string;
  readonly properties: readonly ObjectProperty[];
  readonly children: Map<string, QomNode>;
}

function makeNode(type: string, properties: readonly ObjectProperty[] = []): QomNode {
  const own = { name: 'type', type: 'string', get: () => type };
  return { type, properties: [own, ...properties], children: new Map() };
}

/** Properties that every device has, and its own, none of which can be changed once it is there. */
function deviceProperties(device: DeviceFacts): ObjectProperty[] {
  const { bus, declared, path, type } = device;
  const { id: _id, ...given } = device.properties;
  const id = /^\/machine\/peripheral\/(.*)/.exec(path)?.[1];
  const who = id === undefined ? 'anonymous device' : `device '${id}'`;
  const own = describeFields(declared).map(({ name, type: kind, meta }) => {
    const value = given[name] ?? meta.default ?? '';
    // On a command line everything is a text.
    const isNumber = typeof value === 'string' && typeof meta.default === 'number';
    const converted = isNumber ? Number(value) : value === 'on' && kind === 'bool' ? true : value;
    return {
      name,
      type: kind === 'string' ? 'str' : kind,
      get: () => (typeof converted === 'bigint' ? Number(converted) : converted),
      set: () => {
        const text = `Attempt to set property '${name}' on ${who} (type '${type}')`;
        throw new QmpError(`${text} after it was realized`);
      },
    };
  });
  return [
    { name: 'parent_bus', type: 'link<bus>', get: () => bus ?? '' },
    { name: 'realized', type: 'bool', get: () => true },
    ...own,
  ];
}

/** The whole tree as it is now. */
function qomTree({ machine, objects, chardevs }: MonitorContext): QomNode {
  const root = makeNode('container');
  const folder = (name: string, within = root, type = 'container'): QomNode => {
    const made = makeNode(type);
    within.children.set(name, made);
    return made;
  };
  const made = folder('objects');
  for (const [id, kind] of objects.list()) {
    made.children.set(id, makeNode(kind, objects.properties(id)));
  }
  const streams = folder('chardevs');
  for (const { id, kind } of chardevs.list()) streams.children.set(id, makeNode(`chardev-${kind}`));
  folder('backend');
  if (machine === undefined) return root;
  const top = folder('machine', root, 'machine');
  const places = ['peripheral', 'peripheral-anon', 'unattached'].map((name) => {
    return [`/machine/${name}/`, folder(name, top)] as const;
  });
  for (const device of machine.devices()) {
    const place = places.find(([start]) => device.path.startsWith(start));
    const node = makeNode(device.type, deviceProperties(device));
    place?.[1].children.set(device.path.slice(place[0].length), node);
  }
  return root;
}

function tryWalk(from: QomNode, names: readonly string[]): QomNode | undefined {
  let at: QomNode | undefined = from;
  for (const name of names) at = at?.children.get(name);
  return at;
}

/** All objects to which the end of a path leads. */
function walkAnywhere(from: QomNode, names: readonly string[]): QomNode[] {
  const here = tryWalk(from, names);
  const below = [...from.children.values()].flatMap((each) => walkAnywhere(each, names));
  return here === undefined ? below : [here, ...below];
}

/** What a path may mean: one from `/` at most one object, the end of a path each that fits. */
function candidates(context: MonitorContext, path: string): QomNode[] {
  const names = path.split('/').filter((each) => each !== '');
  if (!path.startsWith('/')) return names.length === 0 ? [] : walkAnywhere(qomTree(context), names);
  const found = tryWalk(qomTree(context), names);
  return found === undefined ? [] : [found];
}

function noSuchPath(path: string): QmpError {
  return new QmpError(`Device '${path}' not found`, 'DeviceNotFound');
}

/** The object with a path, or with this end of a path. Throws QmpError. */
export function findQomNode(context: MonitorContext, path: string): QomNode {
  const [found, second] = candidates(context, path);
  if (found === undefined || second !== undefined) throw noSuchPath(path);
  return found;
}

/** Throws QmpError when the object has no such property. */
export function findProperty({ type, properties }: QomNode, name: string): ObjectProperty {
  const found = properties.find((each) => each.name === name);
  if (found === undefined) throw new QmpError(`Property '${type}.${name}' not found`);
  return found;
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
    const [node, second] = candidates(context, path);
    if (path === '' || second !== undefined) throw new QmpError(`Path '${path}' is ambiguous`);
    if (node === undefined) throw noSuchPath(path);
    return [
      ...node.properties.map(({ name, type }) => ({ name, type })),
      ...[...node.children].map(([name, { type }]) => ({ name, type: `child<${type}>` })),
    ];
  },
});
