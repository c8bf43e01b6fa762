// Goal: libvirt's sequences of commands for backups (whole and incremental, pushed and pulled over
// NBD) and for the migration of storage work to the end: each backup holds the disk as it was at
// its moment, while a guest goes on writing. Method: the programs driven as libvirt drives QEMU;
// QEMU's tools and libnbd's read what comes out.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { requires, runOk, seededRandom, tempDir } from '../support/index.js';
import type { Message } from '../qmp/support.js';
import type { Image, Kind } from './libvirt-support.js';
import { DISK, Domain, expectDisk, KIB, kinds } from './libvirt-support.js';

const TIMEOUT = 60_000;
const manual = { 'auto-finalize': true, 'auto-dismiss': false };

/** A checkpoint: from now on this bitmap says what changes. */
function checkpoint(node: string, name: string): Message {
  const data = { node, name, persistent: true, disabled: false };
  return { type: 'block-dirty-bitmap-add', data };
}

/** What has changed since a checkpoint, as a bitmap of `on` that records nothing. */
function changes(node: string, since: string[], on: string, name: string): Message[] {
  const granularity = 64 * KIB;
  const add = { node: on, name, persistent: false, disabled: true, granularity };
  const bitmaps = since.map((each) => ({ node, name: each }));
  return [
    { type: 'block-dirty-bitmap-add', data: add },
    { type: 'block-dirty-bitmap-merge', data: { node: on, target: name, bitmaps } },
  ];
}

/** The disk as qemu-img reads it through NBD. */
async function readExport(uri: string): Promise<Uint8Array> {
  const path = join(tempDir(), 'pulled');
  await runOk('nbdcopy', [uri, path]);
  return readFileSync(path);
}

requires('qemu-img')('libvirt pushes', () => {
  it.each(kinds)(
    '%s: a whole backup, then an incremental one',
    async (kind) => {
      const dom = await Domain.start(kind, seededRandom());
      const { format } = dom.active;
      const full = await dom.addImage('full.qcow2');
      const job = 'backup-vda-libvirt-1-format';
      const how = { device: format, 'job-id': job, ...manual };
      await dom.ok('transaction', {
        actions: [
          checkpoint(format, 'one'),
          { type: 'blockdev-backup', data: { ...how, target: full.format, sync: 'full' } },
        ],
      });
      const before = dom.model.slice();
      await dom.write(10);
      await dom.finish(job);
      await dom.remove(full);
      await expectDisk(full.path, before);

      const part = await dom.addImage('part.qcow2');
      const bitmap = 'backup-vda';
      const how2 = { ...how, target: part.format, sync: 'incremental', bitmap };
      await dom.ok('transaction', {
        actions: [
          checkpoint(format, 'two'),
          ...changes(format, ['one'], format, bitmap),
          { type: 'blockdev-backup', data: how2 },
        ],
      });
      const between = dom.model.slice();
      await dom.write(10);
      await dom.finish(job);
      await dom.ok('block-dirty-bitmap-remove', { node: format, name: bitmap });
      await dom.remove(part);
      await runOk('qemu-img', ['rebase', '-u', '-b', full.path, '-F', 'qcow2', part.path]);
      await expectDisk(part.path, between);
      await dom.end();
      const info = await runOk('qemu-img', ['info', '-U', '--output=json', dom.active.path]);
      const found = [...info.stdout.matchAll(/"name": "(one|two)"/g)].map((each) => each[1]);
      expect(found.sort()).toEqual(['one', 'two']);
    },
    TIMEOUT,
  );
});

requires(
  'qemu-img',
  'nbdcopy',
  'nbdinfo',
)('libvirt pulls', () => {
  it.each(kinds)(
    '%s: a whole backup, then what has changed since',
    async (kind) => {
      const dom = await Domain.start(kind, seededRandom());
      const { format } = dom.active;
      await pull(dom, { since: [], next: 'one' });
      await dom.write(3);
      await pull(dom, { since: ['one'], next: 'two' });
      await dom.write(3);
      await pull(dom, { since: ['one', 'two'], next: undefined });
      // Checkpoints are deleted: each one's changes go to the one before.
      const merge = { node: format, target: 'one', bitmaps: [{ node: format, name: 'two' }] };
      await dom.ok('transaction', {
        actions: [
          { type: 'block-dirty-bitmap-merge', data: merge },
          { type: 'block-dirty-bitmap-remove', data: { node: format, name: 'two' } },
        ],
      });
      await dom.end();
    },
    TIMEOUT,
  );
});

