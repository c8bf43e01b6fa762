// Goal: the tree of objects (qom-list, qom-get, qom-set) is that of qemu-storage-daemon 10.
// Method: the same objects in both daemons; each path, each property, each value that is right or
// wrong for it goes to both. Deliberate differences: what a secret holds is not told and cannot be
// changed.
import { expect, it } from 'vitest';
import { DaemonProcess } from '../qmp/support.js';
import { binPath, findCommand, requiresQemu10, tempDir } from '../support/index.js';

interface Property {
  readonly name: string;
  readonly type: string;
}

const objects = [
  { 'qom-type': 'iothread', id: 'loop' },
  { 'qom-type': 'main-loop', id: 'main' },
  { 'qom-type': 'throttle-group', id: 'group', limits: { 'iops-total': 10 } },
  { 'qom-type': 'authz-simple', id: 'simple', identity: 'x' },
  {
    'qom-type': 'authz-list',
    id: 'list',
    policy: 'deny',
    rules: [{ match: 'a*', policy: 'allow', format: 'glob' }],
  },
  { 'qom-type': 'secret', id: 'key', data: 'abc' },
];
const refused = [
  ...[2 ** 32, -1, 0].map((max) => ({ 'thread-pool-max': max })),
  ...[2 ** 32, -1, 70].map((min) => ({ 'thread-pool-min': min })),
  { 'thread-pool-min': 3, 'thread-pool-max': 2 },
  ...['poll-max-ns', 'poll-grow', 'poll-shrink', 'aio-max-batch'].map((name) => ({ [name]: -1 })),
].map((values) => ({ 'qom-type': 'iothread', id: 'new', ...values }));
const paths = [
  ...['', '/', '//', '/objects', '/objects/', 'objects', 'loop', '/loop', 'objects/loop'],
  ...['//objects//loop', '/objects/loop/', 'loop/', 'loop/type', './loop', 'nowhere', '/chardevs'],
  ...['chardevs', '/backend', '/machine', 'type', 'iothread', 'key', 'list', '-'],
];
const values = [5, -1, 'allow', true, [], {}, null];

/** Lists have no order of their own. */
function sorted(value: unknown): unknown {
  const isList = Array.isArray(value) && value.length > 0 && 'name' in (value[0] as object);
  if (!isList) return value;
  return [...(value as Property[])].sort((a, b) => (a.name < b.name ? -1 : 1));
}

requiresQemu10('qemu-storage-daemon')('the tree of objects', () => {
  it('is as in QEMU', { timeout: 60_000 }, async () => {
    const start = async (program: string): Promise<DaemonProcess> => {
      const daemon = new DaemonProcess(program, [], tempDir());
      await daemon.ready();
      return daemon;
    };
    const ours = await start(binPath('vdisk-storage-daemon'));
    const theirs = await start(findCommand('qemu-storage-daemon')!);
    const ask = async (name: string, args: Record<string, unknown>): Promise<unknown> => {
      const told = async (daemon: DaemonProcess): Promise<unknown> => {
        const { return: value, error } = await daemon.execute(name, args);
        return error ?? sorted(value);
      };
      const [a, b] = await Promise.all([told(ours), told(theirs)]);
      expect(a, `${name} ${JSON.stringify(args)}`).toEqual(b);
      return a;
    };
    try {
      for (const object of objects) expect(await ask('object-add', object)).toEqual({});
      for (const object of refused) expect(await ask('object-add', object)).not.toEqual({});
      await ask('object-add', { 'qom-type': 'main-loop', id: 'second' });
      for (const path of paths) {
        await ask('qom-list', { path });
        await ask('qom-get', { path, property: 'type' });
        await ask('qom-set', { path, property: 'type', value: 'x' });
        await ask('qom-get', { path, property: 'colour' });
      }
      for (const { id } of objects) {
        const path = `/objects/${id}`;
        for (const { name } of (await ask('qom-list', { path })) as Property[]) {
          if (id === 'key' && name !== 'type') continue;
          await ask('qom-get', { path, property: name });
          for (const value of values) await ask('qom-set', { path, property: name, value });
          await ask('qom-get', { path, property: name });
        }
      }
    } finally {
      for (const daemon of [ours, theirs]) await daemon.quit();
    }
  });
});
