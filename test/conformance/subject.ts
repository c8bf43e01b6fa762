/**
 * What the conformance suites run on: one subject for each driver of the catalogue.
 *
 * A new driver that is a plain format (it can create images) or a plain filter (a `file` child
 * and no compulsory options) is covered without a word here. Anything else is described in
 * `special`, and what a driver cannot do in `skips`, with the reason: a suite that a driver
 * fails and that is not listed is a failure, one that is listed and would pass is, too.
 */
import { onTestFinished } from 'vitest';
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { Backend, BlockGraph, Driver, Host, NodeOptions, OpenFlags } from '../../src/index.js';
import { drivers, nodeHost } from '../../src/index.js';
import { ThrottleGroup } from '../../src/block/throttle-group.js';
import { NbdExport } from '../../src/export/nbd/export.js';
import { NbdServer } from '../../src/export/nbd/server.js';
import { passThroughDriver } from '../../src/filter/pass-through.js';
import { FakeFiles, fakeHost, FakeSockets, Random, testGraph } from '../support/index.js';

export type SuiteName =
  | 'read-write'
  | 'vectors'
  | 'unaligned'
  | 'zeroes'
  | 'discard'
  | 'resize'
  | 'flush'
  | 'reopen'
  | 'permissions'
  | 'close-waits'
  | 'bounds'
  | 'random';

/** How a disk is set up. */
export interface Setting {
  /** Length in bytes. */
  readonly bytes: number;
  /** Alignment that the file asks for; 1 is buffered I/O. */
  readonly alignment: 1 | 512 | 4096;
  /** Under a pass-through filter. */
  readonly wrapped: boolean;
  /** Requests to the file complete in random order from this seed. */
  readonly seed: number | undefined;
}

export const plainSetting: Setting = {
  bytes: 2 * 1024 * 1024 + 64 * 1024,
  alignment: 1,
  wrapped: false,
  seed: undefined,
};

/** An open disk of a subject. */
export interface Disk {
  readonly backend: Backend;
  readonly graph: BlockGraph;
  readonly files: FakeFiles;
  /** Closes it and opens the same storage again, in a new graph. */
  again(flags?: Partial<OpenFlags>): Promise<Disk>;
}

export interface Subject {
  readonly driver: Driver;
  /** Writes a new image if that is needed, and says how to open it. */
  prepare(files: FakeFiles, setting: Setting): Promise<NodeOptions>;
  readonly skips: Partial<Record<SuiteName, string>>;
}

const path = '/disk';
const file: NodeOptions = { driver: 'file', filename: path };

function fileSubject(driver: Driver): Subject['prepare'] {
  return async (files, setting) => {
    files.put(path, setting.bytes);
    return { driver: driver.name, filename: path };
  };
}

/** Formats write their own image; options of the creation that a format cannot do without. */
function formatSubject(
  driver: Driver,
  values: Record<string, string | number> = {},
  own: NodeOptions = {},
): Subject['prepare'] {
  return async (files, setting) => {
    const graph = testGraph({ host: hostWith(files), secret });
    const request = { filename: path, format: driver.name, size: setting.bytes, values };
    await createImage(graph, await prepareCreate(graph, request));
    return { driver: driver.name, file, ...own };
  };
}

const nbdAddress = { type: 'unix', path: '/nbd' } as const;
const socketsOf = new WeakMap<FakeFiles, FakeSockets>();

/** A server in the same process, over simulated sockets, which serves the file. */
function nbdSubject(driver: Driver): Subject['prepare'] {
  return async (files, setting) => {
    files.put(path, setting.bytes);
    const graph = testGraph({ host: hostWith(files) });
    const cache = { writeback: true, direct: setting.alignment > 1, noFlush: false };
    const flags = { writable: true, unmap: true, cache };
    const backend = await graph.openBackend({ options: { driver: 'raw', file }, flags });
    const { seed } = setting;
    const sockets = new FakeSockets(seed === undefined ? undefined : new Random(seed));
    socketsOf.set(files, sockets);
    const server = new NbdServer({ sockets, clock: nodeHost().clock });
    server.add(new NbdExport({ name: '', backend, writable: true, multiConn: true }));
    await server.listen(nbdAddress);
    onTestFinished(() => server.close());
    return { driver: driver.name, server: nbdAddress };
  };
}

function filterSubject(driver: Driver, own: NodeOptions = {}): Subject['prepare'] {
  return async (files, setting) => {
    files.put(path, setting.bytes);
    const key = driver.primaryChild ?? 'file';
    return { driver: driver.name, [key]: { driver: 'raw', file }, ...own };
  };
}

/** Any id names this passphrase. */
const secret = async (): Promise<Uint8Array> => new TextEncoder().encode('a passphrase');

/** Simulated files under the real clock, for key derivation measures how fast it is. */
function hostWith(files: FakeFiles): Host {
  const sockets = socketsOf.get(files);
  const loadSockets = sockets === undefined ? {} : { loadSockets: async () => sockets };
  return { ...fakeHost({ files }), clock: nodeHost().clock, ...loadSockets };
}

type Special = (driver: Driver) => Subject['prepare'];