/** One backup that a client pulls while the guest writes. */
async function pull(
  dom: Domain,
  { since, next }: { since: string[]; next: string | undefined },
): Promise<void> {
  const { format } = dom.active;
  const scratch = await dom.addImage(`scratch-${String(next)}.qcow2`, dom.active.path, format);
  const name = 'backup-vda';
  const id = 'backup-vda-libvirt-1-format';
  // A daemon has its server already, for its guest.
  const path = join(dom.folder, dom.kind === 'vdisk-system' ? 'backup' : 'guest');
  if (dom.kind === 'vdisk-system') {
    await dom.ok('nbd-server-start', { addr: { type: 'unix', data: { path } } });
  }
  const how = { device: format, 'job-id': id, target: scratch.format, sync: 'none', ...manual };
  await dom.ok('transaction', {
    actions: [
      ...(next === undefined ? [] : [checkpoint(format, next)]),
      ...(since.length === 0 ? [] : changes(format, since, scratch.format, name)),
      { type: 'blockdev-backup', data: how },
    ],
  });
  const bitmaps = since.length === 0 ? {} : { bitmaps: [name] };
  await dom.addExport('vda', scratch.format, false, bitmaps);
  const moment = dom.model.slice();
  await dom.write(10);
  const uri = `nbd+unix:///vda?socket=${path}`;
  expect(Buffer.compare(await readExport(uri), moment)).toBe(0);
  if (since.length > 0) await expectChanges(uri, name, dom);
  dom.marks.set(String(next), moment);
  if (dom.kind === 'vdisk-system') await dom.ok('nbd-server-stop');
  else await dom.ok('block-export-del', { id: 'vda', mode: 'hard' });
  await dom.ok('block-job-cancel', { device: id, force: true });
  await dom.finish(id, 'Operation canceled');
  await dom.remove(scratch);
}

/** Where the bitmap says that nothing has changed since checkpoint one, nothing has. */
async function expectChanges(uri: string, bitmap: string, dom: Domain): Promise<void> {
  const what = `--map=qemu:dirty-bitmap:${bitmap}`;
  const { stdout } = await runOk('nbdinfo', ['--json', what, uri]);
  const extents = JSON.parse(stdout) as { offset: number; length: number; type: number }[];
  const one = dom.marks.get('one') ?? new Uint8Array();
  const now = await readExport(uri);
  let changed = 0;
  for (const { offset, length, type } of extents) {
    if (type !== 0) changed += length;
    else expect(same(one, now, offset, length), `${String(offset)}+${String(length)}`).toBe(true);
  }
  expect(changed).toBeGreaterThan(0);
  expect(changed).toBeLessThan(DISK);
}

function same(a: Uint8Array, b: Uint8Array, offset: number, bytes: number): boolean {
  const [x, y] = [a, b].map((each) => each.subarray(offset, offset + bytes));
  return x !== undefined && y !== undefined && Buffer.compare(x, y) === 0;
}

/** From a machine to a machine, and to a daemon that only keeps storage. */
const moves: readonly [Kind, Kind][] = [
  ['vdisk-system', 'vdisk-system'],
  ['vdisk-system', 'vdisk-storage-daemon'],
  ['vdisk-storage-daemon', 'vdisk-system'],
];

requires('qemu-img')('libvirt migrates storage', () => {
  it.each(moves)(
    'from %s to %s',
    async (from, to) => {
      const random = seededRandom();
      const source = await Domain.start(from, random);
      const target = await Domain.start(to, random, false);
      const server = join(target.folder, to === 'vdisk-system' ? 'nbd' : 'guest');
      const alias = 'drive-virtio-disk0';
      if (to === 'vdisk-system') {
        const addr = { type: 'unix', data: { path: server } };
        await target.ok('nbd-server-start', { addr });
      }
      await target.addExport(alias, target.active.format, true);
      const nodes = await connect(source, server, alias);
      await source.ok('blockdev-mirror', {
        'job-id': alias,
        device: source.active.format,
        target: nodes.format,
        speed: 0,
        sync: 'full',
        ...manual,
      });
      await source.write(10);
      await source.until(alias, 'ready');
      await source.write(10);
      // The guest stands still; the mirror is told that it may end as it is.
      if (from === 'vdisk-system') await source.ok('stop');
      await source.ok('block-job-cancel', { device: alias });
      await source.finish(alias);
      await source.ok('blockdev-del', { 'node-name': nodes.format });
      await source.ok('blockdev-del', { 'node-name': nodes.storage });
      await target.ok('block-export-del', { id: alias, mode: 'hard' });
      if (to === 'vdisk-system') await target.ok('nbd-server-stop');
      await target.begin();
      target.model.set(source.model);
      await target.write(10);
      await target.end();
      if (from === 'vdisk-system') await source.ok('cont');
      await source.end();
    },
    TIMEOUT,
  );
});

/** The nodes through which the source writes to the target. */
async function connect(
  source: Domain,
  path: string,
  name: string,
): Promise<Pick<Image, 'storage' | 'format'>> {
  const names = { storage: 'migration-vda-storage', format: 'migration-vda-format' };
  await source.ok('blockdev-add', {
    driver: 'nbd',
    server: { type: 'unix', path },
    export: name,
    'node-name': names.storage,
    'auto-read-only': true,
    discard: 'unmap',
  });
  await source.ok('blockdev-add', {
    'node-name': names.format,
    'read-only': false,
    discard: 'unmap',
    driver: 'raw',
    file: names.storage,
  });
  return names;
}
