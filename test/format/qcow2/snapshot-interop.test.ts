// Goal: snapshots that QEMU made are read, applied and deleted by vdisk, and the other way round.
// Method: both sides write known bytes and make snapshots on images of many shapes; each state is
// compared byte by byte by the other side, and qemu-img finds no error and no leak after each step.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { Backend } from '../../../src/index.js';
import { Iov, Req } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import { requires, runOk, seededRandom, tempDir, testGraph } from '../../support/index.js';

const KiB = 1024;
const SIZE = 384 * KiB;

interface Shape {
  readonly name: string;
  readonly options: string;
  readonly cluster: number;
  readonly backing?: number;
  readonly compressed?: boolean;
  readonly discards?: boolean;
}

const shapes: readonly Shape[] = [
  { name: 'default', options: '', cluster: 64 * KiB, discards: true },
  { name: '512-byte clusters', options: 'cluster_size=512', cluster: 512, discards: true },
  { name: 'version 2', options: 'compat=0.10,cluster_size=4k', cluster: 4 * KiB },
  {
    name: 'over a backing file',
    options: 'cluster_size=4k',
    cluster: 4 * KiB,
    backing: 200 * KiB,
    discards: true,
  },
  {
    name: 'extended L2 entries',
    options: 'cluster_size=16k,extended_l2=on',
    cluster: 16 * KiB,
    backing: 100 * KiB,
    discards: true,
  },
  {
    name: 'compressed clusters, 8-bit refcounts',
    options: 'cluster_size=4k,refcount_bits=8',
    cluster: 4 * KiB,
    compressed: true,
    discards: true,
  },
  { name: 'lazy refcounts', options: 'cluster_size=8k,lazy_refcounts=on', cluster: 8 * KiB },
];

class Image {
  readonly folder = tempDir();
  readonly path = join(this.folder, 'a.qcow2');
  readonly raw = join(this.folder, 'out.raw');
  readonly shape: Shape;
  readonly random: Random;
  /** What the active state holds, and each snapshot by name. */
  bytes: Uint8Array;
  readonly saved = new Map<string, Uint8Array>();

  constructor(shape: Shape, random: Random) {
    this.shape = shape;
    this.random = random;
    this.bytes = new Uint8Array(SIZE);
  }

  async create(): Promise<void> {
    const { options, backing } = this.shape;
    const args = options === '' ? [] : ['-o', options];
    if (backing !== undefined) {
      const base = join(this.folder, 'base');
      const content = this.random.bytes(backing);
      writeFileSync(base, content);
      this.bytes.set(content);
      args.push('-b', base, '-F', 'raw');
    }
    await runOk('qemu-img', ['create', '-q', '-f', 'qcow2', ...args, this.path, String(SIZE)]);
  }

  /** A range in whole clusters or in odd bytes. */
  range(whole: boolean): [number, number] {
    const { cluster } = this.shape;
    const at = this.random.int(0, SIZE - 1);
    const from = whole ? at - (at % cluster) : at;
    const bytes = whole ? cluster * this.random.int(1, 3) : this.random.int(1, 3 * cluster);
    return [from, Math.min(bytes, SIZE - from)];
  }

  /** The same work for either side: byte patterns, zeroes, discards, compressed clusters. */
  plan(count: number): { kind: string; at: number; bytes: number; value: number }[] {
    const kinds = ['write', 'write', 'zero'];
    if (this.shape.discards === true) kinds.push('discard');
    const out = [];
    for (let i = 0; i < count; i++) {
      const kind = this.random.pick(kinds);
      const [at, bytes] = this.range(kind === 'discard' || this.random.chance());
      const value = this.random.int(1, 255);
      this.bytes.fill(kind === 'write' ? value : 0, at, at + bytes);
      out.push({ kind, at, bytes, value });
    }
    if (this.shape.compressed === true) {
      const { cluster } = this.shape;
      const first = this.random.int(0, SIZE / cluster - 4) * cluster;
      // Given up first: QEMU refuses to store compressed data over stored clusters.
      out.push({ kind: 'discard', at: first, bytes: 3 * cluster, value: 0 });
      const value = this.random.int(1, 255);
      for (let i = 0; i < 3; i++) {
        const at = first + i * cluster;
        out.push({ kind: 'compress', at, bytes: cluster, value });
        this.bytes.fill(value, at, at + cluster);
      }
    }
    return out;
  }

  async workByQemu(): Promise<void> {
    const commands = this.plan(6).flatMap(({ kind, at, bytes, value }) => {
      const words = { write: `write -P ${value}`, zero: 'write -z', discard: 'discard' }[kind];
      return ['-c', `${words ?? `write -c -P ${value}`} ${at} ${bytes}`];
    });
    await runOk('qemu-io', ['-f', 'qcow2', '-d', 'unmap', ...commands, this.path]);
  }

