// Random work on an image while its history is kept: requests at once, and what works on the whole
// image (snapshots, resizing, amending) in between.
import { errorCode } from '../../../src/block/errors.js';
import type { Backend } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import type { Change, History } from './power-history.js';
import type { TestImage } from './support.js';
import { Iov, randomRange, Req } from './support.js';

const kinds = ['write', 'write', 'write', 'zero', 'discard', 'compress', 'flush', 'whole'] as const;
const wholeKinds = ['create', 'create', 'apply', 'delete', 'resize', 'amend'] as const;
const facts = { dateSec: 1, dateNsec: 2, vmClockNsec: 0n, icount: 0n };
/** Requests in flight, and snapshots at a time. */
const DEPTH = 8;
const MAX_SNAPSHOTS = 3;

export class PowerWork {
  readonly #disk: Backend;
  readonly #image: TestImage;
  readonly #history: History;
  readonly #random: Random;
  #named = 0;
  /** Some request failed: what the disk holds there is not known exactly. */
  hasFailed = false;

  readonly #tolerant: boolean;

  /** `tolerant`: operations may fail; after the first that did, only plain requests follow. */
  constructor(disk: Backend, image: TestImage, history: History, random: Random, tolerant = false) {
    this.#tolerant = tolerant;
    this.#disk = disk;
    this.#image = image;
    this.#history = history;
    this.#random = random;
  }

