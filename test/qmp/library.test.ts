// Goal: a program has every command of QMP as a typed call and every event as a typed callback,
// without a monitor; names, arguments and results have the types that the declarations say.
// Method: the public entry, images in a temporary folder; types are checked when tests compile.
import { join } from 'node:path';
import { afterEach, beforeEach, expect, expectTypeOf, it } from 'vitest';
import type { BlockLayer, CommandArguments, CommandName, EventData } from '../../src/index.js';
import { createBlockLayer, QmpError } from '../../src/index.js';
import { commands } from '../../src/monitor/commands/index.js';
import { eventKinds } from '../../src/monitor/event-kinds.js';
import { failure, filled, readBytes, tempDir } from '../support/index.js';

const SIZE = 1 << 20;

let layer: BlockLayer;

beforeEach(async () => {
  layer = await createBlockLayer();
});

afterEach(() => layer.close());

it('knows the types of arguments, results and events', () => {
  expectTypeOf<CommandArguments<'blockdev-del'>>().toEqualTypeOf<{
    readonly 'node-name': string;
  }>();
  expectTypeOf<CommandArguments<'job-pause'>>().toEqualTypeOf<{ readonly id: string }>();
  expectTypeOf<CommandArguments<'block-job-pause'>>().toEqualTypeOf<{ readonly device: string }>();
  expectTypeOf<EventData<'BLOCK_WRITE_THRESHOLD'>>().toEqualTypeOf<{
    readonly 'node-name': string;
    readonly 'amount-exceeded': number;
    readonly 'write-threshold': number;
  }>();
  expectTypeOf<'blockdev-snapshot-sync'>().toExtend<CommandName>();
  expectTypeOf<'no-such-command'>().not.toExtend<CommandName>();
  const query = (): Promise<string> =>
    layer.execute('query-block-jobs').then((jobs) => jobs.map((job) => job.device).join());
  expectTypeOf(query).returns.toEqualTypeOf<Promise<string>>();
});

it('changes a disk that is in use by calls, and tells of it by events', async () => {
  const dir = tempDir();
  const seen: string[] = [];
  const off = layer.on('JOB_STATUS_CHANGE', ({ id, status }) => seen.push(`${id} ${status}`));
  layer.on('BLOCK_WRITE_THRESHOLD', (data) => seen.push(`+${String(data['amount-exceeded'])}`));
  const create = (id: string, options: CommandArguments<'blockdev-create'>['options']) =>
    new Promise<void>((resolve, reject) => {
      const end = layer.on('JOB_STATUS_CHANGE', (change) => {
        if (change.id !== id || change.status !== 'concluded') return;
        end();
        resolve();
      });
      layer.execute('blockdev-create', { 'job-id': id, options }).catch(reject);
    });
  const filename = join(dir, 'disk.qcow2');
  await create('file', { driver: 'file', filename, size: 0 });
  await layer.execute('blockdev-add', { driver: 'file', 'node-name': 'file', filename });
  await create('image', { driver: 'qcow2', file: 'file', size: SIZE });
  off();
  expect(seen).toContain('image concluded');
  expect((await layer.execute('query-jobs')).map(({ id, error }) => [id, error])).toEqual([
    ['image', undefined],
    ['file', undefined],
  ]);
  for (const id of ['file', 'image']) await layer.execute('job-dismiss', { id });

  await layer.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'disk', file: 'file' });
  const disk = await layer.graph.openBackend({ reference: 'disk' });
  await layer.execute('block-set-write-threshold', {
    'node-name': 'disk',
    'write-threshold': 4096,
  });
  await disk.write(0, filled(8192, 7));
  expect(seen.at(-1)).toBe('+4096');
  await layer.execute('transaction', {
    actions: [
      { type: 'block-dirty-bitmap-add', data: { node: 'disk', name: 'since' } },
      {
        type: 'blockdev-snapshot-sync',
        data: {
          'node-name': 'disk',
          'snapshot-file': join(dir, 'overlay.qcow2'),
          'snapshot-node-name': 'top',
        },
      },
    ],
  });
  expect(disk.node.name).toBe('top');
  await layer.execute('block_resize', { 'node-name': 'top', size: 2 * SIZE });
  const [top] = await layer.execute('query-named-block-nodes', { flat: true });
  expect([top?.['node-name'], top?.image['virtual-size']]).toEqual(['top', 2 * SIZE]);
  expect(await readBytes(disk, 0, 8192)).toEqual(new Uint8Array(8192).fill(7));
  await disk.detach();
});

it('rejects with class and text as a QMP client gets them, and nothing has changed', async () => {
  const error: unknown = await layer.execute('job-cancel', { id: 'x' }).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(QmpError);
  expect(await failure(layer.execute('blockdev-del', { 'node-name': 'x' }))).toBe(
    "Failed to find node with node-name='x'",
  );
  expect(await failure(layer.execute('blockdev-add', { driver: 'null-co' }))).toBe(
    "'node-name' must be specified for the root node",
  );
  // As a caller without types may.
  const wrong = { 'node-name': 5 } as unknown;
  expect(
    await failure(layer.execute('blockdev-del', wrong as CommandArguments<'blockdev-del'>)),
  ).toBe("Invalid parameter type for 'node-name', expected: string");
  expect(await layer.execute('query-named-block-nodes')).toEqual([]);
});

it('has each command and event once', () => {
  for (const list of [commands, eventKinds]) {
    const names = list.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
  }
});

it('ends as clients of a monitor end it: quit closes images', async () => {
  await layer.execute('blockdev-add', { driver: 'null-co', 'node-name': 'disk' });
  await layer.execute('quit');
  expect(layer.graph.nodes.size).toBe(0);
});

it('ends at once though a job waits for a limit', { timeout: 20_000 }, async () => {
  // A second for each block of 4096 bytes.
  const limits = { 'bps-read': 4096 };
  await layer.execute('object-add', { 'qom-type': 'throttle-group', id: 'slow', limits });
  const add = (options: CommandArguments<'blockdev-add'>): Promise<unknown> =>
    layer.execute('blockdev-add', options);
  await add({ driver: 'null-co', 'node-name': 'plain', size: 4 * SIZE });
  const source = { driver: 'throttle', 'node-name': 'source', file: 'plain' };
  await add({ ...source, 'throttle-group': 'slow' });
  await add({ driver: 'null-co', 'node-name': 'target', size: 4 * SIZE });
  const ends = { device: 'source', target: 'target' };
  await layer.execute('blockdev-mirror', { 'job-id': 'm', ...ends, sync: 'full' });
  await layer.close();
  layer = await createBlockLayer();
});
