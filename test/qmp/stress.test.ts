// Goal: no write of a guest is lost, reordered or refused while the graph below it changes. Method:
// writers that know what each block must hold run all the time; a driver of the monitor inserts
// overlays, filters, reopens, resizes, adds and removes nodes, bitmaps and exports at random. A
// failure prints its seed: VDISK_SEED=… repeats it; VDISK_STEPS=… lengthens a run.
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Backend } from '../../src/block/backend.js';
import { Perm } from '../../src/block/types.js';
import {
  binPath,
  filled,
  readBytes,
  runOk,
  Random,
  settle,
  tempDir,
  testSeed,
} from '../support/index.js';
import type { Client, Message } from './support.js';
import { TestMonitor } from './support.js';

const MiB = 1024 * 1024;
const BLOCK = 4096;
const SIZE = 4 * MiB;
const WRITERS = 4;
const steps = Number(process.env['VDISK_STEPS'] ?? 150);

/** Writes random blocks and remembers them; checks what it reads on the way. */
class Writer {
  readonly #disk: Backend;
  readonly #first: number;
  readonly #blocks: number;
  readonly #random;
  /** Fill byte of each block, of this writer's own part of the disk. */
  readonly #model: Uint8Array;
  writes = 0;

  constructor(disk: Backend, index: number, seed: number) {
    this.#disk = disk;
    this.#blocks = SIZE / BLOCK / WRITERS;
    this.#first = index * this.#blocks;
    this.#random = new Random(seed + index);
    this.#model = new Uint8Array(this.#blocks);
  }

