// Goal: a node's file name is the plain one only while its backing chain is what its image names,
// filters of jobs that users see stand in it, and options of a backing file reach the one that
// took the place of the first. Method: the steps of QEMU's iotests 161, 224, 228 and 273 on
// simulated files, through the library; the names are what qemu-storage-daemon 10 tells.
import { beforeEach, expect, it } from 'vitest';
import { appendNode } from '../../src/block/append.js';
import { createImage, prepareCreate } from '../../src/block/create.js';
import { insertFilter, removeFilter, setBacking } from '../../src/block/insert-filter.js';
import { reopenNode } from '../../src/block/reopen.js';
import { commitTopDriver } from '../../src/filter/job-filters.js';
import type { BlockGraph, BlockNode } from '../../src/index.js';
import { FakeFiles, fakeHost, testGraph } from '../support/index.js';

let graph: BlockGraph;

const image = (name: string): object => ({
  driver: 'qcow2',
  'node-name': name,
  file: { driver: 'file', filename: `/${name}` },
});

async function make(name: string, backing?: string): Promise<void> {
  const names = backing === undefined ? {} : { backingFile: backing, backingFormat: 'qcow2' };
  const request = { filename: `/${name}`, format: 'qcow2', size: 1 << 20, ...names };
  await createImage(graph, await prepareCreate(graph, request));
}

const open = (options: object): Promise<BlockNode> =>
  graph.open({ options: { ...options }, flags: { writable: true } });

beforeEach(async () => {
  graph = testGraph({ host: fakeHost({ files: new FakeFiles() }) });
  await make('base');
  await make('mid', 'file:/base');
  await make('top', '/mid');
});

it('is plain for a chain that the header names, and not when the header says another', async () => {
  const node = await open(image('mid'));
  expect(node.filename).toBe('/mid');
  expect(node.backing?.node.filename).toBe('/base');
  await node.instance.changeBackingFile?.('null-co://', 'raw');
  expect(node.filename).toBe(
    'json:{"backing": {"driver": "qcow2", "file": {"driver": "file", "filename": "/base"}}, ' +
      '"driver": "qcow2", "file": {"driver": "file", "filename": "/mid"}}',
  );
  await node.instance.changeBackingFile?.('/base', 'qcow2');
  expect(node.filename).toBe('/mid');
  // Nobody opens what the header says: its spelling counts.
  await node.instance.changeBackingFile?.('file:/base', 'qcow2');
  expect(node.filename).toMatch(/^json:/);
});

it.each([['commit-filter'], [undefined]])(
  'tells of the filter %s if users see it',
  async (name) => {
    const node = await open(image('top'));
    const mid = node.backing!.node;
    // From here on only options open it.
    mid.setBackingHint('null-co://', 'raw');
    const filter = await insertFilter(mid, { driver: commitTopDriver, name });
    const { backing } = JSON.parse(node.filename.replace(/^json:/, '')) as { backing: object };
    const stored = (name: string): object => ({
      driver: 'qcow2',
      file: { driver: 'file', filename: `/${name}` },
    });
    const below = { ...stored('mid'), backing: stored('base') };
    expect(backing).toEqual(name === undefined ? below : { driver: 'commit_top', backing: below });
    await removeFilter(filter, mid);
  },
);

it('reopens what took the place of a backing file with the image above', async () => {
  const node = await open(image('top'));
  const mid = node.backing!.node;
  const base = mid.backing!.node;
  await setBacking(node, base);
  await reopenNode(node, { options: { 'backing.detect-zeroes': 'on' } });
  expect(base.detectZeroes).toBe('on');
});

it('leaves the backing format of the header when an overlay is put on a node', async () => {
  const base = await open({ driver: 'file', 'node-name': 'base', filename: '/base' });
  const mid = await open({ ...image('mid'), backing: null });
  const resume = await graph.drainAll();
  const undo = await appendNode(mid, base);
  expect([mid.backingFormat, mid.flags.noBacking]).toEqual(['qcow2', false]);
  await undo();
  expect(mid.backing).toBeUndefined();
  resume();
});
