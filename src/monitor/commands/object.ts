/** Commands that create and delete objects. */
import type { Backend } from '../../block/backend.js';
import { objectOptions } from '../../block/object-options.js';
import { t } from '../../options/schema.js';
import { defineCommand, definePlainCommand } from '../command.js';
import { tryDevice } from '../devices.js';
import { QmpError } from '../qmp-error.js';
import { findProperty, findQomNode, qomList } from './qom.js';

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

/** Another node becomes what a device with a medium uses. Throws QmpError, BlockError. */
async function setDrive(backend: Backend, value: unknown): Promise<void> {
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
  doc: 'Tells a property of a device or object.',
  args: t.struct('q_obj_qom-get-arg', property),
  returns: t.any(),
  since: '1.2',
  run: (context, args) => {
    const node = findQomNode(context, args.path);
    const { get } = findProperty(node, args.property);
    if (get !== undefined) return get();
    throw new QmpError(`Property '${node.type}.${args.property}' is not readable`);
  },
});

const qomSet = defineCommand({
  name: 'qom-set',
  doc: 'Changes a property: of an object, or the drive of a device.',
  args: t.struct('q_obj_qom-set-arg', { ...property, value: t.any() }),
  since: '1.2',
  run: async (context, args) => {
    const backend = tryDevice(context.graph, args.path);
    if (backend !== undefined && args.property === 'drive') {
      await setDrive(backend, args.value);
      return;
    }
    const node = findQomNode(context, args.path);
    const { set } = findProperty(node, args.property);
    if (set === undefined) {
      throw new QmpError(`Property '${node.type}.${args.property}' is not writable`);
    }
    set(args.value);
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
      .map(([id]) => {
        const number = (name: string): number =>
          Number(
            objects
              .properties(id)
              .find((each) => each.name === name)
              ?.get?.(),
          );
        return {
          id,
          'thread-id': 0,
          'poll-max-ns': number('poll-max-ns'),
          'poll-grow': number('poll-grow'),
          'poll-shrink': number('poll-shrink'),
          'aio-max-batch': number('aio-max-batch'),
        };
      }),
});

export const objectCommands = [
  queryIothreads,
  qomList,
  qomSet,
  qomGet,
  objectDel,
  objectAdd,
] as const;