  async step(): Promise<void> {
    const at = this.#random.int(0, this.#blocks - 1);
    const count = 1 + this.#random.int(0, Math.min(8, this.#blocks - at) - 1);
    const offset = (this.#first + at) * BLOCK;
    const kind = this.#random.int(0, 10 - 1);
    if (kind < 6) {
      const value = 1 + this.#random.int(0, 255 - 1);
      await this.#disk.write(offset, filled(count * BLOCK, value));
      this.#model.fill(value, at, at + count);
    } else if (kind < 7) {
      await this.#disk.writeZeroes(offset, count * BLOCK);
      this.#model.fill(0, at, at + count);
    } else if (kind < 8) {
      await this.#disk.flush();
    } else {
      await this.#check(at, count);
    }
    this.writes++;
  }

  async #check(at: number, count: number): Promise<void> {
    const got = await readBytes(this.#disk, (this.#first + at) * BLOCK, count * BLOCK);
    for (let i = 0; i < count; i++) {
      const block = got.subarray(i * BLOCK, (i + 1) * BLOCK);
      const want = this.#model[at + i] ?? 0;
      if (!block.every((byte) => byte === want)) {
        throw new Error(`block ${String(this.#first + at + i)}: not all bytes are ${String(want)}`);
      }
    }
  }

  async checkAll(): Promise<void> {
    await this.#check(0, this.#blocks);
  }
}

it('writers lose nothing while the graph changes', async () => {
  const seed = testSeed();
  const random = new Random(seed);
  const dir = tempDir();
  const monitor = new TestMonitor();
  const client: Client = await monitor.connect();
  const file = (name: string): Message => ({ driver: 'file', filename: join(dir, name) });
  await runOk(binPath('vdisk-img'), [
    ...['create', '-q', '-f', 'qcow2', join(dir, 'base.qcow2'), String(SIZE)],
  ]);
  const base = { driver: 'qcow2', 'node-name': 'n0', file: file('base.qcow2') };
  await client.ok('blockdev-add', base);
  const perm = Perm.consistentRead | Perm.write;
  const disk = new Backend({ graph: monitor.graph, name: '', perm, shared: Perm.all });
  const found = await monitor.graph.open({ reference: 'n0' });
  await disk.attach(found);
  await monitor.graph.release(found);
  const writers = Array.from({ length: WRITERS }, (_, i) => new Writer(disk, i, seed));
  let stop = false as boolean;
  const running = Promise.all(
    writers.map(async (writer) => {
      while (!stop) await writer.step();
    }),
  );
  running.catch(() => {
    stop = true;
  });

  let next = 1;
  let depth = 1;
  const counts: Record<string, number> = {};
  const name = (): string => disk.node.name;
  const changes: Readonly<Record<string, () => Promise<unknown>>> = {
    overlay: async () => {
      if (depth > 12) return;
      const fresh = `n${String(next++)}`;
      await client.ok('blockdev-snapshot-sync', {
        'node-name': name(),
        'snapshot-file': join(dir, `${fresh}.qcow2`),
        'snapshot-node-name': fresh,
      });
      depth++;
      expect(name()).toBe(fresh);
    },
    'overlay by node': async () => {
      if (depth > 12) return;
      const fresh = `n${String(next++)}`;
      const path = join(dir, `${fresh}.qcow2`);
      await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', path, String(SIZE)]);
      await client.ok('blockdev-add', {
        driver: 'qcow2',
        'node-name': fresh,
        file: file(`${fresh}.qcow2`),
        backing: null,
      });
      await client.ok('blockdev-snapshot', { node: name(), overlay: fresh });
      depth++;
    },
    'failed transaction': async () => {
      const fresh = `n${String(next++)}`;
      const data = {
        'node-name': name(),
        'snapshot-file': join(dir, `${fresh}.qcow2`),
        'snapshot-node-name': fresh,
      };
      const actions = [
        { type: 'blockdev-snapshot-sync', data },
        { type: 'abort', data: {} },
      ];
      const before = name();
      expect(await client.execute('transaction', { actions })).toHaveProperty('error');
      expect(name()).toBe(before);
    },
    reopen: async () => {
      const node = disk.node;
      const options = {
        driver: 'qcow2',
        'node-name': node.name,
        file: node.file?.node.name,
        backing: node.backing?.node.name ?? null,
        'l2-cache-size': random.int(0, 2 - 1) === 0 ? 65536 : MiB,
        discard: random.int(0, 2 - 1) === 0 ? 'unmap' : 'ignore',
      };
      await client.ok('blockdev-reopen', { options: [options] });
    },
    resize: async () => {
      await client.ok('block_resize', {
        'node-name': name(),
        size: SIZE + random.int(0, 4 - 1) * 65536,
      });
    },
    bitmap: async () => {
      const args = { node: name(), name: 'b' };
      if (disk.node.dirtyBitmaps.has('b')) await client.ok('block-dirty-bitmap-remove', args);
      else await client.ok('block-dirty-bitmap-add', args);
    },
    'internal snapshot': async () => {
      const device = name();
      await client.ok('blockdev-snapshot-internal-sync', { device, name: 's' });
      await client.ok('blockdev-snapshot-delete-internal-sync', { device, name: 's' });
    },
    'a node beside': async () => {
      await client.ok('blockdev-add', { driver: 'raw', 'node-name': 'beside', file: name() });
      await settle();
      await client.ok('blockdev-del', { 'node-name': 'beside' });
    },
    'wrong things': async () => {
      const node = { 'node-name': name() };
      expect(await client.execute('blockdev-del', node)).toHaveProperty('error');
      expect(await client.execute('block_resize', { ...node, size: 1 })).toHaveProperty('error');
    },
  };
  const kinds = Object.keys(changes);
  for (let i = 0; i < steps && !stop; i++) {
    const kind = kinds[random.int(0, kinds.length - 1)] ?? '';
    counts[kind] = (counts[kind] ?? 0) + 1;
    try {
      await changes[kind]?.();
    } catch (e) {
      throw new Error(`seed ${String(seed)}, step ${String(i)}, ${kind}`, { cause: e });
    }
    for (let wait = random.int(0, 4 - 1); wait > 0; wait--) await settle();
  }
  stop = true;
  await running;
  for (const writer of writers) {
    expect(writer.writes).toBeGreaterThan(10);
    await writer.checkAll();
  }
  expect(depth).toBeGreaterThan(2);
  await disk.close();
  await monitor.close();
});
