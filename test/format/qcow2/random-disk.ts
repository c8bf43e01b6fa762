// Random operations on an image, many in flight, and the same on a model.
import { expect } from 'vitest';
import { errorCode } from '../../../src/block/errors.js';
import type { Backend } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import type { OpenImage, TestImage } from './support.js';
import {
  check,
  compareAll,
  difference,
  Iov,
  makeImage,
  Model,
  openImage,
  randomRange,
  Req,
} from './support.js';
import type { Shape } from './support.js';

interface Busy {
  readonly from: number;
  readonly to: number;
  readonly writes: boolean;
}

type Operation = (disk: RandomDisk, offset: number, bytes: number) => Promise<void> | undefined;

const operations: readonly (readonly [number, boolean, Operation])[] = [
  [10, true, (d, at, n) => d.write(at, n)],
  [6, true, (d, at, n) => d.stream(at, n)],
  [6, false, (d, at, n) => d.read(at, n)],
  [3, true, (d, at, n) => d.zero(at, n)],
  [3, true, (d, at, n) => d.discard(at, n)],
  [2, true, (d, at, n) => d.compress(at, n)],
  [2, false, (d) => d.backend.flush()],
  [1, false, (d, at, n) => d.status(at, n)],
];
const weights = operations.reduce((sum, [weight]) => sum + weight, 0);

const kindsOfSnapshotWork = ['create', 'create', 'apply', 'delete'] as const;
/** Snapshots at a time. */
const MAX_SNAPSHOTS = 4;
const snapshotFacts = { dateSec: 1, dateNsec: 2, vmStateSize: 0, vmClockNsec: 0n, icount: 0n };

export class RandomDisk {
  readonly image: TestImage;
  readonly model: Model;
  readonly random: Random;
  open: OpenImage;
  count = 0;
  /** What snapshots hold, by name. */
  readonly saved = new Map<string, Uint8Array>();
  #named = 0;
  #busy: Busy[] = [];

  constructor(image: TestImage, open: OpenImage, random: Random) {
    this.image = image;
    this.open = open;
    this.random = random;
    this.model = new Model(image);
  }

  static async make(shape: Shape, random: Random): Promise<RandomDisk> {
    const image = await makeImage(shape, random);
    return new RandomDisk(image, await openImage(image, pickOptions(shape, random)), random);
  }

  get backend(): Backend {
    return this.open.backend;
  }

  /** `n` operations, up to `depth` at once, none of which touches bytes that another writes. */
  async run(n: number, depth: number): Promise<void> {
    const running = new Set<Promise<void>>();
    for (let i = 0; i < n; i++) {
      const started = this.#start();
      if (started !== undefined) {
        const p: Promise<void> = started.finally(() => running.delete(p));
        running.add(p);
      }
      while (running.size >= depth) await Promise.race(running);
      if (this.random.chance(0.1)) await Promise.race([...running, Promise.resolve()]);
    }
    await Promise.all(running);
  }

