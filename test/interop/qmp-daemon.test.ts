// Goal: clients cannot tell vdisk-storage-daemon from qemu-storage-daemon 10. Method: the same
// requests to both, their replies and events compared as text once times, names of the machine's
// making and folders are taken out.
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { formatJson, formatJsonPretty } from '../../src/lib/json-text.js';
import { DaemonProcess } from '../qmp/support.js';
import type { Message } from '../qmp/support.js';
import { binPath, findCommand, requiresQemu10, runOk, tempDir } from '../support/index.js';

const ours = binPath('vdisk-storage-daemon');

type Request = Message | string;

const cmd = (execute: string, args?: Message): Message =>
  args === undefined ? { execute } : { execute, arguments: args };

/** A message without what differs from run to run. */
function scrub(messages: readonly Message[], folder: string): string[] {
  const texts = messages.map((message) => {
    const { timestamp, ...rest } = message;
    const text = formatJsonPretty(timestamp === undefined ? rest : { ...rest, timestamp: 'T' });
    return text
      .replaceAll(folder, 'DIR')
      .replace(/#block\d+/g, '#block')
      .replace(/"(date-sec|date-nsec|vm-clock-sec|vm-clock-nsec|actual-size)": \d+/g, '"$1": N')
      .replace(/"package": "[^"]*"/g, '"package": "P"');
  });
  // In lines, so that a difference is told by the line.
  return texts.flatMap((text) => text.split('\n'));
}

async function transcript(
  program: string,
  requests: (dir: string) => Request[],
): Promise<string[]> {
  const dir = tempDir();
  const img = findCommand('qemu-img') ?? 'qemu-img';
  const at = (name: string): string => join(dir, name);
  await runOk(img, ['create', '-q', '-f', 'qcow2', at('base.qcow2'), '1M']);
  const over = ['-b', 'base.qcow2', '-F', 'qcow2', at('top.qcow2')];
  await runOk(img, ['create', '-q', '-f', 'qcow2', ...over]);
  await runOk(img, ['create', '-q', '-f', 'raw', at('d.raw'), '1M']);
  const daemon = await new DaemonProcess(program).ready();
  const out: string[] = [];
  for (const request of requests(dir)) {
    out.push(
      `> ${typeof request === 'string' ? request : formatJson(request)}`.replaceAll(dir, 'DIR'),
    );
    out.push(...scrub(await daemon.talk(request), dir));
  }
  expect(await daemon.quit()).toBe(0);
  out.push(...daemon.lines.printed.replaceAll(dir, 'DIR').split('\n'));
  return out;
}

const add = (args: Message): Message => cmd('blockdev-add', args);
const file = (filename: string): Message => ({ driver: 'file', filename });

const qcow2 = (name: string, path: string, more: Message = {}): Message =>
  add({ driver: 'qcow2', 'node-name': name, file: file(path), ...more });
const flat = cmd('query-named-block-nodes', { flat: true });
const graph = cmd('x-debug-query-block-graph');

const scripts: Readonly<Record<string, (dir: string) => Request[]>> = {
  'wrong requests': () => [
    cmd('qmp_capabilities'),
    cmd('foo'),
    '{"execute":1}',
    '[]',
    '{"foo":1}',
    '{}',
    '{"execute":"quit","arguments":[]}',
    '{"execute":"quit","arguments":{"a":1}}',
    '{"execute":"quit","foo":1}',
    '{"a":1,"a":2}',
    '}',
    'abc',
    '{"execute": "query-version", "id": {"x": [1, 2.5, "\\u00e4"]}}',
    "{'execute':'query-version'}",
  ],
  'wrong options of blockdev-add': () => [
    add({}),
    add({ driver: 'foo' }),
    add({ driver: 'null-co' }),
    add({ driver: 'null-co', 'node-name': '1a' }),
    add({ driver: 'null-co', 'node-name': 'a', size: '1' }),
    add({ driver: 'null-co', 'node-name': 'a', size: 1.5 }),
    add({ driver: 'null-co', 'node-name': 'a', foo: 1 }),
    add({ driver: 'null-co', 'node-name': 'a', 'read-only': 'on' }),
    add({ driver: 'null-co', 'node-name': 'a', discard: 'x' }),
    add({ driver: 'null-co', 'node-name': 'a', cache: { direct: 1 } }),
    add({ driver: 'null-co', 'node-name': 'a', cache: { writeback: true } }),
    add({ driver: 'null-co', 'node-name': 'a', cache: true }),
    add({ driver: 'null-co', 'node-name': 'a', 'read-only': true, size: 1024 }),
    add({ driver: 'null-co', 'node-name': 'a' }),
    add({ driver: 'qcow2', 'node-name': 'b' }),
    add({ driver: 'qcow2', 'node-name': 'b', file: 1 }),
    add({ driver: 'qcow2', 'node-name': 'b', file: { driver: 'null-co', foo: 1 } }),
    add({ driver: 'qcow2', 'node-name': 'b', file: 'a' }),
    add({ driver: 'qcow2', 'node-name': 'b', file: 'zz' }),
    add({ driver: 'qcow2', 'node-name': 'b', file: 'a', 'overlap-check': 'x' }),
    add({ driver: 'qcow2', 'node-name': 'b', file: 'a', 'overlap-check': { template: 1 } }),
    add({ driver: 'qcow2', 'node-name': 'b', file: 'a', encrypt: { format: 'x' } }),
    add({ driver: 'quorum', 'node-name': 'b', children: [1], 'vote-threshold': 1 }),
    add({ driver: 'quorum', 'node-name': 'b', children: ['zz'], 'vote-threshold': 1 }),
    add({ driver: 'throttle', 'node-name': 'b', file: 'a', 'throttle-group': 'g' }),
    add({ driver: 'nbd', 'node-name': 'b', server: { type: 'x' } }),
    add({ driver: 'nbd', 'node-name': 'b', server: { type: 'unix' } }),
    add({ driver: 'file', 'node-name': 'b', filename: '/nonexistent/a' }),
    add({ driver: 'file', 'node-name': 'b', filename: '/nonexistent/a', aio: 'x' }),
  ],
  'nodes come, are used, and go': (dir) => [
    add({ driver: 'qcow2', 'node-name': 'top', file: file(join(dir, 'top.qcow2')) }),
    add({ driver: 'raw', 'node-name': 'r', 'read-only': true, file: file(join(dir, 'd.raw')) }),
    add({ driver: 'null-co', 'node-name': 'n', size: 65536 }),
    add({ driver: 'raw', 'node-name': 'slice', file: 'n', offset: 512, size: 1024 }),
    cmd('query-named-block-nodes'),
    cmd('query-named-block-nodes', { flat: true }),
    cmd('query-blockstats', { 'query-nodes': true }),
    cmd('query-block'),
    cmd('x-debug-query-block-graph'),
    cmd('blockdev-del', { 'node-name': 'n' }),
    cmd('blockdev-del', { 'node-name': 'zz' }),
    cmd('blockdev-del', { 'node-name': 'slice' }),
    cmd('blockdev-del', { 'node-name': 'n' }),
    cmd('blockdev-del', { 'node-name': 'top' }),
    cmd('query-named-block-nodes'),
  ],
  'a node is reopened': (dir) => [
    add({ driver: 'qcow2', 'node-name': 'top', file: file(join(dir, 'top.qcow2')) }),
    add({ driver: 'null-co', 'node-name': 'n', size: 65536 }),
    cmd('blockdev-reopen', {
      options: [{ driver: 'qcow2', 'node-name': 'top', file: file(join(dir, 'top.qcow2')) }],
    }),
    cmd('blockdev-reopen', { options: [{ driver: 'qcow2', 'node-name': 'zz', file: 'x' }] }),
    cmd('blockdev-reopen', { options: [{ driver: 'qcow2', file: 'x' }] }),
    cmd('blockdev-reopen', { options: [{ driver: 'raw', 'node-name': 'n', file: 'x' }] }),
    cmd('blockdev-reopen', { options: [{ driver: 'null-co', 'node-name': 'n', size: 1 }] }),
    cmd('blockdev-reopen', { options: [{ driver: 'null-co', 'node-name': 'n' }] }),
    cmd('query-named-block-nodes', { flat: true }),
  ],
  'exports over NBD': (dir) => {
    const addr = { type: 'unix', data: { path: join(dir, 'nbd.sock') } };
    const exported = (args: Message): Message => cmd('block-export-add', { type: 'nbd', ...args });
    return [
      add({ driver: 'null-co', 'node-name': 'a', size: 65536 }),
      add({ driver: 'null-co', 'node-name': 'ro', size: 65536, 'read-only': true }),
      exported({ id: 'e', 'node-name': 'a' }),
      cmd('nbd-server-stop'),
      cmd('nbd-server-start', { addr: { type: 'unix', path: 'x' } }),
      cmd('nbd-server-start', { addr, 'tls-creds': 'zz' }),
      cmd('nbd-server-start', { addr }),
      cmd('nbd-server-start', { addr }),
      exported({ id: 'e', 'node-name': 'a' }),
      exported({ id: 'e', 'node-name': 'a', name: 'b' }),
      exported({ id: 'e2', 'node-name': 'a' }),
      exported({ id: 'e3', 'node-name': 'zz' }),
      exported({ id: '1e', 'node-name': 'a' }),
      exported({ id: 'e4', 'node-name': 'ro', writable: true }),
      exported({ id: 'e5', 'node-name': 'a', name: 'x', bitmaps: ['bm'] }),
      exported({ id: 'e6', 'node-name': 'a', name: 'x', bitmaps: [{ node: 'q', name: 'bm' }] }),
      exported({ id: 'e7', 'node-name': 'a', name: 'y', iothread: 'x' }),
      exported({ id: 'e8', 'node-name': 'a', name: 'z', writable: true, writethrough: true }),
      exported({ id: 'e9', 'node-name': 'a', name: 'x'.repeat(5000) }),
      cmd('query-block-exports'),
      cmd('blockdev-del', { 'node-name': 'a' }),
      cmd('x-debug-query-block-graph'),
      cmd('block-export-del', { id: 'e' }),
      cmd('block-export-del', { id: 'e' }),
      cmd('nbd-server-add', { device: 'a' }),
      cmd('nbd-server-add', { device: 'zz' }),
      cmd('nbd-server-add', { device: 'ro', writable: true }),
      cmd('nbd-server-add', { device: 'a', name: 'q', bitmap: 'bb' }),
      cmd('nbd-server-remove', { name: 'a', mode: 'x' }),
      cmd('nbd-server-remove', { name: 'a' }),
      cmd('nbd-server-remove', { name: 'a' }),
      cmd('query-block-exports'),
      cmd('nbd-server-stop'),
      cmd('query-block-exports'),
      cmd('blockdev-del', { 'node-name': 'a' }),
    ];
  },
  'a node is resized, watched and given another backing name': (dir) => [
    qcow2('top', join(dir, 'top.qcow2')),
    add({ driver: 'null-co', 'node-name': 'n', size: 65536 }),
    cmd('block_resize', { 'node-name': 'top', size: 2097152 }),
    cmd('block_resize', { 'node-name': 'zz', size: 2097152 }),
    cmd('block_resize', { 'node-name': 'top', size: 1234 }),
    cmd('block_resize', { size: 1234 }),
    cmd('block_resize', { device: 'top', size: 1234 }),
    cmd('block_resize', { 'node-name': 'top', size: -1 }),
    cmd('block_resize', { 'node-name': 'n', size: 512 }),
    cmd('block-set-write-threshold', { 'node-name': 'top', 'write-threshold': 100 }),
    cmd('block-set-write-threshold', { 'node-name': 'zz', 'write-threshold': 100 }),
    cmd('block-set-write-threshold', { 'node-name': 'top', 'write-threshold': '1' }),
    cmd('change-backing-file', {
      device: 'top',
      'image-node-name': 'top',
      'backing-file': join(dir, 'base.qcow2'),
    }),
    cmd('change-backing-file', { device: 'top', 'image-node-name': 'zz', 'backing-file': 'x' }),
    cmd('change-backing-file', { device: 'zz', 'image-node-name': 'top', 'backing-file': 'x' }),
    cmd('change-backing-file', { device: 'n', 'image-node-name': 'n', 'backing-file': 'x' }),
    cmd('change-backing-file', { device: 'n', 'image-node-name': 'top', 'backing-file': 'x' }),
    flat,
    cmd('query-named-block-nodes'),
  ],
  'snapshots inside an image': (dir) => [
    qcow2('q', join(dir, 'base.qcow2')),
    qcow2('ro', join(dir, 'top.qcow2'), { 'read-only': true, backing: null }),
    add({ driver: 'raw', 'node-name': 'r', file: file(join(dir, 'd.raw')) }),
    cmd('blockdev-snapshot-internal-sync', { device: 'q', name: 's1' }),
    cmd('blockdev-snapshot-internal-sync', { device: 'q', name: 's1' }),
    cmd('blockdev-snapshot-internal-sync', { device: 'q', name: '' }),
    cmd('blockdev-snapshot-internal-sync', { device: 'zz', name: 's' }),
    cmd('blockdev-snapshot-internal-sync', { device: 'ro', name: 's' }),
    cmd('blockdev-snapshot-internal-sync', { device: 'r', name: 's' }),
    cmd('blockdev-snapshot-internal-sync', { device: 'q', name: 's2' }),
    flat,
    cmd('blockdev-snapshot-delete-internal-sync', { device: 'q', name: 's1' }),
    cmd('blockdev-snapshot-delete-internal-sync', { device: 'q', name: 's1' }),
    cmd('blockdev-snapshot-delete-internal-sync', { device: 'q', id: '2', name: 'x' }),
    cmd('blockdev-snapshot-delete-internal-sync', { device: 'q', id: '2' }),
    cmd('blockdev-snapshot-delete-internal-sync', { device: 'q' }),
    cmd('blockdev-snapshot-delete-internal-sync', { device: 'zz', id: '1' }),
    cmd('blockdev-snapshot-delete-internal-sync', { device: 'r', id: '1' }),
  ],
  'snapshots as overlays': (dir) => {
    const addr = { type: 'unix', data: { path: join(dir, 'nbd.sock') } };
    const sync = (args: Message): Message => cmd('blockdev-snapshot-sync', args);
    return [
      qcow2('base', join(dir, 'base.qcow2')),
      cmd('nbd-server-start', { addr }),
      cmd('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'base', writable: true }),
      add({ driver: 'null-co', 'node-name': 'n', size: 65536 }),
      add({ driver: 'raw', 'node-name': 'r', file: 'n' }),
      cmd('blockdev-snapshot', { node: 'base', overlay: 'zz' }),
      cmd('blockdev-snapshot', { node: 'zz', overlay: 'r' }),
      cmd('blockdev-snapshot', { node: 'base', overlay: 'r' }),
      cmd('blockdev-snapshot', { node: 'base', overlay: 'base' }),
      qcow2('over', join(dir, 'top.qcow2'), { backing: null }),
      cmd('blockdev-snapshot', { node: 'base', overlay: 'over' }),
      cmd('blockdev-snapshot', { node: 'base', overlay: 'over' }),
      graph,
      cmd('query-named-block-nodes'),
      cmd('query-block-exports'),
      sync({ 'node-name': 'over', 'snapshot-file': join(dir, 'new.qcow2') }),
      sync({ device: 'over', 'snapshot-file': join(dir, 'new.qcow2') }),
      sync({
        'node-name': 'over',
        'snapshot-file': join(dir, 'new.qcow2'),
        'snapshot-node-name': 'n',
      }),
      sync({
        'node-name': 'over',
        'snapshot-file': join(dir, 'new.qcow2'),
        'snapshot-node-name': 'new',
        format: 'zz',
      }),
      sync({
        'node-name': 'over',
        'snapshot-file': join(dir, 'new.qcow2'),
        'snapshot-node-name': 'new',
        mode: 'existing',
      }),
      sync({
        'node-name': 'over',
        'snapshot-file': join(dir, 'new.qcow2'),
        'snapshot-node-name': 'new',
      }),
      graph,
      cmd('query-named-block-nodes'),
      cmd('blockdev-del', { 'node-name': 'new' }),
      cmd('blockdev-del', { 'node-name': 'over' }),
      cmd('block-export-del', { id: 'e' }),
      flat,
      cmd('blockdev-del', { 'node-name': 'over' }),
      cmd('blockdev-del', { 'node-name': 'base' }),
      flat,
    ];
  },
  'dirty bitmaps': (dir) => {
    const bitmap = (what: string, args: Message): Message =>
      cmd(`block-dirty-bitmap-${what}`, { node: 'q', ...args });
    return [
      qcow2('q', join(dir, 'base.qcow2')),
      add({ driver: 'raw', 'node-name': 'r', file: file(join(dir, 'd.raw')) }),
      add({ driver: 'null-co', 'node-name': 'n', size: 65536 }),
      bitmap('add', { name: 'b1' }),
      bitmap('add', { name: 'b1' }),
      bitmap('add', { name: '' }),
      bitmap('add', { node: 'zz', name: 'b2' }),
      bitmap('add', { name: 'b2', granularity: 100 }),
      bitmap('add', { name: 'b2', granularity: 256 }),
      bitmap('add', { name: 'b2', granularity: -1 }),
      bitmap('add', { name: 'b2', granularity: 4096, persistent: true, disabled: true }),
      bitmap('add', { name: 'x'.repeat(1024) }),
      bitmap('add', { name: 'x'.repeat(1024), persistent: true }),
      bitmap('add', { node: 'r', name: 'b2', persistent: true }),
      bitmap('add', { node: 'r', name: 'br' }),
      bitmap('add', { node: 'n', name: 'bn' }),
      bitmap('remove', { name: 'zz' }),
      bitmap('enable', { name: 'b2' }),
      bitmap('disable', { name: 'b2' }),
      bitmap('clear', { name: 'b1' }),
      bitmap('merge', { target: 'b1', bitmaps: ['b2'] }),
      bitmap('merge', { target: 'b1', bitmaps: ['zz'] }),
      bitmap('merge', { target: 'zz', bitmaps: ['b2'] }),
      bitmap('merge', { target: 'b1', bitmaps: [{ node: 'r', name: 'br' }] }),
      bitmap('merge', { target: 'b1', bitmaps: [{ node: 'n', name: 'bn' }] }),
      bitmap('merge', { target: 'b1', bitmaps: [{ node: 'r' }] }),
      bitmap('merge', { target: 'b1', bitmaps: [1] }),
      cmd('x-debug-block-dirty-bitmap-sha256', { node: 'q', name: 'b1' }),
      cmd('x-debug-block-dirty-bitmap-sha256', { node: 'n', name: 'bn' }),
      flat,
      bitmap('remove', { name: 'b1' }),
      bitmap('remove', { name: 'b2' }),
      flat,
    ];
  },
  transactions: (dir) => {
    const all = (...actions: Message[]): Message => cmd('transaction', { actions });
    const act = (type: string, data: Message): Message => ({ type, data });
    const add = (name: string): Message => act('block-dirty-bitmap-add', { node: 'q', name });
    return [
      qcow2('q', join(dir, 'base.qcow2')),
      all(),
      all(act('zz', {})),
      all(act('abort', {})),
      all(add('a'), add('b')),
      all(add('c'), add('a')),
      all(add('c'), act('abort', {})),
      all(act('block-dirty-bitmap-disable', { node: 'q', name: 'a' }), act('abort', {})),
      all(act('block-dirty-bitmap-remove', { node: 'q', name: 'a' }), act('abort', {})),
      all(act('block-dirty-bitmap-remove', { node: 'q', name: 'a' }), add('a')),
      all(
        act('block-dirty-bitmap-remove', { node: 'q', name: 'a' }),
        act('block-dirty-bitmap-clear', { node: 'q', name: 'a' }),
      ),
      flat,
      all(
        act('blockdev-snapshot-sync', {
          'node-name': 'q',
          'snapshot-file': join(dir, 'over.qcow2'),
          'snapshot-node-name': 'over',
        }),
        act('abort', {}),
      ),
      flat,
      all(
        act('blockdev-snapshot-internal-sync', { device: 'q', name: 's' }),
        act('block-dirty-bitmap-remove', { node: 'q', name: 'a' }),
        act('block-dirty-bitmap-disable', { node: 'q', name: 'b' }),
      ),
      flat,
      {
        execute: 'transaction',
        arguments: { actions: [add('g')], properties: { 'completion-mode': 'grouped' } },
      },
      {
        execute: 'transaction',
        arguments: { actions: [add('g2')], properties: { 'completion-mode': 'x' } },
      },
      flat,
    ];
  },
  objects: () => [
    cmd('object-add', { 'qom-type': 'secret', id: 's', data: 'x' }),
    cmd('object-add', { 'qom-type': 'secret', id: 's', data: 'x' }),
    cmd('object-add', { 'qom-type': 'foo', id: 's2' }),
    cmd('object-add', { 'qom-type': 'secret', id: 's3' }),
    cmd('object-add', { 'qom-type': 'secret' }),
    cmd('object-add', { 'qom-type': 'secret', id: 's4', foo: 1 }),
    cmd('object-add', { 'qom-type': 'iothread', id: 'io', 'poll-max-ns': 1 }),
    cmd('object-add', { 'qom-type': 'throttle-group', id: 'g', limits: { 'iops-total': 100 } }),
    cmd('object-add', { 'qom-type': 'throttle-group', id: 'g2', 'x-iops-total': -1 }),
    add({ driver: 'null-co', 'node-name': 'n', size: 65536 }),
    add({ driver: 'throttle', 'node-name': 't', file: 'n', 'throttle-group': 'g' }),
    cmd('object-del', { id: 'g' }),
    cmd('blockdev-del', { 'node-name': 't' }),
    cmd('object-del', { id: 'g' }),
    cmd('object-del', { id: 'zz' }),
    cmd('object-del', { id: 's' }),
  ],
};

requiresQemu10('qemu-storage-daemon', 'qemu-img')('requests to both daemons', () => {
  const theirs = findCommand('qemu-storage-daemon') ?? '';

  it.each(Object.keys(scripts))('%s', async (name) => {
    const script = scripts[name];
    if (script === undefined) throw new Error(name);
    const [own, peer] = await Promise.all([transcript(ours, script), transcript(theirs, script)]);
    expect(own).toEqual(peer);
  });
});

interface SchemaInfo {
  readonly name: string;
  readonly 'meta-type': string;
  readonly 'arg-type'?: string;
  readonly members?: readonly { readonly name?: string; readonly type?: string; default?: null }[];
  readonly variants?: readonly { readonly case: string; readonly type: string }[];
  readonly 'element-type'?: string;
  readonly values?: readonly string[];
}

/**
 * Every path to a member that a client may look for, as libvirt does
 * (`blockdev-add/+qcow2/file/+file/filename`), with its type and whether it may be left out.
 */
function paths(schema: readonly SchemaInfo[], command: string, depth: number): Set<string> {
  const byName = new Map(schema.map((info) => [info.name, info]));
  const found = new Set<string>();
  const visit = (type: string, path: string, left: number): void => {
    const info = byName.get(type);
    if (info === undefined || left === 0) return;
    if (info['meta-type'] === 'array') visit(info['element-type'] ?? '', `${path}[]`, left);
    for (const value of info.values ?? []) found.add(`${path}=${value}`);
    for (const member of info.members ?? []) {
      if (member.type === undefined) continue;
      const own = member.name === undefined ? path : `${path}/${member.name}`;
      const mark = 'default' in member ? '?' : '';
      const kind = byName.get(member.type)?.['meta-type'] ?? '';
      found.add(`${own}${mark}: ${kind === 'builtin' ? member.type : kind}`);
      visit(member.type, own, left - 1);
    }
    for (const variant of info.variants ?? []) {
      visit(variant.type, `${path}/+${variant.case}`, left - 1);
    }
  };
  const info = byName.get(command);
  visit(info?.['arg-type'] ?? '', command, depth);
  return found;
}

requiresQemu10('qemu-storage-daemon')('query-qmp-schema', () => {
  const schemas: Record<string, SchemaInfo[]> = {};

  beforeAll(async () => {
    for (const [who, program] of [
      ['own', ours],
      ['peer', findCommand('qemu-storage-daemon') ?? ''],
    ] as const) {
      const daemon = await new DaemonProcess(program).ready();
      schemas[who] = (await daemon.ok('query-qmp-schema')) as SchemaInfo[];
      await daemon.quit();
    }
  });

  it('says of each command that there is what QEMU says of it', () => {
    const { own = [], peer = [] } = schemas;
    const commands = own.filter((info) => info['meta-type'] === 'command');
    expect(commands.length).toBeGreaterThan(20);
    const extra: string[] = [];
    for (const { name } of commands) {
      const theirs = paths(peer, name, 6);
      for (const path of paths(own, name, 6)) if (!theirs.has(path)) extra.push(path);
    }
    // QEMU declares authz-listfile, a type that it does not have; the one that there is works here.
    expect(extra.filter((path) => !path.includes('authz-list-file'))).toEqual([]);
  });
});
