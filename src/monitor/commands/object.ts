/** Commands that create and delete objects. */
import type { Backend } from '../../block/backend.js';
import { objectOptions } from '../../block/object-options.js';
import { t } from '../../options/schema.js';
import { defineCommand, definePlainCommand } from '../command.js';
import { tryDevice } from '../devices.js';
import { QmpError } from '../qmp-error.js';
import { deviceProperty, qomList, tryQomDevice } from './qom.js';

const objectAdd = defineCommand({
  name: 'object-add',
  doc: 'Creates an object that options can refer to: a secret, a throttle group, credentials.',
  args: objectOptions,
  since: '2.0',
  givenOnly: true,
  run: ({ objects }, options) => objects.create(options, 'qmp'),
});

const objectDel = defineCommand({
  name: 'object-del',
  doc: 'Deletes an object that nobody uses.',
  args: t.struct('q_obj_object-del-arg', { id: t.str({ doc: 'ID of the object' }) }),
  since: '2.0',
  run: ({ objects }, { id }) => {
    objects.remove(id);
  },
});

/** The id in a path of an object: `g0`, `/objects/g0`. Throws QmpError for other paths. */
function objectId(path: string, ids: readonly (readonly [string, string])[]): string {
  const id = path.replace(/^\/objects\//, '');
  if (ids.some(([each]) => each === id)) return id;
  throw new QmpError(`Device '${path}' not found`, 'DeviceNotFound');
}

/** Another node becomes what a device with a medium uses. Throws QmpError, BlockError. */
async function setDeviceProperty(backend: Backend, name: string, value: unknown): Promise<void> {
  if (name !== 'drive') throw new QmpError(`Property '${name}' of a device cannot be changed`);
  if (typeof value !== 'string') {
    throw new QmpError("Invalid parameter type for 'drive', expected: string");
  }
  const { graph, root } = backend;
  const node = graph.tryNode(value);
  if (node === undefined || root === undefined) {
    const device = backend.user?.qdev ?? '';
    throw new QmpError(`Property '${device}.drive' can't find value '${value}'`);
  }
  const before = root.node;
  await graph.drainBegin(before);
  try {
    await graph.replaceEdge(root, node);
  } finally {
    graph.drainEnd(before);
  }
}

const property = {
  path: t.str({ doc: 'object: its id, or /objects/ID; device: /machine/peripheral/ID' }),
  property: t.str({ doc: 'name of the property' }),
};

const qomGet = defineCommand({
  name: 'qom-get',
  doc: 'Tells a property of a device, or of a throttle group.',
  args: t.struct('q_obj_qom-get-arg', property),
  returns: t.any(),
  since: '1.2',
  run: (context, args) => {
    const device = tryQomDevice(context.machine, args.path);
    if (device !== undefined) return deviceProperty(device, args.property);
    const { objects } = context;
    return objects.property(objectId(args.path, objects.list()), args.property);
  },
});

const qomSet = defineCommand({
  name: 'qom-set',
  doc: 'Changes a property: the limits of a throttle group, or the drive of a device.',
  args: t.struct('q_obj_qom-set-arg', { ...property, value: t.any() }),
  since: '1.2',
  run: async ({ graph, objects }, args) => {
    const backend = tryDevice(graph, args.path);
    if (backend !== undefined) await setDeviceProperty(backend, args.property, args.value);
    else objects.setProperty(objectId(args.path, objects.list()), args.property, args.value);
  },
});

const queryIothreads = definePlainCommand({
  name: 'query-iothreads',
  doc: 'Lists the loop threads that were asked for; one loop serves them all.',
  returns: t.arrayOf(
    t.struct('IOThreadInfo', {
      id: t.str(),
      'thread-id': t.int(),
      'poll-max-ns': t.int(),
      'poll-grow': t.int(),
      'poll-shrink': t.int(),
      'aio-max-batch': t.int(),
    }),
  ),
  since: '2.0',
  run: ({ objects }) =>
    objects
      .list()
      .filter(([, kind]) => kind === 'iothread')
      .map(([id]) => ({
        id,
        'thread-id': 0,
        'poll-max-ns': 0,
        'poll-grow': 0,
        'poll-shrink': 0,
        'aio-max-batch': 0,
      })),
});

export const objectCommands = [
  queryIothreads,
  qomList,
  qomSet,
  qomGet,
  objectDel,
  objectAdd,
] as const;