  #start(): Promise<void> | undefined {
    let pick = this.random.int(0, weights - 1);
    const found = operations.find(([weight]) => (pick -= weight) < 0)!;
    const [, writes, operation] = found;
    const size = this.model.bytes.length;
    const [offset, bytes] = randomRange(this.random, size, this.image.shape.clusterSize);
    const busy = { from: offset, to: offset + bytes, writes };
    if (this.#busy.some((b) => b.from < busy.to && busy.from < b.to && (b.writes || writes))) {
      return undefined;
    }
    const running = operation(this, offset, bytes);
    if (running === undefined) return undefined;
    this.#busy.push(busy);
    this.count++;
    return running.finally(() => {
      this.#busy = this.#busy.filter((b) => b !== busy);
    });
  }

  write(offset: number, bytes: number): Promise<void> {
    const data = this.random.bytes(bytes);
    this.model.bytes.set(data, offset);
    return this.backend.write(offset, Iov.of(data));
  }

  /** Small writes one behind the other, two at a time. */
  async stream(offset: number, bytes: number): Promise<void> {
    const data = this.random.bytes(bytes);
    this.model.bytes.set(data, offset);
    const piece = Math.max(512, Math.floor(this.image.shape.clusterSize / 8));
    for (let at = 0; at < bytes; at += 2 * piece) {
      const both = [at, at + piece]
        .filter((from) => from < bytes)
        .map((from) => {
          const part = data.subarray(from, Math.min(bytes, from + piece));
          return this.backend.write(offset + from, Iov.of(part));
        });
      await Promise.all(both);
    }
  }

  async read(offset: number, bytes: number): Promise<void> {
    const expected = this.model.bytes.slice(offset, offset + bytes);
    const out = new Uint8Array(bytes);
    await this.backend.read(offset, Iov.of(out));
    const at = difference(out, expected);
    if (at >= 0) throw new Error(`read of ${offset}+${bytes} differs at ${offset + at}`);
  }

  zero(offset: number, bytes: number): Promise<void> {
    this.model.zero(offset, bytes);
    return this.backend.writeZeroes(offset, bytes, this.random.chance() ? Req.mayUnmap : 0);
  }

  discard(offset: number, bytes: number): Promise<void> {
    this.model.discard(offset, bytes);
    return this.backend.discard(offset, bytes);
  }

  /** Compressed data does not overwrite what is stored: the range is given up first. */
  compress(offset: number, bytes: number): Promise<void> | undefined {
    const { clusterSize, dataFile, version, backing } = this.image.shape;
    const whole = bytes - (bytes % clusterSize);
    if (offset % clusterSize !== 0 || whole === 0 || dataFile === true) return undefined;
    if (version === 2 && backing !== undefined) return undefined;
    const data = this.random.bytes(whole);
    if (this.random.chance(0.8)) data.fill(this.random.int(0, 255), 0, whole - 100);
    this.model.bytes.set(data, offset);
    return this.backend
      .discard(offset, whole)
      .then(() => this.backend.write(offset, Iov.of(data), Req.compressed));
  }

  async status(offset: number, bytes: number): Promise<void> {
    const status = await this.backend.node.blockStatus(offset, bytes);
    expect(status.bytes).toBeGreaterThan(0);
    expect(status.bytes).toBeLessThanOrEqual(bytes);
  }

  /** Everything reads as the model has it, and the image is clean without a leak. */
  async verify(what: string): Promise<void> {
    await compareAll(this.backend, this.model, what);
    const found = await check(this.backend);
    if (found.corruptions > 0 || found.leaks > 0) {
      throw new Error(`${what}: ${found.lines.slice(0, 10).join('\n')}`);
    }
  }

  async resize(): Promise<void> {
    const { size, backing, version } = this.image.shape;
    // Version 2 has no zero clusters to hide with what the backing file has there.
    if (version === 2 && (backing !== undefined || this.saved.size > 0)) return;
    const bytes = 512 * this.random.int(Math.ceil(size / 1024), Math.ceil(size / 256));
    const old = this.model.bytes.length;
    await this.backend.truncate(bytes);
    this.model.resize(bytes);
    if (backing !== undefined && bytes > old) this.model.zero(old, bytes - old);
  }

  /** Makes, applies or deletes a snapshot; refused where the format has none. */
  async snapshot(): Promise<void> {
    const { instance } = this.backend.node;
    const { snapshots } = instance;
    if (snapshots === undefined) throw new Error('no snapshots');
    const names = [...this.saved.keys()];
    const kind = names.length === 0 ? 'create' : this.random.pick(kindsOfSnapshotWork);
    const limit = this.image.shape.snapshots;
    if (kind === 'create' && names.length < (limit === 'none' ? 1 : (limit ?? MAX_SNAPSHOTS))) {
      const name = `s${this.#named++}`;
      try {
        await snapshots.create({ ...snapshotFacts, name });
      } catch (e) {
        if (limit === undefined) throw e;
        // Where counts have no room QEMU leaves the new L1 table behind, and so does vdisk.
        await instance.check?.({ fixLeaks: true, fixErrors: false, report: () => undefined });
        return;
      }
      if (limit === 'none') throw new Error('a snapshot where none can be');
      this.saved.set(name, this.model.bytes.slice());
      return;
    }
    const name = this.random.pick(names);
    if (kind !== 'delete') {
      try {
        await snapshots.apply(name);
      } catch (e) {
        // It takes one reference more than it leaves.
        if (this.image.shape.snapshots !== undefined && errorCode(e) === 'EINVAL') return;
        throw e;
      }
      this.model.bytes = this.saved.get(name)!.slice();
      return;
    }
    await snapshots.delete(undefined, name);
    this.saved.delete(name);
  }

  /** Each snapshot still holds what it held when it was made. */
  async verifySnapshots(): Promise<void> {
    if (this.saved.size === 0) return;
    await this.backend.detach();
    await this.open.graph.close();
    this.open = await openImage(this.image, {}, { writable: false });
    for (const [name, bytes] of this.saved) {
      await this.backend.node.instance.snapshots?.loadTemporary(undefined, name);
      const out = new Uint8Array(Math.min(bytes.length, this.backend.node.size));
      await this.backend.read(0, Iov.of(out));
      const at = difference(out, bytes.subarray(0, out.length));
      if (at >= 0) throw new Error(`snapshot ${name}: byte ${at} is ${out[at]}, not ${bytes[at]}`);
    }
    await this.reopen();
  }

  async reopen(): Promise<void> {
    await this.backend.detach();
    await this.open.graph.close();
    this.open = await openImage(this.image, pickOptions(this.image.shape, this.random));
  }
}

function pickOptions(shape: Shape, random: Random): Record<string, unknown> {
  return shape.open === undefined ? {} : random.pick(shape.open);
}