const special: Record<string, Special> = {
  file: fileSubject,
  host_device: (driver) => async (files, setting) => {
    files.put(path, setting.bytes, 'block');
    return { driver: driver.name, filename: path };
  },
  host_cdrom: (driver) => async (files, setting) => {
    files.put(path, setting.bytes, 'block');
    return { driver: driver.name, filename: path };
  },
  luks: (driver) =>
    formatSubject(driver, { 'key-secret': 'any', 'iter-time': 10 }, { 'key-secret': 'any' }),
  nbd: nbdSubject,
  throttle: (driver) => filterSubject(driver, { 'throttle-group': 'none' }),
  blklogwrites: (driver) => async (files, setting) => {
    files.put('/log', 0);
    const log = { driver: 'file', filename: '/log' };
    return filterSubject(driver, { log })(files, setting);
  },
  blkverify: (driver) => async (files, setting) => {
    files.put('/raw', setting.bytes);
    files.put(path, setting.bytes);
    const raw = { driver: 'file', filename: '/raw' };
    return { driver: driver.name, raw, test: { driver: 'raw', file } };
  },
  quorum: (driver) => async (files, setting) => {
    const paths = ['/0', '/1', '/2'];
    for (const each of paths) files.put(each, setting.bytes);
    const children = paths.map((filename) => ({
      driver: 'raw',
      file: { driver: 'file', filename },
    }));
    return { driver: driver.name, 'vote-threshold': 2, children };
  },
  compress: (driver) => async (files, setting) => {
    const qcow2 = drivers.find((d) => d.name === 'qcow2')!;
    return { driver: driver.name, file: await formatSubject(qcow2)(files, setting) };
  },
  'copy-before-write': (driver) => async (files, setting) => {
    const target = { driver: 'memory', size: setting.bytes };
    return filterSubject(driver, { target })(files, setting);
  },
  memory: () => async (_files, setting) => ({ driver: 'memory', size: setting.bytes }),
  'null-co': () => async (_files, setting) => ({
    driver: 'null-co',
    size: setting.bytes,
    'read-zeroes': true,
  }),
  'null-aio': () => async (_files, setting) => ({
    driver: 'null-aio',
    size: setting.bytes,
    'read-zeroes': true,
  }),
};

const keepsNothing = 'keeps no data';
const nullSkips: Subject['skips'] = {
  'read-write': keepsNothing,
  vectors: keepsNothing,
  unaligned: keepsNothing,
  zeroes: keepsNothing,
  resize: 'has the length of its option',
  flush: keepsNothing,
  reopen: keepsNothing,
  random: keepsNothing,
};
const nbdSkips: Subject['skips'] = { resize: 'the server decides the length' };
const noResizeSkips: Subject['skips'] = { resize: 'disks keep their size, as with QEMU' };
const growsOnlySkips: Subject['skips'] = { resize: 'disks only grow, as with QEMU' };
const deviceSkips: Subject['skips'] = { resize: 'a device has the length it has' };

const skips: Record<string, Subject['skips']> = {
  'copy-before-write': { reopen: 'writes to its target' },
  'copy-on-read': { reopen: 'cannot be read-only' },

  memory: {
    flush: 'ends with the node',
    reopen: 'ends with the node',
  },
  'null-co': nullSkips,
  'null-aio': nullSkips,
  nbd: nbdSkips,
  vpc: noResizeSkips,
  vdi: noResizeSkips,
  vhdx: noResizeSkips,
  vmdk: noResizeSkips,
  qed: growsOnlySkips,
  parallels: noResizeSkips,
  qcow: noResizeSkips,
  host_device: deviceSkips,
  host_cdrom: deviceSkips,
};

function subjectOf(driver: Driver): Subject {
  const own = special[driver.name];
  const plain = driver.kind === 'filter' ? filterSubject : formatSubject;
  return {
    driver,
    prepare: own?.(driver) ?? plain(driver),
    skips: skips[driver.name] ?? {},
  };
}

/** Drivers that the suites cannot write to, and which test runs them instead. */
export const elsewhere: Readonly<Record<string, string>> = {
  cloop: 'read only, and no image can be created: test/format/cloop',
  dmg: 'read only, and no image can be created: test/format/dmg',
  bochs: 'read only, and no image can be created: test/format/bochs',
  vvfat: 'a folder of the host, read only: test/format/vvfat',
  replication: 'passes no request before it is begun: test/job/replication',
  'snapshot-access': 'reads what another filter keeps: test/filter/copy-before-write',
};

/** One for each driver of the catalogue but those that are tested elsewhere, in its order. */
export const subjects: readonly Subject[] = drivers
  .filter((d) => elsewhere[d.name] === undefined)
  .map(subjectOf);

/** Names in `special` and `skips` that no driver has. */
export function unknownNames(): string[] {
  const known = new Set(drivers.map((d) => d.name));
  const named = [special, skips, elsewhere].flatMap((list) => Object.keys(list));
  return named.filter((name) => !known.has(name));
}

/** A new disk of a subject. */
export async function makeDisk(subject: Subject, setting: Setting): Promise<Disk> {
  const { alignment, seed } = setting;
  const files = new FakeFiles({
    directAlignment: alignment,
    reorder: seed !== undefined,
    seed: seed ?? 1,
  });
  const options = await subject.prepare(files, setting);
  return openDisk(files, options, setting, { writable: true });
}

async function openDisk(
  files: FakeFiles,
  options: NodeOptions,
  setting: Setting,
  flags: Partial<OpenFlags>,
): Promise<Disk> {
  const graph = testGraph({
    throttleGroups: new Map([['none', new ThrottleGroup('none', nodeHost().clock)]]),
    host: hostWith(files),
    drivers: [...drivers, passThroughDriver],
    secret,
  });
  const top = setting.wrapped ? { driver: 'pass-through', file: options } : options;
  const cache = { writeback: true, direct: setting.alignment > 1, noFlush: false };
  const backend = await graph.openBackend({
    options: top,
    flags: { unmap: true, cache, ...flags },
  });
  return {
    backend,
    graph,
    files,
    async again(more = { writable: true }) {
      await backend.detach();
      return openDisk(files, options, setting, more);
    },
  };
}