  /** Up to `count` operations, until the power goes. */
  async run(count: number): Promise<void> {
    const running = new Set<Promise<void>>();
    let busy: Change[] = [];
    for (let i = 0; i < count && !this.#image.files.isOff; i++) {
      const kind = this.#random.pick(kinds);
      if (kind === 'flush') {
        await this.flush();
        continue;
      }
      if (kind === 'whole') {
        if (this.#random.chance(0.6)) continue;
        await Promise.all(running);
        if (!this.hasFailed) await this.#whole();
        continue;
      }
      const { size } = this.#disk;
      const [offset, bytes] = randomRange(this.#random, size, this.#image.shape.clusterSize);
      if (busy.some((b) => b.offset < offset + bytes && offset < b.offset + b.bytes)) continue;
      const [change, request] = this.#start(kind, offset, bytes);
      if (change === undefined) continue;
      busy.push(change);
      const p: Promise<void> = request
        .then(
          () => {
            this.#history.done(change);
          },
          () => {
            this.hasFailed = true;
          },
        )
        .finally(() => {
          running.delete(p);
          busy = busy.filter((b) => b !== change);
        });
      running.add(p);
      while (running.size >= DEPTH) await Promise.race(running);
    }
    await Promise.all(running);
  }

  async flush(): Promise<void> {
    const done = this.#history.complete();
    await this.#disk.flush().then(
      () => {
        this.#history.flushed(done);
      },
      () => undefined,
    );
  }

  #start(
    kind: 'write' | 'zero' | 'discard' | 'compress',
    offset: number,
    bytes: number,
  ): [Change, Promise<void>] | [undefined] {
    const { clusterSize, dataFile, version, backing } = this.#image.shape;
    const [disk, history, random] = [this.#disk, this.#history, this.#random];
    if (kind === 'write') {
      const data = random.bytes(bytes);
      return [history.begin(offset, bytes, data), disk.write(offset, Iov.of(data))];
    }
    if (kind === 'zero') {
      const flags = random.chance() ? Req.mayUnmap : 0;
      return [history.begin(offset, bytes), disk.writeZeroes(offset, bytes, flags)];
    }
    if (version === 2 && backing !== undefined) return [undefined];
    const from = Math.ceil(offset / clusterSize) * clusterSize;
    const whole = Math.floor((offset + bytes) / clusterSize) * clusterSize - from;
    if (whole <= 0) return [undefined];
    if (kind === 'discard') return [history.begin(from, whole), disk.discard(from, whole)];
    if (dataFile === true) return [undefined];
    const data = random.bytes(whole);
    data.fill(random.int(1, 255), 0, Math.floor(whole * 0.7));
    // In between it reads as zeroes.
    history.begin(from, whole);
    const change = history.begin(from, whole, data);
    const request = disk
      .discard(from, whole)
      .then(() => disk.write(from, Iov.of(data), Req.compressed));
    return [change, request];
  }

  /** Something on the whole image; nothing else is in flight. */
  async #whole(): Promise<void> {
    const kind = this.#random.pick(wholeKinds);
    try {
      if (kind === 'resize') await this.#resize();
      else if (kind === 'amend') await this.#amend();
      else if (this.#image.shape.dataFile !== true) await this.#snapshot(kind);
    } catch (e) {
      if (this.#image.files.isOff) return;
      this.hasFailed = true;
      if (this.#tolerant) return;
      // Counts of some shapes have little room.
      if (this.#image.shape.snapshots === undefined || errorCode(e) !== 'EINVAL') throw e;
    }
  }

  async #snapshot(kind: 'create' | 'apply' | 'delete'): Promise<void> {
    const history = this.#history;
    const { instance } = this.#disk.node;
    const snapshots = instance.snapshots!;
    const limit = this.#image.shape.snapshots ?? MAX_SNAPSHOTS;
    const names = [...history.snapshots.keys()];
    if (kind === 'create') {
      if (limit === 'none' || names.length >= limit) return;
      const name = `s${this.#named++}`;
      const state = this.#random.bytes(this.#random.pick([0, 300, 9000, 70_000]));
      if (state.length > 0) {
        await instance.writeVmState?.(0, Iov.of(state));
        if (this.#random.int(0, 3) === 0) return instance.dropVmState?.(state.length);
        history.states.set(name, state);
      }
      history.maybe.set(name, history.now.slice());
      await snapshots.create({ ...facts, name, vmStateSize: state.length });
      history.snapshots.set(name, history.maybe.get(name)!);
      history.maybe.delete(name);
      // What a snapshot holds is durable, and so is the active state that it equals.
      history.settle(history.now);
      return;
    }
    if (names.length === 0) return;
    const name = this.#random.pick(names);
    const content = history.snapshots.get(name)!;
    if (kind === 'apply') {
      history.sizes.add(content.length);
      history.begin(0, Math.max(content.length, history.now.length));
      history.begin(0, content.length, content);
      await snapshots.apply(name);
      history.settle(content);
      return;
    }
    history.maybe.set(name, content);
    history.snapshots.delete(name);
    await snapshots.delete(undefined, name);
    history.maybe.delete(name);
  }

  async #resize(): Promise<void> {
    const history = this.#history;
    const { version, backing, size } = this.#image.shape;
    // Version 2 cannot hide a backing file where it grows, nor resize what snapshots share.
    if (version === 2 && (backing !== undefined || history.snapshots.size > 0)) return;
    // Resizing makes the image durable, but not an external data file.
    if (this.#image.shape.dataFile === true) await this.flush();
    const bytes = 512 * this.#random.int(Math.ceil(size / 1024), Math.ceil(size / 400));
    const old = this.#disk.size;
    const next = new Uint8Array(bytes);
    next.set(history.now.subarray(0, bytes));
    history.sizes.add(bytes);
    // What is cut off may be gone before the size changes; the backing file shows there then.
    if (bytes < old) {
      history.begin(bytes, old - bytes);
      const below = this.#image.base.slice(bytes, old);
      if (below.length > 0) history.begin(bytes, below.length, below);
    }
    await this.#disk.truncate(bytes);
    history.settle(next);
  }

  async #amend(): Promise<void> {
    const { version } = this.#image.shape;
    if (version === 2) return;
    const values = this.#random.pick([
      { refcount_bits: 64 },
      { refcount_bits: 16 },
      { refcount_bits: 8 },
      { lazy_refcounts: true },
      { lazy_refcounts: false },
    ]);
    await this.#disk.node.instance.amend!(values, { force: false });
  }
}