  async work(disk: Backend): Promise<void> {
    for (const { kind, at, bytes, value } of this.plan(6)) {
      if (kind === 'zero') await disk.writeZeroes(at, bytes, 0);
      else if (kind === 'discard') await disk.discard(at, bytes);
      else {
        const data = new Uint8Array(bytes).fill(value);
        await disk.write(at, Iov.of(data), kind === 'compress' ? Req.compressed : 0);
      }
    }
  }

  save(name: string): void {
    this.saved.set(name, this.bytes.slice());
  }

  async snapshotByQemu(name: string): Promise<void> {
    await runOk('qemu-img', ['snapshot', '-c', name, this.path]);
    this.save(name);
  }

  async open<T>(writable: boolean, fn: (disk: Backend) => Promise<T>): Promise<T> {
    const graph = testGraph();
    const disk = await graph.openBackend({
      filename: this.path,
      options: { driver: 'qcow2' },
      flags: { writable, unmap: true },
    });
    try {
      return await fn(disk);
    } finally {
      await disk.detach();
      await graph.close();
    }
  }

  /** qemu-img reads the active state and each snapshot as they should be, and finds no fault. */
  async qemuAgrees(): Promise<void> {
    await runOk('qemu-img', ['check', '-q', this.path]);
    await runOk('qemu-img', ['convert', '-O', 'raw', this.path, this.raw]);
    expect(Buffer.compare(readFileSync(this.raw), this.bytes)).toBe(0);
    for (const [name, expected] of this.saved) {
      await runOk('qemu-img', ['convert', '-O', 'raw', '-l', name, this.path, this.raw]);
      expect(Buffer.compare(readFileSync(this.raw), expected)).toBe(0);
    }
  }

  async vdiskAgrees(): Promise<void> {
    await this.open(false, async (disk) => {
      const list = (await disk.node.instance.snapshots?.list()) ?? [];
      expect(list.map((s) => s.name)).toEqual([...this.saved.keys()]);
      await same(disk, this.bytes);
      for (const [name, expected] of this.saved) {
        await disk.node.instance.snapshots?.loadTemporary(undefined, name);
        await same(disk, expected);
      }
    });
  }
}

async function same(disk: Backend, expected: Uint8Array): Promise<void> {
  const out = new Uint8Array(expected.length);
  await disk.read(0, Iov.of(out));
  expect(Buffer.compare(out, expected)).toBe(0);
}

const times = { dateSec: 1, dateNsec: 0, vmStateSize: 0, vmClockNsec: 0n, icount: 0n };

requires('qemu-img', 'qemu-io')('snapshots between QEMU and vdisk', () => {
  for (const shape of shapes) {
    it(`made by QEMU: ${shape.name}`, { timeout: 60_000 }, async () => {
      const image = new Image(shape, seededRandom());
      await image.create();
      await image.workByQemu();
      await image.snapshotByQemu('one');
      await image.workByQemu();
      await image.snapshotByQemu('two');
      await image.workByQemu();
      await image.vdiskAgrees();
      await image.open(true, async (disk) => {
        const snapshots = disk.node.instance.snapshots!;
        await snapshots.apply('one');
        image.bytes = image.saved.get('one')!.slice();
        await same(disk, image.bytes);
        await image.work(disk);
        await same(disk, image.bytes);
        await snapshots.delete(undefined, 'one');
        image.saved.delete('one');
        await image.work(disk);
      });
      await image.qemuAgrees();
      await image.vdiskAgrees();
    });

    it(`made by vdisk: ${shape.name}`, { timeout: 60_000 }, async () => {
      const image = new Image(shape, seededRandom());
      await image.create();
      await image.open(true, async (disk) => {
        const snapshots = disk.node.instance.snapshots!;
        for (const name of ['one', 'two', 'three']) {
          await image.work(disk);
          await snapshots.create({ ...times, name });
          image.save(name);
        }
        await image.work(disk);
      });
      await image.qemuAgrees();
      await runOk('qemu-img', ['snapshot', '-d', 'two', image.path]);
      image.saved.delete('two');
      await runOk('qemu-img', ['snapshot', '-a', 'three', image.path]);
      image.bytes = image.saved.get('three')!.slice();
      await image.workByQemu();
      await image.vdiskAgrees();
      await image.open(true, async (disk) => {
        for (const name of ['one', 'three']) {
          await disk.node.instance.snapshots?.delete(undefined, name);
          image.saved.delete(name);
        }
        await image.work(disk);
      });
      await image.qemuAgrees();
    });
  }
});
